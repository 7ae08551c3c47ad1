"""What is not the same; pure."""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from bench.parity.outcomes import RunOutcome, TaskOutcome

#: Characters of a value or a line in a difference.
_SHOWN: Final = 240


@dataclass(frozen=True, slots=True)
class Verdict:
    """One DAG: what LocalExecutor made of it, and where the agents differ; nothing when they do not."""

    dag_id: str
    state: str
    tasks: int
    xcoms: int
    lines: int
    differences: tuple[str, ...]

    @property
    def passes(self) -> bool:
        """Whether everything is the same."""
        return not self.differences


def compare(dag_id: str, local: Sequence[RunOutcome], remote: RunOutcome) -> Verdict:
    """The verdict on a DAG. What the local rounds do not agree on is not asked of the remote one."""
    first = local[0]
    found = []
    if _differs([one.state for one in local], remote.state):
        found.append(f"the run is {remote.state}, not {first.state}")
    if remote.tasks and _differs([one.tasks.keys() for one in local], remote.tasks.keys()):
        found.append(f"other task instances: {_shown(first.tasks.keys() ^ remote.tasks.keys())}")
    xcoms = lines = 0
    for name, task in sorted(first.tasks.items()):
        xcoms += len(task.xcoms)
        lines += sum(task.lines.values())
        rounds = [one.tasks[name] for one in local if name in one.tasks]
        if len(rounds) == len(local) and name in remote.tasks:
            found.extend(f"{name}: {what}" for what in _task_differences(rounds, remote.tasks[name]))
    return Verdict(dag_id, first.state, len(first.tasks), xcoms, lines, tuple(found))


def _task_differences(local: Sequence[TaskOutcome], remote: TaskOutcome) -> Iterator[str]:
    first = local[0]
    if _differs([one.state for one in local], remote.state):
        yield f"is {remote.state}, not {first.state}"
    if _differs([one.try_number for one in local], remote.try_number):
        yield f"took {remote.try_number} tries, not {first.try_number}"
    if _differs([one.xcoms.keys() for one in local], remote.xcoms.keys()):
        yield f"other XComs: {_shown(first.xcoms.keys() ^ remote.xcoms.keys())}"
    for key in sorted(first.xcoms.keys() & remote.xcoms.keys()):
        if _differs([one.xcoms.get(key) for one in local], remote.xcoms[key]):
            yield f"XCom {key} is {_cut(remote.xcoms[key])}, not {_cut(first.xcoms[key])}"
    if len({one.state for one in local}) > 1:
        return  # it drew another lot, and said other things
    agreed = {line for line, count in first.lines.items() if all(one.lines.get(line) == count for one in local)}
    if missing := agreed - remote.lines.keys():
        yield f"log lines are missing: {_shown(missing)}"
    known = {line for one in local for line in one.lines}
    varies = any(one.lines.keys() != first.lines.keys() for one in local)
    if (more := remote.lines.keys() - known) and not varies:
        yield f"log lines that LocalExecutor has not: {_shown(more)}"


def _differs(local: Sequence[object], remote: object) -> bool:
    return all(one == local[0] for one in local) and remote != local[0]


def _shown(names: AbstractSet[str]) -> str:
    first = [f"`{_cut(one)}`" for one in sorted(names)[:3]]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
