"""A real agent on one lane: ``isthmus agent`` with a clean environment and users of its own.

As root the control process and the tasks run under two numeric users that no other agent has, which is the documented
production set-up and makes "what did it leave behind" a question with an exact answer. Otherwise everything runs as the
user of the tests, and only the processes that the ledgers name are looked for.
"""

import itertools
import os
import re
import signal
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import psutil

from faults.harness import ports, programs, waits
from faults.harness.certificates import Authority
from faults.harness.planes import BINARIES, Plane, bundle_environment
from faults.harness.programs import Program
from isthmus.wire import paths
from isthmus.wire.admin import AgentHealth, AgentPage, AgentView, TokenCreated
from isthmus.wire.agents import HeartbeatResponse

_numbers = itertools.count()

#: Numeric users without an entry in the password database, two for each agent, and others in another run of the tests.
FIRST_USER = 1_000_000 + 1000 * (os.getpid() % 1000)


@dataclass(frozen=True)
class Users:
    """Under whom the halves of an agent run."""

    control: int
    tasks: int


class Agent:
    """One agent that serves the queue ``lane``. ``port`` is where it finds the plane: the API itself, or a detour.

    ``run_as`` is for the careless set-up: everything under one user.
    """

    def __init__(
        self,
        plane: Plane,
        lane: str,
        *,
        name: str | None = None,
        slots: int = 2,
        port: int | None = None,
        authority: Authority | None = None,
        users: Users | None = None,
        run_as: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        number = next(_numbers)
        self.plane = plane
        self.lane = lane
        self.name = name or f"{lane}-agent"
        self.slots = slots
        self.users = users
        self._run_as = run_as
        if users is None and run_as is None and os.geteuid() == 0:
            self.users = Users(FIRST_USER + 2 * number, FIRST_USER + 2 * number + 1)
        self.health_port = ports.free_port()
        self.directory = plane.directory / self.name
        self.state_directory = self.directory / "state"
        self.token_file = self.directory / "token"
        self.token = self._make_directories()
        authority = authority or plane.authority
        self.control = Program(
            self.name,
            [BINARIES / "isthmus", "agent"],
            environment={
                "ISTHMUS_AGENT_URL": plane.url_at(port or plane.api_port),
                "ISTHMUS_AGENT_CA_FILE": str(authority.certificate),
                "ISTHMUS_AGENT_TOKEN_FILE": str(self.token_file),
                "ISTHMUS_AGENT_NAME": self.name,
                "ISTHMUS_AGENT_ROLE": "worker",
                "ISTHMUS_AGENT_QUEUES": lane,
                "ISTHMUS_AGENT_SLOTS": str(slots),
                "ISTHMUS_AGENT_STATE_DIR": str(self.state_directory),
                "ISTHMUS_AGENT_HEALTH_LISTEN": f"127.0.0.1:{self.health_port}",
                "ISTHMUS_AGENT_DRAIN_SECONDS": "5",
                "ISTHMUS_AGENT_KILL_GRACE_SECONDS": "2",
                "AIRFLOW_HOME": str(self.directory / "airflow"),
                "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.directory / "logs"),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                **bundle_environment(plane.dags),
                **self._user_settings(),
                **(settings or {}),
            },
            log=self.directory / "agent.log",
            user=run_as,
        )

    def _user_settings(self) -> dict[str, str]:
        if self._run_as is not None:  # what a login gives, and Airflow asks for
            return {"USER": str(self._run_as), "LOGNAME": str(self._run_as), "HOME": str(self.directory)}
        if self.users is None:
            return {}
        return {"ISTHMUS_AGENT_USER": str(self.users.control), "ISTHMUS_AGENT_TASK_USER": str(self.users.tasks)}

    def _make_directories(self) -> str:
        one = -1 if self._run_as is None else self._run_as
        control, tasks = (self.users.control, self.users.tasks) if self.users else (one, one)
        for directory, owner, mode in (
            (self.directory, -1, 0o755),
            (self.state_directory, control, 0o700),
            (self.directory / "airflow", tasks, 0o755),
            (self.directory / "logs", tasks, 0o755),
        ):
            directory.mkdir()
            directory.chmod(mode)
            os.chown(directory, owner, owner)
        answer = self.plane.admin.post(paths.ADMIN_TOKENS, json={"name": self.name, "expires_days": 1})
        assert answer.status_code == 201, answer.text
        token = TokenCreated.model_validate_json(answer.content).secret
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(token + "\n")
        os.chown(self.token_file, control, control)
        return token

    # --- the life of the agent ---------------------------------------------------------------------------------

    def start(self, *, ready: bool = True) -> "Agent":
        self.control.start()
        if ready:
            self.await_healthy()
        return self

    def stop(self, seconds: float = 30) -> int:
        return self.control.stop(seconds)

    def kill(self) -> None:
        """SIGKILL to the control process alone, as by the kernel when memory ends."""
        self.control.kill()

    def start_again(self) -> "Agent":
        """As a service manager does."""
        return self.start()

    def close(self) -> None:
        if self.control.running:
            self.control.send(signal.SIGTERM)
            with suppress(AssertionError):
                self.control.wait(15)
        self.control.kill_group()

    def await_healthy(self, seconds: float = 60) -> None:
        """Until the plane and the agent agree that it is well."""

        def healthy() -> bool:
            view = self.view()
            return view is not None and view.health is AgentHealth.HEALTHY and self.ready()

        self.control.await_ready(f"{self.name} is healthy", healthy, seconds=seconds, evidence=self.evidence)

    # --- what can be seen of it --------------------------------------------------------------------------------

    def view(self) -> AgentView | None:
        """The agent as the plane sees it."""
        answer = self.plane.admin.get(paths.ADMIN_AGENTS, params={"name": self.name})
        assert answer.status_code == 200, answer.text
        agents = AgentPage.model_validate_json(answer.content).agents
        return agents[0] if agents else None

    def health(self) -> dict[str, Any]:
        """What the agent says of itself; empty while it does not answer."""
        try:
            return dict(httpx.get(f"http://127.0.0.1:{self.health_port}/healthz", timeout=5).json())
        except httpx.TransportError:
            return {}

    def warnings(self) -> dict[str, dict[str, Any]]:
        """What the agent says is wrong, by code; nothing while it does not answer."""
        return {warning["code"]: warning for warning in self.health().get("warnings", ())}

    def ready(self) -> bool:
        """Whether the agent says of itself that it is ready for work."""
        health = self.health()
        return bool(health) and health["status"] != "error" and health["enrolled"] and health["plane_reachable"]

    def fork_server(self) -> psutil.Process:
        """The one child of the control process."""
        children = [child for child in psutil.Process(self.control.pid).children() if programs.is_alive(child)]
        assert len(children) == 1, programs.describe(children)
        return children[0]

    def component(self, title: str) -> psutil.Process:
        """The DAG processor or the triggerer: the child of the control process with ``title`` in its command."""
        children = psutil.Process(self.control.pid).children()
        (found,) = [child for child in children if any(title in word for word in child.cmdline())]
        return found

    def leftovers(self) -> list[psutil.Process]:
        """Processes that belong to tasks: what is below the fork server, and whatever else runs as the task user.

        While the agent runs, the fork server itself and the supervisors that it keeps ready are no leftovers.
        """
        found: dict[int, psutil.Process] = {}
        if self.users is not None:
            found |= {process.pid: process for process in programs.processes_of(self.users.tasks)}
        if self.control.running:
            found |= {process.pid: process for process in self.control.children()}
            for process in self._kept():
                found.pop(process.pid, None)
        return list(found.values())

    def _kept(self) -> list[psutil.Process]:
        children = psutil.Process(self.control.pid).children()
        spares = [spare for child in children for spare in child.children() if _is_spare(spare)]
        return [*children, *spares]

    def await_idle(self, seconds: float = 15) -> None:
        """Until all slots are free, by the plane's account and by the agent's, and no process of a task is left."""

        def idle() -> bool:
            view, health = self.view(), self.health()
            return (
                view is not None
                and view.slots_used == 0
                and health.get("slots_used") == 0
                and health.get("unsettled") == 0
                and not self.leftovers()
            )

        waits.until(f"{self.name} is idle", idle, seconds=seconds, evidence=self.evidence)

    def evidence(self) -> str:
        return f"{self.view()!r}\n{self.health()}\n{programs.describe(self.leftovers())}\n{self.control.tail()}"

    # --- speaking in its place ---------------------------------------------------------------------------------

    def impostor(self) -> "Impostor":
        return Impostor(self)


def _is_spare(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(re.search("(spare|idle) supervisor", " ".join(process.cmdline())))
    return False


class Impostor:
    """Speaks to the plane with the agent's own identity, as a delayed or repeated packet would."""

    def __init__(self, agent: Agent) -> None:
        row = agent.plane.database.rows(
            "SELECT id::text, instance_id::text FROM isthmus_agent WHERE name = %s", (agent.name,)
        )[0]
        self.agent_id, self.instance_id = UUID(str(row[0])), UUID(str(row[1]))
        self._url = agent.plane.url
        self._client = httpx.Client(
            verify=ssl.create_default_context(cafile=str(agent.plane.authority.certificate)),
            headers={"Authorization": f"Bearer {agent.token}"},
            timeout=10,
        )

    def post(self, path: str, **body: object) -> httpx.Response:
        identity = {"agent_id": str(self.agent_id), "instance_id": str(self.instance_id)}
        return self._client.post(f"{self._url}{path}", json={**identity, **body})

    def lost(self, leases: list[dict[str, object]]) -> list[dict[str, object]]:
        """Which of ``leases`` the plane says are lost, when a heartbeat claims to hold them."""
        held = [{**each, "started": True} for each in leases]
        beat = self.post(paths.HEARTBEATS, slots_used=len(leases), leases=held)
        lost = HeartbeatResponse.model_validate_json(beat.content).lost
        gone = {(str(each.workload_id), each.fence) for each in lost}
        return [each for each in leases if (each["workload_id"], each["fence"]) in gone]

    def close(self) -> None:
        self._client.close()
