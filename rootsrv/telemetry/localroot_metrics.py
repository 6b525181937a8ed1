"""The LocalRoot service as Prometheus metrics: what its role says of itself (roles/localroot.py)."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from rootsrv.telemetry.view import View

_TROUBLES = ("register", "observations", "statistics")


def localroot(view: View) -> Iterator[Metric]:
    """Nothing where it does not run."""
    said = view.role("localroot")
    if not said:
        return
    labels = ["zone"]
    given = GaugeMetricFamily("rootsrv_localroot_given", "0: the zone is withheld.", labels=labels)
    serial = GaugeMetricFamily("rootsrv_localroot_serial", "Serial that is given out; 0: none.", labels=labels)
    age = GaugeMetricFamily(
        "rootsrv_localroot_newest_age_seconds", "Since the newest was given out first.", labels=labels
    )
    subscribers = GaugeMetricFamily(
        "rootsrv_localroot_subscribers", "Servers that had the zone in the week before the newest.", labels=labels
    )
    fresh = GaugeMetricFamily("rootsrv_localroot_fresh_subscribers", "Those of them that have it.", labels=labels)
    for zone in said.objects("zones"):
        named = [zone.text("name")]
        given.add_metric(named, float(zone.number("given") is not None))
        serial.add_metric(named, zone.number("given") or 0.0)
        age.add_metric(named, zone.number("newest_age_seconds") or 0.0)
        subscribers.add_metric(named, zone.number("subscribers") or 0.0)
        fresh.add_metric(named, zone.number("with_newest") or 0.0)
    yield from (given, serial, age, subscribers, fresh)
    for name, what, key in (
        ("servers", "Servers that were signed up.", "servers"),
        ("keys", "TSIG keys that are live.", "keys"),
        ("proved_addresses", "Addresses that NOTIFY goes to.", "proved_addresses"),
        ("running_transfers", "Transfers at this moment.", "transfers_running"),
        ("pending_notifies", "NOTIFYs neither confirmed nor given up.", "notify_on_their_way"),
    ):
        yield GaugeMetricFamily(f"rootsrv_localroot_{name}", what, value=said.number(key) or 0.0)
    working = GaugeMetricFamily(
        "rootsrv_localroot_working", "0: it cannot be read or written, and zones go out all the same.", labels=["what"]
    )
    for trouble in _TROUBLES:
        working.add_metric([trouble], float(not said.text(f"{trouble}_error")))
    yield working
    counted = said.numbers("counters")
    families = {
        "transfers": CounterMetricFamily(
            "rootsrv_localroot_transfers", "Zones given out, by how and to whom.", labels=["zone", "way"]
        ),
        "transfer-octets": CounterMetricFamily(
            "rootsrv_localroot_transfer_bytes", "Octets of them.", labels=["zone", "way"]
        ),
        "notify": CounterMetricFamily(
            "rootsrv_localroot_notifies", "NOTIFYs, by what became of them.", labels=["zone", "outcome"]
        ),
        "tsig-errors": CounterMetricFamily("rootsrv_localroot_tsig_errors", "Requests refused.", labels=["error"]),
    }
    for key, number in sorted(counted.items()):
        kind, *values = key.split(" ")
        if kind in families:
            families[kind].add_metric(values, number)
    yield from families.values()
