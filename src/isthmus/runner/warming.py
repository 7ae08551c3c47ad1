"""What is done once in the fork server so that no supervisor and no task does it again, and what each part is worth.

A process that is forked from here shares all of it. Worth is CPU of a no-op task and its supervisor, measured with
``bench/runner_start.py`` on two busy cores with Python 3.11; the machine's own noise is about 2 ms:

===========================  =================================================================================
part                         why
===========================  =================================================================================
imports                      half a second in each task otherwise
type adapters                8 ms: the validators of a task's messages, built and thrown away in each task
task logging                 6 ms: ``logging.config`` walks all loggers some seventy times in each task
supervisor parts, rehearsal  10 ms: lazy imports, ABC and regex caches, templates, configuration look-ups
sensitive names              2.5 ms: each key of each log line is compared with all sensitive words
first heartbeat              2.5 ms, and a fourth of a short task's requests to the plane: ``run`` counts as one
freezing                     the collector leaves shared objects alone; looking at one copies its page
===========================  =================================================================================

(Tried and left out: huge pages for the interpreter's heap make a fork cheaper by 2 ms, and a start longer by 0.5 s.)

Nothing here is code or data of a DAG: bundles, DAG files, connections, listeners and plugins are each task's own.
"""

import gc
import importlib
import threading

import structlog

from isthmus.runner import compat, rehearsing

log = structlog.get_logger(logger_name="isthmus.warming")


def warm(*, preload: tuple[str, ...] = (), everything: bool = True) -> None:
    """Prepare the calling process for being forked from. With ``everything`` false, import and freeze only."""
    compat.import_what_tasks_import()
    for name in preload:
        _preload(name)
    if everything:
        compat.keep_type_adapters()
        compat.keep_task_logging()
        compat.remember_sensitive_names()
        compat.skip_first_heartbeat()
        compat.load_supervisor_parts()
        rehearsing.rehearse()
    gc.collect()
    gc.freeze()
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
