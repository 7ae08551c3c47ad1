"""The fork server: one thread, one select loop, everything imported; it forks, watches, kills, and tells.

It is the child subreaper for all that runs below it, so every orphan of a workload, daemons that called ``setsid``
included, ends up as its child. It knows its supervisors; any other child is a leftover of a workload that ended and is
killed. ``Exited`` is sent once a workload's supervisor is reaped and no leftover is there any more.

``Launch`` frames go to a supervisor as they came. The fork server reads no more of them than it needs and wipes them,
so that the gateway token of one workload is not in memory that the processes of the next one inherit.
"""

import os
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog
from setproctitle import setproctitle

from isthmus.kit import processes
from isthmus.runner import compat, forking, launching, pidfds, receiving, supervising, warming
from isthmus.runner.config import RunnerConfig, Shortcut
from isthmus.runner.launching import Supervisor
from isthmus.runner.receiving import Inbox, PeerError
from isthmus.wire import frames

log = structlog.get_logger(logger_name="isthmus.forkserver")

#: Between two rounds of killing leftovers.
_SWEEP_SECONDS: Final = 0.002
#: Leftovers that survive SIGKILL for this long are stuck in the kernel, or belong to another user (``run_as_user``) and
#: the control process may not kill them either. They are reported and no longer waited for.
_LEFTOVER_SECONDS: Final = 20.0
#: Between two rounds of killing a workload whose time is over: what is new since is killed in the next one.
_KILL_AGAIN_SECONDS: Final = 0.1
#: Between two times that the control process is asked to kill what is another user's.
_ASK_AGAIN_SECONDS: Final = 0.1
#: As many pids as a frame holds; the rest is asked for in the next round.
_FOREIGN_PIDS: Final = 1000
#: After a task was killed its supervisor reports the state and uploads the log. It gets this long.
_REPORT_SECONDS: Final = 5.0
#: Ready supervisors are forked this long after the last launch: not while the one just taken wants the processor.
_REFILL_SECONDS: Final = 0.05
#: Not at once after one died or could not be forked: whatever it was may happen again.
_REFILL_AGAIN_SECONDS: Final = 1.0
#: At the end: for killing everything.
_END_SECONDS: Final = 10.0
#: ``struct ucred`` of <sys/socket.h>: pid, uid, gid.
_UCRED: Final = struct.Struct("=iII")


@dataclass
class _Workload:
    """A workload that runs, or one whose supervisor is gone and whose leftovers are not."""

    workload_id: UUID
    supervisor: Supervisor
    launched: float
    #: Set by Kill: when the task's processes are killed, and when the supervisor is.
    kill_task_at: float | None = None
    kill_supervisor_at: float | None = None
    #: Of its task, once that is reaped.
    task_cpu_seconds: float = 0.0
    #: Set when it is over but for what it left, which is being killed.
    exited: frames.Exited | None = None


@dataclass
class _Peer:
    """The control process's connection."""

    socket: socket.socket
    inbox: Inbox = field(default_factory=Inbox)
    unsent: bytearray = field(default_factory=bytearray)


class ForkServer:
    """Runs until its control process closes the connection, says stop, or SIGTERM comes."""

    def __init__(self, config: RunnerConfig) -> None:
        self._config = config
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._peer: _Peer | None = None
        self._workloads: dict[UUID, _Workload] = {}
        #: All that live, by pid: at work, ready, or about to exit.
        self._supervisors: dict[int, Supervisor] = {}
        #: What workloads left behind and is being killed, with the time since when.
        self._leftovers: dict[int, float] = {}
        #: Leftovers that could not be killed.
        self._stuck: set[int] = set()
        self._refill_at: float | None = 0.0
        self._sweep_at: float | None = None
        self._ask_at = 0.0
        self._stopping = False
        self._peer_lost = False
        self._wakeup_read, self._wakeup_write = socket.socketpair()
        spares = 0 if Shortcut.SPARES in config.without else config.spares
        self._launcher = launching.Launcher(
            count=spares,
            uses=1 if Shortcut.REUSE in config.without else supervising.USES,
            pristine=Shortcut.PRISTINE not in config.without,
            lock_fd=config.lock_fd,
            close_parents=self._close,
        )

    # --- life ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until told to end; nothing that was started below is left when this returns."""
        processes.set_subreaper()
        processes.set_dumpable(False)
        setproctitle("isthmus: fork server")
        self._watch_signals()
        if self._config.socket_path is not None:
            self._listen(self._config.socket_path)
        elif self._config.socket_fd is not None:
            self._greet(socket.socket(fileno=self._config.socket_fd))
        try:
            while not self._stopping:
                for key, _ in self._selector.select(self._timeout()):
                    key.data(key.fileobj)
                self._act_on_time()
        finally:
            self._end_everything()

    def _watch_signals(self) -> None:
        for end in (self._wakeup_read, self._wakeup_write):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._selector.register(self._wakeup_read, selectors.EVENT_READ, self._on_signal)

    def _on_signal(self, wakeup: socket.socket) -> None:
        with suppress(BlockingIOError):
            if signal.SIGTERM in wakeup.recv(64):
                log.info("Ending on SIGTERM", workloads=len(self._workloads))
                self._stopping = True

    def _close(self) -> None:
        """In a child, just after the fork: close what is ours alone, and forget what was on its way to others."""
        if self._peer is not None:
            self._peer.inbox.wipe()
        self._selector.close()
        for supervisor in self._supervisors.values():
            supervisor.close()
        peer = None if self._peer is None else self._peer.socket
        for one in (self._listener, peer, self._wakeup_read, self._wakeup_write):
            if one is not None:
                one.close()

    def _close_in_task(self) -> None:
        self._close()
        if self._config.lock_fd is not None:
            os.close(self._config.lock_fd)

    def _end_everything(self) -> None:
        if left := processes.kill_below(timeout_seconds=_END_SECONDS):
            log.error("Processes could not be killed", pids=left)
        if self._listener is not None and self._config.socket_path is not None:
            self._config.socket_path.unlink(missing_ok=True)

    # --- the control process ---------------------------------------------------------------------------------------

    def _listen(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        path.chmod(0o660)
        self._listener.listen(8)
        self._selector.register(self._listener, selectors.EVENT_READ, self._on_connection)
        log.info("Waiting for a control process", path=str(path))

    def _on_connection(self, listener: socket.socket) -> None:
        if self._peer is not None and _has_hung_up(self._peer.socket):
            return  # what the former control process leaves is ended first; this one waits in the listener
        connection, _ = listener.accept()
        wanted = os.getuid() if self._config.control_user is None else self._config.control_user.uid
        uid = _peer_uid(connection)
        if uid != wanted:
            log.warning("Refused a connection of another user", uid=uid, wanted=wanted)
            connection.close()
        elif self._peer is not None:
            log.warning("Refused a second control process", uid=uid)
            connection.close()
        else:
            self._greet(connection)

    def _greet(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        peer = self._peer = _Peer(connection)
        self._selector.register(connection, selectors.EVENT_READ, lambda _: self._on_peer(peer))
        self._send(
            frames.Ready(
                pid=os.getpid(),
                airflow=compat.airflow_version,
                task_sdk=compat.task_sdk_version,
                python=compat.python_version,
                log_folder=compat.log_folder(),
                remote_logs=compat.has_remote_logs(),
            )
        )

    def _on_peer(self, peer: _Peer) -> None:
        try:
            if peer.unsent:
                self._flush(peer)
            self._receive(peer)
        except PeerError as error:
            log.error("The control process broke the protocol", error=str(error))
            self._peer_lost = True
        except OSError as error:
            log.warning("The control process's connection failed", error=str(error))
            self._peer_lost = True

    def _receive(self, peer: _Peer) -> None:
        try:
            count = peer.inbox.receive_from(peer.socket)
        except BlockingIOError:
            return
        if count == 0:
            log.info("The control process is gone", workloads=len(self._workloads))
            self._peer_lost = True
            return
        for frame in peer.inbox.frames():
            self._obey(frame)

    def _hang_up(self, peer: _Peer) -> None:
        """The control process is gone: so is the right of its workloads to live."""
        self._selector.unregister(peer.socket)
        peer.socket.close()
        self._peer = None
        self._peer_lost = False
        if self._listener is None:
            self._stopping = True
            return
        for workload in self._workloads.values():
            if workload.exited is None:
                self._forget(workload.supervisor)
        self._workloads.clear()
        if left := processes.kill_below(spared=self._supervisors, timeout_seconds=_END_SECONDS):
            log.error("Processes could not be killed", pids=left)

    def _send(self, frame: frames.Frame) -> None:
        if self._peer is not None:
            self._peer.unsent += frames.encode(frame)
            self._flush(self._peer)

    def _flush(self, peer: _Peer) -> None:
        """Send what the peer takes now, and wait for it to take the rest: a slow reader must not stop the loop."""
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):  # a dead peer shows when it is read
            while peer.unsent:
                del peer.unsent[: peer.socket.send(peer.unsent)]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.unsent else 0)
        if self._selector.get_key(peer.socket).events != events:
            self._selector.modify(peer.socket, events, lambda _: self._on_peer(peer))

    # --- what it asks for ------------------------------------------------------------------------------------------

    def _obey(self, frame: memoryview) -> None:
        head = receiving.read_head(frame)
        match head.type, head.workload_id:
            case "launch", UUID() as workload_id:
                self._launch(workload_id, frame)
            case "kill", UUID() as workload_id:
                self._kill(workload_id, head.grace_seconds)
            case "stop", _:
                log.info("Ending as asked to", workloads=len(self._workloads))
                self._stopping = True
            case other, workload_id:
                raise PeerError(f"unexpected frame {other!r} (workload {workload_id})")

    def _launch(self, workload_id: UUID, frame: memoryview) -> None:
        if workload_id in self._workloads:
            # Its Exited is still to come, and ends both: one workload never has two trees.
            log.error("A workload was launched while it still runs", workload_id=str(workload_id))
            return
        try:
            supervisor = self._assign(frame)
        except OSError as error:
            log.error("A workload cannot be started", workload_id=str(workload_id), error=str(error))
            self._send(frames.Exited(workload_id=workload_id, exit_code=1, detail=f"cannot be started: {error}"))
            return
        self._workloads[workload_id] = _Workload(workload_id, supervisor, time.monotonic())
        self._send(frames.Launched(workload_id=workload_id, pid=supervisor.pid))
        self._refill_at = time.monotonic() + _REFILL_SECONDS

    def _assign(self, frame: memoryview) -> Supervisor:
        """Give the workload to a ready supervisor, or to a new one when there is none or it died meanwhile."""
        while supervisor := self._launcher.take():
            try:
                supervisor.assign(frame)
            except OSError:
                log.warning("A ready supervisor was dead", pid=supervisor.pid)
            else:
                return supervisor
        supervisor = self._fork()
        supervisor.assign(frame)
        return supervisor

    def _kill(self, workload_id: UUID, grace_seconds: float) -> None:
        workload = self._workloads.get(workload_id)
        if workload is None or workload.exited is not None:
            return  # it ended by itself meanwhile, and Exited is on its way
        workload.supervisor.spent = True
        if grace_seconds > 0:
            # Airflow's supervisor passes it on to the task, where the operator's on_kill runs.
            _signal(workload.supervisor.pid, signal.SIGTERM)
            workload.kill_task_at = time.monotonic() + grace_seconds
            workload.kill_supervisor_at = workload.kill_task_at + _REPORT_SECONDS
        else:
            self._kill_task(workload.supervisor)
            _signal(workload.supervisor.pid, signal.SIGKILL)

    def _kill_task(self, supervisor: Supervisor) -> None:
        """What is below the task comes to us as leftovers when it dies; what the supervisor forked is below it."""
        if supervisor.task is not None:
            task = supervisor.task[0]
            _signal(task, signal.SIGKILL)
            self._report_foreign([task, *processes.descendants(task)])
        processes.sweep(below=supervisor.pid)

    # --- time ------------------------------------------------------------------------------------------------------

    def _timeout(self) -> float | None:
        times = [self._sweep_at, self._refill_at if self._launcher.lacks else None, self._launcher.surplus_at()]
        for workload in self._workloads.values():
            times += [workload.kill_task_at, workload.kill_supervisor_at]
        due = min((at for at in times if at is not None), default=None)
        return None if due is None else max(0.0, due - time.monotonic())

    def _act_on_time(self) -> None:
        if self._peer_lost and self._peer is not None:
            self._hang_up(self._peer)
        now = time.monotonic()
        for workload in self._workloads.values():
            if workload.kill_task_at is not None and workload.kill_task_at <= now:
                self._kill_task(workload.supervisor)
                workload.kill_task_at = now + _KILL_AGAIN_SECONDS
            if workload.kill_supervisor_at is not None and workload.kill_supervisor_at <= now:
                _signal(workload.supervisor.pid, signal.SIGKILL)
                workload.kill_task_at = workload.kill_supervisor_at = None
        if self._sweep_at is not None and self._sweep_at <= now:
            self._sweep()
        if self._launcher.lacks and self._refill_at is not None and self._refill_at <= now and not self._stopping:
            self._refill(now)
        while surplus := self._launcher.let_go(now):
            self._retire(surplus)

    # --- supervisors and what they leave -----------------------------------------------------------------------------

    def _refill(self, now: float) -> None:
        try:
            self._launcher.give_back(self._fork(), now)
        except OSError as error:
            log.error("A supervisor cannot be forked", error=str(error))
            self._refill_at = now + _REFILL_AGAIN_SECONDS

    def _fork(self) -> Supervisor:
        supervisor = self._launcher.fork()
        self._supervisors[supervisor.pid] = supervisor
        for source, react in (
            (supervisor.pidfd, self._on_exit),
            (supervisor.channel, self._on_word),
            (supervisor.line, self._on_request),
        ):
            self._selector.register(source, selectors.EVENT_READ, partial(self._react, react, supervisor))
        return supervisor

    def _react(self, reaction: Callable[[Supervisor], None], supervisor: Supervisor, _: object) -> None:
        """What the selector calls; not for one that was forgotten since the selector saw it."""
        if self._supervisors.get(supervisor.pid) is supervisor:
            reaction(supervisor)

    def _on_request(self, supervisor: Supervisor) -> None:
        """It wants its task forked."""
        sockets = forking.receive_request(supervisor.line)
        if sockets is None:
            self._selector.unregister(supervisor.line)  # it is exiting
            return
        try:
            pid = forking.fork(sockets, self._close_in_task)
        except OSError as error:
            log.error("A task cannot be forked", error=str(error))
            self._selector.unregister(supervisor.line)
            _signal(supervisor.pid, signal.SIGKILL)
            return
        supervisor.task = pid, processes.open_pidfd(pid)
        self._selector.register(
            supervisor.task[1], selectors.EVENT_READ, partial(self._react, self._on_task_exit, supervisor)
        )
        with suppress(OSError):  # it was killed meanwhile
            forking.answer(supervisor.line, pid)

    def _on_task_exit(self, supervisor: Supervisor) -> None:
        """Its task ended: end what the task left, which may still hold the task's sockets, and tell."""
        if supervisor.task is None:
            return
        pid, pidfd = supervisor.task
        _, status, usage = os.wait4(pid, 0)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        supervisor.task = None
        if workload := self._workload_of(supervisor):
            workload.task_cpu_seconds = usage.ru_utime + usage.ru_stime
        self._sweep()
        with suppress(OSError):
            forking.answer(supervisor.line, os.waitstatus_to_exitcode(status))

    def _retire(self, supervisor: Supervisor) -> None:
        """Tell it that no more work comes; it exits by itself."""
        supervisor.spent = True
        self._selector.unregister(supervisor.channel)
        supervisor.channel.shutdown(socket.SHUT_WR)

    def _forget(self, supervisor: Supervisor) -> None:
        """Its process is gone, or will be; a task of it that still runs is a leftover from now on."""
        del self._supervisors[supervisor.pid]
        self._launcher.discard(supervisor)
        task = [] if supervisor.task is None else [supervisor.task[1]]
        sources: list[int | socket.socket] = [supervisor.pidfd, supervisor.channel, supervisor.line, *task]
        for source in sources:
            with suppress(KeyError):
                self._selector.unregister(source)
        supervisor.close()

    def _workload_of(self, supervisor: Supervisor) -> _Workload | None:
        running = (one for one in self._workloads.values() if one.exited is None)
        return next((one for one in running if one.supervisor is supervisor), None)

    def _on_word(self, supervisor: Supervisor) -> None:
        """It said how its workload ended, or it is exiting."""
        result = supervisor.read_result()
        workload = self._workload_of(supervisor)
        if result is None or result.retiring or workload is None:
            # The rest is for _on_exit.
            self._selector.unregister(supervisor.channel)
            return
        workload.exited = self._conclude(workload, result.exit_code, result)
        if supervisor.spent:
            self._retire(supervisor)
        else:
            self._launcher.give_back(supervisor, time.monotonic())
        self._sweep()

    def _on_exit(self, supervisor: Supervisor) -> None:
        _, status = os.waitpid(supervisor.pid, 0)
        exit_code = os.waitstatus_to_exitcode(status)
        result = supervisor.read_result()
        workload = self._workload_of(supervisor)
        self._forget(supervisor)
        if workload is not None:
            workload.exited = self._conclude(workload, exit_code, result)
            self._sweep()
        elif exit_code != 0 and not supervisor.spent:
            log.warning("A ready supervisor ended", pid=supervisor.pid, exit_code=exit_code)
            self._refill_at = time.monotonic() + _REFILL_AGAIN_SECONDS

    def _conclude(self, workload: _Workload, exit_code: int, result: supervising.Result | None) -> frames.Exited:
        """Log the end of a workload whose supervisor said ``result``, or ended with ``exit_code`` and said nothing."""
        if result is None:
            detail = "the supervisor was killed" if exit_code < 0 else "the supervisor ended without a result"
            result = supervising.Result(exit_code=exit_code or 1, detail=detail)
        log.info(
            "Workload ended",
            workload_id=str(workload.workload_id),
            exit_code=result.exit_code,
            seconds=round(time.monotonic() - workload.launched, 3),
            task_cpu_seconds=round(workload.task_cpu_seconds + result.children_cpu_seconds, 4),
            supervisor_cpu_seconds=round(result.supervisor_cpu_seconds, 4),
        )
        workload.kill_task_at = workload.kill_supervisor_at = None
        return frames.Exited(workload_id=workload.workload_id, exit_code=result.exit_code, detail=result.detail)

    def _sweep(self) -> None:
        """Kill leftovers; when there are none, the ended workloads are over."""
        self._stuck = {pid for pid in self._stuck if not _is_reaped(pid)}
        tasks = (one.task[0] for one in self._supervisors.values() if one.task is not None)
        found = processes.sweep(spared={*self._supervisors, *tasks, *self._stuck})
        self._report_foreign(found)
        now = time.monotonic()
        self._leftovers = {pid: self._leftovers.get(pid, now) for pid in found}
        stuck = [pid for pid, since in self._leftovers.items() if now - since > _LEFTOVER_SECONDS]
        if stuck:
            log.error("Processes could not be killed", pids=stuck)
            self._stuck.update(stuck)
        if len(stuck) < len(found):
            self._sweep_at = now + _SWEEP_SECONDS
            return
        self._sweep_at = None
        for workload in [one for one in self._workloads.values() if one.exited is not None]:
            del self._workloads[workload.workload_id]
            if workload.exited is not None:
                self._send(workload.exited)

    def _report_foreign(self, pids: Iterable[int]) -> None:
        """Ask the control process to kill what of ``pids`` is another user's, as with ``run_as_user``."""
        now = time.monotonic()
        if now < self._ask_at:
            return
        if foreign := [pid for pid in pids if not processes.may_signal(pid)]:
            self._send(frames.Foreign(pids=tuple(foreign[:_FOREIGN_PIDS])))
            self._ask_at = now + _ASK_AGAIN_SECONDS


def _peer_uid(connection: socket.socket) -> int:
    """Who is at the other end, from the kernel."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    uid: int = _UCRED.unpack(credentials)[1]
    return uid


def _has_hung_up(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # not ours after a change of user: see _report_foreign
        os.kill(pid, number)


def _is_reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    except ChildProcessError:
        return not processes.is_alive(pid)


def main(config: RunnerConfig) -> None:
    """Check, warm, serve, end. Raises ConfigError when the installed Airflow or the descriptors do not fit."""
    compat.configure_logging()
    compat.check()
    compat.accept_any_executor()
    compat.keep_bundles_at_home()
    if Shortcut.PIDFD not in config.without:
        pidfds.install()
    warming.warm(preload=config.preload, everything=Shortcut.WARMING not in config.without)
    server = ForkServer(config)
    server.run()
