"""Everything that can be wrong with the control plane and its links, declared once.

The same list is in the log, in ``/healthz`` and in the metrics (``kit.health``).
"""

from typing import Final

from isthmus.control.links import Link
from isthmus.kit.errors import IsthmusError, TemporaryError
from isthmus.kit.health import Condition, Health, Occurrence, Severity
from isthmus.wire import agents
from isthmus.wire.control import LinkState

DATABASE: Final = Condition("database_unavailable", Severity.ERROR)
#: A look that fails once is retried before anybody reads of it.
CLOUD_AWAY: Final = Condition("cloud_unavailable", Severity.WARNING, visible_after_seconds=30.0)
CLOUD_REFUSES: Final = Condition("cloud_refuses", Severity.WARNING)
LINK_MISSING: Final = Condition("link_missing", Severity.WARNING)
LINK_PROBLEM: Final = Condition("link_problem", Severity.WARNING)
PLAIN_HTTP: Final = Condition("plain_http", Severity.WARNING)


def show(health: Health, links: list[Link], failures: dict[str, IsthmusError]) -> None:
    """Raise and clear the conditions about links. ``failures`` are those of the last look, by cluster."""
    away = {one: error for one, error in failures.items() if isinstance(error, TemporaryError)}
    refused = {one: error for one, error in failures.items() if one not in away}
    for condition, found in ((CLOUD_AWAY, away), (CLOUD_REFUSES, refused)):
        if found:
            summary = "; ".join(f"{one}: {error.summary}" for one, error in sorted(found.items()))
            health.raise_(condition, summary, next(iter(found.values())).hint)
        else:
            health.clear(condition)
    missing = [one.cluster_id for one in links if one.state is LinkState.MISSING]
    if missing:
        summary = f"link services were removed outside of Isthmus: {', '.join(missing)}"
        health.raise_(LINK_MISSING, summary, "Publish them again; their aliases will be new. Or unpublish them.")
    else:
        health.clear(LINK_MISSING)
    held = [one for one in links if one.problem is not None and one.cluster_id not in failures]
    if held:
        summary = "; ".join(f"{one.cluster_id}: {one.problem.sentence}" for one in held if one.problem is not None)
        health.raise_(LINK_PROBLEM, summary, held[0].problem.hint if held[0].problem is not None else "")
    else:
        health.clear(LINK_PROBLEM)


def to_wire(occurrence: Occurrence) -> agents.AgentWarning:
    """An occurrence as ``/healthz`` shows it, cut to what the wire allows."""
    return agents.AgentWarning(
        code=occurrence.code,
        severity=agents.Severity(occurrence.severity.value),
        summary=occurrence.summary[:512],
        hint=occurrence.hint[:512],
        since=occurrence.since,
    )
