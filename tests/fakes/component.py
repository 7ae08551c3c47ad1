"""A component without Airflow: the real ``runner.link``, and a record of what it was told.

``FAKE_RECORD`` names the file, as for the fork server. It reports itself as holding as many slots as it was given.
"""

import json
import os
import time
from pathlib import Path

from isthmus.kit import processes
from isthmus.runner.link import Link
from isthmus.wire import agents, frames


def main(socket_fd: int, role: str) -> None:
    processes.set_subreaper()
    link = Link(socket_fd)
    told: list[frames.Begin] = []

    def look() -> None:
        if link.begun is None or (told and told[-1] == link.begun):
            return
        told.append(link.begun)
        line = {"at": time.monotonic(), "pid": os.getpid(), "role": role, **link.begun.model_dump(mode="json")}
        with Path(os.environ["FAKE_RECORD"]).open("a", encoding="utf-8") as record:
            record.write(json.dumps(line) + "\n")
        warning = agents.AgentWarning(code="fake_component", severity=agents.Severity.WARNING, summary="only a fake")
        link.tell(slots_used=link.begun.slots, warnings=(warning,))

    link.open(frames.Ready(pid=os.getpid(), airflow="3.3.2", task_sdk="1.3.2", python="3.11.2"), look)
    if link.wait_begun() is not None:
        look()
    link.stopped.wait()
