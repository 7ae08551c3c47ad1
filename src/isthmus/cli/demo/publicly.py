"""The demo's public part, for machines without root: a deployment and one agent that reaches it directly."""

from contextlib import ExitStack
from pathlib import Path
from typing import Final

from isthmus.cli import stacks
from isthmus.cli.composing import Composition
from isthmus.cli.demo import plane
from isthmus.cli.demo.agents import Agents, AgentSpec
from isthmus.cli.demo.ending import Ending, conclude
from isthmus.cli.demo.examples import EXPECTED, LOGGED
from isthmus.cli.demo.runs import Runs
from isthmus.cli.demo.telling import Teller

AGENT: Final = "demo-agent"
#: What a link needs, and the story had: taken back, because the deployment's directory is kept.
_SETTINGS: Final = {
    "AIRFLOW__ISTHMUS__HEARTBEAT_SECONDS": "10",
    "AIRFLOW__ISTHMUS__LEASE_SECONDS": "30",
    "AIRFLOW__ISTHMUS__TRUSTED_PROXIES": "",
    "AIRFLOW__ISTHMUS__LINK_INGRESSES": "",
}


def run(teller: Teller, root: Path, *, keep: bool) -> int:
    """Run it all; the exit code. Raises what stopped it."""
    state, examples = root / ".demo", root / "examples"
    with ExitStack() as stack:
        composition = stack.enter_context(Composition())
        with teller.step("plane", "A deployment: Airflow with the Remote Execution API"):
            running = stack.enter_context(
                plane.running(teller, composition, state, settings=_SETTINGS, ports=plane.Ports.free())
            )
        deployment, operator = running.deployment, running.operator
        port = deployment.config.listen_port
        agents = Agents(teller, composition, operator, examples, state / "agents")
        with teller.step("agent", "An agent, which holds a token and nothing else"):
            if operator.deployment().allowed_ranges:
                operator.unrestrict()
            agents.revoke_earlier()
            url = f"https://localhost:{port}/{deployment.config.deployment_id}"
            agents.start(AgentSpec(AGENT, state / "agent", url, deployment.ca_certificate, stacks.free_port(9321)))
            composition.await_ready(told=teller.ready)
        runs = Runs(teller, running.airflow, operator, composition.check)
        with teller.step("public_path", "DAGs run on the agent, over the public path"):
            runs.await_dags()
            runs.run("public", tuple(EXPECTED), agents.paths, (AGENT,))
            runs.show_log(*LOGGED)
        return conclude(Ending(teller, composition, runs, running, has_link=False), keep=keep)
