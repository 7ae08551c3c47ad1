"""Brings to the cloud what has been written down, and back what the cloud shows.

Everything here may be interrupted and done again: a wish stays written down until the cloud has taken it, a look begins
with what is there. Two processes beside each other end in the same place. Invariant: a decision is carried to the
connection that it was made about, by the cloud's own name for it, and not to a later one of the same endpoint.
"""

import asyncio
import ipaddress
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final, assert_never

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from isthmus.control import auditing, clusters, deciding, links
from isthmus.control.auditing import Actor
from isthmus.control.databases import Database
from isthmus.control.deciding import Appeared, Carried, Changed
from isthmus.control.errors import ControlRefusedError
from isthmus.control.links import Connection, Link, Problem
from isthmus.control.metering import Meter
from isthmus.control.progress import Progress
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import ConfigError, IsthmusError, TemporaryError
from isthmus.link import names, planning, publishing, states, steps
from isthmus.link.clouds import ProviderCloud
from isthmus.link.planning import Permissions, Plan
from isthmus.link.publishing import Publishing, Unpublishing
from isthmus.link.reconciling import Event, Patience
from isthmus.link.services import ProviderStatus, ServiceSpec, ServiceStatus
from isthmus.link.states import ConnectionState, Decision
from isthmus.link.steps import ProviderStep
from isthmus.wire.control import LinkState

#: One try of the loop: failures that last longer are the next try's, and meanwhile in everybody's sight.
PATIENCE: Final = Patience(failure_seconds=20.0)

log = structlog.get_logger(__name__)


def _nobody(_event: Event) -> None:
    return None


class Carrier:
    """Carries wishes between the database and a cloud."""

    def __init__(
        self,
        database: Database,
        cloud: ProviderCloud,
        clock: Clock,
        *,
        patience: Patience = PATIENCE,
        tell: Callable[[Event], None] = _nobody,
    ) -> None:
        self._database = database
        self._cloud = cloud
        self._clock = clock
        self._patience = patience
        self._tell = tell
        #: What goes through links, which is asked for beside everything else.
        self.meter = Meter(cloud, clock)
        #: How far links are that this process brings to the cloud.
        self.progress = Progress(clock)
        self._deciding: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def plan(self, spec: ServiceSpec, *, unpublish: bool, force: bool) -> Plan[ProviderStep]:
        """What publishing or unpublishing would do now. Raises what the cloud does."""
        status = await self._cloud.observe_service(spec)
        allowed = Permissions(may_disconnect=force)
        if unpublish:
            return planning.plan_unpublishing(spec, status, allowed)
        return planning.plan_service(spec, status, allowed)

    async def carry_link(self, link: Link) -> None:
        """Bring one link to where it was asked to be, or see how it is. Raises IsthmusError, which is kept as well."""
        try:
            match link.state:
                case LinkState.PUBLISHING:
                    await self._publish(link)
                case LinkState.UNPUBLISHING:
                    await self._unpublish(link)
                case LinkState.PUBLISHED | LinkState.MISSING:
                    await self._look(link)
                case _:
                    assert_never(link.state)
        except IsthmusError as error:
            self.progress.hold_up(link.cluster_id, error.summary)
            async with self._database.begin() as database:
                await links.note_problem(database, link, Problem(error.code, error.summary, error.hint))
            raise

    async def decide(
        self,
        actor: Actor,
        cluster_id: str,
        connection_id: str,
        decision: Decision,
        *,
        reason: str = "",
        version: int | None = None,
    ) -> tuple[Connection, bool]:
        """Write an operator's decision down and carry it out; False while the cloud does not answer.

        Raises what ``links.decide`` and ``carry_decision`` do, and ControlRefusedError: CLUSTER_NOT_FOUND,
        LINK_NOT_FOUND.
        """
        async with self._database.begin() as database:
            await clusters.get(database, cluster_id)
            await links.get(database, cluster_id)
            decided = await links.decide(
                database, actor, cluster_id, connection_id, decision, reason=reason, version=version
            )
        try:
            return await self.carry_decision(decided), True
        except TemporaryError:
            return decided, False

    async def carry_decision(self, decided: Connection) -> Connection:
        """Bring a decision to the cloud; the connection as it is then.

        Raises IsthmusError: a TemporaryError leaves it wanted, a refusal does not.
        """
        async with self._deciding[decided.connection_id]:
            async with self._database.begin() as database:
                current = await links.connection(database, decided.cluster_id, decided.connection_id)
                link = await links.get(database, decided.cluster_id)
            if current.wanted is None:
                return current
            try:
                state = await self._decide(link, current, current.wanted)
            except TemporaryError:
                raise
            except IsthmusError as error:
                async with self._database.begin() as database:
                    await links.fail(database, current, Problem(error.code, error.summary, error.hint))
                raise
            async with self._database.begin() as database:
                settled = await links.settle(database, current, state)
                if settled is None:
                    settled = await links.connection(database, decided.cluster_id, decided.connection_id)
                return settled

    async def _publish(self, link: Link) -> None:
        side = Publishing(self._cloud, link.spec.service)
        before = await self._versions(link)
        status = await publishing.publish(side, self._clock, self._patience, self._follow(link))
        await self._keep(link, status, before)
        self.progress.forget(link.cluster_id)
        log.info("the link is published", cluster_id=link.cluster_id, alias=status.alias)

    async def _unpublish(self, link: Link) -> None:
        allowed = Permissions(may_disconnect=link.may_disconnect)
        side = Unpublishing(self._cloud, link.spec.service, allowed)
        await publishing.unpublish(side, self._clock, self._patience, self._follow(link))
        async with self._database.begin() as database:
            await links.forget(database, link)
        self.progress.forget(link.cluster_id)
        log.info("the link is unpublished", cluster_id=link.cluster_id)

    def _follow(self, link: Link) -> Callable[[Event], None]:
        follow = self.progress.follow(link.cluster_id, link.version)

        def tell(event: Event) -> None:
            follow(event)
            self._tell(event)

        return tell

    async def _look(self, link: Link) -> None:
        before = await self._versions(link)
        status = await self._cloud.find_service(link.spec.service.service_id)
        if status is None:
            async with self._database.begin() as database:
                await links.note_missing(database, link)
        else:
            await self._keep(link, status, before)

    async def _versions(self, link: Link) -> dict[str, int]:
        """What is known of each connection before the cloud is asked."""
        async with self._database.begin() as database:
            return {one.connection_id: one.version for one in await links.connections(database, link.cluster_id)}

    async def _keep(self, link: Link, status: ServiceStatus, before: Mapping[str, int]) -> None:
        """Write down what the cloud shows, and carry what follows from it.

        What has changed since ``before`` is left to the next look: the cloud was asked earlier, so its answer is old.
        """
        async with self._database.begin() as database:
            cluster = await clusters.get(database, link.cluster_id)
            await links.note_service(database, link, status, _problem(cluster, link, status))
            known = await links.connections(database, link.cluster_id, lock=True)
            for difference in deciding.differences(known, status.connections):
                if not isinstance(difference, Appeared) and _is_newer(difference.known, before):
                    continue
                match difference:
                    case Appeared(seen):
                        await links.note_new(database, link.cluster_id, seen, _subscription(seen.endpoint_id))
                    case Changed(one, seen_now):
                        await links.note_change(database, one, seen_now)
                    case Carried(one, state):
                        await links.settle(database, one, state)
                    case _:
                        assert_never(difference)
            await self._decide_by_rules(database, link)
            wanted = [one for one in await links.connections(database, link.cluster_id) if one.wanted is not None]
        for one in wanted:
            try:
                await self.carry_decision(one)
            except IsthmusError as error:
                log.warning("a decision was not carried out", connection=one.connection_id, why=str(error))
                if isinstance(error, TemporaryError):
                    raise

    async def _decide_by_rules(self, database: AsyncConnection, link: Link) -> None:
        known = await links.connections(database, link.cluster_id)
        expectations = await links.expected(database, link.cluster_id)
        actor = Actor(auditing.ISTHMUS)
        decisions = deciding.automatic(
            known,
            expectations,
            self._clock.now(),
            inherits=link.spec.inherits_approval,
            refusals=await links.last_refusals(database, link.cluster_id),
        )
        for one in decisions:
            which = one.connection
            try:
                await links.decide(
                    database,
                    actor,
                    link.cluster_id,
                    which.connection_id,
                    one.decision,
                    reason=one.reason,
                    version=which.version,
                )
            except ControlRefusedError:
                continue  # an operator was faster
            if one.expectation_id is not None:
                await links.note_match(database, one.expectation_id)

    async def _decide(self, link: Link, current: Connection, decision: Decision) -> ConnectionState:
        """Have the cloud take a decision; the state that it leads to."""
        service_id = link.spec.service.service_id
        service = await publishing.observe(self._cloud, service_id)
        seen = next((one for one in service.connections if one.name == current.name), None)
        if seen is None:
            return ConnectionState.DISCONNECTED
        after = states.transition(seen.state, decision)
        if after is None:
            raise ConfigError(
                f"the connection is {seen.state} now",
                code=f"connection_{seen.state}",
                hint="Remove it; the customer has to create the endpoint again.",
            )
        if after is not seen.state:
            await self._cloud.decide(service_id, current.name, decision, current.reason)
        return after


def _is_newer(known: Connection, before: Mapping[str, int]) -> bool:
    """Whether a connection has changed since ``before``."""
    return before.get(known.connection_id) != known.version


def _problem(cluster: clusters.Cluster, link: Link, status: ServiceStatus) -> Problem | None:
    outside = [address for address in status.nat_addresses if ipaddress.IPv4Address(address) not in cluster.cidr]
    if status.problem:
        return Problem(
            "service_failed", f"The cloud says of the link service: {status.problem}", "See it in the portal."
        )
    if outside:
        return Problem(
            "nat_outside_cluster",
            f"The link's NAT addresses {', '.join(map(str, outside))} are not in the cluster's network {cluster.cidr}",
            "A deployment that is restricted to the cluster refuses what comes through the link. Take a subnet of it.",
        )
    there = ProviderStatus(is_registered=True, has_subnet_policies=False, service=status)
    changes = [
        change
        for step in planning.plan_service(link.spec.service, there).steps
        if isinstance(step, steps.ChangeService)
        for change in step.changes
    ]
    if changes:
        return Problem(
            "link_differs",
            f"Somebody has changed the link service elsewhere; it should have {', '.join(changes)}",
            "Publish it again with the options that you want (isthmus link publish). With PROXY v2 on one side alone "
            "the ingress refuses every connection of the link.",
        )
    return None


def _subscription(endpoint_id: str) -> str:
    try:
        return names.parse_id(endpoint_id).subscription.lower()
    except ConfigError:
        return ""
