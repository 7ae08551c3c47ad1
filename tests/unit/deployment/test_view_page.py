"""The page *Remote Agents* in Airflow: why an agent is not healthy, in words."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from isthmus.deployment.arrivals import Arrival
from isthmus.deployment.errors import DatabaseError
from isthmus.deployment.reading import AgentRow, Counts, TokenEnd
from isthmus.deployment.view import page
from isthmus.kit.errors import ConfigError
from isthmus.wire.admin import AgentHealth
from isthmus.wire.agents import Phase
from isthmus.wire.names import PathKind, Role

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
OFFICE = (ip_network("198.51.100.0/24"),)


def agent(**changes: Any) -> AgentRow:
    row = AgentRow(
        agent_id=uuid.uuid4(), name="oslo-1", role=Role.WORKER, health=AgentHealth.UNHEALTHY, phase=Phase.READY,
        cordoned=False, draining=False, queues=("default",), slots=4, slots_used=0, versions={}, labels={}, warnings=(),
        probe_report=None, token_id="aaaaaaaaaaaa", arrival=Arrival("192.0.2.4"), path_since=None, enrolled_at=NOW,
        last_heartbeat_at=NOW - timedelta(seconds=34), probes_order=None, probe_reported_at=None,
    )  # fmt: skip
    return replace(row, **changes)


def seen(*agents: AgentRow, **changes: Any) -> page.Seen:
    counts = Counts(0, len(agents), 0, (), {}, 0, 0, 0, 0, {}, 0.0)
    whole = page.Seen("dtest234", None, NOW, counts, agents, {}, (), 0, None)
    return replace(whole, **changes)


def ended(**ends: datetime) -> dict[str, TokenEnd]:
    return {"aaaaaaaaaaaa": TokenEnd(ends.get("expires_at"), ends.get("revoked_at"))}


@pytest.mark.parametrize(
    ("changes", "known", "words"),
    [
        ({}, {}, "no heartbeat for 34 s; is it running?"),
        ({"last_heartbeat_at": None}, {}, "no heartbeat yet; is it running?"),
        ({"health": AgentHealth.LEFT}, {}, "it has left; no heartbeat for 34 s"),
        ({}, {"tokens": ended(revoked_at=NOW)}, "its token was revoked"),
        ({}, {"tokens": ended(expires_at=NOW)}, "its token has expired"),
        ({}, {"tokens": ended(revoked_at=NOW + timedelta(1), expires_at=NOW + timedelta(1))}, "is it running?"),
        ({}, {"allowed": OFFICE}, "it came from 192.0.2.4, which the allow list does not let in"),
        ({"arrival": Arrival("198.51.100.7")}, {"allowed": OFFICE}, "is it running?"),
        ({"arrival": Arrival("10.0.0.4", PathKind.LINK, 7)}, {}, "a private link, whose state the control plane knows"),
    ],
)
def test_the_first_cause_that_is_known_is_named(changes: dict[str, Any], known: dict[str, Any], words: str) -> None:
    one = agent(**changes)
    assert words in (page.reason(one, seen(one, **known)) or "")


def test_a_healthy_agent_has_no_reason_and_shows_what_was_asked_of_it() -> None:
    one = agent(health=AgentHealth.HEALTHY)
    assert page.reason(one, seen(one, tokens=ended(revoked_at=NOW))) is None
    assert page.condition(one) == "healthy"
    assert page.condition(replace(one, cordoned=True)) == "cordoned"
    assert page.condition(replace(one, cordoned=True, draining=True)) == "draining"


def test_what_agents_write_is_escaped() -> None:
    script = "<script>alert(1)</script>"
    one = agent(name=script, queues=(script,), versions={"isthmus": script})
    text = page.shown(seen(one, control_url=script), "v")
    assert script not in text
    assert text.count("&lt;script&gt;") == 4


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0 s ago"), (119, "119 s ago"), (120, "2 min ago"), (7200, "2 h ago"), (3 * 86400, "3 d ago")],
)
def test_ages_are_in_the_largest_unit(seconds: int, words: str) -> None:
    assert page.age(NOW - timedelta(seconds=seconds), NOW) == words
    assert page.age(None, NOW) == "never"


def test_errors_say_what_to_check() -> None:
    text = page.failed(DatabaseError("<refused>"), "v")
    assert "Is PostgreSQL running" in text
    assert "&lt;refused&gt;" in text
    wrong = page.failed(ConfigError("deployment_id is missing", code="setting_missing", hint="Set it."), "v")
    assert "deployment_id is missing" in wrong
    assert "Set it." in wrong
    assert "Sign in" in page.refused(401, "v")
    assert "administrator" in page.refused(403, "v")
    assert "nothing at this address" in page.refused(404, "v")
