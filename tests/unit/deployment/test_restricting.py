"""Restricting: nobody locks everybody out by accident, in whatever order things happen."""

import uuid
from dataclasses import dataclass, replace
from ipaddress import ip_network

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from isthmus.deployment import ranges, restricting
from isthmus.deployment.arrivals import Arrival
from isthmus.deployment.ranges import Ranges
from isthmus.deployment.restricting import Decision, Place
from isthmus.wire.admin import AgentHealth, RestrictionOutcome

CLUSTER, OFFICE, HOME = "10.20.0.0/16", "198.51.100.0/24", "192.0.2.0/24"
ADDRESSES = ("10.20.0.4", "10.20.0.5", "198.51.100.7", "192.0.2.9", "2001:db8::7")
CHOICES = st.lists(st.sampled_from((CLUSTER, "10.20.0.4/32", OFFICE, HOME, "2001:db8::/32", "0.0.0.0/0")), max_size=3)


def these(*texts: str) -> Ranges:
    return ranges.plain(ip_network(text) for text in texts)


def place(name: str, address: str, health: AgentHealth = AgentHealth.HEALTHY) -> Place:
    return Place(uuid.uuid4(), name, health, Arrival(address), None)


def names(places: tuple[Place, ...]) -> set[str]:
    return {one.name for one in places}


def test_an_agent_from_there_lets_the_others_be_cut_off() -> None:
    agents = [place("private", "10.20.0.4"), place("public", "198.51.100.7"), place("old", "192.0.2.9")]
    decision = restricting.restrict((), these(CLUSTER), agents)
    assert (decision.outcome, decision.after) == (RestrictionOutcome.RESTRICTED, these(CLUSTER))
    assert (names(decision.cut_off), names(decision.stays)) == ({"public", "old"}, {"private"})


def test_without_an_agent_from_there_it_is_refused_and_says_where_they_come_from() -> None:
    decision = restricting.restrict((), these(CLUSTER), [place("public", "198.51.100.7")])
    assert (decision.outcome, decision.changes) == (RestrictionOutcome.REFUSED, False)
    assert "public (over the public path, from 198.51.100.7)" in decision.reason


@pytest.mark.parametrize("health", [AgentHealth.UNHEALTHY, AgentHealth.LEFT])
def test_an_agent_that_is_not_healthy_proves_nothing(health: AgentHealth) -> None:
    assert restricting.restrict((), these(CLUSTER), [place("a", "10.20.0.4", health)]).outcome == "refused"
    assert restricting.restrict((), these(CLUSTER), []).outcome == "refused"


def test_it_is_widened_before_it_is_narrowed() -> None:
    agents = [place("public", "198.51.100.7")]
    first = restricting.restrict(these(OFFICE), these(CLUSTER), agents)
    assert (first.outcome, first.after) == (RestrictionOutcome.WIDENED, these(OFFICE, CLUSTER))
    assert first.cut_off == ()
    assert restricting.restrict(first.after, these(CLUSTER), agents).outcome == "refused"
    moved = [place("public", "10.20.0.4")]
    assert restricting.restrict(first.after, these(CLUSTER), moved).outcome == "restricted"


def test_an_agent_that_is_shut_out_already_proves_no_path() -> None:
    shut_out = [place("gone", "192.0.2.9")]
    assert restricting.restrict(these(OFFICE), these(HOME), shut_out).outcome == "widened"


def test_force_does_it_anyway_and_says_so() -> None:
    decision = restricting.restrict((), these(CLUSTER), [place("public", "198.51.100.7")], force=True)
    assert decision.outcome == "restricted"
    assert decision.reason.startswith("Forced")


def test_a_whole_list_is_put_in_force_unless_it_shuts_out_the_last_healthy_agent() -> None:
    agents = [place("a", "10.20.0.4"), place("b", "198.51.100.7")]
    assert restricting.replace((), these(CLUSTER), agents).outcome == "restricted"
    assert restricting.replace((), these(HOME), agents).outcome == "refused"
    assert restricting.replace((), these(HOME), agents, force=True).after == these(HOME)
    assert restricting.replace((), these(HOME), []).outcome == "restricted", "a new deployment is set up first"
    assert restricting.replace(these(HOME), (), agents).outcome == "unrestricted"
    assert restricting.replace(these(HOME), these(HOME), agents).outcome == "unchanged"


@dataclass
class Agent:
    """An agent, and what the plane knows of it."""

    place: Place
    alive: bool = True


class Operators(RuleBasedStateMachine):
    """Agents that come, move and die, and operators who change the list without force."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed: Ranges = ()
        self.agents: list[Agent] = []
        self.locked_out = False

    def reaching(self) -> set[uuid.UUID]:
        """Healthy agents, to the plane, that may come in."""
        return {
            one.place.agent_id
            for one in self.agents
            if one.place.health is AgentHealth.HEALTHY and ranges.admits(self.allowed, one.place.arrival.address)
        }

    def apply(self, decision: Decision) -> None:
        had = self.reaching()
        assert decision.before == self.allowed
        if decision.changes:
            self.allowed = decision.after
        left = self.reaching()
        self.locked_out = bool(had) and not left
        assert not decision.changes or had - left <= {one.agent_id for one in decision.cut_off}

    @rule(address=st.sampled_from(ADDRESSES))
    def come(self, address: str) -> None:
        if ranges.admits(self.allowed, address):
            self.agents.append(Agent(place(f"agent-{len(self.agents)}", address)))

    @rule(which=st.integers(0, 9), address=st.sampled_from(ADDRESSES))
    def move(self, which: int, address: str) -> None:
        """The name leads elsewhere now: the next heartbeat comes that way, if it is let in."""
        agent = self.agents[which % len(self.agents)] if self.agents else None
        if agent is not None and agent.alive and ranges.admits(self.allowed, address):
            agent.place = replace(agent.place, arrival=Arrival(address), health=AgentHealth.HEALTHY)

    @rule(which=st.integers(0, 9))
    def die(self, which: int) -> None:
        if self.agents:
            agent = self.agents[which % len(self.agents)]
            agent.alive = False
            agent.place = replace(agent.place, health=AgentHealth.UNHEALTHY)

    @rule()
    def time_passes(self) -> None:
        """Three heartbeats: whoever was not let in, or is dead, is unhealthy now."""
        for agent in self.agents:
            if not agent.alive or not ranges.admits(self.allowed, agent.place.arrival.address):
                agent.place = replace(agent.place, health=AgentHealth.UNHEALTHY)

    @rule(texts=CHOICES.filter(bool))
    def restrict(self, texts: list[str]) -> None:
        decision = restricting.restrict(self.allowed, these(*texts), [one.place for one in self.agents])
        self.apply(decision)
        narrowed = decision.changes and not ranges.covers(decision.after, decision.before)
        assert not narrowed or self.reaching(), "a restriction leaves a healthy agent, whatever was there before"

    @rule(texts=CHOICES)
    def put(self, texts: list[str]) -> None:
        self.apply(restricting.replace(self.allowed, these(*texts), [one.place for one in self.agents]))

    @rule()
    def unrestrict(self) -> None:
        self.apply(restricting.unrestrict(self.allowed, [one.place for one in self.agents]))

    @invariant()
    def nobody_locked_everybody_out(self) -> None:
        assert not self.locked_out


Operators.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestOperators = Operators.TestCase
