"""Who would be cut off: whether a change of the allow list may be made. Pure.

``replace`` judges a whole list that somebody puts in force, ``restrict`` the wish to let only some ranges in. The guard
of both is the plane's own view: agents that are healthy now, with the address that they were last seen at. An agent
counts as one that stays only if it may come in before the change as well as after: what was shut out already proves no
path. Invariant: without force, a change never leaves no healthy agent that may come in where there was one before; and
a restriction that shuts anything out leaves at least one, in any case.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from isthmus.deployment import ranges
from isthmus.deployment.arrivals import Arrival
from isthmus.deployment.ranges import Network, Ranges
from isthmus.wire.admin import AgentHealth, RestrictionOutcome

#: As many agents are named in a refusal.
_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Place:
    """An agent that has not left, and where it was last seen."""

    agent_id: UUID
    name: str
    health: AgentHealth
    arrival: Arrival
    last_heartbeat_at: datetime | None


@dataclass(frozen=True, slots=True)
class Decision:
    """``after`` is in force then; for REFUSED it is what would have been."""

    outcome: RestrictionOutcome
    reason: str
    before: Ranges
    after: Ranges
    cut_off: tuple[Place, ...]
    stays: tuple[Place, ...]

    @property
    def changes(self) -> bool:
        """Whether the allow list changes."""
        return self.outcome is not RestrictionOutcome.REFUSED and self.before != self.after


def replace(before: Ranges, wanted: Iterable[Network], places: Sequence[Place], *, force: bool = False) -> Decision:
    """Put ``wanted`` in force; refused if that shuts out the last healthy agent that may come in."""
    after = ranges.plain(wanted)
    had = _healthy(place for place in places if ranges.admits(before, place.arrival.address))
    keeps = _healthy(_stays(before, after, places))
    outcome = RestrictionOutcome.RESTRICTED if after else RestrictionOutcome.UNRESTRICTED
    reason = "The allow list was replaced."
    if after == before:
        outcome, reason = RestrictionOutcome.UNCHANGED, "The allow list is like this already."
    elif had and not keeps and not force:
        outcome = RestrictionOutcome.REFUSED
        reason = f"It would shut out every healthy agent: {_named(had)}."
    elif had and not keeps:
        reason = f"Forced, although it shuts out every healthy agent: {_named(had)}."
    return _decision(outcome, reason, before, after, places)


def restrict(before: Ranges, wanted: Iterable[Network], places: Sequence[Place], *, force: bool = False) -> Decision:
    """Let only ``wanted`` in; widened first where agents cannot have come from there yet."""
    after = ranges.plain(wanted)
    if after == before:
        reason = "The deployment is restricted to these ranges already."
        return _decision(RestrictionOutcome.UNCHANGED, reason, before, after, places)
    witnesses = _healthy(_stays(before, after, places))
    shown = ", ".join(map(str, after))
    if witnesses or ranges.covers(after, before):
        reason = f"Healthy agents come from {shown}: {_named(witnesses)}." if witnesses else "It shuts nothing out."
        return _decision(RestrictionOutcome.RESTRICTED, reason, before, after, places)
    if force:
        reason = f"Forced, although no healthy agent comes from {shown}."
        return _decision(RestrictionOutcome.RESTRICTED, reason, before, after, places)
    if not ranges.covers(before, after):
        reason = f"No healthy agent can have come from {shown} yet; now it may. Ask again when one has."
        return _decision(RestrictionOutcome.WIDENED, reason, before, ranges.plain((*before, *after)), places)
    seen = _named(_healthy(places))
    reason = f"No healthy agent comes from {shown}" + (f"; they come as {seen}." if seen else "; there is none at all.")
    return _decision(RestrictionOutcome.REFUSED, reason, before, after, places)


def unrestrict(before: Ranges, places: Sequence[Place]) -> Decision:
    """Let every address in; cuts nobody off."""
    outcome = RestrictionOutcome.UNRESTRICTED if before else RestrictionOutcome.UNCHANGED
    return _decision(outcome, "Every address may come in; tokens are still asked for.", before, (), places)


def _decision(
    outcome: RestrictionOutcome, reason: str, before: Ranges, after: Ranges, places: Sequence[Place]
) -> Decision:
    cut_off = tuple(
        place
        for place in places
        if ranges.admits(before, place.arrival.address) and not ranges.admits(after, place.arrival.address)
    )
    stays = tuple(place for place in places if ranges.admits(after, place.arrival.address))
    return Decision(outcome, reason, before, after, cut_off, stays)


def _stays(before: Ranges, after: Ranges, places: Sequence[Place]) -> list[Place]:
    return [
        place
        for place in places
        if ranges.admits(before, place.arrival.address) and ranges.admits(after, place.arrival.address)
    ]


def _healthy(places: Iterable[Place]) -> list[Place]:
    return [place for place in places if place.health is AgentHealth.HEALTHY]


def _named(places: Sequence[Place]) -> str:
    named = ", ".join(f"{place.name} ({place.arrival})" for place in places[:_NAMED])
    more = len(places) - _NAMED
    return f"{named} and {more} more" if more > 0 else named
