"""``make demo``: a whole deployment and one agent on this machine, the examples on the agent, and what became of them.

State is in ``.demo/``: ``plane/`` (ours alone), ``postgres/``, ``agent/`` (see ``places``), ``summary.json``. The agent
is what it would be elsewhere: a separate process that inherits no environment, has a token, a URL and a certificate,
and its own copy of the DAGs and the data.

Invariants: exit code 0 means that every task ended as it should, on the agent; no process is left, however this ends.
"""

import argparse
import json
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from isthmus.cli import places, printing, stacks, workloads
from isthmus.cli.airflows import Airflow, TaskInstance
from isthmus.cli.calling import Plane, find_door
from isthmus.cli.composing import Composition, Program, StopRequested, contained
from isthmus.cli.exits import Exit, conclude
from isthmus.deployment import embedded
from isthmus.deployment.initializing import Deployment, DeploymentSpec
from isthmus.kit.errors import ConfigError, PermanentError, TemporaryError
from isthmus.wire import admin

AGENT: Final = "demo-agent"
SLOTS: Final = 4
BUNDLE: Final = "examples"
#: A run that takes longer is stuck: the whole demo needs less than a minute.
_RUN_SECONDS: Final = 180.0
_AGENT_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.3


class DemoError(PermanentError):
    """The demo did not end as it should."""


@dataclass(frozen=True, slots=True)
class Expected:
    """How one task of the examples has to end. ``instances`` counts mapped ones."""

    state: str = "success"
    try_number: int = 1
    instances: int = 1


#: DAG and task → how it has to end. A task of ``examples/dags`` that is not here is wrong as well.
EXPECTED: Final[dict[str, dict[str, Expected]]] = {
    "river_levels": {
        "list_gauges": Expected(),
        "summarise": Expected(instances=5),
        "compare": Expected(),
        "send_bulletin": Expected(try_number=2),  # fails at its first try, on purpose
    },
    "broken_gauge": {
        "check_reading": Expected(state="failed"),  # on purpose
    },
}


@dataclass(frozen=True, slots=True)
class Row:
    """One task in the summary. Times are RFC 3339."""

    dag_id: str
    task_id: str
    map_index: int
    try_number: int
    state: str | None
    agent: str | None
    queued: str | None
    started: str | None
    ended: str | None


def summarise(tasks: Sequence[TaskInstance], handed_out: Sequence[admin.WorkloadView]) -> list[Row]:
    """What became of each task, as Airflow has it, and which agent ran its last try, as the deployment has it."""
    agents = {
        (one.dag_id, one.task_id, one.run_id, one.map_index, one.try_number): one.agent_name for one in handed_out
    }
    rows = [
        Row(
            dag_id=task.dag_id,
            task_id=task.task_id,
            map_index=task.map_index,
            try_number=task.try_number,
            state=task.state,
            agent=agents.get((task.dag_id, task.task_id, task.run_id, task.map_index, task.try_number)),
            queued=_text(task.queued_at),
            started=_text(task.started_at),
            ended=_text(task.ended_at),
        )
        for task in tasks
    ]
    return sorted(rows, key=lambda row: (row.started or "~", row.map_index))


def judge(rows: Sequence[Row], handed_out: Sequence[admin.WorkloadView]) -> list[str]:
    """What is not as it should be; empty when all is well."""
    wrong: list[str] = []
    for dag_id, tasks in EXPECTED.items():
        for task_id, expected in tasks.items():
            name = f"{dag_id}.{task_id}"
            found = [row for row in rows if (row.dag_id, row.task_id) == (dag_id, task_id)]
            if len(found) != expected.instances:
                wrong.append(f"{name} ran {len(found)} times instead of {expected.instances}")
            wrong += [
                f"{name}[{row.map_index}] ended {row.state} at try {row.try_number}, "
                f"not {expected.state} at try {expected.try_number}"
                for row in found
                if (row.state, row.try_number) != (expected.state, expected.try_number)
            ]
            tries = [one for one in handed_out if (one.dag_id, one.task_id) == (dag_id, task_id)]
            if len(tries) != expected.instances * expected.try_number:
                wrong.append(f"{name} was handed out {len(tries)} times")
            wrong += [
                f"{workloads.title(one)} ran on {one.agent_name}, not {AGENT}"
                for one in tries
                if one.agent_name != AGENT
            ]
    known = {(dag_id, task_id) for dag_id, tasks in EXPECTED.items() for task_id in tasks}
    wrong += [f"{row.dag_id}.{row.task_id} was not expected" for row in rows if (row.dag_id, row.task_id) not in known]
    return wrong


class Demo:
    """One run of the demo over the checkout at ``root``."""

    def __init__(self, root: Path, *, keep: bool) -> None:
        self._root = root
        self._keep = keep
        self._state = root / ".demo"
        self._console = Console(highlight=False)
        self._began = time.monotonic()
        self._run_id = f"demo__{datetime.now(UTC):%Y%m%dT%H%M%S}"

    def run(self) -> int:
        """Run it all; the exit code. Raises what stopped it."""
        self._console.print("Isthmus demo: a deployment and an agent on this machine\n")
        self._state.mkdir(exist_ok=True)
        self._state.chmod(0o755)
        postgres = self._state / "postgres"
        for path, mode in ((self._state / "plane", 0o700), (postgres, 0o711)):
            path.mkdir(exist_ok=True)
            path.chmod(mode)
        with ExitStack() as stack:
            deployment = stack.enter_context(stacks.opened(self._spec(), postgres))
            self._say("PostgreSQL is ready")
            plane = stacks.Stack(deployment, postgres)
            if plane.migrate():
                self._say("the tables of Airflow and Isthmus are there")
            airflow = Airflow(deployment.airflow_url)
            stack.callback(airflow.close)
            composition = stack.enter_context(Composition())
            for program in plane.programs(airflow):
                composition.start(program)
            door = find_door(None, plane.admin_url, deployment.admin_token_file)
            operator = Plane(door)
            stack.callback(operator.close)
            composition.await_ready(stacks.REMOTE_EXECUTION_API, told=self._ready)
            self._start_agent(composition, deployment, operator)
            composition.await_ready(told=self._ready)
            ended = self._run_examples(composition, airflow, operator)
            code = self._conclude(ended, operator, deployment)
            if self._keep:
                self._linger(composition)
            return code

    def _linger(self, composition: Composition) -> None:
        self._say("everything is left running: Ctrl-C stops it")
        try:
            composition.watch()
        except StopRequested:
            self._say("stopping")

    # --- the plane ----------------------------------------------------------------------------------------------

    def _spec(self) -> DeploymentSpec:
        airflow_port = stacks.free_port(8080)
        listen_port = stacks.free_port(8443, taken=(airflow_port,))
        admin_port = stacks.free_port(8444, taken=(airflow_port, listen_port))
        return DeploymentSpec(
            directory=self._state / "plane",
            airflow_port=airflow_port,
            listen_host="127.0.0.1",
            listen_port=listen_port,
            admin_port=admin_port,
            environment={
                # Everybody who reaches Airflow's UI is its administrator: it listens on loopback alone.
                "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
                "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
                "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": _bundles(self._root / "examples" / "dags"),
                "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            },
        )

    # --- the agent ----------------------------------------------------------------------------------------------

    def _start_agent(self, composition: Composition, deployment: Deployment, operator: Plane) -> None:
        place = places.prepare(self._state / "agent", self._root / "examples")
        for note in place.notes:
            self._say(f"note: {note}")
        for token in operator.tokens().tokens:  # of earlier runs
            if token.state is admin.TokenState.ACTIVE:
                operator.revoke_token(token.token_id)
        made = operator.create_token(admin.TokenCreateRequest(name=AGENT, expires_days=1))
        token_file, certificate = place.control / "token", place.control / "ca.crt"
        task_environment = place.control / "task-environment"
        places.write_private(token_file, made.secret + "\n", place.control_user)
        places.write_private(certificate, deployment.ca_certificate.read_text(), place.control_user)
        places.write_private(task_environment, _task_environment(place), place.control_user)
        settings = {
            "url": deployment.agent_url,
            "token-file": str(token_file),
            "ca-file": str(certificate),
            "name": AGENT,
            "slots": str(SLOTS),
            "state-dir": str(place.state),
            "runner-environment-file": str(task_environment),
            "health-listen": f"127.0.0.1:{stacks.free_port(9321)}",
        }
        if place.control_user is not None and place.task_user is not None:
            settings["user"] = f"{place.control_user.uid}:{place.control_user.gid}"
            settings["task-user"] = f"{place.task_user.uid}:{place.task_user.gid}"
        flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
        began = datetime.now(UTC)
        composition.start(
            Program(
                name=f"agent {AGENT}",
                command=(str(place.python), "-m", "isthmus.cli.main", "agent", *flags),
                environment={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                log=self._state / "agent.log",
                ready=lambda: _is_healthy(operator, began),
                ready_seconds=_AGENT_SECONDS,
                cwd=Path("/"),
                leaves_first=True,
            )
        )
        users = (
            f"; control process as user {settings['user']}, tasks as user {settings['task-user']}"
            if place.is_split
            else ""
        )
        self._say(f"an agent starts with a clean environment{users}:")
        shown = [_short(Path(word)) if word.startswith("/") else word for word in flags[:4]]
        self._console.print(f"          isthmus agent {shlex.join(shown)} …", soft_wrap=True)

    # --- the examples -------------------------------------------------------------------------------------------

    def _run_examples(self, composition: Composition, airflow: Airflow, operator: Plane) -> list[TaskInstance]:
        self._await_dags(composition, airflow)
        for dag_id in EXPECTED:
            airflow.trigger(dag_id, self._run_id)
        self._say(f"the DAGs {' and '.join(EXPECTED)} are triggered")
        deadline = time.monotonic() + _RUN_SECONDS
        seen: dict[str, str | None] = {}
        # Without a thread of its own: programs are forked from this process.
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                composition.check()
                # The runs first: tasks that are read after their run has ended have their last state.
                states = {dag_id: airflow.run_state(dag_id, self._run_id) for dag_id in EXPECTED}
                tasks = [task for dag_id in EXPECTED for task in airflow.task_instances(dag_id, self._run_id)]
                self._show_changes(tasks, seen)
                live.update(_under_way(tasks), refresh=self._console.is_terminal)
                if all(state in {"success", "failed"} for state in states.values()):
                    break
                if time.monotonic() > deadline:
                    raise DemoError(
                        f"the runs did not end within {_RUN_SECONDS:.0f} s: {states}",
                        code="demo_stuck",
                        hint=f"See {_short(self._state / 'agent.log')} and {_short(self._state / 'plane' / 'logs')}.",
                    )
                time.sleep(_POLL_SECONDS)
        self._await_settled(composition, operator)
        return tasks

    def _await_dags(self, composition: Composition, airflow: Airflow) -> None:
        deadline = time.monotonic() + _RUN_SECONDS
        while not all(airflow.knows(dag_id) for dag_id in EXPECTED):
            composition.check()
            if time.monotonic() > deadline or (wrong := airflow.import_errors()):
                raise DemoError("Airflow does not know the examples", code="demo_dags_missing", hint="\n".join(wrong))
            time.sleep(_POLL_SECONDS)

    def _await_settled(self, composition: Composition, operator: Plane) -> None:
        """Wait for the agent's own word: a task reports its end to Airflow before the agent settles its lease."""
        deadline = time.monotonic() + 30
        while operator.deployment().workloads_active and time.monotonic() < deadline:
            composition.check()
            time.sleep(_POLL_SECONDS)

    def _show_changes(self, tasks: Sequence[TaskInstance], seen: dict[str, str | None]) -> None:
        for task in sorted(tasks, key=lambda one: (one.ended_at or datetime.max.replace(tzinfo=UTC), one.map_index)):
            name = f"{task.dag_id}.{task.task_id}" + (f"[{task.map_index}]" if task.map_index >= 0 else "")
            if task.state in {"success", "failed", "up_for_retry", "upstream_failed"} and seen.get(name) != task.state:
                self._say(f"{name:34} {task.state}" + (f" at try {task.try_number}" if task.try_number > 1 else ""))
            seen[name] = task.state

    # --- the end ------------------------------------------------------------------------------------------------

    def _conclude(self, tasks: Sequence[TaskInstance], operator: Plane, deployment: Deployment) -> int:
        handed_out = [one for one in operator.workloads(200).workloads if one.run_id == self._run_id]
        rows = summarise(tasks, handed_out)
        path = self._state / "summary.json"
        path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
        self._console.print()
        printing.table(
            ("DAG", "TASK", "TRY", "STATE", "AGENT", "WAITED", "TOOK"),
            (
                (
                    row.dag_id,
                    row.task_id + (f"[{row.map_index}]" if row.map_index >= 0 else ""),
                    str(row.try_number),
                    row.state or printing.NOTHING,
                    row.agent or printing.NOTHING,
                    _between(row.queued, row.started),
                    _between(row.started, row.ended),
                )
                for row in rows
            ),
            empty="No task ran.",
        )
        self._console.print()
        wrong = judge(rows, handed_out)
        if wrong:
            for one in wrong:
                self._console.print(f"[red]wrong:[/] {one}", soft_wrap=True)
        else:
            self._console.print(
                f"All {len(rows)} tasks ended as they should, on {AGENT} (two failures are on purpose)."
            )
        self._console.print(f"Summary: {_short(path)}", soft_wrap=True)
        where = deployment.airflow_url
        if self._keep:
            self._console.print(f"Airflow: {where} (no password: it listens on this machine alone)", soft_wrap=True)
            self._console.print(
                f"Operate: .venv/bin/isthmus agents list --deployment {_short(deployment.directory)}", soft_wrap=True
            )
        else:
            self._console.print(f"Airflow was at {where}; to look around: make demo KEEP=1", soft_wrap=True)
        return Exit.FAILED if wrong else Exit.DONE

    def _ready(self, name: str) -> None:
        self._say(f"{name} is ready")

    def _say(self, text: str) -> None:
        self._console.print(f"{time.monotonic() - self._began:6.1f} s  {text}", soft_wrap=True, markup=False)


def _under_way(tasks: Sequence[TaskInstance]) -> Text:
    """What has not ended yet, for a terminal."""
    waiting = [task for task in tasks if task.state not in {"success", "failed", "upstream_failed"}]
    names = (f"{task.task_id} {task.state or 'waits'}" for task in waiting)
    return Text("          " + ", ".join(names), style="dim", overflow="ellipsis", no_wrap=True)


def _bundles(folder: Path) -> str:
    bundle = {
        "name": BUNDLE,
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(folder)},
    }
    return json.dumps([bundle])


def _task_environment(place: places.AgentPlace) -> str:
    """What tasks get of Airflow: their own home, their own copy of the DAGs, and nothing of the plane's."""
    settings = {
        "AIRFLOW_HOME": str(place.tasks),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": _bundles(place.bundle / "dags"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(place.tasks / "logs"),
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def _is_healthy(operator: Plane, since: datetime) -> bool:
    try:
        return any(
            agent.name == AGENT
            and agent.health is admin.AgentHealth.HEALTHY
            and (agent.last_heartbeat_at or since) > since
            and agent.versions.get("airflow") is not None  # its fork server is there
            for agent in operator.agents().agents
        )
    except TemporaryError:
        return False


def _short(path: Path) -> str:
    """``path`` as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _between(start: str | None, end: str | None) -> str:
    if start is None or end is None:
        return printing.NOTHING
    return printing.duration(datetime.fromisoformat(end) - datetime.fromisoformat(start))


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def clean(root: Path) -> None:
    """Remove everything that a demo of this checkout has left."""
    state = root / ".demo"
    postgres = state / "postgres"
    if postgres.exists():
        embedded.stop(postgres)
        identity: dict[str, Any] = {}
        if (postgres / "embedded.json").exists():
            identity = json.loads((postgres / "embedded.json").read_text())
        shutil.rmtree(identity.get("data", postgres / "data"), ignore_errors=True)
    places.remove(state / "agent")
    shutil.rmtree(state, ignore_errors=True)


def main() -> int:
    """Run or clean the demo of a checkout."""
    parser = argparse.ArgumentParser(prog="make demo", description="Run the example DAGs on an agent.")
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument("--clean", action="store_true", help="remove what earlier runs have left")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[3], help="the checkout")
    arguments = parser.parse_args()
    root: Path = arguments.root.resolve()
    if arguments.clean:
        clean(root)
        return Exit.DONE
    if not (root / "examples" / "dags").is_dir():
        return conclude(ConfigError(f"{root} has no examples", code="demo_no_examples", hint="Run it in a checkout."))
    return contained(Demo(root, keep=arguments.keep).run)


if __name__ == "__main__":
    sys.exit(main())
