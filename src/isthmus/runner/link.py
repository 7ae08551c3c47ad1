"""A component's end of the socket to its control process: ``Ready`` out, ``Begin`` in, ``Status`` out, until ``Stop``.

A thread reads, because the programs of Airflow's that components are made of have loops of their own. What it learns is
in a value (``begun``) and an event (``stopped``) that those loops look at; when the control process is gone, that is a
stop as well. Nothing here imports Airflow.
"""

import socket
import threading
from collections.abc import Callable

from isthmus.kit import processes
from isthmus.kit.logs import get
from isthmus.wire import agents, frames

log = get(component="link")


class Link:
    """The socket, and what has come over it."""

    def __init__(self, socket_fd: int) -> None:
        self._socket = socket.socket(fileno=socket_fd)
        self._socket.setblocking(True)
        self._telling = threading.Lock()
        self._sending = threading.Lock()
        self._said: frames.Status | None = None
        self._arrived = threading.Condition()
        #: Who we are to the plane and how to reach it; a new value when the agent has enrolled anew.
        self.begun: frames.Begin | None = None
        #: Set when the component is to end.
        self.stopped = threading.Event()

    def open(self, ready: frames.Ready, woken: Callable[[], None] = lambda: None) -> None:
        """Say that we are ready and listen from now on. ``woken`` is called, in the thread, when something came."""
        processes.raise_oom_score(100)
        self._send(ready)
        threading.Thread(target=self._read, args=(woken,), name="link", daemon=True).start()

    def wait_begun(self) -> frames.Begin | None:
        """Wait until the plane has let us in; None when the component is to end before."""
        with self._arrived:
            self._arrived.wait_for(lambda: self.begun is not None or self.stopped.is_set())
            return None if self.stopped.is_set() else self.begun

    def tell(self, *, slots_used: int = 0, warnings: tuple[agents.AgentWarning, ...] = ()) -> None:
        """Say how we are, if that is news. From any thread; the last word stands."""
        status = frames.Status(slots_used=slots_used, warnings=warnings[:16])
        with self._telling:
            if status != self._said:
                self._said = status
                self._send(status)

    def _send(self, frame: frames.Frame) -> None:
        try:
            with self._sending:
                self._socket.sendall(frames.encode(frame))
        except OSError:
            self._end()

    def _read(self, woken: Callable[[], None]) -> None:
        reader = frames.FrameReader()
        while not self.stopped.is_set():
            try:
                data = self._socket.recv(65536)
                for frame in reader.feed(data):
                    self._take(frame)
            except (OSError, frames.FrameError) as error:
                log.error("the control process cannot be understood", error=str(error))
                data = b""
            if not data:
                self._end()
            woken()

    def _take(self, frame: frames.Frame) -> None:
        match frame:
            case frames.Begin():
                with self._arrived:
                    self.begun = frame
                    self._arrived.notify_all()
            case frames.Stop():
                self._end()
            case _:
                raise frames.FrameError(f"unexpected {frame.type} frame")

    def _end(self) -> None:
        with self._arrived:
            self.stopped.set()
            self._arrived.notify_all()
