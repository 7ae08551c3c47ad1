"""What follows from rules, and what has changed at the cloud: pure."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.control import deciding
from isthmus.control.deciding import Appeared, Carried, Changed
from isthmus.control.links import Connection, Expectation, Problem
from isthmus.link import states
from isthmus.link.services import Connection as Seen
from isthmus.link.states import ConnectionState, Decision
from isthmus.wire.control import ExpectationKind

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ANN, BEN = "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"
_numbers = itertools.count(1)


def endpoint_id(name: str, subscription: str = ANN) -> str:
    return f"/subscriptions/{subscription}/resourceGroups/rg/providers/Microsoft.Network/privateEndpoints/{name}"


def known(state: ConnectionState = ConnectionState.PENDING, *, subscription: str = ANN, **more: Any) -> Connection:
    number = next(_numbers)
    values: dict[str, Any] = {
        "connection_id": f"cn{number}",
        "cluster_id": "clabcdefgh2",
        "name": f"pe.{number}",
        "endpoint_id": endpoint_id(f"pe{number}", subscription),
        "subscription": subscription,
        "state": state,
        "wanted": None,
        "reason": "",
        "message": "",
        "link_id": number,
        "location": "westeurope",
        "first_seen_at": NOW,
        "changed_at": NOW,
        "decided_by": None if state is ConnectionState.PENDING else "ann",
        "decided_at": None,
        "version": 1,
        **more,
    }
    return Connection(**values)


def seen(one: Connection, state: ConnectionState | None = None) -> Seen:
    return Seen(one.name, one.endpoint_id, state or one.state, one.message, one.link_id, one.location)


def expects(kind: ExpectationKind, value: str) -> Expectation:
    return Expectation("ex1", "clabcdefgh2", kind, value.lower(), "", "ann", NOW, None)


def decisions(*connections: Connection, **more: Any) -> dict[str, Decision]:
    options: dict[str, Any] = {"expectations": (), "now": NOW, "inherits": True, "refusals": {}, **more}
    found = deciding.automatic(
        connections, options["expectations"], options["now"], inherits=options["inherits"], refusals=options["refusals"]
    )
    return {one.connection.connection_id: one.decision for one in found}


def test_an_expected_endpoint_or_subscription_is_approved() -> None:
    one, other = known(), known(subscription=BEN)
    by_id = expects(ExpectationKind.ENDPOINT, one.endpoint_id.upper())
    assert decisions(one, other, expectations=(by_id,)) == {one.connection_id: Decision.APPROVE}
    by_subscription = expects(ExpectationKind.SUBSCRIPTION, BEN)
    assert decisions(one, other, expectations=(by_subscription,)) == {other.connection_id: Decision.APPROVE}


def test_approval_is_inherited_within_a_subscription_unless_one_was_refused() -> None:
    first, second = known(ConnectionState.APPROVED), known()
    assert decisions(first, second) == {second.connection_id: Decision.APPROVE}
    assert decisions(first, second, inherits=False) == {}
    assert decisions(first, known(subscription=BEN)) == {}
    assert decisions(replace(first, decided_by=None), second) == {}  # the cloud's own approval says nothing of others
    assert decisions(replace(first, wanted=Decision.REJECT), second) == {}
    assert decisions(first, second, known(ConnectionState.REJECTED)) == {}


def test_who_was_refused_does_not_come_in_by_asking_again() -> None:
    again = known()
    hour = timedelta(hours=1)
    before, after = (known(ConnectionState.APPROVED, decided_at=NOW + by) for by in (-hour, hour))
    assert decisions(before, again, refusals={ANN: NOW}) == {}
    assert decisions(before, again, refusals={BEN: NOW}) == {again.connection_id: Decision.APPROVE}
    assert decisions(before, after, again, refusals={ANN: NOW}) == {again.connection_id: Decision.APPROVE}


@pytest.mark.parametrize(("days", "expires"), [(0, False), (13.9, False), (14, True), (400, True)])
def test_what_nobody_decides_on_expires(days: float, *, expires: bool) -> None:
    one = known()
    found = decisions(one, now=NOW + timedelta(days=days))
    assert found == ({one.connection_id: Decision.EXPIRE} if expires else {})


def test_rules_leave_alone_what_people_look_at() -> None:
    refused = known(problem=Problem("permission_missing", "no"))
    decided = known(wanted=Decision.REJECT)
    everything = expects(ExpectationKind.SUBSCRIPTION, ANN)
    assert decisions(refused, decided, expectations=(everything,), now=NOW + timedelta(days=20)) == {}


def test_differences_are_what_appeared_changed_and_vanished() -> None:
    same, changed, gone, fresh = known(), known(), known(), known()
    found = deciding.differences(
        [same, changed, gone], [seen(same), seen(changed, ConnectionState.APPROVED), seen(fresh)]
    )
    assert found == [
        Changed(changed, seen(changed, ConnectionState.APPROVED)),
        Changed(gone, None),
        Appeared(seen(fresh)),
    ]


def test_an_expired_connection_is_what_the_cloud_calls_rejected() -> None:
    one = known(ConnectionState.EXPIRED)
    assert deciding.differences([one], [seen(one, ConnectionState.REJECTED)]) == []


@given(
    state=st.sampled_from(ConnectionState),
    wanted=st.none() | st.sampled_from(Decision),
    listed=st.none() | st.sampled_from(ConnectionState),
)
def test_after_a_look_nothing_is_left_to_see(
    state: ConnectionState, wanted: Decision | None, listed: ConnectionState | None
) -> None:
    """Whatever was known and is seen: keeping the differences leaves none, but for a decision on its way."""
    one = known(state, wanted=wanted)
    now = [] if listed is None else [seen(one, listed)]
    left: list[Connection] = [one]
    for difference in deciding.differences([one], now):
        match difference:
            case Changed(_, None):
                left = []
            case Changed(_, after) if after is not None:
                left = [replace(one, state=after.state)]
            case Carried(_, after_state):
                assert wanted is not None
                assert after_state is states.transition(state, wanted)
                left = [] if listed is None else [replace(one, state=after_state, wanted=None)]
            case _:
                raise AssertionError(difference)
    assert deciding.differences(left, now if left else []) == []
