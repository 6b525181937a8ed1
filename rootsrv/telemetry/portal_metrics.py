"""The pages of a LocalRoot service as Prometheus metrics: what their role says of itself (roles/portal.py)."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from rootsrv.telemetry.view import View

_TROUBLES = ("register", "observations", "mails")


def portal(view: View) -> Iterator[Metric]:
    """Nothing where it does not run."""
    said = view.role("portal")
    if not said:
        return
    for name, what, key in (
        ("accounts", "Accounts.", "accounts"),
        ("tokens", "Tokens of the API that have not ended.", "tokens"),
        ("sessions", "Browsers in which somebody is signed in.", "sessions"),
        ("contributing_servers", "Servers that contribute counts.", "contributing_servers"),
        ("waiting_mails", "Mails that the mail server has not taken yet.", "mails_waiting"),
        ("register_bytes", "Size of the register on disk.", "register_octets"),
    ):
        # Unknown, not nought, while the register cannot be read.
        if (value := said.number(key)) is not None:
            yield GaugeMetricFamily(f"rootsrv_portal_{name}", what, value=value)
    working = GaugeMetricFamily("rootsrv_portal_working", "0: it cannot be read, written or reached.", labels=["what"])
    for trouble in _TROUBLES:
        working.add_metric([trouble], float(not said.text(f"{trouble}_error")))
    yield working
    families = {
        "requests": CounterMetricFamily("rootsrv_portal_requests", "Requests, by HTTP status.", labels=["status"]),
        "sign-ups": CounterMetricFamily("rootsrv_portal_sign_ups", "Addresses given, accounts begun.", labels=["step"]),
        "sign-ins": CounterMetricFamily(
            "rootsrv_portal_sign_ins", "Passwords, passkeys and tokens that were shown.", labels=["how", "outcome"]
        ),
        "mails": CounterMetricFamily("rootsrv_portal_mails", "Mails, by what became of them.", labels=["outcome"]),
        "counts": CounterMetricFamily(
            "rootsrv_portal_contributions", "Counts of a day that came, taken or refused.", labels=["outcome"]
        ),
    }
    labels = {"requests": 1, "sign-ups": 1, "sign-ins": 2, "mails": 1, "counts": 1}
    for key, number in sorted(said.numbers("counters").items()):
        kind, *values = key.split(" ")
        if kind in families and len(values) == labels[kind]:
            families[kind].add_metric(values, number)
    yield from families.values()
