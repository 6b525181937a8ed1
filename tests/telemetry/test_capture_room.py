"""The room that is left for a capture, as the command and the status page both tell it."""

import pytest

from rootsrv.commands import capture as command
from rootsrv.telemetry import status_sections
from rootsrv.telemetry.view import Said

STATUS = {"directory": "/d", "directory_octets": 4e9, "quota_octets": 9e9, "free_octets": 6e9, "octets_a_second": 1e6}


@pytest.mark.parametrize(
    ("more", "hours"),
    [
        pytest.param({"room_octets": 3.6e9}, 1.0, id="as the role says it"),
        pytest.param({"room_octets": 0}, 0.0, id="there is none"),
        pytest.param({}, 5e9 / 3.6e9, id="an older role, up to its quota"),
        pytest.param({"free_octets": 1.8e9}, 0.5, id="an older role, up to what is free"),
        pytest.param({"directory_octets": 20e9}, 0.0, id="an older role that is over its quota"),
    ],
)
def test_both_tell_the_same(more: dict[str, float], hours: float) -> None:
    told = STATUS | more
    assert command._left(told) == f", room for {hours:.1f} h"
    shown = status_sections.span(hours * 3600)
    assert f"; room for {shown}" in status_sections._disk(Said(told))
