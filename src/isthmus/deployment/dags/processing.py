"""DAG processing in one process of the Remote Execution API: who may do what, and the threads that do it.

Airflow's ORM blocks, and reading a DAG costs tens of milliseconds of CPU, so both happen in a few threads and never in
the event loop. What waits for them is bounded: an agent has one batch under way at a time, and beyond ``MAX_WAITING``
batches files are sent back with ``later``, so that no agent makes the others wait for long.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

import structlog
from sqlalchemy import exc

from isthmus.deployment import compat
from isthmus.deployment.config import DeploymentConfig
from isthmus.deployment.dags import bundles, claiming, observing, persisting
from isthmus.deployment.dags import compat as compat_dags
from isthmus.deployment.dags.bundles import Asking, Standing, Terms
from isthmus.deployment.dags.claiming import Settled
from isthmus.deployment.dags.observing import Pass, Seen
from isthmus.deployment.dags.persisting import Submitter
from isthmus.deployment.errors import DatabaseError
from isthmus.deployment.pooling import Pool
from isthmus.deployment.roster import HEALTHY_HEARTBEATS
from isthmus.wire.dags import (
    DagClaim,
    DagClaimReference,
    HeldBundle,
    OfferedBundle,
    Submission,
    SubmittedFile,
)

#: Python runs one thread at a time; the second works while the first waits for the database.
THREADS: Final = 2
MAX_WAITING: Final = 16
EARLIEST_YEAR: Final = 2000

Found = TypeVar("Found")

log = structlog.get_logger(__name__)


class Dags:
    """DAG processing of one deployment in this process."""

    def __init__(self, config: DeploymentConfig, pool: Pool) -> None:
        self._config = config
        self._pool = pool
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="dags")
        self._submitting: set[UUID] = set()
        self._healthy_seconds = HEALTHY_HEARTBEATS * config.heartbeat_seconds
        # An agent asks every few seconds, however short the leases of workloads are.
        lease_seconds = max(config.lease_seconds, bundles.OFFER_SECONDS)
        self.terms: Final = Terms(lease_seconds, self._healthy_seconds, config.bundle_limit)

    def close(self) -> None:
        """End the threads; what runs is finished, what waits is not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def ask(self, asking: Asking, offered: Sequence[OfferedBundle]) -> list[Standing]:
        """Where the agent is with its bundles, and Airflow's rows for those that it parses. Raises DatabaseError."""
        standings = await bundles.ask(self._pool, asking, offered, self.terms)
        mine = {one.name for one in standings if one.assigned}
        if mine:
            await self._run(lambda: _put([one for one in offered if one.name in mine]))
        return standings

    async def submit(self, submitter: Submitter, submissions: Sequence[Submission]) -> list[SubmittedFile]:
        """The verdicts on the files, in their order."""
        if submitter.agent_id in self._submitting or len(self._submitting) >= MAX_WAITING:
            return [persisting.later(one) for one in submissions]
        self._submitting.add(submitter.agent_id)
        try:
            return [await self._take(submitter, one) for one in submissions]
        finally:
            self._submitting.discard(submitter.agent_id)

    async def observe(self, one: Pass, files: Mapping[str, str] | None) -> Seen:
        """The answer to a pass over a bundle. Raises DatabaseError."""
        if files is None:
            return await observing.observe(self._pool, one)
        retired = await self._run(lambda: observing.retire(one, frozenset(files)))
        if retired:
            log.info("DAGs became stale: their files are gone", bundle=one.bundle, dags=retired)
        return await observing.compare(self._pool, one, files)

    async def claim(self, agent_id: UUID, held: Sequence[HeldBundle], limit: int) -> list[DagClaim]:
        """What there is to do first. Raises DatabaseError."""
        return await self._run(lambda: claiming.claim(agent_id, held, limit, self._healthy_seconds))

    async def settle(
        self, agent_id: UUID, claims: Sequence[DagClaimReference], extended: Sequence[DagClaimReference]
    ) -> Settled:
        """Take in what was done. Raises DatabaseError."""
        return await self._run(lambda: claiming.settle(agent_id, claims, extended))

    async def _take(self, submitter: Submitter, submission: Submission) -> SubmittedFile:
        sources = self._config.dag_sources
        return await self._run(lambda: persisting.take(submitter, submission, sources=sources))

    async def _run(self, work: Callable[[], Found]) -> Found:
        """The result of ``work``, from a thread. Raises DatabaseError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
            raise DatabaseError(f"{type(error).__name__}: {error}") from error


def _put(offered: Sequence[OfferedBundle]) -> None:
    with compat.own_session() as session:
        for one in offered:
            compat_dags.put_bundle(
                session,
                one.name,
                version=one.version,
                refreshed_at=_aware(one.refreshed_at),
                view_url_template=one.view_url_template,
                template_params=one.template_params,
            )


def _aware(moment: datetime | None) -> datetime | None:
    """A time without an offset is nobody's, and one of another century is none that Airflow's columns are read with."""
    return moment if moment is not None and moment.tzinfo is not None and moment.year >= EARLIEST_YEAR else None
