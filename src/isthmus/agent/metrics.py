"""What the agent counts, for ``/metrics``.

Names follow Prometheus's conventions. The values that others hold already (slots, warnings, the process) are read when
they are asked for; only events are counted here.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

#: From a claim's answer to the frame that starts the workload, of which most is the plane's confirmation.
_LAUNCH_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Metrics:
    """The counters of one agent, on a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.build = Info("isthmus_agent_build", "Versions.", registry=registry)
        self.slots = Gauge("isthmus_agent_slots", "Workloads that may run at once.", registry=registry)
        self.slots_used = Gauge("isthmus_agent_slots_used", "Workloads that are held.", registry=registry)
        self.role_up = Gauge(
            "isthmus_agent_role_up", "1 while the program of a role runs.", ["role"], registry=registry
        )
        self.role_used = Gauge("isthmus_agent_role_slots_used", "What a role holds.", ["role"], registry=registry)
        self.road_open = Gauge("isthmus_agent_plane_up", "1 while the plane answers.", registry=registry)
        self.enrolled = Gauge("isthmus_agent_enrolled", "1 while the agent is enrolled.", registry=registry)
        self.warnings = Gauge("isthmus_agent_warnings", "Conditions that hold.", ["severity"], registry=registry)
        self.unsettled = Gauge("isthmus_agent_unsettled", "Outcomes that the plane has yet to take.", registry=registry)
        self.claims = Counter("isthmus_agent_claims", "Claims by how they ended.", ["result"], registry=registry)
        self.workloads = Counter("isthmus_agent_workloads", "Workloads by outcome.", ["outcome"], registry=registry)
        self.launch_seconds = Histogram(
            "isthmus_agent_launch_seconds",
            "From a claim's answer to the fork server's order.",
            buckets=_LAUNCH_BUCKETS,
            registry=registry,
        )
        self.gateway_calls = Counter(
            "isthmus_agent_gateway_calls", "Calls of tasks by what became of them.", ["result"], registry=registry
        )
        self.task_tokens_minted = Counter(
            "isthmus_agent_task_tokens_minted", "Task tokens that had to be minted anew.", registry=registry
        )
        self.runner_failures = Gauge(
            "isthmus_agent_runner_failures", "Times that the fork server ended unasked.", registry=registry
        )
        self.connections = Gauge(
            "isthmus_agent_connections_made", "Connections to the plane so far.", registry=registry
        )

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
