"""Root zones that nobody delegates from: the real one's shape, with made-up names and documentation addresses.

Figures are those of the root zone of 2025-10-31.  Everything follows from the seed; nothing here is random.
"""

import hashlib
import itertools
import string
import struct
from collections.abc import Callable, Sequence
from typing import TypeVar

from rootsrv.wire import name
from rootsrv.wire.name import ROOT
from rootsrv.wire.rdata import AAAA, DS, DS_DIGEST_OCTETS, NS, SOA, A
from rootsrv.zone.builder import ContentsBuilder
from rootsrv.zone.contents import RRset, ZoneContents

HOSTS_APEX = name.from_text("root-servers.net.")

_Item = TypeVar("_Item")

# TTLs in seconds, as in the real zones.
_SOA_TTL, _APEX_NS_TTL, _DELEGATION_TTL, _DS_TTL, _HOSTS_TTL = 86400, 518400, 172800, 86400, 3600000

_FAMILIAR = ("com", "net", "org", "arpa", "info", "edu", "gov", "int", "mil")
_WITHOUT_DS_ALWAYS = "org"  # so that the smallest zone has both kinds of TLD
MIN_TLDS = 3  # name servers of siblings live below com, net and org

# Shares of 1,438 TLDs.
_COUNTRY_CODES, _IDN = 0.172, 0.105
_MOST_COUNTRY_CODES = 500  # of the 676 that there can be
_WITHOUT_DS, _WITH_TWO_DS = 0.065, 0.11
_IN_DOMAIN, _SIBLINGS = 0.67, 0.26  # where a TLD's name servers are; the rest has some of each
_NS_COUNTS = ((2, 13), (3, 80), (4, 513), (5, 108), (6, 560), (7, 25), (8, 122), (9, 8), (10, 5), (12, 1), (13, 3))
_DS_KINDS = (((8, 2), 1247), ((13, 2), 191), ((10, 2), 31), ((8, 1), 11), ((13, 4), 5), ((8, 4), 4), ((15, 2), 2))
_LABEL_LENGTHS = ((3, 216), (4, 205), (5, 154), (6, 158), (7, 123), (8, 82), (9, 55), (10, 57), (11, 20), (13, 11))
# Of name servers: which addresses they have (in the order A, AAAA).
_ADDRESSES = (((True, True), 6967), ((True, False), 531), ((False, True), 44))
_TLDS_PER_OPERATOR = 24

_LETTERS_AND_DIGITS = string.ascii_lowercase + string.digits
_IPV4_PREFIXES = (bytes((192, 0, 2)), bytes((198, 51, 100)), bytes((203, 0, 113)))  # RFC 5737
_IPV6_PREFIX = bytes.fromhex("20010db8")  # RFC 3849


class Draw:
    """Numbers that follow from a seed and a subject, and from nothing else."""

    def __init__(self, *subject: object) -> None:
        self._subject = repr(subject).encode()
        self._blocks = itertools.count()

    def octets(self, count: int) -> bytes:
        """*count* octets."""
        return hashlib.shake_128(self._subject + struct.pack("!Q", next(self._blocks))).digest(count)

    def below(self, limit: int) -> int:
        """A number in 0 … limit − 1."""
        return int.from_bytes(self.octets(8), "big") % limit

    def happens(self, share: float) -> bool:
        """True in *share* of all draws."""
        return self.below(1 << 32) < share * (1 << 32)

    def pick(self, items: Sequence[_Item]) -> _Item:
        """One of *items*."""
        return items[self.below(len(items))]

    def weighted(self, items: Sequence[tuple[_Item, int]]) -> _Item:
        """One of *items*, each as likely as its weight says."""
        at = self.below(sum(weight for _, weight in items))
        for item, weight in items:
            at -= weight
            if at < 0:
                return item
        raise AssertionError("unreachable")


def root_contents(*, serial: int, tlds: int, seed: int) -> ZoneContents:
    """An unsigned root zone with *tlds* delegations, to be signed by `sign.sign_root`."""
    if tlds < MIN_TLDS:
        raise ValueError(f"tlds: must be at least {MIN_TLDS}, got {tlds}")
    builder = ContentsBuilder(ROOT)
    builder.add(ROOT, SOA, _SOA_TTL, _soa(serial, 1800, 900, 604800, 86400))
    _add_root_hosts(builder, ROOT, _APEX_NS_TTL)
    hosts_done: set[bytes] = set()
    for tld in tld_labels(tlds, seed):
        draw = Draw(seed, "tld", tld)
        owner = name.from_text(tld)
        for host in _name_servers(tld, tlds, seed):
            builder.add(owner, NS, _DELEGATION_TTL, host)
            if host not in hosts_done:
                hosts_done.add(host)
                for rtype, address in _addresses(host, seed):
                    builder.add(host, rtype, _DELEGATION_TTL, address)
        if tld == _WITHOUT_DS_ALWAYS or draw.happens(_WITHOUT_DS):
            continue
        for _ in range(2 if draw.happens(_WITH_TWO_DS) else 1):
            builder.add(owner, DS, _DS_TTL, ds_rdata(draw))
    return builder.contents()


def successor_contents(previous: ZoneContents, *, serial: int, changes: int, seed: int) -> ZoneContents:
    """*previous* with another serial and *changes* small changes, to be signed anew.

    The changes are, in turn: another DS, another glue address, one more name server, DS gone or come, one more TLD.
    """
    draw = Draw(seed, "successor", serial)
    rrsets = dict(previous.rrsets)
    soa = previous.soa
    intervals = struct.pack("!IIIII", serial, soa.refresh, soa.retry, soa.expire, soa.minimum)
    rrsets[ROOT, SOA] = RRset(ROOT, SOA, rrsets[ROOT, SOA].ttl, (soa.mname + soa.rname + intervals,))
    tlds = sorted(previous.delegations, key=lambda tld: Draw(seed, serial, tld).octets(8))
    for number, tld in zip(range(changes), itertools.cycle(tlds), strict=False):
        _CHANGES[number % len(_CHANGES)](rrsets, tld, draw)
    return ZoneContents(ROOT, rrsets)


_RRsets = dict[tuple[bytes, int], RRset]


def _change_ds(rrsets: _RRsets, tld: bytes, draw: Draw) -> None:
    rrsets[tld, DS] = RRset(tld, DS, _DS_TTL, (ds_rdata(draw),))


def _change_glue(rrsets: _RRsets, tld: bytes, draw: Draw) -> None:
    for host in rrsets[tld, NS].rdatas:
        if glue := rrsets.get((host, AAAA)):
            rrsets[host, AAAA] = RRset(host, AAAA, glue.ttl, (_ipv6(draw),))
            return


def _add_name_server(rrsets: _RRsets, tld: bytes, draw: Draw) -> None:
    before = rrsets[tld, NS]
    host = name.from_text(f"new{draw.below(1 << 32)}.nic.")[:-1] + tld
    rrsets[tld, NS] = RRset(tld, NS, before.ttl, tuple(sorted((*before.rdatas, host))))
    rrsets[host, A] = RRset(host, A, _DELEGATION_TTL, (_ipv4(draw),))
    rrsets[host, AAAA] = RRset(host, AAAA, _DELEGATION_TTL, (_ipv6(draw),))


def _toggle_ds(rrsets: _RRsets, tld: bytes, draw: Draw) -> None:
    if rrsets.pop((tld, DS), None) is None:
        _change_ds(rrsets, tld, draw)


def _add_tld(rrsets: _RRsets, tld: bytes, draw: Draw) -> None:
    new = name.from_text(f"new{draw.below(1 << 32)}.")
    rrsets[new, NS] = RRset(new, NS, _DELEGATION_TTL, ())
    for _ in range(2):
        _add_name_server(rrsets, new, draw)
    _change_ds(rrsets, new, draw)


_CHANGES: tuple[Callable[[_RRsets, bytes, Draw], None], ...] = (
    _change_ds,
    _change_glue,
    _add_name_server,
    _toggle_ds,
    _add_tld,
)


def hosts_contents(*, serial: int) -> ZoneContents:
    """The zone root-servers.net that goes with every generated root; unsigned, as the real one."""
    builder = ContentsBuilder(HOSTS_APEX)
    builder.add(HOSTS_APEX, SOA, _HOSTS_TTL, _soa(serial, 14400, 7200, 1209600, 3600000))
    _add_root_hosts(builder, HOSTS_APEX, _HOSTS_TTL)
    return builder.contents()


def _add_root_hosts(builder: ContentsBuilder, apex: bytes, ttl: int) -> None:
    """The NS of *apex*, with their addresses."""
    for host in root_hosts():
        builder.add(apex, NS, ttl, host)
        for rtype, address in _root_addresses(host):
            builder.add(host, rtype, ttl, address)


def root_hosts() -> list[bytes]:
    """a.root-servers.net to m.root-servers.net."""
    return [bytes((1, letter)) + HOSTS_APEX for letter in b"abcdefghijklm"]


def _root_addresses(host: bytes) -> list[tuple[int, bytes]]:
    number = host[1] - ord("a") + 1
    return [
        (A, _IPV4_PREFIXES[number % 3] + bytes((number,))),
        (AAAA, _IPV6_PREFIX + bytes((0, number)) + bytes(9) + b"\x53"),
    ]


def _soa(serial: int, *intervals: int) -> bytes:
    return root_hosts()[0] + name.from_text("hostmaster.example.") + struct.pack("!IIIII", serial, *intervals)


def tld_labels(count: int, seed: int) -> list[str]:
    """The TLDs, as text without the dot: a few familiar ones, then country codes, IDN-like ones and words."""
    draw = Draw(seed, "labels")
    found = dict.fromkeys(_FAMILIAR[:count])
    country_codes = len(found) + min(int(_COUNTRY_CODES * count), _MOST_COUNTRY_CODES)
    idn = country_codes + int(_IDN * count)
    while len(found) < count:
        if len(found) < country_codes:
            label = _word(draw, 2)
        elif len(found) < idn:
            label = "xn--" + "".join(draw.pick(_LETTERS_AND_DIGITS) for _ in range(6 + draw.below(8)))
        else:
            label = _word(draw, draw.weighted(_LABEL_LENGTHS))
        found[label] = None
    return list(found)


def _word(draw: Draw, length: int) -> str:
    if length == 2:
        return draw.pick(string.ascii_lowercase) + draw.pick(string.ascii_lowercase)
    return "".join(draw.pick("bcdfghklmnprstvz" if at % 2 else "aeiou") for at in range(1, length + 1))


def _name_servers(tld: str, tlds: int, seed: int) -> list[bytes]:
    draw = Draw(seed, "name servers", tld)
    if tld in ("com", "net"):
        return [name.from_text(f"{letter}.gtld-servers.net.") for letter in "abcdefghijklm"]
    count = draw.weighted(_NS_COUNTS)
    # Operators of many TLDs and of few: the square makes the first ones large, as in life.
    operators = max(1, tlds // _TLDS_PER_OPERATOR)
    operator = draw.below(operators) * draw.below(operators) // operators
    home = _FAMILIAR[operator % MIN_TLDS]
    if draw.happens(_IN_DOMAIN):
        in_domain = count
    elif draw.happens(_SIBLINGS / (1 - _IN_DOMAIN)):
        in_domain = 0
    else:
        in_domain = 1 + draw.below(count - 1)
    return [
        name.from_text(f"{'abcdefghijklm'[at]}.nic.{tld}." if at < in_domain else f"ns{at}.operator{operator}.{home}.")
        for at in range(count)
    ]


def _addresses(host: bytes, seed: int) -> list[tuple[int, bytes]]:
    draw = Draw(seed, "host", host)
    has_a, has_aaaa = draw.weighted(_ADDRESSES)
    return ([(A, _ipv4(draw))] if has_a else []) + ([(AAAA, _ipv6(draw))] if has_aaaa else [])


def _ipv4(draw: Draw) -> bytes:
    return draw.pick(_IPV4_PREFIXES) + bytes((1 + draw.below(254),))


def _ipv6(draw: Draw) -> bytes:
    return _IPV6_PREFIX + draw.octets(4) + bytes(7) + b"\x53"


def ds_rdata(draw: Draw) -> bytes:
    """DS RDATA of a key that does not exist, of the kinds that TLDs have."""
    algorithm, digest_type = draw.weighted(_DS_KINDS)
    return draw.octets(2) + bytes((algorithm, digest_type)) + draw.octets(DS_DIGEST_OCTETS[digest_type])
