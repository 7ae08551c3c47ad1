"""What a process counts, for Prometheus.

The hot path only increments counters whose labels were resolved beforehand; everything that exists elsewhere (claims
that wait, rounds, leases ended, agents and workloads by state) is read when Prometheus asks. Label values come from
fixed sets, never from a request: strangers cannot make series. Invariant: one ``Metrics`` has one registry, so that
tests and processes never share counts.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from isthmus.deployment.plane import Plane
from isthmus.deployment.reading import Counts
from isthmus.wire.names import PathKind

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST.encode()

#: Work reaches an agent within milliseconds of its commit, or it waits for a free slot: both must be visible.
_DISPATCH_BUCKETS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 900)
_REQUEST_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The instruments of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "isthmus_requests_total",
            "Requests by API, route, HTTP status and problem code (empty when there was none).",
            ("api", "route", "status", "code"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "isthmus_request_seconds",
            "Time to answer a request, by API and route. Claims are left out: they wait on purpose.",
            ("api", "route"),
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.heartbeats = Counter(
            "isthmus_heartbeats_total", "Heartbeats of agents that were taken in.", registry=self.registry
        )
        self.dispatch_seconds = Histogram(
            "isthmus_dispatch_seconds",
            "Time from a workload's queueing to its lease, waiting for a free slot included.",
            buckets=_DISPATCH_BUCKETS,
            registry=self.registry,
        )
        self.database_up = Gauge(
            "isthmus_database_up", "Whether the database answered this process last time.", registry=self.registry
        )
        self._counted: dict[tuple[str, str, int, str], Counter] = {}
        self._timed: dict[tuple[str, str], Histogram] = {}

    def count(self, api: str, route: str, status: int, code: str = "") -> None:
        """Count one answered request."""
        key = (api, route, status, code)
        counter = self._counted.get(key)
        if counter is None:
            counter = self._counted[key] = self.requests.labels(api, route, str(status), code)
        counter.inc()

    def time(self, api: str, route: str, seconds: float) -> None:
        """Note how long an answer took."""
        key = (api, route)
        histogram = self._timed.get(key)
        if histogram is None:
            histogram = self._timed[key] = self.request_seconds.labels(api, route)
        histogram.observe(seconds)

    def watch(self, plane: Plane) -> None:
        """Show what ``plane``'s loops count themselves."""
        self.registry.register(_Loops(plane))

    def text(self, counts: Counts | None) -> bytes:
        """Everything in Prometheus' text format; ``counts`` of the deployment where the database gave them."""
        if counts is None:
            return generate_latest(self.registry)
        deployment = CollectorRegistry()
        deployment.register(_Deployment(counts))
        return generate_latest(self.registry) + generate_latest(deployment)


class _Loops(Collector):
    """What the loops of a plane have done."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def collect(self) -> Iterable[Metric]:
        """Read the loops' own statistics."""
        dispatcher, reaper = self._plane.dispatcher, self._plane.reaper.statistics
        yield GaugeMetricFamily("isthmus_claims_waiting", "Claims that wait for work.", value=dispatcher.waiting)
        rounds = dispatcher.statistics
        yield CounterMetricFamily("isthmus_dispatch_rounds", "Rounds of dispatching.", value=rounds.rounds)
        yield CounterMetricFamily(
            "isthmus_dispatch_failed_rounds", "Rounds that the database cut short.", value=rounds.failed_rounds
        )
        yield CounterMetricFamily("isthmus_leases", "Workloads that were leased to agents.", value=rounds.leased)
        yield CounterMetricFamily(
            "isthmus_leases_given_back", "Leases that could not be delivered.", value=rounds.given_back
        )
        ended = CounterMetricFamily(
            "isthmus_leases_ended", "Leases that ended without a word of their agent, by outcome.", labels=["outcome"]
        )
        ended.add_metric(["requeued"], reaper.requeued)
        ended.add_metric(["lost"], reaper.lost)
        ended.add_metric(["kept"], reaper.kept)
        yield ended
        deleted = CounterMetricFamily(
            "isthmus_deleted_rows", "Rows that retention removed, by table.", labels=["table"]
        )
        deleted.add_metric(["workload"], reaper.deleted_workloads)
        deleted.add_metric(["agent"], reaper.deleted_agents)
        yield deleted


class _Deployment(Collector):
    """What is true of the whole deployment, the same in every process."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        """Show the counts."""
        counts = self._counts
        agents = GaugeMetricFamily("isthmus_agents", "Agents by health.", labels=["health"])
        agents.add_metric(["healthy"], counts.agents_healthy)
        agents.add_metric(["unhealthy"], counts.agents_unhealthy)
        agents.add_metric(["left"], counts.agents_left)
        yield agents
        by_path = GaugeMetricFamily("isthmus_agents_by_path", "Healthy agents by path.", labels=["path"])
        for path in PathKind:
            by_path.add_metric([path.value], counts.healthy_by_path.get(path, 0))
        yield by_path
        yield GaugeMetricFamily("isthmus_slots", "Slots of healthy agents.", value=counts.slots)
        yield GaugeMetricFamily("isthmus_slots_used", "Slots of healthy agents in use.", value=counts.slots_used)
        workloads = GaugeMetricFamily("isthmus_workloads", "Unsettled workloads by state.", labels=["state"])
        workloads.add_metric(["queued"], counts.workloads_queued)
        workloads.add_metric(["active"], counts.workloads_active)
        yield workloads
        queued = GaugeMetricFamily("isthmus_queued_workloads", "Queued workloads by queue.", labels=["queue"])
        for queue, number in counts.queued_by_queue.items():
            queued.add_metric([queue], number)
        yield queued
        yield GaugeMetricFamily(
            "isthmus_oldest_queued_seconds",
            "How long the oldest queued workload has waited.",
            value=counts.oldest_queued_seconds,
        )
