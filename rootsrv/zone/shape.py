"""Is this a root zone?  Is this the flat zone of its hosts?"""
# The answer table relies on it (design: answers, §1): only the last label of a qname decides between referral and
# nxdomain, because every name but the apex is delegated or below a delegation, and nothing is synthesised.

from collections.abc import Set

from rootsrv.wire import rdata as rdatas
from rootsrv.wire.name import ROOT, labels, to_text
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.rejection import NotARoot, NotTheHosts

_AT_A_DELEGATION = frozenset({rdatas.NS, rdatas.DS, rdatas.NSEC, rdatas.A, rdatas.AAAA})
_GLUE = frozenset({rdatas.A, rdatas.AAAA})
_NOT_AT_A_ROOT_APEX = frozenset({rdatas.CNAME, rdatas.DNAME, rdatas.DS})
_NOT_AT_A_HOSTS_APEX = frozenset({rdatas.CNAME, rdatas.DNAME, rdatas.DS})
_NOT_AT_A_HOST = _NOT_AT_A_HOSTS_APEX | {rdatas.NS}


def check_root(contents: ZoneContents) -> None:
    """NotARoot unless *contents* is a root: the apex, delegations of one label, and glue below them (D1)."""
    if contents.apex != ROOT:
        raise NotARoot(f"the zone is {to_text(contents.apex)}, not the root")
    if not has_records(contents, ROOT, rdatas.NS):
        raise NotARoot("the apex has no NS")
    for owner, rrsets in contents.by_owner.items():
        allowed: Set[int]
        name_labels = labels(owner)
        types = {rrset.rtype for rrset in rrsets}
        if b"*" in name_labels:
            raise NotARoot(f"{to_text(owner)}: a root has no wildcard")
        if len(name_labels) == 0:
            allowed, place = types - _NOT_AT_A_ROOT_APEX, "at the apex of a root"
        elif not has_records(contents, tld := bytes((len(name_labels[-1]),)) + name_labels[-1] + ROOT, rdatas.NS):
            raise NotARoot(f"{to_text(owner)} {_text(min(types))}: {to_text(tld)} is not delegated")
        elif len(name_labels) == 1:
            allowed, place = _AT_A_DELEGATION, "at a delegation"
        else:
            allowed, place = _GLUE, "below a delegation"
        if types - allowed:
            raise NotARoot(f"{to_text(owner)} {_text(min(types - allowed))} has no place {place}")


def check_hosts(contents: ZoneContents, root: ZoneContents) -> None:
    """NotTheHosts unless *contents* is flat, unsigned and says of the root's name servers what *root* says.

    Flat: the apex and, one label below it, names of hosts; no delegation, alias or wildcard.  Types besides A and AAAA
    are let pass: i.root-servers.net has an MX.
    """
    zone = to_text(contents.apex)
    for owner, rrsets in contents.by_owner.items():
        for rrset in rrsets:
            if rrset.rrsigs or rrset.rtype in (rdatas.DNSKEY, rdatas.NSEC):
                raise NotTheHosts(f"{to_text(owner)} {_text(rrset.rtype)}: signed; this zone is served unsigned only")
            if owner != contents.apex and (not _is_host(owner, contents.apex) or owner[:2] == b"\1*"):
                raise NotTheHosts(f"{to_text(owner)}: only host names one label below {zone} have a place here")
            if rrset.rtype in (_NOT_AT_A_HOST if owner != contents.apex else _NOT_AT_A_HOSTS_APEX):
                raise NotTheHosts(f"{to_text(owner)} {_text(rrset.rtype)} has no place in a flat zone of host names")
    ours, theirs = contents.rrset(contents.apex, rdatas.NS), root.rrset(ROOT, rdatas.NS)
    _same(f"{zone} NS", ours.rdatas if ours else (), theirs.rdatas if theirs else (), rdatas.NS)
    for owner in sorted({key[0] for key in [*contents.rrsets, *root.rrsets] if _is_host(key[0], contents.apex)}):
        for rtype in sorted(_GLUE):
            ours, theirs = contents.rrset(owner, rtype), root.rrset(owner, rtype)
            what = f"{to_text(owner)} {_text(rtype)}"
            _same(what, ours.rdatas if ours else (), theirs.rdatas if theirs else (), rtype)


def _is_host(owner: bytes, apex: bytes) -> bool:
    return owner.endswith(apex) and owner != apex and owner[1 + owner[0] :] == apex


def _same(what: str, ours: tuple[bytes, ...], roots: tuple[bytes, ...], rtype: int) -> None:
    missing = [rdatas.to_text(rtype, rdata) for rdata in roots if rdata not in ours]
    surplus = [rdatas.to_text(rtype, rdata) for rdata in ours if rdata not in roots]
    if missing or surplus:
        parts = [f"the root zone has {', '.join(missing)} besides"] if missing else []
        parts += [f"the root zone does not have {', '.join(surplus)}"] if surplus else []
        raise NotTheHosts(f"{what}: {'; '.join(parts)}")


def has_records(contents: ZoneContents, owner: bytes, rtype: int) -> bool:
    """Whether there is such an RRset, and not only a signature of one."""
    rrset = contents.rrset(owner, rtype)
    return rrset is not None and bool(rrset.rdatas)


def _text(rtype: int) -> str:
    return rdatas.type_text(rtype)
