"""The view of the instance as Prometheus metrics, made anew for each scrape.

docs/operations.md has the table of all of them.  A metric is 1 when the good thing is true; units are base units; names
of zones are labels.
"""
# Over 400 lines: it is one list, metric by metric, of what /metrics says.

import datetime
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import CollectorRegistry

import rootsrv
from rootsrv.admission.samples import DIMENSIONS, PREFIX_DIMENSIONS
from rootsrv.config.file import Config
from rootsrv.page import counts
from rootsrv.process import real_time
from rootsrv.telemetry import fleet_page
from rootsrv.telemetry.localroot_metrics import localroot
from rootsrv.telemetry.portal_metrics import portal
from rootsrv.telemetry.rssac002 import DayRecord
from rootsrv.telemetry.view import ADMISSION, KERNEL, Said, View, expected_roles
from rootsrv.wire.codes import NOERROR, NXDOMAIN, RCODES
from rootsrv.zone.dnssec import UNCOVERED
from rootsrv.zone.lease import CAN_BE_BELIEVED

_PATHS = [tuple(path.split("-")) for path in counts.PATHS]

# Upper ends of buckets, in octets: each is the last octet of a 16-octet bin.  512 and 1232 are common limits (RFC 1035,
# RFC 9715), so there is a bucket that ends right behind each; most of the root's responses lie in 1024 … 1071.
REQUEST_BUCKETS = (31, 47, 63, 79, 95, 127, 191, 287)
RESPONSE_BUCKETS = (63, 127, 255, 511, 527, 767, 895, 1023, 1071, 1231, 1247, 1535, 4095)


@dataclass(frozen=True, slots=True)
class Statistics:
    """The day so far."""

    today: DayRecord
    sources: Mapping[str, int]
    """Estimates of unique sources, by rssac002.SOURCE_KEYS."""

    error: str
    """Why statistics cannot be written; empty = they can."""


class Exposition:
    """Makes the text of /metrics."""

    def __init__(self, config: Config, digest: str) -> None:
        """*digest*: of the configuration, so that members of a mesh can be compared (D53)."""
        self._expected_roles = expected_roles(config)
        self._digest = digest
        self._show_prefixes = config.limits.publish_prefixes

    def text(self, view: View, statistics: Statistics, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type: OpenMetrics or Prometheus' own format, as *accept* (the header) asks."""
        encode, content_type = choose_encoder(accept)
        began = time.perf_counter()
        families = [
            *_counters(view.words),
            *self._instance(view),
            *_zones(view),
            *_routes(view),
            *_mesh(view),
            *_fastpath(view),
            *_over_tls(view),
            *_admission(view, show_prefixes=self._show_prefixes),
            *_capture(view),
            *localroot(view),
            *portal(view),
            *_of_statistics(statistics),
        ]
        families.append(
            _gauge("rootsrv_scrape_seconds", "Time that it took to gather this scrape.", time.perf_counter() - began)
        )
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Gathered(families))
        return encode(registry), content_type

    def _instance(self, view: View) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "rootsrv_build",
            "Version and digest of the configuration.",
            value={"version": rootsrv.__version__, "configuration": self._digest},
        )
        up = GaugeMetricFamily("rootsrv_role_up", "Whether the role answers on its status socket.", labels=["role"])
        for role in self._expected_roles:
            up.add_metric([role], float(role in view.roles))
        yield up
        yield _gauge(
            "rootsrv_answering", "Whether the instance answers at all (0: a switchover failed).", not view.silenced
        )
        yield _gauge("rootsrv_active_generation", "Number of the answer table in service; 0: none.", view.generation)
        yield _counter("rootsrv_workers_replaced", "Workers that ended or hung and were replaced.", view.replaced)
        processes = CounterMetricFamily(
            "rootsrv_processes_replaced",
            "Workers, and what answers over TLS, that were replaced since serve began, by why.",
            labels=["process", "why"],
        )
        replaced = view.role("serve").object("replaced_by")
        for kind in ("worker", "dot"):
            for why, number in replaced.numbers(kind).items():
                processes.add_metric([kind, why], number)
        yield processes
        alive = GaugeMetricFamily(
            "rootsrv_worker_current",
            "Whether the worker is alive and answers from the active table.",
            labels=["worker"],
        )
        age = GaugeMetricFamily("rootsrv_worker_heartbeat_age_seconds", "Since its last wake-up.", labels=["worker"])
        for worker in view.workers:
            fresh = worker.heartbeat_age_seconds < 1.5 and worker.active == view.generation
            alive.add_metric([str(worker.slot)], float(bool(worker.pid) and fresh))
            age.add_metric([str(worker.slot)], worker.heartbeat_age_seconds)
        yield from (alive, age)
        yield from _priorities(view)
        memory = GaugeMetricFamily("rootsrv_process_resident_memory_bytes", "Resident memory.", labels=["process"])
        processor = CounterMetricFamily("rootsrv_process_cpu_seconds", "Processor time used.", labels=["process"])
        for process in view.processes:
            memory.add_metric([process.name], process.resident_octets)
            processor.add_metric([process.name], process.cpu_seconds)
        yield from (memory, processor)
        sockets = view.sockets
        yield _counter(
            "rootsrv_udp_receive_drops",
            "Datagrams that the kernel dropped before a worker could receive them (buffer full, bad checksum).",
            sockets.udp_drops,
        )
        yield _gauge(
            "rootsrv_udp_waiting_bytes", "Waiting in the service sockets' receive buffers.", sockets.udp_waiting_octets
        )
        yield _counter(
            "rootsrv_tcp_listen_overflows", "Connections that found an accept queue full.", sockets.listen_overflows
        )

        yield from _files(view)
        maintain = view.role("maintain")
        if (state := maintain.text("clock")) or maintain:
            yield _gauge(
                "rootsrv_clock_synchronised",
                "Whether the kernel holds the clock synchronised, or clock.source has it believed.",
                state in CAN_BE_BELIEVED,
            )
            yield from _maybe(
                "rootsrv_clock_distance_seconds",
                "From the wall clock to the time that is trusted.",
                maintain.number("clock_distance_seconds"),
            )
            yield from _maybe(
                "rootsrv_state_writable",
                "Whether the state directory can be written.",
                maintain.truth("state_writable"),
            )
            switchover = maintain.object("switchover")
            yield _gauge(
                "rootsrv_switchover_in_order", "0: the latest switchover was void or failed.",
                switchover.text("state") not in ("void", "failed"),
            )  # fmt: skip
            yield _gauge(
                "rootsrv_alarms",
                "What a person should look at now, as maintain sees it.",
                len(maintain.texts("alarms")),
            )
            for what, help_text in (
                ("verify", "What it took to verify, compile and examine the latest zone."),
                ("confirm", "From the latest switchover until every worker was seen to answer from the new table."),
            ):
                yield from _maybe(f"rootsrv_switchover_{what}_seconds", help_text, switchover.number(f"{what}_seconds"))
        done = maintain.numbers("counters")
        yield _counter("rootsrv_transfer_bytes", "Received in zone transfers.", done.pop("transfer_octets", 0.0))
        yield _labelled_counter("rootsrv_maintain_events", "What maintain did since it started.", "event", done)
        yield _labelled_counter(
            "rootsrv_security_events", "Failed TSIG, refused transfers, spoofed NOTIFY, refused control.", "event",
            maintain.numbers("security_events"),
        )  # fmt: skip


class _Gathered:
    """Families that are already there, as a collector."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        return self._families


def _counters(words: Sequence[int]) -> Iterator[Metric]:
    labels = ["transport", "family"]
    for name, help_text, first in (
        ("rootsrv_queries", "Well-formed queries that were answered.", counts.QUERIES),
        ("rootsrv_malformed_queries", "Messages that were answered with FORMERR.", counts.MALFORMED),
    ):
        family = CounterMetricFamily(name, help_text, labels=labels)
        for path, values in enumerate(_PATHS):
            family.add_metric(values, words[first + path])
        yield family
    responses = CounterMetricFamily("rootsrv_responses", "Responses sent.", labels=[*labels, "rcode"])
    truncated = CounterMetricFamily("rootsrv_truncated_responses", "Responses sent with TC set.", labels=labels)
    for path, values in enumerate(_PATHS):
        for rcode, number in enumerate(counts.rcodes(words, path)):
            if number or rcode in (NOERROR, NXDOMAIN):
                responses.add_metric([*values, RCODES.get(rcode, str(rcode))], number)
        truncated.add_metric(values, sum(counts.truncated(words, path)))
    yield from (responses, truncated)
    yield _sizes(
        "rootsrv_request_size_bytes",
        "Sizes of well-formed queries.",
        words,
        counts.REQUEST_SIZES,
        counts.REQUEST_BINS,
        REQUEST_BUCKETS,
    )
    yield _sizes(
        "rootsrv_response_size_bytes",
        "Sizes of responses sent.",
        words,
        counts.RESPONSE_SIZES,
        counts.RESPONSE_BINS,
        RESPONSE_BUCKETS,
    )
    yield _labelled_counter(
        "rootsrv_dropped_messages", "Messages that got no response.", "reason",
        {reason: words[counts.DROPPED + at] for at, reason in enumerate(counts.DROP_REASONS)},
    )  # fmt: skip
    yield _counter("rootsrv_faults", "Exceptions of our own that a message raised.", words[counts.FAULTS])
    yield _counter("rootsrv_unsent_responses", "UDP responses that the kernel had no room for.", words[counts.UNSENT])
    yield from _connections(words, "rootsrv_tcp", "TCP connections")
    signals = {str(tag): number for tag, number in counts.signals(words).items()}
    if words[counts.SIGNALS]:
        signals["other"] = words[counts.SIGNALS]
    yield _labelled_counter(
        "rootsrv_trust_anchor_signals", "Trust anchors that resolvers signal (RFC 8145).", "key_tag", signals
    )


def _sizes(name: str, help_text: str, words: Sequence[int], first: int, bins: int, buckets: tuple[int, ...]) -> Metric:
    """A histogram by transport, from bins of 16 octets.  It has no sum: what is counted are bins."""
    family = HistogramMetricFamily(name, help_text, labels=["transport"])
    for number, transport in enumerate(("udp", "tcp")):
        own = words[first + number * bins : first + (number + 1) * bins]
        cumulated = [(str(float(upper)), sum(own[: upper // counts.BIN_OCTETS + 1])) for upper in buckets]
        family.add_metric([transport], [*cumulated, ("+Inf", sum(own))], None)
    return family


def _zones(view: View) -> Iterator[Metric]:
    serial = GaugeMetricFamily(
        "rootsrv_zone_serial", "SOA serial: known, received, scheduled, served.", labels=["zone", "stage"]
    )
    lease = GaugeMetricFamily(
        "rootsrv_zone_lease_seconds", "Left of the time that the zone may be served; ≤ 0: SERVFAIL.", labels=["zone"]
    )
    signed = GaugeMetricFamily(
        "rootsrv_zone_signatures_expire_timestamp_seconds", "When the first signature expires.", labels=["zone"]
    )
    for zone in view.zones:
        serial.add_metric([zone.name, "served"], zone.serial)
        lease.add_metric([zone.name], zone.lease_seconds)
        if zone.signatures_until:
            signed.add_metric([zone.name], zone.signatures_until)
    ages = {
        key: GaugeMetricFamily(f"rootsrv_zone_{key}_age_seconds", help_text, labels=["zone"])
        for key, help_text in (
            ("known", "How long a newer serial than the served one has been known; 0: none is."),
            ("received", "Since a version was last received."),
            ("served", "Since the version in service went into service."),
            ("confirmed", "Since a primary last said that the version in service is current."),
        )
    }
    current = GaugeMetricFamily("rootsrv_zone_current", "Whether no newer serial is known.", labels=["zone"])
    held = GaugeMetricFamily("rootsrv_zone_held_versions", "Versions that wait for a decision.", labels=["zone"])
    accepted = GaugeMetricFamily(
        "rootsrv_zone_last_version_accepted", "0: the latest version was rejected.", labels=["zone"]
    )
    plain = GaugeMetricFamily(
        "rootsrv_zone_unsuspicious", "0: there are alarms about the version in service.", labels=["zone"]
    )
    covered = GaugeMetricFamily(
        "rootsrv_zone_sep_keys_covered", "0: a SEP key of the zone is covered by no trust anchor.", labels=["zone"]
    )
    reachable = GaugeMetricFamily(
        "rootsrv_primary_reachable", "Whether the latest exchange with the primary worked.", labels=["zone", "primary"]
    )
    for zone_said in view.role("maintain").objects("zones"):
        name = zone_said.text("name")
        for stage in ("known", "received", "scheduled"):
            if (value := zone_said.number(stage)) is not None:
                serial.add_metric([name, stage], value)
        for key, family in ages.items():
            value = zone_said.number(f"{key}_age_seconds")
            if value is not None or key == "known":
                family.add_metric([name], value or 0.0)
        current.add_metric([name], float(zone_said.number("known_age_seconds") is None))
        held.add_metric([name], len(zone_said.objects("held")))
        accepted.add_metric([name], float(not zone_said.text("last_rejection")))
        alarms = zone_said.texts("alarms")
        plain.add_metric([name], float(not alarms))
        covered.add_metric([name], float(not any(UNCOVERED in alarm for alarm in alarms)))
        for primary in zone_said.objects("primaries"):
            if (answers := primary.truth("reachable")) is not None:
                reachable.add_metric([name, primary.text("name")], float(answers))
    yield from (serial, lease, signed, *ages.values(), current, held, accepted, plain, covered, reachable)


def _mesh(view: View) -> Iterator[Metric]:
    """Of a member; nothing where there is no mesh."""
    mesh = view.role("mesh")
    if not mesh:
        return
    members = mesh.objects("members")
    missing = sum(not member.truth("present") for member in members)
    yield _gauge(
        "rootsrv_mesh_engine_there",
        "Whether the engine of the mesh does what it should; 0: this member goes on alone.",
        bool(mesh.object("engine").truth("there")),
    )
    yield _gauge("rootsrv_mesh_members", "Members that the roster lists; 0: no roster is in force.", len(members))
    yield _gauge("rootsrv_mesh_members_missing", "Members of which nothing is on the board.", missing)
    yield _gauge("rootsrv_mesh_roster_version", "Of the roster in force.", mesh.number("roster_version") or 0.0)
    yield _gauge("rootsrv_mesh_tokens_taken", "Tokens of the floor that somebody holds.", len(mesh.objects("tokens")))
    yield _gauge("rootsrv_mesh_leads", "Whether this distribution host leads.", bool(mesh.truth("leads")))
    yield from _fleet(mesh)
    yield _gauge(
        "rootsrv_mesh_outside_ahead_seconds",
        "For how long most of the other letters that are asked have served a newer root than this mesh.",
        mesh.object("outside").number("ahead_seconds") or 0.0,
    )
    yield _counter(
        "rootsrv_mesh_refused",
        "Values on the board that were refused: forged, replayed, garbage.",
        mesh.number("refused") or 0.0,
    )


def _fleet(mesh: Said) -> Iterator[Metric]:
    """What the board shows of all members, as this one sees them."""
    rows = fleet_page.members(mesh)
    newest = fleet_page.newest_serials([row.said for row in rows])
    statuses = [row.said.object("status") for row in rows]
    behind = sum(
        any(serial != newest[zone] for zone, serial in each.numbers("serials").items() if zone in newest)
        for each in statuses
    )
    yield _gauge("rootsrv_mesh_members_behind", "Members that serve another serial than most.", behind)
    digests = {each.text("anchors") for each in statuses} - {""}
    yield _gauge("rootsrv_mesh_anchor_digests", "Different sets of trust anchors; 1 = all have the same.", len(digests))
    figures = {
        name: GaugeMetricFamily(f"rootsrv_mesh_group_{name}", text, labels=["group"])
        for name, text in (
            ("members", "Members of a group, by the roster."),
            ("announced", "Members of a group that say that they are announced."),
            ("may_withdraw", "How many of a group may be withdrawn for a cause that can wait: k."),
        )
    }
    for group in mesh.objects("groups"):
        name = group.text("name")
        there = sum(fleet_page.is_announced(row.said) for row in rows if row.said.text("group") == name)
        figures["members"].add_metric([name], group.number("n") or 0.0)
        figures["announced"].add_metric([name], float(there))
        figures["may_withdraw"].add_metric([name], group.number("k") or 0.0)
    yield from figures.values()
    sites = GaugeMetricFamily("rootsrv_mesh_site_well", "Members of a site of which nothing is wrong.", labels=["site"])
    for site in mesh.objects("sites"):
        here = [row for row in rows if row.said.text("site") == site.text("name")]
        sites.add_metric([site.text("name")], float(sum(not row.trouble for row in here)))
    yield sites


def _files(view: View) -> Iterator[Metric]:
    whole = GaugeMetricFamily(
        "rootsrv_state_file_whole", "Whether both copies of what is kept twice are good.", labels=["role", "file"]
    )
    for role in ("maintain", "advertise", "mesh", "portal"):
        for said in view.role(role).objects("files"):
            whole.add_metric([role, said.text("name")], float(not said.text("trouble")))
    yield whole


def _routes(view: View) -> Iterator[Metric]:
    announced = GaugeMetricFamily("rootsrv_announced", "Whether the service prefix is announced.", labels=["family"])
    preferred = GaugeMetricFamily(
        "rootsrv_fully_preferred", "Whether it is announced undegraded and undrained.", labels=["family"]
    )
    confirmed = GaugeMetricFamily("rootsrv_route_confirmed", "Whether the routing daemon did so.", labels=["family"])
    withdrawals = GaugeMetricFamily(
        "rootsrv_withdrawals_remembered",
        "Withdrawals for a failure that still count for the hold-down.",
        labels=["family"],
    )
    state = GaugeMetricFamily("rootsrv_site_state", "1 for the state that the site is in.", labels=["family", "state"])
    changes = CounterMetricFamily(
        "rootsrv_announcement_changes",
        "How often the announcement became what `route` says, by reason, since the role started.",
        labels=["family", "route", "reason"],
    )
    changed = GaugeMetricFamily("rootsrv_site_state_age_seconds", "Since the state last changed.", labels=["family"])
    for said in view.role("advertise").objects("families"):
        family = [f"ipv{said.text('ip_version')}"]
        announced.add_metric(family, float(bool(said.truth("announced"))))
        preferred.add_metric(family, float(said.text("route") == "up"))
        confirmed.add_metric(family, float(bool(said.truth("confirmed"))))
        withdrawals.add_metric(family, said.number("withdrawals") or 0.0)
        state.add_metric([*family, said.text("state")], 1.0)
        changed.add_metric(family, said.number("since_seconds") or 0.0)
        for each in said.objects("changes"):
            labels = [*family, each.text("route"), each.text("reason")]
            changes.add_metric(labels, each.number("count") or 0.0)
    yield from (announced, preferred, confirmed, withdrawals, state, changed, changes)


def _fastpath(view: View) -> Iterator[Metric]:
    said = view.role(KERNEL)
    if not (kernel := said.object("counters")):
        return
    attached = GaugeMetricFamily(
        "rootsrv_fastpath_attached", "Whether the kernel answers on the interface.", labels=["interface", "hook"]
    )
    for interface in said.objects("interfaces"):
        hook = interface.text("hook")
        attached.add_metric([interface.text("name"), hook], float(hook != "off"))
    yield attached
    yield _gauge(
        "rootsrv_fastpath_current",
        "Whether it answers from the active table.",
        said.number("active") == view.generation,
    )
    replies = CounterMetricFamily(
        "rootsrv_fastpath_responses", "Responses of the kernel; part of all.", labels=["family"]
    )
    for family in ("ipv4", "ipv6"):
        replies.add_metric([family], sum(kernel.object("replies").numbers(family).values()))
    yield replies
    yield _labelled_counter(
        "rootsrv_fastpath_dropped_syns", "SYNs over a core's budget (fastpath.syns_per_core).", "family",
        kernel.numbers("dropped_syns"),
    )  # fmt: skip
    yield _labelled_counter(
        "rootsrv_fastpath_passed_packets", "Left to the workers.", "reason", kernel.numbers("passes")
    )
    yield _gauge(
        "rootsrv_fastpath_memory_bytes", "Maps and programs in the kernel.", said.number("memory_octets") or 0.0
    )


def _over_tls(view: View) -> Iterator[Metric]:
    """Of DNS over TLS; nothing where it is not configured."""
    said = view.role("serve").object("dot")
    if not said:
        return
    words = view.tls_words
    yield _gauge("rootsrv_tls_answering", "Whether DNS over TLS is answered from the active table.",
                 bool(said.truth("ready")) and said.number("active") == view.generation)  # fmt: skip
    for name, help_text, first in (
        ("queries", "Well-formed queries that were answered over TLS.", counts.QUERIES),
        ("responses", "Responses sent over TLS.", counts.RESPONSES),
    ):
        family = CounterMetricFamily(f"rootsrv_tls_{name}", help_text, labels=["family"])
        for path, (transport, ip_version) in enumerate(_PATHS):
            if transport == "tcp":
                family.add_metric([ip_version], words[first + path])
        yield family
    handshakes = {name: words[counts.TLS + at] for at, name in enumerate(counts.TLS_COUNTERS)}
    microseconds = handshakes.pop("microseconds")
    handshakes["completed"] = handshakes.pop("handshakes")
    yield _labelled_counter("rootsrv_tls_handshakes", "TLS handshakes, by what became of them.", "outcome", handshakes)
    yield _counter("rootsrv_tls_handshake_cpu_seconds", "Processor time of handshakes.", microseconds / 1e6)
    yield from _connections(words, "rootsrv_tls", "Connections for TLS")
    yield _gauge(
        "rootsrv_tls_certificate_as_configured", "0: that of the configuration is unusable, and another one is shown.",
        not said.text("certificate_problem"),
    )  # fmt: skip
    if (until := said.instant("certificate_until")) is not None:
        yield _gauge("rootsrv_tls_certificate_expires_timestamp_seconds", "When what is shown expires.", until)


FLOOD_SHARE = 0.1
"""What fewer queries have in common is no metric: anybody can invent values."""


def _admission(view: View, *, show_prefixes: bool) -> Iterator[Metric]:
    words = view.words
    judged = dict(zip(("any", "good"), words[counts.JUDGED : counts.JUDGED + 2], strict=False))
    yield _labelled_counter(
        "rootsrv_judged_queries", "UDP queries that limits and shed rules looked at.", "cookie", judged
    )
    limited = CounterMetricFamily(
        "rootsrv_limited_queries", "Answered TC because of a limit; in dry-run: would have been.",
        labels=["family", "mode"],
    )  # fmt: skip
    shed = CounterMetricFamily(
        "rootsrv_shed_queries", "Answered TC because of a shed rule; others are among the dropped.", labels=["family"]
    )
    for at, family in enumerate(("ipv4", "ipv6")):
        for number, mode in enumerate(("on", "dry-run")):
            limited.add_metric([family, mode], words[counts.LIMITED + 2 * number + at])
        shed.add_metric([family], words[counts.SHED + at])
    yield from (limited, shed)

    said = view.role(ADMISSION)
    if not said:
        return
    limits, flood = said.object("limits"), said.object("flood")
    yield _gauge(
        "rootsrv_limits_as_configured", "0: too many sources are over their rate, so limits are in dry-run.",
        not limits.truth("falls_back"),
    )  # fmt: skip
    yield _gauge(
        "rootsrv_limit_cells_over_ratio", "Share of the limits' cells that are over.", limits.number("cells_over") or 0
    )
    in_force = sum(not rule.truth("dry_run") for rule in said.objects("rules"))
    yield _gauge("rootsrv_shed_rules", "Shed rules in force.", in_force)
    yield _gauge(
        "rootsrv_flood_values", "Values that stand out among the queries of the last minute (rootsrv top).",
        len(flood.texts("suggestions")),
    )  # fmt: skip
    shares = GaugeMetricFamily(
        "rootsrv_flood_share_ratio", "Share of the last minute's UDP queries that have it in common, from 10 % on.",
        labels=["dimension", "value"],
    )  # fmt: skip
    for dimension in DIMENSIONS:
        if dimension in PREFIX_DIMENSIONS and not show_prefixes:
            continue
        for each in flood.object("top").objects(dimension):
            if (share := each.number("share") or 0.0) >= FLOOD_SHARE:
                shares.add_metric([dimension, each.text("value")], share)
    yield shares


def _priorities(view: View) -> Iterator[Metric]:
    """As the role serve sees them; nothing while it says nothing."""
    family = GaugeMetricFamily(
        "rootsrv_worker_real_time_priority",
        "With which the worker goes before ordinary processes (SCHED_FIFO, SCHED_RR); 0: it is one.",
        labels=["worker"],
    )
    for worker in view.role("serve").objects("workers"):
        if worker.text("policy"):
            first = real_time.is_real_time(worker.text("policy"))
            family.add_metric([worker.text("slot")], (worker.number("priority") or 0.0) if first else 0.0)
    if family.samples:
        yield family


def _capture(view: View) -> Iterator[Metric]:
    """Of the role capture; nothing where it is not configured."""
    said = view.role("capture")
    if not said:
        return
    state = said.text("state")
    yield _gauge("rootsrv_capture_active", "Whether what is asked is being captured.", state == "capturing")
    yield _gauge(
        "rootsrv_capture_room", "0: there is no room for what should be captured, or the disk fails.", state != "full"
    )
    yield _counter("rootsrv_capture_queries", "Queries written to files.", said.number("items") or 0.0)
    yield _labelled_counter(
        "rootsrv_capture_lost_queries",
        "Queries that should have been captured and are not: no room in a ring or on the disk, or an unexpected error.",
        "where",
        said.numbers("lost"),
    )
    yield _counter(
        "rootsrv_capture_passed_over_queries",
        "Queries left out on purpose: sampling, filters.",
        said.number("passed_over") or 0.0,
    )
    yield _counter("rootsrv_capture_late_queries", "Queries out of order in their file.", said.number("late") or 0.0)
    yield _counter("rootsrv_capture_written_bytes", "Written to files.", said.number("written_octets") or 0.0)
    files = {each: said.number(f"files_{each}") or 0.0 for each in ("finished", "failed", "removed")}
    yield _labelled_counter("rootsrv_capture_files", "Files, by what became of them.", "outcome", files)
    yield _gauge("rootsrv_capture_free_bytes", "Free on the file system.", said.number("free_octets") or 0.0)
    yield _gauge("rootsrv_capture_directory_bytes", "What all files take.", said.number("directory_octets") or 0.0)
    yield _gauge("rootsrv_capture_quota_bytes", "What they may take.", said.number("quota_octets") or 0.0)
    yield _gauge("rootsrv_capture_ring_fill_ratio", "Of the fullest ring.", said.number("ring_fill") or 0.0)
    yield _gauge(
        "rootsrv_capture_behind_seconds",
        "Age of the oldest query that was written last.",
        said.number("behind_seconds") or 0.0,
    )


def _of_statistics(statistics: Statistics) -> Iterator[Metric]:
    yield _gauge("rootsrv_statistics_writable", "Whether the day's statistics can be written.", not statistics.error)
    start = datetime.datetime.combine(statistics.today.day, datetime.time(), datetime.UTC).timestamp()
    yield _gauge("rootsrv_statistics_day_timestamp_seconds", "Begin of the UTC day being counted.", start)
    sources = GaugeMetricFamily(
        "rootsrv_unique_sources",
        "Distinct source addresses since the day began, estimated (± 0.81 %).",
        labels=["kind"],
    )
    for key, number in statistics.sources.items():
        sources.add_metric([key.removeprefix("num-sources-")], number)
    yield sources


def _connections(words: Sequence[int], stem: str, what: str) -> Iterator[Metric]:
    """What became of connections; *what* they are begins the help texts."""
    became = {name: words[counts.TCP + at] for at, name in enumerate(counts.TCP_COUNTERS)}
    yield _counter(f"{stem}_connections", f"{what} accepted.", became.pop("accepted"))
    yield _gauge(f"{stem}_open_connections", f"{what} that are open.", became.pop("open"))
    closed = {name.removeprefix("closed-"): number for name, number in became.items()}
    yield _labelled_counter(f"{stem}_closed_connections", f"{what} closed, by reason.", "reason", closed)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value=float(value))


def _maybe(name: str, help_text: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield _gauge(name, help_text, value)


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(name, help_text, value=float(value))


def _labelled_counter(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
