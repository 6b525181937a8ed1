"""What the role mesh tells: of all members, for people; of the others, for maintain; of this one, for the board."""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rootsrv
from rootsrv.control import client
from rootsrv.control.client import NoAnswer
from rootsrv.engine.leader import LEAD
from rootsrv.mesh.maintenance import standing
from rootsrv.mesh.orders import OperatorVerdict, SetTime, Subject
from rootsrv.mesh.quorum import may_fall_silent
from rootsrv.mesh.roster import Member, Roster, public_text
from rootsrv.mesh.tables import difference
from rootsrv.process.persistence import failing
from rootsrv.roles.mesh_presence import Presence
from rootsrv.store.zone_file import FileUnusable, read_trust_anchors
from rootsrv.zone import instant
from rootsrv.zone.anchors import AnchorsMalformed
from rootsrv.zone.dnssec import UNCOVERED

_ASK_SECONDS = 2.0


def for_maintain(presence: Presence, subjects: Mapping[str, Subject]) -> dict[str, Any]:
    """What is known of the others that bears on what is staged here: *subjects*, by zone."""
    me, fleet = presence.me, presence.fleet
    done = None if presence.board.gone else fleet.done
    silence = []
    for subject in subjects.values():
        silent = may_fall_silent(subject, presence.name, fleet.roster, done)
        silence.append({**subject.to_content(), "allowed": silent.allowed, "why": silent.why})
    partners = presence.partners.to_document()
    return {
        "partners": partners if partners["version"] != presence.partners_told else None,
        "timing": asdict(fleet.timing),
        "canary": me is not None and me.canary,
        "wave": 0 if fleet.roster is None else fleet.roster.wave_of(presence.name),
        "orders": [_order(each) for zone in fleet.orders.values() for each in zone] if me else [],
        "offers": [{**subject.to_content(), "at": at} for subject, at in fleet.offers.values()] if me else [],
        "verdicts": [_verdict(each) for each in fleet.verdicts] if me else [],
        "canaries_failed": [{**each.to_content(), "failed": fleet.canaries_failed(each)} for each in subjects.values()],
        "silence": silence,
        "tables_differ": _differing(presence),
        "engine": presence.board.gone,
    }


def _differing(presence: Presence) -> list[dict[str, Any]]:
    """What is staged here, if its table is not the one that others made of the same."""
    own = presence.fleet.tables.get(presence.name)
    why = "" if presence.board.gone else difference(presence.name, presence.fleet.tables)
    return [{**own.subject.to_content(), "table": own.digest, "why": why}] if own is not None and why else []


async def of_this_member(presence: Presence) -> dict[str, Any]:
    """What all roles here tell, as the board shows it."""
    found: dict[str, Any] = {
        "version": rootsrv.__version__,
        "synchronised": presence.now.synchronised,
        "wants": presence.tokens.wanted,
    }
    with contextlib.suppress(NoAnswer):
        told = await client.ask(presence.runtime / "maintain.sock", {"command": "status"}, timeout=_ASK_SECONDS)
        found |= {
            "configuration": told["configuration_digest"],
            "clock": told["clock"],
            "clock_error_seconds": abs(told["clock_distance_seconds"]),
            "serials": {each["name"]: each["served"] for each in told["zones"]},
            "scheduled": {each["name"]: each["scheduled"] for each in told["zones"] if each["scheduled"]},
            "alarms": told["alarms"][:8],
            "sep_covered": not any(UNCOVERED in alarm for zone in told["zones"] for alarm in zone["alarms"]),
            "anchors": _anchors(presence),
        }
        for each in told["zones"]:
            if each["received"] not in {None, each["served"], each["scheduled"]}:
                presence.leader.received(each["name"], each["received"])
    if presence.config.anycast is not None:
        with contextlib.suppress(NoAnswer):
            told = await client.ask(presence.runtime / "advertise.sock", {"command": "status"}, timeout=_ASK_SECONDS)
            found["routes"] = {str(each["ip_version"]): each["route"] for each in told["families"]}
    return found


def _anchors(presence: Presence) -> str:
    """A digest of the root's trust anchors: members whose anchors differ, or are stale alike, are seen by it."""
    for zone in presence.config.zone:
        if zone.name == "." and zone.trust_anchors:
            try:
                found = read_trust_anchors(Path(zone.trust_anchors)).anchors
            except (FileUnusable, AnchorsMalformed):
                return "unreadable"
            return hashlib.sha256(b"".join(sorted(each.owner + each.rdata for each in found))).hexdigest()[:16]
    return ""


def document(presence: Presence) -> dict[str, Any]:
    """Everything that is known of the mesh."""
    fleet, board, now = presence.fleet, presence.board, presence.now
    roster = fleet.roster
    lead = board.entries.get(LEAD)
    return {
        "role": "mesh",
        "pid": os.getpid(),
        "version": rootsrv.__version__,
        "service": presence.settings.service,
        "member": presence.name,
        "public_key": public_text(presence.key),
        # Orders are signed by it, and of two in one second the later must count.
        "now": instant.to_text_precise(presence.wall()),
        "synchronised": now.synchronised,
        "engine": {
            "there": not board.gone,
            "reason": board.gone,
            "endpoint": board.etcd.endpoint,
            "since_seconds": round(now.boottime - board.since, 1),
            "keys": len(board.entries),
        },
        "maintain": presence.maintain or "answers",
        "failing": dict(failing),
        "files": [each.as_document() for each in fleet.files],
        "roster_version": None if roster is None else roster.version,
        "hold_seconds": fleet.timing.hold,
        "operators": {} if roster is None else {public_text(key): name for name, key in roster.operator_keys().items()},
        "refused": fleet.refused,
        "leads": presence.leader.leads,
        "leader_elected": lead is not None,
        "distribution": [
            {
                "zone": each.zone,
                "state": each.stand.value,
                "reason": each.reason,
                "serial": each.subject.serial if each.subject else None,
            }
            for each in presence.leader.distributions.values()
        ],
        "orders": [_order(each) for zone in fleet.orders.values() for each in zone[-3:]],
        "verdicts": [_verdict(each) for each in fleet.verdicts[-8:]],
        "tokens": presence.holders(),
        "outside": presence.outside.to_document(now.boottime),
        "maintenance": [
            {**each.to_content(), "by": each.by, "sent": each.sent} for each in standing(fleet.maintenance, now.wall)
        ],
        "members": [] if roster is None else [_member(presence, each) for each in roster.member],
        "groups": [] if roster is None else _groups(roster),
        "sites": [] if roster is None else [asdict(each) for each in roster.site],
    }


def _groups(roster: Roster) -> list[dict[str, Any]]:
    return [{"name": each.name, "k": each.k, "n": len(roster.members_of(each.name))} for each in roster.group]


def _member(presence: Presence, member: Member) -> dict[str, Any]:
    fleet = presence.fleet
    status = fleet.statuses.get(member.name)
    ready, done = fleet.ready.get(member.name), fleet.done.get(member.name)
    return {
        "name": member.name,
        "site": member.site,
        "group": member.group,
        "cluster": member.cluster,
        "canary": member.canary,
        "distribution_host": member.distribution_host,
        "metrics": member.metrics,
        "present": status is not None,
        "age_seconds": None if status is None else round(presence.now.wall - status.sent, 1),
        "status": {} if status is None else dict(status.content),
        "ready": None if ready is None else ready.to_content(),
        "done": None if done is None else {**done.subject.to_content(), "ok": done.ok, "reason": done.reason},
        "flipped_at": fleet.flipped_at.get(member.name),
    }


def _order(order: SetTime) -> dict[str, Any]:
    return {**order.to_content(), "by": order.by, "epoch": order.epoch, "seq": order.seq}


def _verdict(verdict: OperatorVerdict) -> dict[str, Any]:
    return {**verdict.to_content(), "by": verdict.by, "sent": verdict.sent}
