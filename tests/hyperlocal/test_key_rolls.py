"""RFC 5011, transition by transition, with real keys and signatures; and what is kept of it."""

import time
from dataclasses import dataclass, field

import pytest

from rootsrv.demo.sign import SigningKey
from rootsrv.demo.signed import generate_keys
from rootsrv.hyperlocal import key_rolls
from rootsrv.hyperlocal.key_rolls import HOLD_DOWN_SECONDS, KeyRolls, KeysMalformed
from rootsrv.wire import rdata as rdatas
from rootsrv.wire.rdata import key_tag
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.contents import RRset, ZoneContents
from rootsrv.zone.dnssec import ECDSAP256SHA256, REVOKED, SEP, signed_octets
from rootsrv.zone.rejection import ZoneRejected
from rootsrv.zone.verify import verify
from tests.secondary import versions

DAY = 86_400.0
APEX = b"\0"


def ksk() -> SigningKey:
    return next(each for each in generate_keys(ECDSAP256SHA256) if each.is_sep)


OLD, ZSK = versions.keys()
NEW, OTHER = ksk(), ksk()


def root(*keys: SigningKey, revoked: tuple[SigningKey, ...] = (), revoked_by: SigningKey | None = None) -> ZoneContents:
    """A root with *keys*; those that are *revoked* sign their own revocation, or *revoked_by* claims it."""
    made = versions.version(versions.FIRST, keys=(*keys, ZSK))
    if not revoked:
        return made
    rrset = made.rrsets[APEX, rdatas.DNSKEY]
    with_bit = [(each, _revoked(each.dnskey)) for each in revoked]
    changed = RRset(APEX, rdatas.DNSKEY, rrset.ttl, tuple(sorted((*rrset.rdatas, *(each for _, each in with_bit)))))
    rrsigs = []
    for key, rdata in with_bit:
        signer = revoked_by or key
        head = bytearray(rrset.rrsigs[0][: rdatas.signer_end(rrset.rrsigs[0])])
        head[2] = signer.algorithm
        head[16:18] = key_tag(rdata).to_bytes(2)
        rrsigs.append(bytes(head) + signer.sign(signed_octets(changed, bytes(head))))
    changed = RRset(APEX, rdatas.DNSKEY, rrset.ttl, changed.rdatas, tuple(rrsigs))
    return ZoneContents(APEX, {**made.rrsets, (APEX, rdatas.DNSKEY): changed})


def _revoked(rdata: bytes) -> bytes:
    return (int.from_bytes(rdata[:2]) | REVOKED).to_bytes(2) + rdata[2:]


@dataclass
class Host:
    """Looks at roots; its clock goes with it."""

    rolls: KeyRolls = field(default_factory=lambda: KeyRolls(TrustAnchors.from_text(versions.anchor())))
    boot: str = "0a"
    boottime: float = 1000.0

    def look(self, contents: ZoneContents, *, after: float = 0.0) -> list[str]:
        self.boottime += after
        return self.rolls.observe(contents, self.boot, self.boottime, time.time())

    def state(self, key: SigningKey) -> str:
        kept = self.rolls.keys.get(key.dnskey)
        return kept.state if kept else "START"

    def believes(self, contents: ZoneContents) -> bool:
        try:
            verify(contents, TrustAnchors.from_text(self.rolls.anchors()), time.time(), zonemd="required")
        except ZoneRejected:
            return False
        return True


def test_a_new_key_is_trusted_after_thirty_days_and_not_before() -> None:
    host = Host()
    told = host.look(root(OLD, NEW))
    assert set(told) == {f"key {OLD.tag}: START -> VALID", f"key {NEW.tag}: START -> ADDPEND"}
    assert (host.state(OLD), host.state(NEW)) == ("VALID", "ADDPEND")
    for _ in range(29):
        host.look(root(OLD, NEW), after=DAY)
    assert host.state(NEW) == "ADDPEND"
    assert not host.believes(root(NEW))
    assert host.look(root(OLD, NEW), after=DAY) == [f"key {NEW.tag}: ADDPEND -> VALID"]
    assert host.believes(root(NEW))
    assert host.believes(root(OLD))


def test_a_key_that_goes_in_the_hold_down_begins_anew() -> None:
    host = Host()
    host.look(root(OLD, NEW))
    host.look(root(OLD, NEW), after=29 * DAY)
    host.look(root(OLD), after=60.0)
    assert host.state(NEW) == "START"
    host.look(root(OLD, NEW), after=60.0)
    host.look(root(OLD, NEW), after=29 * DAY)
    assert host.state(NEW) == "ADDPEND"


def test_what_nobody_sees_does_not_count() -> None:
    host = Host()
    host.look(root(OLD, NEW))
    host.boot, host.boottime = "0b", 40 * DAY  # another boot, whose clock says what it likes
    host.look(root(OLD, NEW))
    assert host.state(NEW) == "ADDPEND"
    host.look(root(OLD, NEW), after=HOLD_DOWN_SECONDS)
    assert host.state(NEW) == "VALID"


def test_the_wall_clock_hurries_nothing() -> None:
    host = Host()
    for days in (0, 400, -400):
        host.rolls.observe(root(OLD, NEW), host.boot, host.boottime, time.time() + days * DAY)
    assert host.state(NEW) == "ADDPEND"


def test_a_trusted_key_that_is_missing_stays_trusted() -> None:
    host = Host()
    host.look(root(OLD, NEW))
    host.look(root(OLD, NEW), after=HOLD_DOWN_SECONDS)
    host.look(root(OLD))
    assert host.state(NEW) == "MISSING"
    assert host.believes(root(NEW))
    host.look(root(OLD, NEW), after=60.0)
    assert host.state(NEW) == "VALID"


def test_a_revoked_key_is_trusted_no_more_though_it_was_shipped() -> None:
    host = Host()
    host.look(root(OLD, NEW))
    host.look(root(OLD, NEW), after=HOLD_DOWN_SECONDS)
    host.look(root(NEW, revoked=(OLD,)))
    assert (host.state(OLD), host.state(NEW)) == ("REVOKED", "VALID")
    assert host.believes(root(NEW))
    assert not host.believes(root(OLD))
    host.look(root(OLD, NEW), after=HOLD_DOWN_SECONDS)  # it comes back
    host.look(root(OLD, NEW), after=HOLD_DOWN_SECONDS)
    assert host.state(OLD) == "REMOVED"
    assert not host.believes(root(OLD))


def test_nobody_else_revokes_a_key() -> None:
    host = Host()
    host.look(root(OLD, NEW))
    host.look(root(NEW, revoked=(OLD,), revoked_by=OTHER), after=60.0)
    assert host.state(OLD) == "MISSING"
    assert host.believes(root(OLD))


def test_a_shipped_key_may_be_revoked_before_it_was_ever_seen() -> None:
    host = Host()
    host.look(root(NEW, revoked=(OLD,)))
    assert host.state(OLD) == "REVOKED"


def test_a_key_that_signs_zones_alone_is_no_trust_anchor() -> None:
    host = Host()
    host.look(root(OLD))
    assert ZSK.dnskey not in host.rolls.keys
    assert all(int.from_bytes(each[:2]) & SEP for each in host.rolls.keys)


def test_no_more_keys_than_a_root_may_have_are_remembered() -> None:
    host = Host()
    crowd = [ksk() for _ in range(12)]
    for start in range(0, 12, 6):
        host.look(root(OLD, *crowd[start : start + 6]))
    assert len(host.rolls.keys) <= key_rolls.MAX_KEYS
    assert host.state(OLD) == "VALID"


def test_what_is_kept_is_read_back() -> None:
    host = Host()
    host.look(root(OLD, NEW))
    host.look(root(OLD, NEW), after=HOLD_DOWN_SECONDS)
    host.look(root(NEW, OTHER, revoked=(OLD,)), after=60.0)
    host.look(root(NEW, OTHER), after=90.0)
    text = host.rolls.to_text()
    again = KeyRolls.from_text(text, host.rolls.shipped)
    assert again.keys == host.rolls.keys
    assert again.looked == host.rolls.looked
    assert again.to_text() == text
    assert [again.keys[each.dnskey].state for each in (OLD, NEW, OTHER)] == ["REVOKED", "VALID", "ADDPEND"]
    # Unbound's form: what is not trusted there is not trusted here.
    tags = {each.key_tag for each in TrustAnchors.from_text(text).anchors}
    assert tags == {NEW.tag}


def as_before(text: str) -> str:
    """As versions wrote it whose file ended anywhere."""
    title, _, rest = text.partition("\n")
    return f"{title.partition('  ')[0]}\n{rest.rpartition('; sha256=')[0]}"


@pytest.mark.parametrize(
    "text", ["garbage", ". IN DNSKEY 257 3 8 AAAA", ". IN DNSKEY 257 3 13 %% ;;state=2 [VALID] ;;held=0", "\0", "é"]
)
def test_a_damaged_file_is_an_error_that_names_the_line(text: str) -> None:
    shipped = TrustAnchors.from_text(versions.anchor())
    whole = KeyRolls(shipped).to_text()
    with pytest.raises(KeysMalformed, match="line 2"):
        KeyRolls.from_text(as_before(whole) + text, shipped)
    with pytest.raises(KeysMalformed, match="is not the last one"):
        KeyRolls.from_text(whole + text, shipped)


def test_a_file_that_was_cut_is_an_error_wherever_it_was() -> None:
    host = Host()
    host.look(root(OLD, NEW))
    host.look(root(NEW, revoked=(OLD,)), after=60.0)
    text = host.rolls.to_text()
    assert KeyRolls.from_text(text, host.rolls.shipped).keys == host.rolls.keys
    for end in range(len(text)):
        with pytest.raises(KeysMalformed):
            KeyRolls.from_text(text[:end], host.rolls.shipped)
    lines = text.splitlines(keepends=True)
    for at in range(len(lines)):
        with pytest.raises(KeysMalformed):
            KeyRolls.from_text("".join(lines[:at] + lines[at + 1 :]), host.rolls.shipped)


def test_what_an_older_version_kept_is_read() -> None:
    host = Host()
    host.look(root(OLD, NEW))
    again = KeyRolls.from_text(as_before(host.rolls.to_text()), host.rolls.shipped)
    assert (again.keys, again.looked) == (host.rolls.keys, host.rolls.looked)


@pytest.mark.parametrize("text", ["", "\n", "\0" * 512, "; Keys of the root"])
def test_a_file_that_was_emptied_is_an_error(text: str) -> None:
    with pytest.raises(KeysMalformed, match="line 1"):
        KeyRolls.from_text(text, TrustAnchors.from_text(versions.anchor()))


def test_with_every_shipped_key_revoked_nothing_is_believed() -> None:
    host = Host()
    host.look(root(NEW, revoked=(OLD,)))
    assert host.rolls.anchors().strip() == ""
