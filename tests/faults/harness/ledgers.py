"""What really happened: the file in which each task of ``dags/faults.py`` notes its start and its end.

Airflow's and Isthmus's tables say what they believe; the ledger is written by the tasks themselves, one line with one
``write`` each, so no process can be missing from it.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Entry:
    """One line. ``former`` are pids of earlier tries of the same task that were still alive at this start.

    A "daemon" is what the task started in a session of its own and did not stop.
    """

    event: Literal["start", "daemon", "end"]
    task_id: str
    map_index: int
    try_number: int
    pid: int
    born: int
    at: float
    former: tuple[int, ...] = ()

    @property
    def task(self) -> tuple[str, int]:
        return self.task_id, self.map_index

    @property
    def attempt(self) -> tuple[str, int, int]:
        return self.task_id, self.map_index, self.try_number


class Ledger:
    """The ledger of one DAG run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        path.chmod(0o666)

    def entries(self) -> list[Entry]:
        lines = self.path.read_text().splitlines()
        return [Entry(**{**record, "former": tuple(record["former"])}) for record in map(json.loads, lines)]

    def starts(self) -> list[Entry]:
        return [entry for entry in self.entries() if entry.event == "start"]

    def ends(self) -> list[Entry]:
        return [entry for entry in self.entries() if entry.event == "end"]

    def alive(self) -> list[Entry]:
        """Starts whose process still runs."""
        return [entry for entry in self.starts() if is_that_process(entry.pid, entry.born)]

    def left_behind(self) -> list[Entry]:
        """Whatever still runs, daemons included."""
        return [entry for entry in self.entries() if is_that_process(entry.pid, entry.born)]

    def assert_nothing_ran_twice(self) -> None:
        """No try was started twice, and no try of a task began while an earlier one was still alive."""
        started = Counter(entry.attempt for entry in self.starts())
        assert not (twice := [attempt for attempt, times in started.items() if times > 1]), f"started twice: {twice}"
        overlapping = [entry for entry in self.starts() if entry.former]
        assert not overlapping, f"started while an earlier try still ran: {overlapping}"

    def assert_nothing_ended_twice(self) -> None:
        """No task came to its end in two tries.

        Not for tests that kill agents at any moment: a task that noted its end and was killed before it could say so
        to Airflow is rightly tried again.
        """
        ended = Counter(entry.task for entry in self.ends())
        assert not (twice := [task for task, times in ended.items() if times > 1]), f"ran to its end twice: {twice}"


def is_that_process(pid: int, born: int) -> bool:
    """Whether ``pid`` runs and is the process that started at ``born``, in ticks (pids are used again)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX" and int(fields[19]) == born
