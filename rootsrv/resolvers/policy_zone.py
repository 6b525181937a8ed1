"""A response policy zone (rpz) as a file: the lines of it that answer every query in place of the root's copy."""
# Tried: of `*` Unbound 1.17, BIND 9.18, Knot Resolver 5 and PowerDNS Recursor 4.8 make an answer to every name (BIND
# after it has asked the servers of the name, unless qname-wait-recurse is off), but for rpz-passthru; of a client's
# prefix 0, or of every name server, Unbound and PowerDNS.  Another wildcard, *.example, changes the answers that it
# names, and does nothing to the copy.

import re
from collections.abc import Iterator

EVERY_NAME = frozenset({"*"})
EVERY_QUERY = EVERY_NAME | {"0.0.0.0.0.rpz-client-ip", "*.rpz-nsdname", "0.0.0.0.0.rpz-nsip"}

_SAYS = "is an rpz's answer to every name{trigger}: the copy answers none"
_UNKNOWN_APEX = "."
_RECORD = re.compile(
    r"(?P<owner>[^\s;]+)(?:\s+(?:\d\w*|IN))*\s+(?P<type>[A-Za-z][\w-]*)(?:\s+(?P<rdata>[^\s;]+))?", re.IGNORECASE
)


def answers_all(text: str, zone: str, triggers: frozenset[str]) -> Iterator[tuple[int, str]]:
    """(line, what stands there) for each of *triggers* in *text*, a file (RFC 1035 §5.1) of *zone* ("" = unknown).

    What a line begins with is its owner; a record with the owner of the one before is not looked at, nor an $INCLUDE.
    """
    apex = origin = _absolute(zone, _UNKNOWN_APEX)
    for line, written in enumerate(text.splitlines(), 1):
        if written.startswith("$"):
            key, *rest = written.split()
            if key.upper() == "$ORIGIN" and rest:
                origin = _absolute(rest[0], origin)
            continue
        if written[:1] not in "*@0" and "SOA" not in written.upper():
            continue  # of a list of a million names a second, not ten
        record = _RECORD.match(written)
        if record is None:
            continue
        owner = _absolute(record["owner"], origin)
        if record["type"].upper() == "SOA":
            apex = owner
        trigger = owner.removesuffix(apex).removesuffix(".")
        if trigger in triggers and (record["rdata"] or "").lower() != "rpz-passthru.":
            yield line, _SAYS.format(trigger="" if trigger == "*" else f" ({trigger})")


def _absolute(name: str, origin: str) -> str:
    """*name* in lower case, with its dot; "@" and "" are *origin*."""
    name = name.lower()
    if name in ("@", ""):
        return origin
    return name if name.endswith(".") else f"{name}.{origin.removeprefix('.')}"
