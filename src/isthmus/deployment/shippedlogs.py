"""Reading the logs that agents have shipped (``logshipping``): the reader's side, in Airflow's API server.

Blocking, as Airflow's reading is. A part is in memory at a time, and no connection is held while somebody looks at it.
"""

from collections.abc import Collection, Generator
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from isthmus.deployment import compat
from isthmus.deployment.logreading import Splitter, note, unpacked

_FIND: Final = text(
    """
    SELECT workload_id, agent_name, agent_id, size, complete, cut, begun_at FROM isthmus_shipped_log
    WHERE subject_id = :subject_id AND size > 0 ORDER BY begun_at, workload_id LIMIT 64
    """
)

_PART: Final = text(
    "SELECT start, data FROM isthmus_shipped_log_part WHERE workload_id = :workload_id AND start >= :start "
    "ORDER BY start LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class ShippedLog:
    """A log that the plane keeps."""

    workload_id: UUID
    agent_name: str
    size: int
    complete: bool
    cut: bool
    begun_at: datetime

    @property
    def origin(self) -> str:
        """Where it comes from, for people."""
        return f"From the copy that agent {self.agent_name} shipped at {self.begun_at:%Y-%m-%d %H:%M:%S %Z}."


def find(subject_id: str, *, without: Collection[UUID] = ()) -> list[ShippedLog]:
    """The logs of a task instance's try, oldest first, of all agents but some. Raises SQLAlchemyError."""
    with compat.own_session() as session:
        rows = session.execute(_FIND, {"subject_id": subject_id}).mappings().all()
    return [
        ShippedLog(row["workload_id"], row["agent_name"], row["size"], row["complete"], row["cut"], row["begun_at"])
        for row in rows
        if row["agent_id"] not in without
    ]


def lines(log: ShippedLog) -> Generator[str, None, None]:
    """Its lines, and what there is to say at their end. Never an exception."""
    splitter, start = Splitter(), 0
    try:
        while start < log.size:
            with compat.own_session() as session:
                row = session.execute(_PART, {"workload_id": log.workload_id, "start": start}).first()
            if row is None:
                yield note("This copy was deleted while it was read: its time was over.")
                return
            data = unpacked(bytes(row.data))
            yield from splitter.put(data)
            start = row.start + len(data)
    except (SQLAlchemyError, ValueError):
        yield note("The database went away while this log was read; open it again.")
        return
    yield from splitter.end()
    if log.cut:
        yield note(f"The copy ends here, after {log.size} bytes: agents ship no more of a log. The rest was cut.")
    elif not log.complete:
        yield note(f"The copy ends here: agent {log.agent_name} has not shipped the rest (yet).")
