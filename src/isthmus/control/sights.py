"""How deployments were seen last: a look at each while somebody asks, kept for a moment.

Everybody who asks within ``FRESH_SECONDS`` shares one look. Nobody waits longer than ``WAIT_SECONDS`` for any of them:
a deployment that has not answered by then is shown as it was seen before, with the reason, while its look goes on.
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
#: So many deployments are looked at at a time.
_AT_ONCE: Final = 32
#: More agents of one deployment are counted and not shown.
AGENTS_SHOWN: Final = 2000
_PAGE: Final = 500

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sight:
    """A deployment. ``problem`` says why it does not answer now; the rest is of its last answer.

    ``observed_at`` is our time, ``deployment_time`` its own: ages of heartbeats go by that.
    """

    deployment: Deployment
    problem: Problem | None = None
    observed_at: datetime | None = None
    deployment_time: datetime | None = None
    view: admin.DeploymentView | None = None
    agents: tuple[admin.AgentView, ...] = ()
    tokens: tuple[admin.TokenView, ...] = ()
    has_more_agents: bool = False


@dataclass(slots=True)
class _Entry:
    sight: Sight
    fresh_until: float = 0.0
    look: asyncio.Task[None] | None = None
    #: Grows when something was changed: a look that began before is not the last word.
    changes: int = 0


class Lookout:
    """Looks at deployments."""

    def __init__(self, apis: AdminApis, clock: Clock) -> None:
        self._apis = apis
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def sights(self, deployments: Sequence[Deployment]) -> list[Sight]:
        """How these are now, or were last. Raises nothing that a deployment can cause."""
        entries = [self._entry(one) for one in deployments]
        looks = [look for entry in entries if (look := self._look(entry)) is not None]
        if looks:
            await asyncio.wait(looks, timeout=WAIT_SECONDS)
        return [_shown(entry) for entry in entries]

    def forget(self, deployment_id: str) -> None:
        """Something was changed there: look again when somebody asks."""
        entry = self._entries.get(deployment_id)
        if entry is not None:
            entry.fresh_until, entry.changes = 0.0, entry.changes + 1

    async def drop(self, deployment_id: str) -> None:
        """It is not registered any more."""
        entry = self._entries.pop(deployment_id, None)
        if entry is not None and entry.look is not None:
            entry.look.cancel()
            await asyncio.wait([entry.look])

    async def close(self) -> None:
        """End all looks."""
        for deployment_id in list(self._entries):
            await self.drop(deployment_id)

    def _entry(self, deployment: Deployment) -> _Entry:
        entry = self._entries.get(deployment.deployment_id)
        if entry is None:
            entry = self._entries[deployment.deployment_id] = _Entry(Sight(deployment))
        elif entry.sight.deployment != deployment:  # it is said to be elsewhere now
            entry.sight = replace(entry.sight, deployment=deployment)
            entry.fresh_until, entry.changes = 0.0, entry.changes + 1
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
                entry.sight = await self._see(deployment)
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
