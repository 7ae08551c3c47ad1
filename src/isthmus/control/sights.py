"""How deployments were seen last: a look at each while somebody asks, kept for a moment.

Everybody who asks within ``FRESH_SECONDS`` shares one look. Nobody waits longer than ``WAIT_SECONDS`` for any of them:
a deployment that has not answered by then is shown as it was seen before, with the reason, while its look goes on.

A summary is for pages: counts, and of the agents those that are unhealthy. A whole look has all agents, and is taken
for those who need all of them. What changes slowly, or costs the deployment more, is fetched less often.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog

from isthmus.control.asking import AdminApis
from isthmus.control.clusters import Deployment
from isthmus.control.links import Problem
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import IsthmusError
from isthmus.wire import admin, paths
from isthmus.wire.problems import MEANINGS, Code

FRESH_SECONDS: Final = 2.0
#: A deployment that did not answer is asked again after this.
AGAIN_SECONDS: Final = 5.0
WAIT_SECONDS: Final = 3.0
#: Tokens and the last hour's workloads in a summary are at most so old, unless something was changed from here.
SLOW_SECONDS: Final = 10.0
#: A whole look is kept for so many times as long as it took: thousands of agents must not keep both sides busy.
_KEPT_TIMES: Final = 10.0
#: So many deployments are looked at at a time.
_AT_ONCE: Final = 32
#: More agents of one deployment are counted and not shown.
AGENTS_SHOWN: Final = 2000
_PAGE: Final = 500
#: So many unhealthy agents are in a summary; the rest is counted.
AGENTS_SUMMARIZED: Final = 50

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sight:
    """A deployment. ``problem`` says why it does not answer now; the rest is of its last answer.

    ``observed_at`` is our time, ``deployment_time`` its own: ages of heartbeats go by that.
    In a summary ``agents`` are the first that are unhealthy, and ``minutes`` the last hour; ``minutes`` of a whole look
    are empty.
    """

    deployment: Deployment
    problem: Problem | None = None
    observed_at: datetime | None = None
    deployment_time: datetime | None = None
    view: admin.DeploymentView | None = None
    agents: tuple[admin.AgentView, ...] = ()
    tokens: tuple[admin.TokenView, ...] = ()
    has_more_agents: bool = False
    minutes: tuple[admin.MinuteView, ...] = ()


@dataclass(slots=True)
class _Entry:
    sight: Sight
    is_summary: bool
    fresh_until: float = 0.0
    slow_until: float = 0.0
    look: asyncio.Task[None] | None = None
    #: Grows when something was changed: a look that began before is not the last word.
    changes: int = 0


class Lookout:
    """Looks at deployments."""

    def __init__(self, apis: AdminApis, clock: Clock) -> None:
        self._apis = apis
        self._clock = clock
        self._entries: dict[tuple[str, bool], _Entry] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def sights(self, deployments: Sequence[Deployment]) -> list[Sight]:
        """How these are now, or were last, with all agents. Raises nothing that a deployment can cause."""
        return await self._seen([self._entry(one, is_summary=False) for one in deployments])

    async def summaries(self, deployments: Sequence[Deployment]) -> list[Sight]:
        """The same as summaries."""
        return await self._seen([self._entry(one, is_summary=True) for one in deployments])

    async def _seen(self, entries: Sequence[_Entry]) -> list[Sight]:
        looks = [look for entry in entries if (look := self._look(entry)) is not None]
        if looks:
            await asyncio.wait(looks, timeout=WAIT_SECONDS)
        return [_shown(entry) for entry in entries]

    def glance(self, deployments: Sequence[Deployment]) -> list[Sight]:
        """How these were seen last, without waiting; looks begin where they are due. Needs a running loop."""
        entries = [self._entry(one, is_summary=False) for one in deployments]
        for entry in entries:
            self._look(entry)
        return [entry.sight for entry in entries]

    def forget(self, deployment_id: str) -> None:
        """Something was changed there: look again when somebody asks."""
        for entry in self._of(deployment_id):
            entry.fresh_until, entry.slow_until, entry.changes = 0.0, 0.0, entry.changes + 1

    async def drop(self, deployment_id: str) -> None:
        """It is not registered any more."""
        looks = [entry.look for entry in self._of(deployment_id) if entry.look is not None]
        for is_summary in (True, False):
            self._entries.pop((deployment_id, is_summary), None)
        for look in looks:
            look.cancel()
        if looks:
            await asyncio.wait(looks)

    async def close(self) -> None:
        """End all looks."""
        for deployment_id in {one for one, _ in self._entries}:
            await self.drop(deployment_id)

    def _of(self, deployment_id: str) -> list[_Entry]:
        return [entry for (one, _), entry in self._entries.items() if one == deployment_id]

    def _entry(self, deployment: Deployment, *, is_summary: bool) -> _Entry:
        key = (deployment.deployment_id, is_summary)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(Sight(deployment), is_summary)
        elif entry.sight.deployment != deployment:  # it is said to be elsewhere now
            entry.sight = replace(entry.sight, deployment=deployment)
            entry.fresh_until, entry.slow_until, entry.changes = 0.0, 0.0, entry.changes + 1
        return entry

    def _look(self, entry: _Entry) -> asyncio.Task[None] | None:
        """The look to wait for, if one is needed."""
        if entry.look is None and self._clock.monotonic() >= entry.fresh_until:
            name = f"look at {entry.sight.deployment.deployment_id}"
            entry.look = asyncio.create_task(self._take(entry), name=name)
        return entry.look

    async def _take(self, entry: _Entry) -> None:
        deployment, changes, lasts = entry.sight.deployment, entry.changes, FRESH_SECONDS
        try:
            async with self._slots:
                began = self._clock.monotonic()
                entry.sight = await (self._summarize(entry) if entry.is_summary else self._see(deployment))
            if not entry.is_summary:
                lasts = max(lasts, _KEPT_TIMES * (self._clock.monotonic() - began))
        except IsthmusError as error:
            lasts = AGAIN_SECONDS
            entry.sight = replace(entry.sight, problem=Problem(error.code, error.summary, error.hint))
        except Exception:
            # A bug in the way one deployment is looked at must not end the view of the others, nor be silent.
            lasts = AGAIN_SECONDS
            log.exception("looking at a deployment failed", deployment_id=deployment.deployment_id)
            meaning = MEANINGS[Code.INTERNAL]
            entry.sight = replace(entry.sight, problem=Problem(Code.INTERNAL, meaning.title, meaning.hint))
        finally:
            entry.look = None
            if entry.changes == changes:
                entry.fresh_until = self._clock.monotonic() + lasts

    async def _summarize(self, entry: _Entry) -> Sight:
        deployment, changes, before = entry.sight.deployment, entry.changes, entry.sight
        view, at = await self._apis.ask_dated(deployment, admin.DeploymentView, "GET", paths.ADMIN_DEPLOYMENT)
        tokens, minutes = before.tokens, before.minutes
        if self._clock.monotonic() >= entry.slow_until:
            tokens = (await self._apis.ask(deployment, admin.TokenPage, "GET", paths.ADMIN_TOKENS)).tokens
            minutes = (await self._apis.ask(deployment, admin.ThroughputView, "GET", paths.ADMIN_THROUGHPUT)).minutes
            if entry.changes == changes:
                entry.slow_until = self._clock.monotonic() + SLOW_SECONDS
        agents: tuple[admin.AgentView, ...] = ()
        if view.agents_unhealthy:
            page, at = await self._apis.ask_dated(
                deployment,
                admin.AgentPage,
                "GET",
                paths.ADMIN_AGENTS,
                order=admin.AgentOrder.URGENCY,
                health=admin.AgentHealth.UNHEALTHY,
                limit=AGENTS_SUMMARIZED,
            )
            agents = page.agents
        return Sight(
            deployment,
            observed_at=self._clock.now(),
            deployment_time=at,
            view=view,
            agents=agents,
            tokens=tokens,
            has_more_agents=view.agents_unhealthy > len(agents),
            minutes=minutes,
        )

    async def _see(self, deployment: Deployment) -> Sight:
        view, at = await self._apis.ask_dated(deployment, admin.DeploymentView, "GET", paths.ADMIN_DEPLOYMENT)
        tokens = await self._apis.ask(deployment, admin.TokenPage, "GET", paths.ADMIN_TOKENS)
        agents: list[admin.AgentView] = []
        after: str | None = None
        while True:
            page, at = await self._apis.ask_dated(
                deployment, admin.AgentPage, "GET", paths.ADMIN_AGENTS, limit=_PAGE, after=after
            )
            agents += page.agents
            after = page.next_after
            if after is None or len(agents) >= AGENTS_SHOWN:
                break
        return Sight(
            deployment,
            observed_at=self._clock.now(),
            deployment_time=at,
            view=view,
            agents=tuple(agents),
            tokens=tokens.tokens,
            has_more_agents=after is not None,
        )


def _shown(entry: _Entry) -> Sight:
    sight = entry.sight
    if entry.look is None or sight.problem is not None:
        return sight
    why = f"{sight.deployment.deployment_id} has not answered within {WAIT_SECONDS:g} s."
    code = Code.ADMIN_UNREACHABLE
    return replace(sight, problem=Problem(code, why, MEANINGS[code].hint))
