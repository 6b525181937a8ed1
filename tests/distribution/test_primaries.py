"""Whose NOTIFY it is: the key says it, the address says which of those who share one, and neither is mixed up."""

import pytest

from rootsrv.config.zones import PrimaryConfig
from rootsrv.distribution.primaries import Notifier, notified_by
from rootsrv.wire import name

ROOT = b"\0"
SHARED, OWN = name.from_text("shared.example."), name.from_text("own.example.")

NOTIFIERS = [
    Notifier.from_config(each)
    for each in (
        PrimaryConfig(name="one", address="192.0.2.1", key="shared.example."),
        PrimaryConfig(name="two", address="192.0.2.2", key="shared.example.", notify_from=("2001:db8::2",)),
        PrimaryConfig(name="three", address="192.0.2.3", key="own.example."),
        PrimaryConfig(name="keyless", address="2001:db8:0:0:0:0:0:4"),
        PrimaryConfig(name="mapped", address="::ffff:192.0.2.5"),
        PrimaryConfig(name="of another zone", address="192.0.2.6", zones=("example.",)),
        PrimaryConfig(name="web", url="https://www.example/root.zone"),
    )
]


@pytest.mark.parametrize(
    ("address", "key", "who", "proved"),
    [
        ("192.0.2.1", SHARED, ["one"], True),
        ("192.0.2.2", SHARED, ["two"], True),
        ("2001:db8::2", SHARED, ["two"], True),
        ("192.0.2.99", SHARED, ["one", "two"], False),
        ("192.0.2.99", OWN, ["three"], True),
        ("192.0.2.1", OWN, ["three"], True),
        ("192.0.2.3", b"", [], False),
        ("2001:db8::4", b"", ["keyless"], False),
        ("2001:db8::4", name.from_text("else.example."), ["keyless"], False),
        ("2001:db8::4", OWN, ["three"], True),
        ("192.0.2.5", b"", ["mapped"], False),
        ("192.0.2.6", b"", [], False),
        ("192.0.2.99", name.from_text("else.example."), [], False),
    ],
)
def test_who_it_is(address: str, key: bytes, who: list[str], proved: bool) -> None:
    found, sure = notified_by(NOTIFIERS, ROOT, address, key)
    assert ([each.name for each in found], sure) == (who, proved)
