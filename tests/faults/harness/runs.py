"""One DAG run on a lane: started by the test, steered by a gate, and seen from all sides."""

import itertools
import time
from dataclasses import dataclass
from typing import Any

from faults.harness import waits
from faults.harness.ledgers import Entry, Ledger
from faults.harness.planes import Plane
from isthmus.deployment.workloads import ACTIVE, SETTLED
from isthmus.wire.admin import WorkloadState

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Work:
    """A workload's row."""

    workload_id: str
    state: WorkloadState
    map_index: int
    try_number: int
    fence: int
    agent_id: str | None
    releases: int
    detail: str


class Run:
    """A run of the lane's DAG. ``seconds`` is how long each task works unless the gate opens before."""

    def __init__(self, plane: Plane, lane: str, *, seconds: float = 120, gated: bool = True) -> None:
        self.plane = plane
        self.lane = lane
        self.dag_id = f"faults-{lane}"
        self.run_id = f"run-{next(_numbers)}"
        directory = plane.directory / "runs"
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
        self.ledger = Ledger(directory / f"{lane}-{self.run_id}.jsonl")
        self._gate = directory / f"{lane}-{self.run_id}.gate"
        conf: dict[str, Any] = {"ledger": str(self.ledger.path), "seconds": seconds}
        if gated:
            conf["gate"] = str(self._gate)
        self.triggered_at = time.time()
        plane.operate("trigger", dag_id=self.dag_id, run_id=self.run_id, conf=conf)

    def open_gate(self) -> None:
        """Let every task of the run come to its end."""
        self._gate.touch()

    # --- what the tables say -----------------------------------------------------------------------------------

    def state(self) -> str:
        rows = self._rows("SELECT state FROM dag_run WHERE dag_id = %s AND run_id = %s")
        return str(rows[0][0])

    def task_states(self) -> dict[tuple[str, int], tuple[str | None, int]]:
        """By task and map index: state and try number."""
        rows = self._rows(
            "SELECT task_id, map_index, state, try_number FROM task_instance WHERE dag_id = %s AND run_id = %s"
        )
        return {(str(row[0]), int(str(row[1]))): (row[2] and str(row[2]), int(str(row[3]))) for row in rows}  # type: ignore[misc]

    def works(self) -> list[Work]:
        """The run's workloads, oldest first."""
        rows = self._rows(
            "SELECT id::text, state, map_index, try_number, fence, agent_id::text, releases, detail "
            "FROM isthmus_workload WHERE dag_id = %s AND run_id = %s ORDER BY queued_at, map_index"
        )
        return [Work(str(row[0]), WorkloadState(str(row[1])), *row[2:]) for row in rows]  # type: ignore[arg-type]

    def unsettled(self) -> list[Work]:
        return [work for work in self.works() if work.state not in SETTLED]

    def _rows(self, statement: str) -> list[tuple[object, ...]]:
        return self.plane.database.rows(statement, (self.dag_id, self.run_id))

    # --- waiting -----------------------------------------------------------------------------------------------

    def await_starts(self, number: int, *, seconds: float = 30) -> list[Entry]:
        """Until the ledger holds this many starts."""

        def started() -> list[Entry]:
            starts = self.ledger.starts()
            return starts if len(starts) >= number else []

        return waits.until(f"{number} starts on {self.lane}", started, seconds=seconds, evidence=self.evidence)

    def await_ends(self, number: int, *, seconds: float = 30) -> list[Entry]:
        def ended() -> list[Entry]:
            ends = self.ledger.ends()
            return ends if len(ends) >= number else []

        return waits.until(f"{number} ends on {self.lane}", ended, seconds=seconds, evidence=self.evidence)

    def await_active(self, state: WorkloadState, number: int, *, seconds: float = 30) -> list[Work]:
        """Until this many workloads are leased, or running."""
        assert state in ACTIVE

        def there() -> list[Work]:
            works = [work for work in self.works() if work.state is state]
            return works if len(works) >= number else []

        return waits.until(f"{number} {state} on {self.lane}", there, seconds=seconds, evidence=self.evidence)

    def await_state(self, state: str = "success", *, seconds: float = 60) -> None:
        waits.until(
            f"the run on {self.lane} is {state}", lambda: self.state() == state, seconds=seconds, evidence=self.evidence
        )

    def evidence(self) -> str:
        return "\n".join(
            [
                f"tasks: {self.task_states()}",
                *(f"  {work}" for work in self.works()),
                *(f"  {entry}" for entry in self.ledger.entries()),
                self.plane.evidence(),
            ]
        )
