"""The demo's deployment: PostgreSQL, Airflow, the Remote Execution API, all of one machine of the plane."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from isthmus.cli import stacks
from isthmus.cli.airflows import Airflow
from isthmus.cli.calling import Plane, find_door
from isthmus.cli.composing import Composition
from isthmus.cli.demo.telling import Teller
from isthmus.deployment.initializing import Deployment, DeploymentSpec
from isthmus.wire.names import Role


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a deployment listens: free on this machine now."""

    airflow: int
    agents: int
    admin: int

    @classmethod
    def free(cls) -> "Ports":
        """The usual ones, or others that are free."""
        airflow = stacks.free_port(8080)
        agents = stacks.free_port(8443, taken=(airflow,))
        return cls(airflow, agents, stacks.free_port(8444, taken=(airflow, agents)))


@dataclass(frozen=True, slots=True)
class RunningPlane:
    """A deployment whose programs have been started."""

    deployment: Deployment
    airflow: Airflow
    operator: Plane


@contextmanager
def running(
    teller: Teller,
    composition: Composition,
    state: Path,
    *,
    settings: Mapping[str, str],
    ports: Ports,
) -> Iterator[RunningPlane]:
    """The deployment in ``state``, its Remote Execution API ready, and Airflow on its way.

    ``settings`` are further lines of its environment.
    """
    postgres = state / "postgres"
    for path, mode in ((state / "plane", 0o700), (postgres, 0o711)):
        path.mkdir(exist_ok=True)
        path.chmod(mode)
    with ExitStack() as stack:
        deployment = stack.enter_context(stacks.opened(_spec(state, settings, ports), postgres))
        teller.say("PostgreSQL is ready")
        plane = stacks.Stack(deployment, postgres)
        if plane.migrate():
            teller.say("the tables of Airflow and Isthmus are there")
        airflow = Airflow(deployment.airflow_url)
        stack.callback(airflow.close)
        for program in plane.programs(airflow):
            composition.start(program)
        # The database is there for as long as this block; what works on it ends before.
        stack.callback(composition.stop)
        operator = Plane(find_door(None, plane.admin_url, deployment.admin_token_file))
        stack.callback(operator.close)
        composition.await_ready(stacks.REMOTE_EXECUTION_API, told=teller.ready)
        yield RunningPlane(deployment, airflow, operator)


def _spec(state: Path, settings: Mapping[str, str], ports: Ports) -> DeploymentSpec:
    return DeploymentSpec(
        directory=state / "plane",
        airflow_port=ports.airflow,
        listen_host="127.0.0.1",
        listen_port=ports.agents,
        admin_port=ports.admin,
        environment={
            # Everybody who reaches Airflow's UI is its administrator: it listens on loopback alone.
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            # Agents have the DAG files, and nobody else.
            "AIRFLOW__ISTHMUS__ROLES": ",".join(Role),
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            **settings,
        },
    )
