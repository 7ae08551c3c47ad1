"""A fork server without Airflow: speaks ``isthmus.wire.frames`` and runs small programs instead of tasks.

What a workload does is in its payload: ``{"exit": 3}`` ends with that code, ``{"sleep": 60}`` waits (with
``"stubborn": true`` it ignores SIGTERM, with ``"detached": true`` it leaves a grandchild in a session of its own
behind). Every order that arrives is written as a line of JSON to the file that ``FAKE_RECORD`` names. ``FAKE_FAIL``
makes it end before it is ready.
"""

import argparse
import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.fakes import component

from isthmus.kit import processes
from isthmus.wire import frames

_STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


class FakeForkServer:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._children: dict[UUID, subprocess.Popen[bytes]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._kills: list[asyncio.Task[None]] = []

    def _record(self, frame: frames.Frame) -> None:
        if path := os.environ.get("FAKE_RECORD"):
            line = json.dumps({"at": time.monotonic(), "pid": os.getpid(), **frame.model_dump(mode="json")})
            with Path(path).open("a", encoding="utf-8") as record:
                record.write(line + "\n")

    def _send(self, frame: frames.Frame) -> None:
        if self._writer is not None:
            self._writer.write(frames.encode(frame))

    async def run(self) -> None:
        reader, self._writer = await asyncio.open_unix_connection(sock=self._sock)
        self._send(frames.Ready(pid=os.getpid(), airflow="3.3.2", task_sdk="1.3.2", python="3.11.2"))
        cutter = frames.FrameReader()
        while data := await reader.read(65536):
            for frame in cutter.feed(data):
                self._record(frame)
                match frame:
                    case frames.Launch():
                        self._launch(frame)
                    case frames.Kill():
                        self._kills.append(asyncio.create_task(self._kill(frame)))
                    case frames.Stop():
                        return
                    case _:
                        raise AssertionError(frame)

    def _launch(self, launch: frames.Launch) -> None:
        payload: dict[str, Any] = launch.payload
        if "exit" in payload:
            command = [sys.executable, "-S", "-c", f"raise SystemExit({payload['exit']})"]
        elif payload.get("stubborn"):
            command = [sys.executable, "-S", "-c", _STUBBORN]
        else:
            command = ["sleep", str(payload.get("sleep", 0))]
        if payload.get("detached"):
            command = ["sh", "-c", f"setsid sleep 600 & exec {shlex.join(command)}"]
        child = subprocess.Popen(command, start_new_session=True, pass_fds=())
        self._children[launch.workload_id] = child
        self._send(frames.Launched(workload_id=launch.workload_id, pid=child.pid))
        pidfd = os.pidfd_open(child.pid)
        asyncio.get_running_loop().add_reader(pidfd, self._ended, launch.workload_id, child, pidfd)

    def _ended(self, workload_id: UUID, child: "subprocess.Popen[bytes]", pidfd: int) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        code = child.wait()
        del self._children[workload_id]
        processes.kill_below(spared=[one.pid for one in self._children.values()])
        self._send(frames.Exited(workload_id=workload_id, exit_code=code))

    async def _kill(self, kill: frames.Kill) -> None:
        child = self._children.get(kill.workload_id)
        if child is None:
            return
        child.send_signal(signal.SIGTERM)
        await asyncio.sleep(kill.grace_seconds)
        if child.returncode is None:
            child.kill()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("component", nargs="?")
    parser.add_argument(frames.SOCKET_OPTION, type=int, required=True)
    parser.add_argument(frames.LOCK_OPTION, type=int)
    options = parser.parse_args()
    if options.component is not None:
        component.main(options.socket_fd, options.component)
        return
    processes.set_subreaper()
    if os.environ.get("FAKE_FAIL"):
        raise SystemExit(7)
    sock = socket.socket(fileno=options.socket_fd)
    asyncio.run(FakeForkServer(sock).run())
    processes.kill_below()


if __name__ == "__main__":
    main()
