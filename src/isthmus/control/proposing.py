"""What publishing or unpublishing a link would do now, and doing just that.

A proposal is what an operator looks at before they agree: the plan, and what is to be changed. Its digest names all of
it. Whoever agrees with a digest is refused (``plan_changed``) when by then something else would be done: the cloud has
changed, or somebody else has changed the wish. Without a digest a wish is written down as it is, before the cloud hears
of it (``links``).

Invariant: between the comparison and the wish nobody else's wish comes in; what the cloud does in the second until the
wish is carried, the reconciler meets as it meets everything, by planning anew.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from isthmus.control import links
from isthmus.control.auditing import Actor
from isthmus.control.carrying import Carrier
from isthmus.control.clusters import Cluster
from isthmus.control.databases import Database
from isthmus.control.errors import ControlRefusedError
from isthmus.control.links import Link, LinkSpec
from isthmus.link.planning import Plan
from isthmus.link.steps import ProviderStep, kind_of
from isthmus.wire.problems import Code


@dataclass(frozen=True, slots=True)
class Proposal:
    """What would be done. ``wish`` is None for unpublishing; ``before`` is None while there is no link."""

    before: Link | None
    wish: LinkSpec | None
    force: bool
    plan: Plan[ProviderStep]

    @property
    def digest(self) -> str:
        """A name for exactly this, 32 hex digits."""
        return _digest(
            {
                "before": None if self.before is None else dataclasses.asdict(self.before.spec),
                "wish": None if self.wish is None else dataclasses.asdict(self.wish),
                "force": self.force,
                "steps": [(kind_of(step), step.sentence) for step in self.plan.steps],
                "warnings": [(one.code, one.sentence) for one in self.plan.warnings],
                "blocks": [(one.code, one.sentence) for one in self.plan.blocks],
            }
        )

    @property
    def is_empty(self) -> bool:
        """Whether all is so already, also what only we know of."""
        if self.plan.steps or self.plan.blocks or self.wish is None or self.before is None:
            return False
        return self.before.spec == self.wish and not links.is_off(self.before)


async def propose(
    database: Database, carrier: Carrier, cluster: Cluster, wish: LinkSpec | None, *, force: bool = False
) -> Proposal:
    """What would be done now; nothing is. ``force`` is about unpublishing alone.

    Raises ControlRefusedError: LINK_EXISTS, LINK_NOT_FOUND; and what the cloud does.
    """
    async with database.begin() as connection:
        before = await _before(connection, cluster, wish)
    if wish is not None:
        return Proposal(before, wish, False, await carrier.plan(wish.service, unpublish=False, force=False))
    return Proposal(before, None, force, await carrier.plan(_spec(before).service, unpublish=True, force=force))


async def publish(
    database: Database, carrier: Carrier, actor: Actor, cluster: Cluster, wish: LinkSpec, *, digest: str | None
) -> Link:
    """Wish for a link, if that would do what ``digest`` names.

    Raises ControlRefusedError: LINK_EXISTS, PLAN_CHANGED; with a digest also what the cloud does.
    """
    agreed = None if digest is None else await _agreed(database, carrier, cluster, wish, force=False, digest=digest)
    async with database.begin() as connection:
        await _check(connection, cluster, agreed)
        return await links.publish(connection, actor, cluster, wish)


async def unpublish(
    database: Database, carrier: Carrier, actor: Actor, cluster: Cluster, *, force: bool, digest: str | None
) -> Link:
    """Wish for no link any more, if that would do what ``digest`` names.

    Raises ControlRefusedError: LINK_NOT_FOUND, LINK_IN_USE, PLAN_CHANGED; with a digest also what the cloud does.
    """
    agreed = None if digest is None else await _agreed(database, carrier, cluster, None, force=force, digest=digest)
    async with database.begin() as connection:
        await _check(connection, cluster, agreed)
        return await links.unpublish(connection, actor, cluster.cluster_id, force=force)


async def _agreed(
    database: Database, carrier: Carrier, cluster: Cluster, wish: LinkSpec | None, *, force: bool, digest: str
) -> Proposal:
    proposal = await propose(database, carrier, cluster, wish, force=force)
    if proposal.digest != digest:
        raise ControlRefusedError(Code.PLAN_CHANGED)
    return proposal


async def _check(connection: AsyncConnection, cluster: Cluster, agreed: Proposal | None) -> None:
    """The wish is still the one that was planned from. Locks it."""
    if agreed is None:
        return
    current = await links.find(connection, cluster.cluster_id, lock=True)
    if (None if current is None else current.version) != (None if agreed.before is None else agreed.before.version):
        raise ControlRefusedError(Code.PLAN_CHANGED)


async def _before(connection: AsyncConnection, cluster: Cluster, wish: LinkSpec | None) -> Link | None:
    if wish is None:
        return await links.get(connection, cluster.cluster_id)
    before = await links.find(connection, cluster.cluster_id)
    links.check_wish(before, wish)
    return before


def _spec(before: Link | None) -> LinkSpec:
    if before is None:
        raise AssertionError("a link that is unpublished is there")
    return before.spec


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
