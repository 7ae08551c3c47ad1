"""What the processes of a component cost, read from ``/proc``: CPU time and memory of process trees.

CPU of a tree is what its living processes used plus what those had used that they reaped, so that a task that came and
went between two readings still counts. Memory of a tree is counted as if the tree had the machine to itself: anonymous
pages by their share within the tree (``fork`` shares them), file pages once per mapping. For a single process this
is its RSS. Plain sums of RSS would count a page that eight forks share eight times; PSS would give away the share of
the pages that unrelated processes happen to map as well.

Invariant: reading changes nothing and a process that ends while it is read counts as gone.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
KIB_PER_MIB = 1024.0


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table; ``reaped_seconds`` is the CPU of the children that it waited for."""

    pid: int
    parent_pid: int
    cpu_seconds: float
    reaped_seconds: float


def parse_stat(text: str) -> Process:
    """A process from the text of its ``stat`` file (proc(5)); the name in parentheses may hold anything."""
    pid, _, rest = text.partition(" (")
    fields = rest.rpartition(") ")[2].split()
    # Numbered from 3 in proc(5): ppid is 4, utime 14, stime 15, cutime 16, cstime 17.
    user, system, reaped_user, reaped_system = (int(value) / TICKS_PER_SECOND for value in fields[11:15])
    return Process(
        pid=int(pid),
        parent_pid=int(fields[1]),
        cpu_seconds=user + system,
        reaped_seconds=reaped_user + reaped_system,
    )


def process_table() -> dict[int, Process]:
    """All processes by pid."""
    table: dict[int, Process] = {}
    for entry in os.scandir(PROC):
        if entry.name.isdigit():
            try:
                process = parse_stat(Path(entry.path, "stat").read_text(errors="replace"))
            except (FileNotFoundError, ProcessLookupError):
                continue
            table[process.pid] = process
    return table


def descendants(table: dict[int, Process], root: int) -> list[int]:
    """The pids below ``root``, parents before children, without ``root``."""
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent_pid, []).append(process.pid)
    found: list[int] = []
    waiting = list(children.get(root, ()))
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting.extend(children.get(pid, ()))
    return found


def own_cpu_seconds(table: dict[int, Process], pid: int) -> float:
    """CPU of one process without any child's."""
    return table[pid].cpu_seconds if pid in table else 0.0


def tree_cpu_seconds(table: dict[int, Process], root: int) -> float:
    """CPU of ``root``, of all that live below it, and of all that these have reaped."""
    pids = [root, *descendants(table, root)] if root in table else []
    return sum(table[pid].cpu_seconds + table[pid].reaped_seconds for pid in pids)


@dataclass(frozen=True, slots=True)
class MachineTime:
    """What the whole machine did since it started, in CPU seconds; ``stolen`` is what the hypervisor gave to others."""

    busy_seconds: float
    stolen_seconds: float


def parse_machine_time(text: str) -> MachineTime:
    """The first line of ``/proc/stat``: user nice system idle iowait irq softirq steal."""
    fields = [int(value) / TICKS_PER_SECOND for value in text.split("\n", 1)[0].split()[1:9]]
    return MachineTime(busy_seconds=sum(fields) - fields[3] - fields[4] - fields[7], stolen_seconds=fields[7])


def machine_time() -> MachineTime:
    """What the machine did so far."""
    return parse_machine_time((PROC / "stat").read_text())


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory of one process in KiB; ``files`` has the resident file pages of each mapping (path, offset)."""

    rss: int
    pss: int
    anonymous_share: int
    private: int
    files: dict[tuple[str, str], int]


def parse_rollup(text: str) -> dict[str, int]:
    """The counters in the text of a ``smaps_rollup`` file."""
    counters: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            counters[name] = int(value[:-3])
    return counters


def parse_file_pages(text: str) -> dict[tuple[str, str], int]:
    """Resident pages (KiB) that come from files, by mapping, in the text of a ``smaps`` file."""
    pages: dict[tuple[str, str], int] = {}
    source = ("", "")
    resident = 0
    for line in text.splitlines():
        head, _, rest = line.partition(" ")
        if not head.endswith(":"):
            fields = line.split(maxsplit=5)
            source = (fields[5] if len(fields) > 5 else "", fields[2])
        elif head == "Rss:":
            resident = int(rest[:-3])
        elif head == "Anonymous:" and resident > int(rest[:-3]):
            pages[source] = pages.get(source, 0) + resident - int(rest[:-3])
    return pages


def footprint(pid: int) -> Footprint | None:
    """The memory of a process now; None when it is gone."""
    try:
        counters = parse_rollup((PROC / str(pid) / "smaps_rollup").read_text())
        files = parse_file_pages((PROC / str(pid) / "smaps").read_text(errors="replace"))
        return Footprint(
            rss=counters["Rss"],
            pss=counters["Pss"],
            anonymous_share=counters["Pss_Anon"],
            private=counters["Private_Clean"] + counters["Private_Dirty"],
            files=files,
        )
    except (FileNotFoundError, ProcessLookupError, KeyError):
        return None


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a set of processes in MiB.

    ``resident_mb`` counts each page of the set once, ``rss_sum_mb`` once per process, ``pss_mb`` by its share among all
    processes of the machine; ``private_mb`` is what only one process has.
    """

    processes: int
    resident_mb: float
    rss_sum_mb: float
    pss_mb: float
    private_mb: float


def total_memory(footprints: Iterable[Footprint]) -> Memory:
    """The memory of a set of processes taken together."""
    count = rss = pss = private = anonymous = 0
    files: dict[tuple[str, str], int] = {}
    for one in footprints:
        count += 1
        rss += one.rss
        pss += one.pss
        private += one.private
        anonymous += one.anonymous_share
        for source, pages in one.files.items():
            files[source] = max(files.get(source, 0), pages)
    return Memory(
        processes=count,
        resident_mb=(anonymous + sum(files.values())) / KIB_PER_MIB,
        rss_sum_mb=rss / KIB_PER_MIB,
        pss_mb=pss / KIB_PER_MIB,
        private_mb=private / KIB_PER_MIB,
    )


def memory(pids: Iterable[int]) -> Memory:
    """The memory of these processes now."""
    return total_memory(one for pid in pids if (one := footprint(pid)) is not None)
