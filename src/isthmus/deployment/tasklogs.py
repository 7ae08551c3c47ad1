"""The log of one task instance, from wherever it is: the agents that ran it, their store, or a word why there is none.

A try may have run at several agents (a deferred task goes on at another one), and triggers write beside it: each of
them is asked, and Airflow merges what comes by time. The file is the one that the workload's row names, which the
scheduler wrote. Where an agent is away, or has the file no more, others of its queue are asked, which may share its log
folder; then what agents shipped to the plane is taken, if the deployment keeps logs; then it is looked for in the
customer's store, if there is one: any healthy agent reads that back.

In Airflow's API server; blocking, as Airflow's reading is.
"""

import itertools
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import psycopg2
import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from isthmus.deployment import compat, shippedlogs
from isthmus.deployment.logreading import FILE_SECONDS, STORE_SECONDS, Ask, Read, Reader, note, words
from isthmus.deployment.roster import HEALTHY_HEARTBEATS
from isthmus.kit.errors import IsthmusError
from isthmus.wire.logs import LogFault, LogSource
from isthmus.wire.names import Role

log = structlog.get_logger(__name__)

Lines = Generator[str, None, None]
Found = tuple[list[str], list[Lines]]
_Asked = tuple[list[Read], list[shippedlogs.ShippedLog], list[str]]

#: Logs that one process reads at a time; each has a connection.
_READERS: Final = threading.BoundedSemaphore(16)
_READER_SECONDS: Final = 20.0
#: Agents that are asked for one log: its writers, triggerers, those that may share a folder with a writer, and those
#: that look into the store one after the other.
_WRITERS: Final = 8
_TRIGGERERS: Final = 8
_FOLDER_SHARERS: Final = 4
_STORE_READERS: Final = 3

_WHERE: Final = text(
    """
    SELECT w.agent_id, a.name, w.state, w.queue, w.payload->>'log_path' AS path, w.started_at IS NOT NULL AS started
    FROM isthmus_workload AS w LEFT JOIN isthmus_agent AS a ON a.id = w.agent_id
    WHERE w.subject_id = :subject_id AND w.kind = 'task' ORDER BY w.queued_at, w.id
    """
)

_AGENTS: Final = text(
    """
    SELECT id, name, role, queues, coalesce(last_heartbeat_at, enrolled_at) AS heard,
        phase <> 'left' AND coalesce(last_heartbeat_at, enrolled_at) > now() - :seconds * interval '1 second' AS healthy
    FROM isthmus_agent WHERE role IN ('worker', 'triggerer')
    ORDER BY last_heartbeat_at DESC NULLS LAST LIMIT 500
    """
)


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent that may have a log, or may read the store."""

    agent_id: UUID
    name: str
    role: Role
    queues: tuple[str, ...]
    healthy: bool
    heard: str


@dataclass(frozen=True, slots=True)
class Place:
    """What the database knows about the log of a task instance."""

    path: str
    queue: str | None
    #: The state of its newest workload; None when none is known (any more).
    state: str | None
    writers: tuple[UUID, ...]
    agents: tuple[Agent, ...]

    def agent(self, agent_id: UUID) -> Agent | None:
        """One of the agents, by its id."""
        return next((one for one in self.agents if one.agent_id == agent_id), None)


def stream(relative_path: str, ti: Any) -> Found:
    """Where the log was looked for, and its lines as they come. For any state; never an exception."""
    try:
        config = compat.deployment_config()
        place = _find(str(ti.id), relative_path, HEALTHY_HEARTBEATS * config.heartbeat_seconds)
        if not _READERS.acquire(timeout=_READER_SECONDS):
            return _only("Too many logs are being read at once; open it again in a moment.")
        try:
            reader = Reader(config.notify_url or compat.database_url(), _READERS.release)
        except IsthmusError:
            _READERS.release()
            raise
        sources, streams = _read(reader, place, ti)
    except (IsthmusError, SQLAlchemyError, psycopg2.Error) as error:
        log.exception("a task's log could not be read")
        return _only(f"The log could not be asked for: {type(error).__name__}. The API server's own log says more.")
    return sources, streams


def _read(reader: Reader, place: Place, ti: Any) -> Found:
    live = compat.is_live(ti)
    try:
        reads, shipped, sources = _ask(reader, place, _subject(ti), live=live)
    except BaseException:
        reader.close()
        raise
    if reads:
        left = _Left(len(reads))
        streams = [_streamed(reader, one, left, whole=live) for one in reads]
    else:
        reader.close()
        streams = []
    streams += [shippedlogs.lines(one) for one in shipped]
    if not streams:
        sources += _why_none(place)
        # As lines, where everybody sees them; and without any, Airflow would look at addresses that it cannot reach.
        streams = [_lines([note(one) for one in sources])]
    if not live:  # Airflow looks for these itself while the task is alive
        own_sources, own_streams = compat.plane_logs(place.path)
        sources, streams = [*sources, *own_sources], [*streams, *own_streams]
    return sources, streams


def _ask(reader: Reader, place: Place, subject: dict[str, Any], *, live: bool) -> _Asked:
    """The reads that bring something, shipped copies of what no agent gives, and what to say about all."""
    asks, sources = [], []
    for agent_id in place.writers[-_WRITERS:]:
        agent = place.agent(agent_id)
        if agent is None:
            sources.append("An agent that ran this task has been removed from the deployment.")
        elif not agent.healthy:
            sources.append(f"Agent {agent.name} has this log and is offline (last heard of {agent.heard}).")
        else:
            asks.append(Ask(agent.agent_id, agent.name, LogSource.FILE, place.path))
    triggerers = [one for one in place.agents if one.healthy and one.role is Role.TRIGGERER]
    if place.state is not None:
        asks += [Ask(one.agent_id, one.name, LogSource.TRIGGER_FILES, place.path) for one in triggerers[:_TRIGGERERS]]
    answered = reader.ask(asks, seconds=FILE_SECONDS) if asks else []
    reads = [one for one in answered if one.answered and one.fault is None]
    sources += [_said(one) for one in answered if one.fault is None or one.ask.source is LogSource.FILE]
    found = {one.ask.agent_id for one in reads if one.ask.source is LogSource.FILE}
    # Who writes it now has put nothing into the store yet.
    missed = [one for one in (place.writers[:-1] if live else place.writers) if one not in found]
    if missed:
        shared, said = _ask_sharers(reader, place)
        sources += said
        if shared is not None:
            return [*reads, shared], [], sources  # a folder that several agents see has what all of them wrote
    if missed or not place.writers:
        shipped = shippedlogs.find(subject["id"], without=found)
        if shipped:
            return reads, shipped, [*sources, *(one.origin for one in shipped)]
        from_store, said = _ask_stores(reader, place, subject)
        sources += said
        if from_store is not None:
            # The store has what all of them wrote, as far as it was put there: Airflow drops lines that come twice.
            reads.append(from_store)
    return reads, [], sources


def _ask_sharers(reader: Reader, place: Place) -> tuple[Read | None, list[str]]:
    """The read of the file by an agent of the same queue that did not write it, and sees the folder that it is in."""
    sharers = [
        one
        for one in place.agents
        if one.healthy and one.role is Role.WORKER and place.queue in one.queues and one.agent_id not in place.writers
    ]
    asks = [Ask(one.agent_id, one.name, LogSource.FILE, place.path) for one in sharers[:_FOLDER_SHARERS]]
    answered = reader.ask(asks, seconds=FILE_SECONDS) if asks else []
    found = next((one for one in answered if one.answered and one.fault is None), None)
    return (None, []) if found is None else (found, [_said(found)])


def _ask_stores(reader: Reader, place: Place, subject: dict[str, Any]) -> tuple[Read | None, list[str]]:
    """The read of the customer's store by the first healthy agent that has the log there."""
    if place.state in {"queued", "leased"} and not place.writers:
        return None, []
    healthy = [one for one in place.agents if one.healthy and one.role is Role.WORKER]
    healthy.sort(key=lambda one: (one.agent_id not in place.writers, place.queue not in one.queues))
    said = []
    for agent in healthy[:_STORE_READERS]:
        ask = Ask(agent.agent_id, agent.name, LogSource.STORE, place.path, subject)
        (read,) = reader.ask([ask], seconds=STORE_SECONDS)
        said.append(_said(read))
        if read.answered and read.fault is None:
            return read, said
        if read.fault is LogFault.MISSING:
            break  # the agents of a deployment share the store
    return None, said


def _said(read: Read) -> str:
    """What an agent answered, for people."""
    name, path = read.ask.agent_name, read.ask.path
    if not read.answered:
        return f"Agent {name} did not answer in time: look at its log, or at Remote Agents. It may be an older version."
    if read.fault is None:
        return f"From agent {name}: {words(read.origin)}"
    if read.fault is LogFault.MISSING and read.ask.source is LogSource.STORE:
        return f"The remote store of the agents, as {name} sees it, has no log {path}."
    return {
        LogFault.MISSING: f"Agent {name} has no file {path} (any more): its disk may be another one since it ran.",
        LogFault.REFUSED: f"Agent {name} does not give {path} away: {read.detail}",
        LogFault.NO_STORE: f"Agent {name} has no remote logging configured, so logs are lost with an agent's disk. Set "
        "AIRFLOW__LOGGING__REMOTE_LOGGING and its store in the tasks' environment of the agents.",
        LogFault.BUSY: f"Agent {name} is reading too many logs at once; open this one again in a moment.",
        LogFault.FAILED: f"Agent {name} could not read {path}: {read.detail}",
    }[read.fault]


def _why_none(place: Place) -> list[str]:
    """What to say when nobody was asked, or nobody had it."""
    if place.writers:
        return [
            "There is no log to show. Bring the agent back that has it, or have agents keep logs in a store of yours."
        ]
    if place.state in {"queued", "leased"}:
        return [f"No agent has started this try yet: it is {place.state} in queue {place.queue}."]
    if place.state is not None:
        return [f"No agent has run this try: it was {place.state} in queue {place.queue}."]
    return ["No agent is known to have run this try: it never came to one, or it is longer ago than is remembered."]


def _find(subject_id: str, relative_path: str, healthy_seconds: float) -> Place:
    with compat.own_session() as session:
        rows = session.execute(_WHERE, {"subject_id": subject_id}).mappings().all()
        agents = session.execute(_AGENTS, {"seconds": healthy_seconds}).mappings().all()
    ran = [row for row in rows if row["agent_id"] is not None and row["started"]]
    newest = rows[-1] if rows else None
    paths = [row["path"] for row in rows if row["path"]]
    return Place(
        path=paths[-1] if paths else relative_path,
        queue=None if newest is None else newest["queue"],
        state=None if newest is None else newest["state"],
        writers=tuple(dict.fromkeys(row["agent_id"] for row in ran)),
        agents=tuple(
            Agent(
                row["id"],
                row["name"],
                Role(row["role"]),
                tuple(row["queues"]),
                row["healthy"],
                f"{row['heard']:%Y-%m-%d %H:%M:%S %Z}",
            )
            for row in agents
        ),
    )


def _subject(ti: Any) -> dict[str, Any]:
    return {
        "id": str(ti.id),
        "dag_id": ti.dag_id,
        "task_id": ti.task_id,
        "run_id": ti.run_id,
        "map_index": ti.map_index,
        "try_number": ti.try_number,
    }


def _streamed(reader: Reader, read: Read, left: "_Left", *, whole: bool) -> Lines:
    try:
        yield from reader.lines(read, whole=whole)
    except psycopg2.Error:
        yield note("The database went away while this log was read; open it again.")
    finally:
        left.streams -= 1
        if left.streams == 0:
            reader.close()


def _only(words: str) -> Found:
    return [words], [_lines([note(words)])]


def _lines(lines: Sequence[str]) -> Lines:
    yield from lines


def blocks(streams: Sequence[Lines], lines: int = 1000) -> Iterator[str]:
    """The lines in texts of many, for readers that take texts."""
    for one in streams:
        while block := list(itertools.islice(one, lines)):
            yield "\n".join(block)


@dataclass(slots=True)
class _Left:
    """Streams of one reader that have not ended; the last one closes it."""

    streams: int
