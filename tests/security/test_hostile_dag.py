"""A hostile DAG on a real agent, in the documented production set-up: what can it find, reach, and do?

The control process and the tasks run under two unprivileged numeric users. The attack (``dags/attack.py``) looks for
the agent's token, for task tokens, and for the plane's secrets wherever a process of the task user can look. The same
attack on an agent that was set up carelessly must find what it looks for: otherwise it proves nothing.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from faults.harness import programs, waits
from faults.harness.agents import FIRST_USER, Agent, Users
from faults.harness.certificates import Authority
from faults.harness.planes import Plane
from faults.harness.programs import Program
from faults.harness.proxies import Checkpoint, Seen
from isthmus.wire import paths
from security.dags.attack import gateway_tokens

#: Not those of a run of these tests beside this one.
CONTROL_USER, TASK_USER, CARELESS_USER = range(FIRST_USER + 900, FIRST_USER + 903)

pytestmark = [
    pytest.mark.timeout(280),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run an agent's halves under two other users"),
]


@dataclass(frozen=True)
class Loot:
    """What the attack brought home."""

    found: list[dict[str, str]]
    attempts: dict[str, dict[str, int]]
    allowed: list[str]
    answers: list[dict[str, Any]]

    def what(self) -> set[str]:
        return {each["what"] for each in self.found}

    def succeeded(self, attempt: str) -> int:
        assert self.attempts.get(attempt, {"tried": 0})["tried"] > 0, f"never tried: {attempt}"
        return self.attempts[attempt]["succeeded"]


@dataclass(frozen=True)
class Raid:
    """An attack that is over."""

    agent: Agent
    loot: Loot
    seen: list[Seen]
    victim_state: str | None


@pytest.fixture(scope="module")
def raid(plane: Plane) -> Iterator[Raid]:
    """The attack on an agent in the production set-up."""
    authority = Authority(plane.directory, "checkpoint")
    checkpoint = Checkpoint(plane.loop, authority, plane.api_port, plane.authority)
    users = Users(CONTROL_USER, TASK_USER)
    agent = Agent(plane, "hostile", slots=3, users=users, port=checkpoint.port, authority=authority)
    try:
        agent.start()
        yield _raid(plane, agent, checkpoint)
    finally:
        agent.close()
        checkpoint.close()


def _raid(plane: Plane, agent: Agent, checkpoint: Checkpoint | None) -> Raid:
    loot_directory = agent.directory / "loot"
    loot_directory.mkdir()
    loot_directory.chmod(0o777)
    gate = loot_directory / "gate"
    victim, accomplice = (
        _start(plane, f"{agent.lane}-suffer", started=str(loot_directory / f"{name}-started"), gate=str(gate))
        for name in ("victim", "accomplice")
    )
    for name in ("victim", "accomplice"):
        waits.until(
            f"the {name} runs", (loot_directory / f"{name}-started").exists, seconds=60, evidence=agent.evidence
        )
    report = loot_directory / "report.json"
    before = len(checkpoint.seen) if checkpoint else 0
    orders = _orders(plane, agent, victim, report) | {"stolen_token": _steal_token(plane, agent, accomplice)}
    hostile = _start(plane, f"{agent.lane}-attack", attack=orders)

    def over() -> bool:
        return report.exists() or _state(plane, hostile) in {"failed", "success"}

    waits.until("the attack is over", over, seconds=200, pause=0.5, evidence=agent.evidence)
    assert report.exists(), agent.evidence()
    seen = list(checkpoint.seen[before:]) if checkpoint else []
    gate.touch()
    waits.until("the victim ended", lambda: _state(plane, victim) in {"failed", "success"}, seconds=60)
    waits.until("the hostile task ended", lambda: _state(plane, hostile) in {"failed", "success"}, seconds=60)
    return Raid(agent, Loot(**json.loads(report.read_text())), seen, _state(plane, victim))


def _steal_token(plane: Plane, agent: Agent, run_id: str) -> str:
    """The gateway token of a running task, which only root can read: from its supervisor's memory.

    No task knows one. The gateway is tried with one all the same, because it must hold without that.
    """
    (workload_id,) = plane.database.rows("SELECT id::text FROM isthmus_workload WHERE run_id = %s", (run_id,))[0]
    (supervisor,) = [child for child in agent.control.children() if str(workload_id) in " ".join(child.cmdline())]
    gateway = httpx.Client(transport=httpx.HTTPTransport(uds=str(agent.state_directory / "gateway" / "gateway.sock")))
    with gateway, Path(f"/proc/{supervisor.pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{supervisor.pid}/maps").read_text().splitlines():
            start, end = (int(side, 16) for side in line.split()[0].split("-"))
            if "rw" not in line:
                continue
            for token in gateway_tokens(os.pread(memory.fileno(), end - start, start)):
                answer = gateway.get("http://gateway/execution/health", headers={"Authorization": f"Bearer {token}"})
                if answer.status_code == 200:
                    return token
    raise AssertionError("the supervisor has no gateway token")


def _start(plane: Plane, dag_id: str, **conf: Any) -> str:
    run_id = f"{dag_id}-{time.time_ns()}"
    plane.operate("trigger", dag_id=dag_id, run_id=run_id, conf=conf)
    return run_id


def _state(plane: Plane, run_id: str) -> str | None:
    rows = plane.database.rows("SELECT state FROM task_instance WHERE run_id = %s", (run_id,))
    state = rows[0][0]
    return None if state is None else str(state)


def _orders(plane: Plane, agent: Agent, victim: str, report: Path) -> dict[str, Any]:
    row = plane.database.rows("SELECT id::text, subject_id FROM isthmus_workload WHERE run_id = %s", (victim,))[0]
    needles = plane.secrets | {"agent token": agent.token.split("_", 3)[3]}
    control = agent.control.pid
    return {
        "needles": {what: needle[::-1] for what, needle in needles.items()},
        "report": str(report),
        "agent_directory": str(agent.directory),
        "files": [
            *map(str, (agent.token_file, agent.state_directory / "lock", plane.directory / "admin-token")),
            *(str(path) for path in agent.state_directory.rglob("*")),
        ],
        "walk": [str(agent.directory), str(plane.directory), "/etc", "/run", "/var", "/home", "/root", "/tmp", "/"],
        "walk_seconds": 20,
        "memory_seconds": 30,
        "users": [agent.users.control] if agent.users else [],
        "victims": [control] if agent.users else [],
        "ports": [plane.api_port, plane.admin_port, plane.airflow_port, plane.database.port, agent.health_port],
        "admin_port": plane.admin_port,
        "deployment_id": plane.deployment_id,
        "victim_workload_id": row[0],
        "victim_task_instance_id": row[1],
    }


# --- the production set-up -----------------------------------------------------------------------------------------


def test_no_secret_is_found(raid: Raid) -> None:
    assert raid.loot.found == []


def test_the_attack_looked_everywhere(raid: Raid) -> None:
    loot = raid.loot
    assert loot.succeeded("own memory") > 20
    assert loot.succeeded("/proc/pid/cmdline") > 3
    assert loot.succeeded("a file on the way") > 50
    for attempt in ("/proc/pid/environ", "/proc/pid/mem", "ptrace", "process_vm_readv", "pidfd_getfd", "kill a victim"):
        loot.succeeded(attempt)


def test_the_control_process_is_out_of_reach(raid: Raid) -> None:
    control = str(raid.agent.control.pid)
    touched = [each for each in raid.loot.allowed if control in each.replace("/", " ").split()]
    assert all(each.startswith(("/proc/pid/cmdline", "/proc/pid/coredump_filter")) for each in touched), touched
    for attempt in (
        "kill a victim",
        "allow a core dump",
        "a file of the agent",
        "write a file of the agent",
        "open a lock",
        "become another user",
        "become root of a name space",
    ):
        assert attempt not in raid.loot.attempts or raid.loot.succeeded(attempt) == 0, raid.loot.allowed
    assert raid.agent.control.running
    assert Path(f"/proc/{control}/mem").stat().st_uid == 0, "the control process is not dumpable"


def test_nothing_but_the_execution_api_is_reached_through_the_gateway(raid: Raid, plane: Plane) -> None:
    answers = [answer for answer in raid.loot.answers if answer["name"].startswith("gateway")]
    assert any("with a token: inside" in answer["name"] and answer["status"] == 200 for answer in answers)
    outside = [answer for answer in answers if ": outside" in answer["name"] and (answer["status"] or 0) < 400]
    assert [answer for answer in outside if answer["status"] is not None] == []
    prefix = f"/{plane.deployment_id}{paths.EXECUTION_PREFIX}/"
    agents_own = re.compile(
        f"/{plane.deployment_id}{paths.AGENT_PREFIX}/(heartbeats|claims|starts|settlements|log-reads|workloads/[0-9a-f-]+/token)"
    )
    for seen in raid.seen:
        if agents_own.fullmatch(seen.path):
            continue
        assert seen.path.startswith(prefix), seen
        assert _stays_inside(seen.path), seen
        names = [name for name, _ in seen.headers]
        for name in (paths.AGENT_TOKEN_HEADER, paths.AGENT_ID_HEADER, paths.WORKLOAD_ID_HEADER, "authorization"):
            assert names.count(name.lower()) == 1, (seen.path, names)
        assert dict(seen.headers)[paths.AGENT_TOKEN_HEADER.lower()] == raid.agent.token


def _stays_inside(path: str) -> bool:
    """Whether nobody on the way, however often they decode and whatever they take for a parameter, sees a way out."""
    for _ in range(3):
        segments = [segment.partition(";")[0] for segment in re.split(r"[/\\]", path.partition("?")[0])]
        if {".", ".."} & set(segments):
            return False
        path = unquote(path)
    return True


def test_a_task_speaks_for_itself_alone(raid: Raid, plane: Plane) -> None:
    answers = [answer for answer in raid.loot.answers if ": victim" in answer["name"]]
    assert answers
    assert all(answer["status"] is None or answer["status"] >= 400 for answer in answers), answers
    assert raid.victim_state == "success"
    known = {
        str(row[0]) for row in plane.database.rows("SELECT id::text FROM isthmus_workload WHERE queue = 'hostile'")
    }
    told = {dict(seen.headers).get(paths.WORKLOAD_ID_HEADER.lower()) for seen in raid.seen} - {None}
    assert told <= known


def test_without_its_token_the_gateway_says_no(raid: Raid) -> None:
    strangers = [
        answer
        for answer in raid.loot.answers
        if answer["name"].startswith("gateway") and "with a token" not in answer["name"]
    ]
    assert strangers
    assert [answer for answer in strangers if answer["status"] is not None and answer["status"] < 400] == []


def test_the_planes_listeners_say_nothing(raid: Raid, plane: Plane) -> None:
    admin = [answer for answer in raid.loot.answers if answer["name"] == f"port {plane.admin_port}"]
    assert admin
    guarded = [answer for answer in admin if "/admin/v1" in answer["request"]]
    assert {answer["status"] for answer in guarded} == {401}
    airflow = [answer for answer in raid.loot.answers if answer["name"] == f"port {plane.airflow_port}"]
    assert {answer["status"] for answer in airflow if "/api/v2/connections" in answer["request"]} <= {401, 403}


def test_the_tasks_were_separate_processes_of_the_task_user(raid: Raid) -> None:
    assert raid.agent.users == Users(CONTROL_USER, TASK_USER)
    assert raid.agent.fork_server().uids().real == TASK_USER
    control = programs.processes_of(CONTROL_USER)
    assert [process.pid for process in control] == [raid.agent.control.pid], programs.describe(control)


# --- the careless set-up -------------------------------------------------------------------------------------------


def test_the_attack_finds_what_is_left_lying_about(plane: Plane) -> None:
    """The canary: one user for everything, and secrets where the attack should look."""
    agent = Agent(plane, "careless", slots=3, run_as=CARELESS_USER)
    (agent.directory / "planted.env").write_text("\n".join(plane.secrets.values()))
    with _keeper(agent, plane.secrets["admin token"]) as keeper:
        try:
            agent.start()
            loot = _raid(plane, agent, None).loot
        finally:
            agent.close()
        where = {(each["what"], each["where"]) for each in loot.found}
        assert ("agent token", str(agent.token_file)) in where
        assert loot.what() >= {"agent token", *plane.secrets}
        assert ("admin token", f"/proc/{keeper.pid}/environ") in where
        assert any(what == "admin token" and f"/proc/{keeper.pid}/mem" in place for what, place in where)
        assert f"ptrace {keeper.pid}" in loot.allowed
        assert any(each.startswith(f"pidfd_getfd {keeper.pid} ") for each in loot.allowed)


@contextmanager
def _keeper(agent: Agent, secret: str) -> Iterator[Program]:
    """A process of the careless user that has a secret in its environment and in its memory."""
    keeper = Program(
        "keeper",
        [sys.executable, "-c", "import os, time; kept = os.environ['SECRET'] * 2; time.sleep(600)"],
        environment={"SECRET": secret},
        log=agent.directory / "keeper.log",
        user=CARELESS_USER,
        stdin=subprocess.DEVNULL,
    )
    keeper.start()
    try:
        yield keeper
    finally:
        keeper.kill_group()
