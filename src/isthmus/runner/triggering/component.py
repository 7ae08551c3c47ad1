"""The triggerer's process: the link to the control process, three threads, and the supervisor's loop between them."""

import ctypes
import gc
import os
import threading
from typing import Final

from isthmus.kit import processes
from isthmus.kit.errors import IsthmusError
from isthmus.kit.logs import get
from isthmus.runner import compat as airflow
from isthmus.runner.link import Link
from isthmus.runner.triggering import compat
from isthmus.runner.triggering.calling import Calls
from isthmus.runner.triggering.holding import Holding
from isthmus.runner.triggering.reporting import Reporting
from isthmus.wire import frames
from isthmus.wire.agents import AgentWarning, Severity

log = get(component="triggerer")

#: How long what has fired may take to be told when we end.
FLUSH_SECONDS: Final = 5.0
#: Of glibc's malloc.h.
_M_ARENA_MAX: Final = -8


def main(socket_fd: int) -> None:
    """Run to the end. Raises IncompatibleAirflowError."""
    compat.check()
    processes.set_subreaper()
    compat.prepare()
    link = Link(socket_fd)
    link.open(
        frames.Ready(
            pid=os.getpid(),
            airflow=airflow.airflow_version,
            task_sdk=airflow.task_sdk_version,
            python=airflow.python_version,
        )
    )
    begin = link.wait_begun()
    if begin is None:
        return

    def begun() -> frames.Begin:
        return link.begun or begin

    silent = threading.Event()
    holding = Holding(
        Calls(begun),
        capacity=lambda: begun().slots,
        bundles=compat.bundles(),
        stopped=link.stopped,
        paused=silent.is_set,
    )
    reporting = Reporting(
        Calls(begun),
        fence=lambda: holding.fence,
        stopped=link.stopped,
        wants_reasons=lambda: begun().wants_reasons,
    )
    _use_one_arena()
    # What both processes have imported stays shared: a collection would write to every page of it.
    gc.collect()
    gc.freeze()
    supervisor = compat.start(
        holding,
        reporting,
        capacity=begin.slots,
        stopped=link.stopped,
        gateway_socket=begin.gateway_socket,
        gateway_token=begin.gateway_token,
    )
    for name, run in (("holding", holding.run), ("reporting", reporting.run)):
        threading.Thread(target=run, name=name, daemon=True).start()
    try:
        while not supervisor.should_stop():
            if not supervisor.is_alive():
                log.error("the process of the triggers has ended")
                raise SystemExit(1)
            supervisor.run_once()
            (silent.set if supervisor.stalled() else silent.clear)()
            link.tell(
                slots_used=len(supervisor.running_triggers),
                warnings=_warnings(holding.trouble or reporting.trouble, stalled=silent.is_set()),
            )
    finally:
        reporting.stop(FLUSH_SECONDS)
        supervisor.close()


def _use_one_arena() -> None:
    """Have glibc's threads share their memory: what one of them has freed serves the others."""
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:  # not on musl
        mallopt(_M_ARENA_MAX, 1)


def _warnings(trouble: IsthmusError | None, *, stalled: bool) -> tuple[AgentWarning, ...]:
    found = []
    if stalled:
        found.append(
            AgentWarning(
                code="triggers_stalled",
                severity=Severity.ERROR,
                summary="a trigger blocks the event loop of all of them; the plane gives them to other agents",
                hint="Look for a trigger that does not await what it waits for; PYTHONASYNCIODEBUG=1 names it.",
            )
        )
    if trouble is not None:
        found.append(
            AgentWarning(
                code="triggers_unserved",
                severity=Severity.WARNING,
                summary=f"the plane does not serve the triggerer: {trouble}"[:512],
                hint=(trouble.hint or "Running triggers go on, and what they fire is kept.")[:512],
            )
        )
    return tuple(found)
