"""``python -m isthmus.runner log-reading``: one log from the customer's own store, on standard output.

Started by the control process when somebody looks at a log whose file is gone, as the task user and with the tasks'
environment; so Airflow's remote logging is configured as it is for tasks. A line of JSON on standard input says which
log; a line of JSON on standard output says whether there is one, and its bytes follow. The connection that remote
logging names comes from the environment or a secrets backend: there is no task whose token could open the plane.
"""

import json
import os
import sys
from typing import Any, Final

from isthmus.kit.logs import get
from isthmus.runner import compat

log = get(component="log_reading")

_ASKED_BYTES: Final = 64 * 1024


def main() -> None:
    """Read what is asked for, write the log, end."""
    # Whatever Airflow and its providers print goes to the agent's log, and not between the lines of a task's.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asked = json.loads(sys.stdin.buffer.readline(_ASKED_BYTES))
    with output:
        try:
            found = compat.read_remote_log(asked["path"], asked["subject"] or {})
        except Exception as error:  # a provider may raise anything
            log.exception("the store of task logs could not be read")
            _say(output, "failed", detail=f"{type(error).__name__}: {error}")
            return
        if found is None:
            _say(output, "no_store")
            return
        sources, texts = found
        lines = iter(texts)
        try:
            first = next(lines, None)
        except Exception as error:
            log.exception("the store of task logs could not be read")
            _say(output, "failed", detail=f"{type(error).__name__}: {error}")
            return
        if first is None:
            _say(output, "missing", detail="; ".join(sources))
            return
        _say(output, None, origin="; ".join(sources))
        _write(output, first)
        for text in lines:
            _write(output, text)


def _say(output: Any, fault: str | None, *, origin: str = "", detail: str = "") -> None:
    said = {"fault": fault, "origin": origin[:2000], "detail": detail[:2000]}
    output.write(json.dumps(said).encode() + b"\n")
    output.flush()


def _write(output: Any, text: str) -> None:
    output.write(text.encode("utf-8", "replace"))
    if not text.endswith("\n"):
        output.write(b"\n")
