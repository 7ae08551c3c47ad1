"""The demo's agents: programs that inherit no environment and hold a token, a URL and a certificate; nothing else."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from isthmus.cli import places
from isthmus.cli.calling import Plane
from isthmus.cli.composing import Composition, Program
from isthmus.cli.demo import bundles
from isthmus.cli.demo.telling import Teller, short
from isthmus.kit.errors import TemporaryError
from isthmus.wire import admin
from isthmus.wire.names import PathKind, Role

SLOTS: Final = 4
_READY_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One agent. ``entering`` are the words before its command: those that lead into its network."""

    name: str
    directory: Path
    url: str
    authority: Path
    health_port: int
    #: What it does; nothing named is everything.
    roles: tuple[Role, ...] = ()
    entering: Sequence[str] = ()
    #: For ``entering``, which is ours; the agent itself starts with none of it.
    environment: tuple[tuple[str, str], ...] = ()


class Agents:
    """Starts agents, and knows how they are doing. ``operator`` is the deployment's admin API."""

    def __init__(self, teller: Teller, composition: Composition, operator: Plane, examples: Path, logs: Path) -> None:
        self._teller = teller
        self._composition = composition
        self._operator = operator
        self._examples = examples
        self._logs = logs
        self._python: Path | None = None

    def revoke_earlier(self) -> None:
        """Revoke the tokens of earlier demos."""
        for token in self._operator.tokens().tokens:
            if token.state is admin.TokenState.ACTIVE:
                self._operator.revoke_token(token.token_id)

    def start(self, spec: AgentSpec) -> None:
        """Start an agent with a new token; it is ready when the deployment says that it is healthy."""
        place = places.prepare(spec.directory, self._examples, python=self._python)
        self._python = place.python
        for note in place.notes:
            self._teller.say(f"note: {note}")
        made = self._operator.create_token(admin.TokenCreateRequest(name=spec.name, expires_days=1))
        token_file, certificate = place.control / "token", place.control / "ca.crt"
        task_environment = place.control / "task-environment"
        places.write_private(token_file, made.secret + "\n", place.control_user)
        places.write_private(certificate, spec.authority.read_text(), place.control_user)
        places.write_private(task_environment, _task_environment(place), place.control_user)
        settings = {
            "url": spec.url,
            "token-file": str(token_file),
            "ca-file": str(certificate),
            "name": spec.name,
            "slots": str(SLOTS),
            "state-dir": str(place.state),
            "runner-environment-file": str(task_environment),
            "health-listen": f"127.0.0.1:{spec.health_port}",
        }
        if spec.roles:
            settings["role"] = ",".join(spec.roles)
        if place.control_user is not None and place.task_user is not None:
            settings["user"] = f"{place.control_user.uid}:{place.control_user.gid}"
            settings["task-user"] = f"{place.task_user.uid}:{place.task_user.gid}"
        flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
        clean = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        program = (str(place.python), "-m", "isthmus.cli.main", "agent", *flags)
        if spec.entering:  # what leads into a network needs variables that the agent is not to have
            program = (
                *spec.entering,
                "/usr/bin/env",
                "-i",
                *(f"{name}={value}" for name, value in clean.items()),
                *program,
            )
        began = datetime.now(UTC)
        self._composition.start(
            Program(
                name=f"agent {spec.name}",
                command=program,
                environment=dict(spec.environment) if spec.entering else clean,
                log=self._logs / f"{spec.name}.log",
                ready=lambda: self.find(spec.name, since=began) is not None,
                ready_seconds=_READY_SECONDS,
                cwd=Path("/"),
                leaves_first=True,
            )
        )
        users = (
            f"; control process as user {settings['user']}, tasks as user {settings['task-user']}"
            if place.is_split
            else ""
        )
        self._teller.say(f"agent {spec.name} starts with a clean environment{users}:")
        shown = [short(word) if word.startswith("/") else word for word in flags[:4]]
        self._teller.console.print(f"          $ isthmus agent {shlex.join(shown)} …", soft_wrap=True)

    def list(self) -> tuple[admin.AgentView, ...]:
        """All agents that the deployment knows; none while it does not answer."""
        try:
            return self._operator.agents().agents
        except TemporaryError:
            return ()

    def find(self, name: str, *, since: datetime) -> admin.AgentView | None:
        """An agent that is healthy, and has said so later than ``since``, with what runs tasks."""
        return next(
            (
                agent
                for agent in self.list()
                if agent.name == name
                and agent.health is admin.AgentHealth.HEALTHY
                and (agent.last_heartbeat_at or since) > since
                and agent.versions.get("airflow") is not None  # its fork server is there
            ),
            None,
        )

    def paths(self) -> dict[str, str]:
        """Agent → the path that it is on now."""
        return {agent.name: path_of(agent) for agent in self.list()}


def path_of(agent: admin.AgentView) -> str:
    """``public`` with the address that was seen, or which link."""
    if agent.path is PathKind.LINK:
        return f"link {agent.link_id}"
    return f"public {agent.address}"


def _task_environment(place: places.AgentPlace) -> str:
    """What tasks get of Airflow: their own home, their own copy of the DAGs, and nothing of the plane's."""
    settings = {
        "AIRFLOW_HOME": str(place.tasks),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": bundles.setting(place.bundle / "dags"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(place.tasks / "logs"),
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())
