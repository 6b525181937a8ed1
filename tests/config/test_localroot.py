"""`[localroot]` and `[[distribute]]`: what is refused, by name."""

from typing import Any

import pytest

from rootsrv.config.checks import ConfigError
from rootsrv.config.file import Config, read
from rootsrv.localroot.settings import refuse

ZONES = [{"name": ".", "trust_anchors": "a", "zonemd": "required"}]
PRIMARY = {"name": "p", "address": "192.0.2.1", "zones": [".", "arpa."]}
GOOD: dict[str, Any] = {
    "service": {"addresses": ["192.0.2.9"]},
    "zone": ZONES,
    "primary": [PRIMARY],
    "localroot": {"name": "localroot.example", "addresses": ["192.0.2.53"]},
    "distribute": [{"name": "arpa."}],
}


def localroot(**changes: Any) -> dict[str, Any]:
    return GOOD | {"localroot": GOOD["localroot"] | changes}


def test_a_good_one_is_taken() -> None:
    config = read(GOOD)
    assert refuse(config).mbit_per_second == 1000
    assert config.distribute[0].max_records == 250_000
    assert isinstance(config, Config)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (localroot(addresses=[]), "localroot.addresses: at least one"),
        (localroot(addresses=["192.0.2.9"]), "localroot.addresses: 192.0.2.9 is one of service.addresses"),
        (
            localroot() | {"admin": {"addresses": ["192.0.2.53"]}},
            "localroot.addresses: 192.0.2.53 is one of admin.addresses",
        ),
        (localroot(name="LocalRoot.example."), "localroot.name: must be in lower case"),
        (localroot(name=""), "localroot.name"),
        (localroot(https_port=443), "localroot.tls_certificate: is needed for https"),
        (localroot(tls_certificate="c"), "localroot.tls_key: tls_certificate and tls_key go together"),
        (localroot(tls_certificate="c", tls_key="k", https_port=853), "localroot.https_port: 853 is the port"),
        (localroot(idle_seconds=0), "localroot.idle_seconds"),
        (localroot(transfers_at_a_time=0), "localroot.transfers_at_a_time"),
        (localroot(open="yes"), "localroot.open"),
        (localroot(quota=1), "localroot.quota: unknown key"),
        (GOOD | {"distribute": [{"name": "arpa"}]}, "distribute.name: must be in lower case, end with a dot"),
        (GOOD | {"distribute": [{"name": "."}]}, "distribute.name"),
        (GOOD | {"distribute": [{"name": "arpa."}, {"name": "cc."}]}, "distribute.cc.: no [[primary]] has it"),
        (GOOD | {"distribute": [{"name": "arpa."}] * 2}, "distribute.arpa.: is named twice"),
        (GOOD | {"distribute": [{"name": "arpa.", "max_records": 300_000}]}, "distribute.arpa..max_records"),
        (GOOD | {"distribute": [{"name": "arpa.", "zonemd": "off"}]}, "distribute[0].zonemd: must be one of"),
        ({key: value for key, value in GOOD.items() if key != "localroot"}, "distribute: goes with [localroot]"),
        (GOOD | {"distribute": []}, "primary.p.zones: 'arpa.' is not a configured zone"),
    ],
)
def test_what_is_wrong_is_named(document: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(document)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (GOOD | {"zone": [{"name": ".", "trust_anchors": "a"}]}, "zone.zonemd: must be"),
        (GOOD | {"hyperlocal": {}}, "hyperlocal: has no place beside [localroot]"),
        (
            GOOD
            | {
                "admin": {"addresses": ["192.0.2.8"]},
                "key": [{"name": "k.", "secret": "c2VjcmV0IHNlY3JldCBzZWNyZXQ="}],
                "peer": [{"name": "q", "address": "192.0.2.7", "key": "k."}],
            },
            "peer: has no place beside [localroot]",
        ),
    ],
)
def test_what_is_no_localroot_service_is_refused_at_its_start(document: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        refuse(read(document))
    assert text in str(error.value)


def test_without_the_section_there_is_no_service() -> None:
    with pytest.raises(ConfigError, match="there is no section"):
        refuse(read({"zone": ZONES}))
