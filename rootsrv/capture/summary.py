"""A tally as a document: what `rootsrv capture show --json` prints, and what its text and the report are made of."""

import datetime
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rootsrv.capture.facts import TransportCode
from rootsrv.capture.tally import NO_RESPONSE, SIZE_STEP_OCTETS, Tally, prefix_text
from rootsrv.wire import codes, name, rdata

MOST = 10


def instant_text(microseconds: int) -> str:
    """RFC 3339, UTC, to the second; a time that no calendar has, as a number."""
    try:
        return datetime.datetime.fromtimestamp(microseconds // 10**6, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{microseconds // 10**6} s"


def source_text(family: int, transport: int) -> str:
    """IPv6 TCP."""
    known = transport in list(TransportCode)
    return (
        f"IPv{family} {TransportCode(transport).name if known else f'transport {transport}'}" if family else "not known"
    )


def qtype_text(qtype: int) -> str:
    """The mnemonic of a type, or TYPE65280 (RFC 3597 §5); what is no type (a broken file's), as a number."""
    return rdata.type_text(qtype) if 0 <= qtype <= 0xFFFF else str(qtype)


def rcode_text(rcode: int) -> str:
    """The mnemonic of an RCODE, or RCODE12; "no response" where there was none."""
    return "no response" if rcode == NO_RESPONSE else codes.rcode_text(rcode)


def label_text(label: bytes) -> str:
    """A top-level label as a name without its final dot; what is no label, as octets."""
    try:
        return name.to_text(bytes([len(label)]) + label + b"\0")[:-1] if label else "."
    except Exception:  # an octet string of a broken file, too long for a label
        return label.hex()


def median(counts: Mapping[int, int]) -> int:
    """The lower median of values by how often each was met; 0 of none."""
    half, passed = (sum(counts.values()) + 1) // 2, 0
    for value, count in sorted(counts.items()):
        passed += count
        if passed >= half:
            return value
    return 0


def summary(tally: Tally) -> dict[str, Any]:
    """*tally* in the field's words; counts are queries unless the key says otherwise."""
    lengths: dict[int, Counter[int]] = {}
    for (rcode, step), count in tally.sizes.items():
        lengths.setdefault(rcode, Counter())[step * SIZE_STEP_OCTETS] += count
    first, last = tally.first, tally.last
    seconds = (last - first) / 10**6 if first is not None and last is not None else 0.0
    return {
        "files": len(tally.files),
        "cut_off": [str(path) for path in tally.cut_off],
        "about": {key: sorted({told for name, told in tally.about if name == key}) for key, _ in tally.about},
        "first": None if first is None else instant_text(first),
        "last": None if last is None else instant_text(last),
        "seconds": round(seconds, 6),
        "queries": tally.queries,
        "queries_per_second": round(tally.queries / seconds, 1) if seconds else None,
        "malformed": tally.malformed,
        "lost": tally.lost,
        "losses_unknown": tally.losses_unknown,
        "not_sampled": tally.not_sampled,
        "other_packets": tally.other_packets,
        "sources": {source_text(*source): count for source, count in tally.sources.most_common()},
        "qtypes": {qtype_text(qtype): count for qtype, count in tally.qtypes.most_common()},
        "rcodes": {rcode_text(rcode): count for rcode, count in tally.rcodes.most_common()},
        "edns": tally.with_opt,
        "do": tally.with_do,
        "rd": tally.with_rd,
        "name_octets_median": median(tally.name_octets),
        "response_octets_median": {rcode_text(rcode): median(counts) for rcode, counts in sorted(lengths.items())},
        "prefixes": {prefix_text(*prefix): count for prefix, count in tally.prefixes.most_common(MOST)},
        "undelegated": tally.undelegated_queries,
        "undelegated_tlds": {label_text(label): count for label, count in tally.undelegated.most_common(MOST)},
    }
