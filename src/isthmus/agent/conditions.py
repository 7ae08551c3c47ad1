"""Everything that can be wrong at an agent, declared once.

The list in the log, in ``/healthz`` and in the heartbeat is made of these (``kit.health``). A condition that another
one explains is not shown beside it.
"""

from typing import Final

from isthmus.kit.health import Condition, Occurrence, Severity
from isthmus.wire import agents

#: The plane does not answer, or something between us does in its place. Most restarts of a plane are shorter.
UNREACHABLE: Final = Condition("plane_unreachable", Severity.ERROR, visible_after_seconds=5.0)
#: The plane answers, and says no to this agent: its token, its address, its version.
REFUSED: Final = Condition("agent_refused", Severity.ERROR)
#: The fork server is not there, so that nothing can be started. Its first start takes some seconds.
RUNNER_DOWN: Final = Condition("runner_down", Severity.ERROR, visible_after_seconds=20.0)
#: A component (the DAG processor, the triggerer) is not there. Airflow's first import takes some seconds.
COMPONENT_DOWN: Final = Condition("component_down", Severity.ERROR, visible_after_seconds=20.0)
#: The deployment or the token does not admit a role that nobody had asked for by name.
ROLE_LEFT_OUT: Final = Condition("role_left_out", Severity.INFO)
#: A bug, ours or the plane's: an outcome that the plane does not take.
SETTLEMENT_REFUSED: Final = Condition("settlement_refused", Severity.WARNING)
#: What the last verification found. An outage explains it.
VERIFICATION_FAILED: Final = Condition(
    "verification_failed", Severity.WARNING, depends_on=frozenset({"plane_unreachable", "agent_refused"})
)
#: The agent is to ship logs, and they stay here.
LOGS_NOT_SHIPPED: Final = Condition("logs_not_shipped", Severity.WARNING)
CORDONED: Final = Condition("cordoned", Severity.INFO)
DRAINING: Final = Condition("draining", Severity.INFO)
ONE_USER: Final = Condition("one_user", Severity.WARNING)
TOKEN_EXPOSED: Final = Condition("token_exposed", Severity.WARNING)
HEALTH_PORT: Final = Condition("health_port_taken", Severity.WARNING)


def to_wire(occurrence: Occurrence) -> agents.AgentWarning:
    """An occurrence as the heartbeat carries it, cut to what the wire allows."""
    return agents.AgentWarning(
        code=occurrence.code,
        severity=agents.Severity(occurrence.severity.value),
        summary=occurrence.summary[:512],
        hint=occurrence.hint[:512],
        since=occurrence.since,
    )
