"""The mesh: own key, roster, engine."""

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

from rootsrv.config.checks import ConfigError
from rootsrv.config.file import Config
from rootsrv.config.mesh import MeshConfig
from rootsrv.doctor.finding import Finding, bad, good, remark
from rootsrv.engine import signing_key
from rootsrv.engine.etcd import EngineGone, Etcd, NodeStatus, tls_context
from rootsrv.engine.fleet import signers_of
from rootsrv.mesh import roster as rosters
from rootsrv.mesh.envelope import EnvelopeRefused
from rootsrv.mesh.roster import Roster, public_text

LEAST_VERSIONS = {(3, 5): 33, (3, 6): 14, (3, 7): 1}
"""Of etcd, by series: before these, members could write and raise alarms without a right (GHSA-rfx7-8w68-q57q)."""

UNCOMPACTED_REVISIONS = 20_000
"""So many are not written by a thousand members before it is compacted for the first time, after ten minutes."""

QUOTA_OCTETS = 2 * 1024**3
"""etcd's own default; a board that is full takes no order."""


def checks(config: Config) -> Iterator[Finding]:
    """All of them; nothing where there is no `[mesh]`."""
    if config.mesh is None:
        return
    roster = None
    for finding, read in _roster(config, config.mesh):
        roster = roster or read
        yield finding
    yield from _member(config, config.mesh, roster)
    yield from asyncio.run(_engine(config.mesh))


def _roster(config: Config, mesh: MeshConfig) -> Iterator[tuple[Finding, Roster | None]]:
    remembered = Path(config.state.directory) / "mesh" / "roster"
    paths = [path for path in (Path(mesh.roster) if mesh.roster else None, remembered) if path is not None]
    there = [path for path in paths if path.exists()]
    if not there:
        remedy = "copy the signed roster to the file that mesh.roster names, or wait until the engine has brought it"
        yield bad("mesh roster", f"there is none ({', '.join(map(str, paths))})", remedy), None
    keys = {*mesh.roster_keys, *signers_of(remembered)}
    for path in there:
        try:
            roster = rosters.read(path.read_bytes(), mesh.service, keys)
        except EnvelopeRefused as error:
            remedy = "rootsrv mesh roster check; a key that has signed it must stand in mesh.roster_keys"
            yield bad(f"mesh roster {path}", str(error), remedy), None
        else:
            text = f"version {roster.version}, {len(roster.member)} members"
            keys |= set(roster.signing_keys)  # which sign the next one
            yield good(f"mesh roster {path}", text), roster


def _member(config: Config, mesh: MeshConfig, roster: Roster | None) -> Iterator[Finding]:
    try:
        own = public_text(signing_key.load(Path(mesh.key)))
    except signing_key.SigningKeyUnusable as error:
        yield bad("mesh key", str(error), "rootsrv mesh key FILE makes one; its public half goes into the roster")
        return
    if roster is None:
        return
    member = roster.find(mesh.member)
    if member is None or member.public_key.lower() != own:
        what = "is not listed" if member is None else f"has another public key there; ours is {own}"
        yield bad("mesh member", f"{mesh.member} {what}", "mend roster.toml, raise its version, sign and publish it")
        return
    yield good("mesh member", f"{mesh.member} is listed, of group {member.group}")
    sources = {each.name for each in config.primary if "." in each.zones}
    if member.transfers and not member.distribution_host:
        sources |= {each.name for each in roster.member if each.distribution_host and each.transfers}
    if not member.distribution_host and len(sources) < 2:
        remedy = "name the distribution hosts and one source besides as [[primary]]"
        yield bad("mesh sources", f"{len(sources)} source of the root: if that is lost, so is every update", remedy)
    align, of_all = config.switchover.align_seconds, roster.timing.align
    if align not in {of_all, type(config.switchover)().align_seconds}:
        found = f"switchover.align_seconds is {align}, the roster's align {of_all}, which is what counts"
        yield remark("mesh timing", found, "leave it out: in a mesh the roster says when zones go into service")
    if config.anycast is not None and config.anycast.stale_soft_seconds != roster.timing.stale_soft:
        found = f"anycast.stale_soft_seconds is {config.anycast.stale_soft_seconds:g}, the roster reckons with "
        yield remark("mesh timing", f"{found}{roster.timing.stale_soft:g}", "have them equal on all members")


async def _engine(mesh: MeshConfig) -> list[Finding]:
    try:
        tls: ssl.SSLContext | None = None
        if mesh.tls_ca:
            tls = tls_context(Path(mesh.tls_ca), Path(mesh.tls_certificate), Path(mesh.tls_key))
    except ConfigError as error:
        return [bad("mesh engine", str(error), "certificates of the engine: docs/mesh.md, step 3")]
    etcd = Etcd(mesh.endpoints, tls, mesh.request_seconds)
    prefix = f"/rootsrv/v1/{mesh.service}/"
    try:
        return [
            each
            for endpoint, told in zip(mesh.endpoints, await etcd.status(prefix), strict=True)
            for each in _node(endpoint, told)
        ]
    finally:
        etcd.close()


def _node(endpoint: str, told: NodeStatus | EngineGone) -> Iterator[Finding]:
    about = f"mesh engine {endpoint}"
    if isinstance(told, EngineGone):
        yield bad(
            about, str(told), "is etcd running there, does its filter let us in, is our certificate its authority's?"
        )
        return
    if told.errors or not told.has_leader:
        found = "; ".join(told.errors) or "the cluster has no leader"
        yield bad(about, found, "docs/mesh.md, `no space` and `rebuilt cluster`")
    parts = [int(each) for each in told.version.split("-")[0].split(".") if each.isdecimal() and len(each) < 10]
    series, patch = tuple(parts[:2]), (parts[2] if len(parts) > 2 else 0)
    least = LEAST_VERSIONS.get((series[0], series[1])) if len(series) == 2 else None
    if (least is None and series < (3, 8)) or (least is not None and patch < least):
        yield remark(about, f"etcd {told.version} has holes in rights and watches", "3.5.33, 3.6.14, 3.7.1 or newer")
    else:
        yield good(about, f"etcd {told.version}")
    if told.uncompacted > UNCOMPACTED_REVISIONS:
        found = f"all {told.uncompacted} revisions are kept: it is not compacted, and will be full"
        yield remark(about, found, "--auto-compaction-mode periodic --auto-compaction-retention 5m (deploy/etcd)")
    if told.size_octets > QUOTA_OCTETS / 2:
        found = f"{told.size_octets / 1024**2:.0f} MiB are stored: is it compacted?"
        yield remark(about, found, "docs/mesh.md, `no space`: compaction on, then etcdctl defrag")
