"""Numbers as operators type them: none is taken for another one, and which option it was is said."""

import argparse

import pytest

from rootsrv.commands import hyperlocal, probe
from rootsrv.commands.parser import main
from rootsrv.config.checks import ConfigError, endpoint
from rootsrv.hyperlocal.loopback import resolver_at
from rootsrv.resolvers.wanted import CannotConfigure, Publisher

COMMANDS = [
    "unshed {}",
    "zone approve {}",
    "zone show --serial {}",
    "mesh approve {} --key k --reason r",
    "zone reset-floor {} --reason r",
    "capture ditl --hours {}",
    "capture ditl --rate {}",
    "capture start --for 1h --every {}",
    "restart --healthy-within {}",
    "probe m=192.0.2.1 --rounds {}",
    "probe m=192.0.2.1 --interval {}",
    "probe m=192.0.2.1@{}",
    "hyperlocal --port {}",
    "hyperlocal --https-port {}",
    "demo --port {}",
    "demo --tlds {}",
    "demo --workers {}",
    "demo --rate {}",
    "demo --tour {}",
]


@pytest.mark.parametrize("text", ["1_0", "٣", "+1", "nan", "1e3", "9" * 5000])
@pytest.mark.parametrize("command", COMMANDS)
def test_what_only_python_calls_a_number_is_refused(
    command: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command.format(text).split())
    assert ended.value.code == 2
    assert "must be a " in capsys.readouterr().err


PORTS = ["5_3", "٥٣", "+53", " 53", "0", "65536", "0000000539999", "9" * 5000]


@pytest.mark.parametrize("port", PORTS)
def test_a_port_is_in_digits_wherever_it_is_written(port: str) -> None:
    with pytest.raises(ConfigError, match=r"^engine: must be "):
        endpoint("engine", f"192.0.2.1:{port}")
    with pytest.raises(ConfigError, match=r"^notify: .*the port must be "):
        resolver_at("notify", f"127.0.0.1@{port}")
    with pytest.raises(CannotConfigure, match=r"^publisher: .*the port must be "):
        Publisher.from_text(f"192.0.2.1@{port}")
    with pytest.raises(argparse.ArgumentTypeError):
        probe._target(f"m=192.0.2.1@{port}")


def test_one_port_is_served_however_it_is_written() -> None:
    assert hyperlocal._served(("127.0.0.2@53", "::1")) == (("127.0.0.2", "::1"), 53)
    for wrong in (("127.0.0.2@5_3",), ("127.0.0.2@54", "::1"), ("127.0.0.2@٥٣",)):
        with pytest.raises(ConfigError, match="--serve: one port"):
            hyperlocal._served(wrong)
