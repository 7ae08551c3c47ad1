"""What is done once in the fork server so that no supervisor and no task does it again, and what each part is worth.

A process that is forked from here shares all of it. CPU of a no-op task (one of 21 in its file) with its supervisor and
its share of the fork server, all variants side by side (``bench/runner_start.py``), 2 cores, Python 3.11, 54 ms in all:

=====================  ========================================================================================
part                   what is worse without it
=====================  ========================================================================================
imports                half a second for each task; another 0.35 s where DAGs are in a Git bundle
type adapters          7 ms: the validators of a task's messages, built and thrown away in each task
rehearsal              7 ms: lazy imports, ABC and regex caches, templates, configuration look-ups
task logging           4 ms: ``logging.config`` walks all loggers some seventy times in each task
huge pages             4 ms, and 2 ms until the start: a fork copies one entry for 2 MiB instead of 512
no plugins, no ORM     2 ms: each task looks for plugins, and shuts the ORM, where there are none
first heartbeat        1.5 ms, and a fourth of a short task's requests to the plane: ``run`` counts as one
freezing               nothing here; long tasks would have the collector copy every page by looking at it
=====================  ========================================================================================

Nothing here is code or data of a DAG: bundles, DAG files, connections, listeners and plugins are each task's own.
"""

import ctypes
import gc
import importlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from isthmus.runner import compat, rehearsing

log = structlog.get_logger(logger_name="isthmus.warming")

#: <asm-generic/mman-common.h>, Linux 6.1: make huge pages of this range now. Python's mmap does not name it yet.
_MADV_COLLAPSE: Final = 25
_HUGE_PAGE_BYTES: Final = 2 * 1024 * 1024


def warm(*, preload: tuple[str, ...] = (), everything: bool = True) -> None:
    """Prepare the calling process for being forked from. With ``everything`` false, import and freeze only."""
    compat.import_what_tasks_import()
    compat.import_exporter()
    for name in (*compat.bundle_modules(), *preload):
        _preload(name)
    if everything:
        compat.keep_type_adapters()
        compat.keep_task_logging()
        compat.skip_first_heartbeat()
        compat.load_supervisor_parts()
        rehearsing.rehearse()
        compat.settle_what_is_absent()
    gc.collect()
    gc.freeze()
    if everything:
        _use_huge_pages()
    if threading.active_count() > 1:
        # What a fork leaves of another thread is its locks, perhaps locked for ever.
        names = [one.name for one in threading.enumerate()]
        log.warning("Threads run before the first fork: tasks may hang", threads=names)


def _preload(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception as error:
        # The module's own affair: each task that needs it will say so better.
        log.error("A module cannot be preloaded", module=name, error=f"{type(error).__name__}: {error}")


def _use_huge_pages() -> None:
    """Back the interpreter's heap with huge pages where the kernel is willing; a fork is cheaper then.

    The first write to one in a child splits it in that child, and copies 4 KiB as ever.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for address in _heap():
        if libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(_HUGE_PAGE_BYTES), _MADV_COLLAPSE) != 0:
            return  # no such kernel, no huge pages, or no memory for them


def _heap() -> Iterator[int]:
    """The addresses of this process's own whole huge pages: anonymous memory and what ``brk`` gave."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        area, permissions, _, _, inode, *name = line.split(maxsplit=5)
        if permissions != "rw-p" or inode != "0" or (name and name[0] != "[heap]"):
            continue
        start, end = (int(one, 16) for one in area.split("-"))
        yield from range(-(-start // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES, end - _HUGE_PAGE_BYTES + 1, _HUGE_PAGE_BYTES)
