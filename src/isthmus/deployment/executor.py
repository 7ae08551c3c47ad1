"""``RemoteExecutor``: what Airflow's scheduler talks to.

It runs nothing. Queueing a workload is a row in the scheduler's own transaction; agents claim rows through the Remote
Execution API; ``sync`` takes the outcomes of this scheduler's rows and turns them into Airflow's events. So scheduler
and API share the database and nothing else, any number of either may run, and each may die at any moment.

The statements are in ``queueing``, the waiting in ``pacing``, Airflow in ``compat``.

Invariants: ``running`` holds the keys of this executor's unfinished workloads and nothing else, so that Airflow's
``parallelism`` counts (keys of rows that were rolled back or taken away are dropped); an outcome is reported only for
the workload that this executor holds under its key, so that a late one of an earlier attempt (a task that deferred and
was queued again) ends nothing; only ``queue_workload`` and ``try_adopt_task_instances``, where Airflow knows what a
failure means, let an error of the database through.
"""

import random
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Final
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from isthmus.deployment import compat, databases, queueing, schema, tasklogs
from isthmus.deployment.pacing import Pacer
from isthmus.deployment.remotelogs import AgentLogIO
from isthmus.kit.errors import ConfigError, IsthmusError
from isthmus.wire.admin import WorkloadState as State

#: Outcomes taken in one statement, and how often in one ``sync``: a scheduler that was away for long comes back in
#: steps, with Airflow's own bookkeeping in between.
_BATCH: Final = 500
_BATCHES: Final = 10

#: How often the executor looks after dead schedulers' callbacks and what Airflow has given up.
_HOUSEKEEPING_SECONDS: Final = 60.0


class RemoteExecutor(compat.BaseExecutor):
    """Hands workloads to agents in customers' networks. See ``airflow.executors.base_executor.BaseExecutor``."""

    supports_callbacks: bool = True
    supports_connection_test: bool = True
    supports_multi_team: bool = True

    #: By scheduler job, because its executors (a team's each) pause together.
    _pacers: ClassVar[dict[int, Pacer]] = {}

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._live: dict[compat.WorkloadKey, UUID] = {}
        #: Queued since the last ``sync``: whether the scheduler committed them is found out there.
        self._unconfirmed: list[queueing.Held] = []
        #: ``dag.test`` gives no job; its workloads get an owner that no scheduler has.
        self._without_job = -random.randint(1, 2**31 - 1)  # noqa: S311
        #: Read now: inside the scheduler's transaction nothing may look into Airflow's configuration.
        self._default_queue = compat.default_queue()
        self._pacer: Pacer | None = None
        self._next_housekeeping = 0.0
        self._failing = False

    @property
    def owner(self) -> queueing.Owner:
        """Whose workloads these are."""
        job = self._without_job if self.job_id is None else int(self.job_id)
        return queueing.Owner(job, self.team_name)

    # --- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Check Airflow, the settings and the database; take over what dead schedulers left. Raises ConfigError."""
        try:
            compat.check()
            config = compat.deployment_config()
            databases.check(compat.database_url())
            self._check_tables()
        except IsthmusError as error:
            error.add_note(error.hint)  # Airflow prints the traceback and nothing else of ours
            raise
        if not config.event_driven_scheduling:
            self.log.info("Event-driven scheduling is off: [isthmus] event_driven_scheduling")
        elif compat.idle_sleep_seconds() != 0:
            self.log.warning(
                "Event-driven scheduling is off, because [scheduler] scheduler_idle_sleep_time is not 0: "
                "tasks wait up to a second for their successors"
            )
        else:
            url = config.notify_url or compat.database_url()
            self._pacer = self._pacers.setdefault(
                self.owner.scheduler_job_id, Pacer(url, compat.RUNS_TO_START, queueing.BACKLOG)
            )
            self._pacer.waiter = self
        self._keep_house()

    def _check_tables(self) -> None:
        with compat.own_session() as session:
            if not schema.is_current(session):
                raise ConfigError(
                    "the tables of Isthmus are missing, or of another version",
                    code="tables_outdated",
                    hint="Run: airflow db migrate.",
                )

    def end(self) -> None:
        """Stop listening. What runs at agents goes on; the next scheduler adopts it."""
        self._pacers.pop(self.owner.scheduler_job_id, None)
        if self._pacer is not None:
            self._pacer.close()
            self._pacer = None

    def terminate(self) -> None:
        """The same, in a hurry."""
        self.end()

    # --- queueing -----------------------------------------------------------------------------------------------

    def queue_workload(self, workload: Any, session: Session) -> None:
        """Put the workload into the queue, in the scheduler's transaction."""
        if not isinstance(workload, compat.Workload):
            raise ValueError(f"RemoteExecutor has no use for a {type(workload).__name__}")
        held = queueing.put(session, workload, self.owner, default_queue=self._default_queue)
        self._hold(held)
        self._unconfirmed.append(held)
        self._note_work()

    def _process_workloads(self, workload_items: Sequence[Any]) -> None:
        """Nothing: workloads leave with ``queue_workload`` and never wait in memory."""

    def _hold(self, held: queueing.Held) -> None:
        self._live[held.key] = held.workload_id
        self.running.add(held.key)

    def _let_go(self, key: compat.WorkloadKey) -> UUID | None:
        self.running.discard(key)
        return self._live.pop(key, None)

    # --- outcomes -----------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Report what has ended; then, if there was nothing to do, wait for news in the scheduler's place."""
        pacer = self._pacer if self._pacer is not None and self._pacer.waiter is self else None
        # What was announced until now is in the database now, so it is found below or in the scheduler's next loop.
        news = pacer is not None and pacer.poll()
        self._collect()
        if time.monotonic() >= self._next_housekeeping:
            self._keep_house()
        if pacer is not None and pacer.pause(news=news):
            self._collect()

    def _note_work(self) -> None:
        if self._pacer is not None:
            self._pacer.note_work()

    def _collect(self) -> None:
        """Turn the unseen changes of our rows into events."""
        try:
            if self._unconfirmed:
                queued, self._unconfirmed = self._unconfirmed, []
                self._drop_strangers(queued)
            for _ in range(_BATCHES):
                with compat.own_session() as session:
                    found = queueing.take(session, self.owner, limit=_BATCH)
                for news in found:
                    self._report(news)
                if len(found) < _BATCH:
                    break
        except SQLAlchemyError:
            if not self._failing:
                self.log.exception("Cannot look for outcomes; trying again in every loop")
            self._failing = True
        else:
            self._failing = False

    def _report(self, news: queueing.News) -> None:
        key = news.key
        if self._live.get(key) != news.workload_id:
            self.log.debug("Not reporting workload %s of %s: it is not the current one", news.workload_id, key)
            return
        self._note_work()
        if news.state is State.RUNNING:
            if isinstance(key, compat.CallbackKey):
                self.running_state(key, news.agent_name)
            return
        self._live.pop(key)
        if news.state is State.SUCCEEDED:
            self.success(key)
        else:
            where = f" on agent {news.agent_name}" if news.agent_name else ""
            self.fail(key, f"{news.state.value}{where}: {news.detail}" if news.detail else f"{news.state.value}{where}")

    def change_state(self, key: Any, state: Any, info: Any = None, remove_running: bool = True) -> None:
        """Note an event for the scheduler.

        The scheduler calls this too, when it fails a task by itself (no heartbeats): then what is left is stopped.
        """
        if remove_running and (workload_id := self._live.pop(key, None)) is not None:
            self._recall(workload_id, "Airflow gave the task up")
        super().change_state(key, state, info, remove_running)

    # --- calling back -------------------------------------------------------------------------------------------

    def revoke_task(self, *, ti: compat.TaskInstance) -> None:
        """Cancel the task instance's workload; one that runs is asked to stop. No event, no error."""
        self._let_go(ti.key)
        try:
            with compat.own_session() as session:
                queueing.recall_subject(session, str(ti.id), "revoked by Airflow")
        except SQLAlchemyError:
            self.log.exception("Cannot revoke %s", ti.key)

    def fail_connection_test(self, key: Any) -> None:
        """Forget a connection test whose time is over, and stop it."""
        super().fail_connection_test(key)
        if (workload_id := self._let_go(key)) is not None:
            self._recall(workload_id, "the connection test took too long")

    def _recall(self, workload_id: UUID, detail: str) -> None:
        try:
            with compat.own_session() as session:
                queueing.recall(session, workload_id, detail)
        except SQLAlchemyError:
            self.log.exception("Cannot recall workload %s", workload_id)

    # --- taking over --------------------------------------------------------------------------------------------

    def try_adopt_task_instances(self, tis: Sequence[compat.TaskInstance]) -> Sequence[compat.TaskInstance]:
        """Take over the workloads of these task instances, whose scheduler died; returns those that have none.

        Airflow runs those again, so an error is not an answer here: it goes to Airflow, which asks again.
        """
        with compat.own_session() as session:
            adopted = queueing.adopt(session, self.owner, [str(ti.id) for ti in tis])
        for held in adopted.values():
            self._hold(held)
        self.log.info("Adopted %d of %d task instances", len(adopted), len(tis))
        return [ti for ti in tis if str(ti.id) not in adopted]

    def _keep_house(self) -> None:
        """Take over what Airflow does not offer, and drop what is no longer wanted or no longer ours."""
        self._next_housekeeping = time.monotonic() + _HOUSEKEEPING_SECONDS
        try:
            with compat.own_session() as session:
                queueing.recall_given_up(session)
                taken = queueing.take_over(session, self.owner, dead_seconds=compat.scheduler_dead_seconds())
            for held in taken:
                self._hold(held)
            self._drop_strangers([queueing.Held(workload_id, key) for key, workload_id in self._live.items()])
        except SQLAlchemyError:
            self.log.exception("Cannot look after what was given up or left behind; trying again in a minute")

    def _drop_strangers(self, held: Sequence[queueing.Held]) -> None:
        """Forget workloads that do not exist, or are another scheduler's: their slots are free."""
        if not held:
            return
        with compat.own_session() as session:
            ours = queueing.still(session, self.owner, [one.workload_id for one in held])
        for one in held:
            if one.workload_id not in ours and self._live.get(one.key) == one.workload_id:
                self.log.warning("Workload %s of %s is gone", one.workload_id, one.key)
                self._let_go(one.key)

    # --- looking ------------------------------------------------------------------------------------------------

    def get_task_log(self, ti: compat.TaskInstance, try_number: int) -> tuple[list[str], list[str]]:
        """The log of a running task, through its agent, unless Airflow has it from there already.

        A message, even without a log, keeps Airflow from fetching it over HTTP from the host that the task named. The
        texts are made as Airflow takes them: the log is never in memory as a whole.
        """
        if isinstance(compat.remote_task_log(), AgentLogIO):
            return [f"The log of try {try_number} is with its agent, in the customer's network."], []
        sources, streams = tasklogs.stream("", ti)
        texts: Any = tasklogs.blocks(streams)  # Airflow iterates over it, once
        return sources, texts

    def debug_dump(self) -> None:
        """Write what the executor holds into the scheduler's log."""
        airflow: Any = super()  # untyped there
        airflow.debug_dump()
        listening = "off" if self._pacer is None else "on" if self._pacer.is_listening else "not connected"
        held = "\n\t".join(f"{workload_id} {key}" for key, workload_id in self._live.items())
        self.log.info(
            "%s, event-driven scheduling %s, workloads (%d)\n\t%s", self.owner, listening, len(self._live), held
        )
