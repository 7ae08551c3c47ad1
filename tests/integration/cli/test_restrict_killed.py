"""``isthmus deployment restrict``: the command, the control plane, or the Remote Execution API is killed (SIGKILL) at
any moment of it.

The list is the one before or the one after, the agent that proves the way is never shut out, and the same command ends
what was begun.
"""

import asyncio
import contextlib
import itertools
import os
import select
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.apis import DEPLOYMENT_ID, PROXY, Agent, Api, answered, enrolment, serving, until
from tests.fakes.control_plane import prepare
from tests.integration.control.conftest import free_port

from isthmus.cli.exits import Exit
from isthmus.deployment import databases

RANGE = "10.20.0.0/16"
INSIDE = "10.20.0.5"
#: In an answer, and in no question.
RESTRICTED = b'"outcome":"restricted"'


#: No program pauses for this long within a sentence.
_PAUSE_SECONDS = 0.1


class Wire:
    """Carries the command's bytes to the API and back, but for a piece that ``loses`` says yes to: then it acts."""

    def __init__(self, port: int, loses: Callable[[bytes], bool], act: Callable[[], None]) -> None:
        self._target, self._loses, self._act = port, loses, act
        self._asking = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listening.accept()[0]
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                for source, sink in ((near, far), (far, near)):
                    thread = threading.Thread(target=self._carry, args=(source, sink))
                    self._threads.append(thread)
                    thread.start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := _said(source):
                with self._asking:
                    is_lost = self._loses(piece)
                if is_lost:
                    self._act()
                else:
                    sink.sendall(piece)
        for end in (source, sink):  # whoever waits for more hears of it
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        sink.close()


def _said(source: socket.socket) -> bytes:
    """What comes at once, so that a question or an answer is one piece however it is cut; nothing at the end."""
    piece = source.recv(65536)
    while piece and select.select([source], [], [], _PAUSE_SECONDS)[0]:
        more = source.recv(65536)
        piece += more
        if not more:
            break  # the end, which is still there to be read
    return piece


def started(api: Api, port: int | None = None) -> "subprocess.Popen[str]":
    """The command, straight to the deployment."""
    there = {
        "ISTHMUS_ADMIN_URL": f"http://127.0.0.1:{port or api.admin_port}",
        "ISTHMUS_ADMIN_TOKEN_FILE": str(api.admin_token_file),
    }
    return isthmus("deployment", "restrict", "--to", RANGE, **there)


def isthmus(*words: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "isthmus.cli.main", *words],
        env={"PATH": os.environ["PATH"], **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    return process.wait(30), process.communicate()[1]


def in_force(api: Api) -> list[str]:
    ranges: list[str] = answered(api.admin().get("/admin/v1/allow-list"))["ranges"]
    return ranges


@contextlib.contextmanager
def witness(api: Api) -> Iterator[Agent]:
    """An agent that comes through a link and goes on beating."""
    token = api.token()["secret"]
    agent = Agent(api, f"witness-{uuid.uuid4()}", "idle", token, str(uuid.uuid4()))
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": INSIDE, "Isthmus-Link-Id": "7"}
    agent.client = api.client(headers=headers, source=PROXY)
    agent.agent_id = answered(agent.client.post("agent/v1/enrolments", json=enrolment(agent)))["agent_id"]
    over = threading.Event()
    beats: list[int] = []

    def beat() -> None:
        while not over.wait(0.3):
            with contextlib.suppress(httpx.TransportError):
                beats.append(agent.post("heartbeats", slots_used=0).status_code)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield agent
    finally:
        over.set()
        thread.join(30)
        assert set(beats) == {200}, "it was never shut out"
        if api.process.poll() is None:
            api.admin().delete(f"/admin/v1/agents/{agent.agent_id}", params={"force": True})


def killed_at(api: Api, number: int) -> int:
    """Run the command and kill it as this piece is on its way; its exit code, which is 0 if there were fewer."""
    pieces = itertools.count(1)
    command: subprocess.Popen[str] | None = None

    def kill() -> None:
        assert command is not None
        command.kill()

    wire = Wire(api.admin_port, lambda _: next(pieces) == number, kill)
    command = started(api, wire.port)
    code = ended(command)[0]
    wire.close()
    return code


def test_the_command_is_killed_at_every_piece_of_what_it_says_and_hears(api: Api) -> None:
    found: list[list[str]] = []
    with witness(api):
        for number in itertools.count(1):
            api.allow()
            code = killed_at(api, number)
            if code == 0:
                break
            assert code == -9
            found.append(in_force(api))
            assert ended(started(api)) == (0, "")
            assert in_force(api) == [RANGE]
    api.allow()
    assert found[0] == [], "nothing was said yet"
    assert found[-1] == [RANGE], "only the answer was lost"
    assert found == sorted(found), "and once it is in force it stays"


@pytest.fixture
def serve(
    airflow_database: str, airflow_environment: Callable[[str], dict[str, str]], tmp_path: Path
) -> Iterator[Callable[[], Api]]:
    """A function that starts a Remote Execution API, again and again on one database."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(serving(tmp_path, airflow_database, airflow_environment(airflow_database)))


@contextlib.contextmanager
def stuck_in_the_middle(url: str) -> Iterator[Callable[[], bool]]:
    """New ranges cannot be written, though old ones are deleted; gives whether somebody is trying."""
    with databases.connected(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(4711)")
        cursor.execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN new; END$$"
        )
        cursor.execute("CREATE TRIGGER wait BEFORE INSERT ON isthmus_allowed_range EXECUTE FUNCTION wait()")

        def waits() -> bool:
            cursor.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            return cursor.fetchone() is not None

        try:
            yield waits
        finally:
            cursor.execute("SELECT pg_advisory_unlock(4711)")
            cursor.execute("DROP FUNCTION wait CASCADE")


def test_the_api_is_killed_in_the_middle_of_the_change(serve: Callable[[], Api], airflow_database: str) -> None:
    api = serve()
    before = ["10.0.0.0/8"]
    with witness(api):
        api.allow(*before)
        with stuck_in_the_middle(airflow_database) as is_tried:
            command = started(api)
            until(is_tried, seconds=30)
            api.process.kill()
            code, said = ended(command)
    assert (code, "(admin_unreachable)" in said) == (Exit.UNREACHABLE, True), said
    api = serve()
    assert in_force(api) == before, "and not the empty list, which lets everybody in"
    with witness(api):
        assert ended(started(api)) == (0, "")
    assert in_force(api) == [RANGE]


def test_the_api_is_killed_before_it_has_said_that_it_is_done(serve: Callable[[], Api]) -> None:
    api = serve()
    with witness(api):
        wire = Wire(api.admin_port, lambda piece: b'"dry_run":false' in piece and RESTRICTED in piece, api.process.kill)
        code, said = ended(started(api, wire.port))
        wire.close()
    assert (code, "(admin_unreachable)" in said) == (Exit.UNREACHABLE, True), said
    api = serve()
    assert in_force(api) == [RANGE]
    assert ended(started(api)) == (0, ""), "it is like this already"


class Control:
    """A control plane as a process, which knows one cluster with one deployment."""

    def __init__(self, database_url: str, api: Api, directory: Path) -> None:
        self._database_url, self._api, self._directory = database_url, api, directory
        self._port = free_port()
        token = asyncio.run(prepare(database_url))
        (directory / "ann").write_text(token)
        (directory / "tokens").mkdir()
        (directory / "tokens" / "admin").write_text(api.admin_token_file.read_text())
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{self._port}/control/v1", headers={"Authorization": f"Bearer {token}"}
        )

    @contextlib.contextmanager
    def serving(self, admin_port: int) -> Iterator["subprocess.Popen[str]"]:
        """Serve; the deployment's admin API is at this port."""
        flags = {"--listen-port": str(self._port), "--admin-tokens": str(self._directory / "tokens")}
        process = isthmus(
            *("control", "serve", *(word for flag in flags.items() for word in flag)),
            ISTHMUS_CONTROL_DATABASE_URL=self._database_url,
            ISTHMUS_AZURE_ARM_ENDPOINT="https://127.0.0.1:1",
        )
        try:
            until(self._answers, seconds=60)
            cluster = {"cluster_id": "clabcdefgh2", "cidr": RANGE, "domain": "example.com", "region": "westeurope"}
            assert self._http.post("/clusters", json=cluster).is_success
            where = {"admin_url": f"http://127.0.0.1:{admin_port}", "admin_token_reference": "admin"}
            body = {"servers": ["https://localhost:1"], **where}
            answer = self._http.put(f"/clusters/clabcdefgh2/deployments/{DEPLOYMENT_ID}", json=body)
            assert answer.is_success, answer.text
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=30)

    def restrict(self) -> tuple[int, str]:
        there = {
            "ISTHMUS_CONTROL_URL": f"http://127.0.0.1:{self._port}",
            "ISTHMUS_CONTROL_TOKEN_FILE": str(self._directory / "ann"),
        }
        return ended(isthmus("deployment", "restrict", "--to-cluster", **there))

    def accounts(self) -> int:
        """Entries about restrictions, and what is written down to become one."""
        counted = "(SELECT count(*) FROM isthmus_control.asked WHERE action = 'deployment.restrict')"
        entries = "(SELECT count(*) FROM isthmus_control.audit WHERE action = 'deployment.restrict')"
        with databases.connected(self._database_url) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT {counted} + {entries}")
            return int(cursor.fetchone()[0])  # type: ignore[index]

    def close(self) -> None:
        self._http.close()

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self._http.get("/clusters").is_success
        return False


def test_the_control_plane_is_killed_at_every_piece_of_what_it_says_and_hears(
    api: Api, new_database: Callable[[], str], tmp_path: Path
) -> None:
    control = Control(new_database(), api, tmp_path)
    found: list[list[str]] = []
    with contextlib.closing(control), witness(api):
        for number in itertools.count(1):
            api.allow()
            before = control.accounts()
            if not killed_when_restricting(control, api, number):
                break
            found.append(in_force(api))
            assert control.accounts() - before >= len(found[-1]), "no change without an entry"
        api.allow()
        with control.serving(api.admin_port):
            assert control.restrict()[0] == 0
        assert in_force(api) == [RANGE]
    api.allow()
    assert found[0] == [], "nothing was said yet"
    assert found[-1] == [RANGE], "only the answer was lost"
    assert found == sorted(found), "and once it is in force it stays"


def killed_when_restricting(control: Control, api: Api, number: int) -> bool:
    """Restrict by a control plane that is killed at a piece of it; False if there were fewer."""
    pieces = itertools.count(1)
    process: subprocess.Popen[str] | None = None

    def loses(piece: bytes) -> bool:
        is_about_it = b"/restriction" in piece or b'"ranges_after"' in piece  # it looks at the deployment as well
        return is_about_it and next(pieces) == number

    def kill() -> None:
        assert process is not None
        process.kill()

    wire = Wire(api.admin_port, loses, kill)
    try:
        with control.serving(wire.port) as process:
            return control.restrict()[0] != 0
    finally:
        wire.close()
