"""The whole story, as root: a plane and two customers in networks of their own, from the public path to a private link.

Whose network is whose::

    plane    10.20.0.0/16   PostgreSQL, Airflow, Remote Execution API, control plane, ingress; this process
    east     10.30.0.0/16   an agent; the first endpoint
    west     10.40.0.0/16   an agent; first over peering with east, then by an endpoint of its own

This process moves into the plane's network, so that it is what an operator's shell on a machine of the plane would be.
What the networks do not carry is forwarded by name: Azure's resource manager into the plane's network, and Airflow's
page out of it, for a browser on this machine.
"""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from isthmus.cli import places, stacks
from isthmus.cli.composing import Composition, Program
from isthmus.cli.demo import network, plane
from isthmus.cli.demo.agents import Agents, AgentSpec, path_of
from isthmus.cli.demo.ending import Ending, conclude
from isthmus.cli.demo.examples import EXPECTED, LOGGED
from isthmus.cli.demo.network import Azure
from isthmus.cli.demo.plane import RunningPlane
from isthmus.cli.demo.runs import Runs, handed_out_to
from isthmus.cli.demo.telling import DemoError, Teller, short
from isthmus.deployment import embedded
from isthmus.kit import certificates
from isthmus.wire import admin
from isthmus.wire.names import PathKind, Role

CLUSTER: Final = "cl2demo4567"
DOMAIN: Final = "example.org"
HOST: Final = f"{CLUSTER}.external.{DOMAIN}"
PLANE, EAST, WEST = "plane", "east", "west"
CIDR: Final = "10.20.0.0/16"
#: The customers' networks: name → prefix, subnet for agents, subnet for endpoints.
NETWORKS: Final[Mapping[str, tuple[str, str, str]]] = {
    EAST: ("10.30.0.0/16", "10.30.1.0/24", "10.30.2.0/24"),
    WEST: ("10.40.0.0/16", "10.40.1.0/24", "10.40.2.0/24"),
}
#: Short ones, so that nobody waits half a minute to see an agent called unhealthy, and what was leased to it elsewhere.
HEARTBEAT_SECONDS: Final = 2.0
#: Every later run: one DAG is enough to see where its tasks go.
DAG: Final = "river_levels"
T = TypeVar("T")

_WAIT_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.1
_DATABASE: Final = "isthmus_control"
_HEALTH_PORT: Final = 9321
_PUBLIC_PORT, _LINK_PORT = 443, 8443


def run(teller: Teller, root: Path, *, keep: bool) -> int:
    """Run it all; the exit code. Raises what stopped it."""
    with ExitStack() as stack:
        story = Story(teller, root, stack)
        story.build_networks()
        story.start_plane()
        story.start_agents()
        story.run_on_the_public_path()
        story.publish()
        story.create_endpoint()
        story.approve()
        story.join_over_peering()
        story.join_by_own_endpoint()
        story.verify()
        story.restrict()
        story.reject()
        story.let_in_again()
        return conclude(story.ending(), keep=keep)


class Story:
    """The steps, in order. Each leaves what the next one begins with."""

    def __init__(self, teller: Teller, root: Path, stack: ExitStack) -> None:
        self._teller = teller
        self._examples = root / "examples"
        self._state = root / ".demo"
        self._stack = stack
        self._composition = stack.enter_context(Composition())
        self._azure: Azure
        self._plane: RunningPlane
        self._agents: Agents
        self._runs: Runs
        self._control_port = 0

    # --- where everything is ---------------------------------------------------------------------------------------

    def build_networks(self) -> None:
        """Azure, with the networks of plane and customers."""
        with self._teller.step("networks", "Azure, on this machine: a network for the plane, and two of customers"):
            self._azure = self._stack.enter_context(network.served(self._composition, self._state / "lab"))
            self._teller.say(f"the lab answers at {self._azure.served.arm}, as Azure's resource manager does")
            served, templates = self._azure.served, self._examples / "azure"
            self._outputs = self._azure.deploy(templates / "plane.json", served.provider_subscription, PLANE)
            self._azure.publish_name(HOST, self._outputs["publicAddress"])
            for name, (prefix, agents, endpoints) in NETWORKS.items():
                self._azure.deploy(
                    templates / "network.json",
                    served.customer_subscription,
                    name,
                    name=name,
                    prefix=prefix,
                    agentsSubnetPrefix=agents,
                    endpointsSubnetPrefix=endpoints,
                )
            self._teller.say(f"{PLANE} {CIDR}, {EAST} {NETWORKS[EAST][0]}, {WEST} {NETWORKS[WEST][0]}")
            self._teller.say(f"on the internet {HOST} is {self._outputs['publicAddress']}")
            self._teller.know(self._azure.environment)

    def start_plane(self) -> None:
        """Everything of the plane, in its network."""
        with self._teller.step("plane", "The plane: Airflow, the Remote Execution API, the control plane, the ingress"):
            ports, self._control_port = plane.Ports.free(), stacks.free_port(8446)
            settings = {
                "AIRFLOW__ISTHMUS__PUBLIC_URL": f"https://{HOST}",
                "AIRFLOW__ISTHMUS__TRUSTED_PROXIES": "127.0.0.1",
                "AIRFLOW__ISTHMUS__LINK_INGRESSES": "127.0.0.1",
                "AIRFLOW__ISTHMUS__HEARTBEAT_SECONDS": f"{HEARTBEAT_SECONDS:g}",
                "AIRFLOW__ISTHMUS__LEASE_SECONDS": f"{3 * HEARTBEAT_SECONDS:g}",
            }
            # What the plane's network and this machine, the operator's desk, have of each other. Started out here.
            into = [f"{PLANE}:{port}=host:{port}" for port in self._azure.loopback_ports()]
            out = [f"host:{port}={PLANE}:{port}" for port in (ports.airflow, ports.admin, self._control_port)]
            self._composition.start(network.forwarding(self._azure, *into, *out))
            self._stack.enter_context(self._azure.inside(PLANE))
            self._plane = self._stack.enter_context(
                plane.running(self._teller, self._composition, self._state, settings=settings, ports=ports)
            )
            self._start_control_plane()
            self._start_ingress()
            if self._plane.operator.deployment().allowed_ranges:  # of an earlier demo
                self._plane.operator.unrestrict()

    def _start_control_plane(self) -> None:
        teller, token = self._teller, self._state / "ann.token"
        token.unlink(missing_ok=True)
        teller.know(
            {
                "ISTHMUS_CONTROL_URL": f"http://127.0.0.1:{self._control_port}",
                "ISTHMUS_CONTROL_TOKEN_FILE": str(token),
                "ISTHMUS_CONTROL_DATABASE_URL": _new_database(self._state / "postgres"),
                "ISTHMUS_CONTROL_LISTEN_PORT": str(self._control_port),
                "ISTHMUS_DEPLOYMENT": str(self._plane.deployment.directory),
            }
        )
        teller.isthmus("control", "admit", "ann", "--output", str(token), shows=False)
        tokens = self._state / "admin-tokens"
        tokens.mkdir(mode=0o700, exist_ok=True)
        config = self._plane.deployment.config
        (tokens / config.deployment_id).write_bytes(self._plane.deployment.admin_token_file.read_bytes())
        flags = ("--look-seconds", "1", "--admin-tokens", str(tokens))
        self._program("control plane", ("control", "serve", *flags), self._answers)
        self._composition.await_ready("control plane", told=teller.ready)
        teller.isthmus(
            "cluster", "create", "--id", CLUSTER, "--cidr", CIDR, "--domain", DOMAIN, "--region", network.REGION
        )
        where = ("--server", f"https://127.0.0.1:{config.listen_port}", "--tls-name", "localhost")
        asked = (
            "--admin-url",
            f"http://127.0.0.1:{config.admin_port}",
            "--admin-token-reference",
            config.deployment_id,
        )
        teller.isthmus("cluster", "deployment", "add", config.deployment_id, *where, *asked, shows=False)

    def _start_ingress(self) -> None:
        folder, address = self._state / "ingress", self._outputs["ingressAddress"]
        folder.mkdir(mode=0o711, exist_ok=True)
        token = self._state / "door.token"
        token.unlink(missing_ok=True)
        self._teller.isthmus("operator", "create", "door", "--role", "viewer", "--output", str(token), shows=False)
        authority, key = certificates.make_authority("The demo's authority")
        chain = zip(("chain.pem", "key.pem"), certificates.issue(authority, key, [HOST]), strict=True)
        for name, content in (("authority.pem", authority), *chain):
            (folder / name).write_bytes(content)
            (folder / name).chmod(0o600)
        flags = {
            "cluster": CLUSTER,
            "control-url": f"http://127.0.0.1:{self._control_port}",
            "control-token-file": str(token),
            "certificate": str(folder / "chain.pem"),
            "private-key": str(folder / "key.pem"),
            "deployments-ca": str(self._plane.deployment.ca_certificate),
            "home": str(self._ingress_home()),
            "listen-host": address,
            "listen-port": str(_PUBLIC_PORT),
            "link-host": address,
            "link-port": str(_LINK_PORT),
            "user": "haproxy",
        }
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        self._program("ingress", ("control", "ingress", *words), lambda: _is_open(address, _PUBLIC_PORT))
        self._composition.await_ready("ingress", told=self._teller.ready)

    def _ingress_home(self) -> Path:
        """Where HAProxy's user can reach its sockets, wherever the checkout is; gone after the demo."""
        home = Path("/run") / places.shared_directory(self._state / "ingress").name
        self._stack.callback(shutil.rmtree, home, ignore_errors=True)
        return home

    def _program(self, name: str, words: tuple[str, ...], ready: Callable[[], bool]) -> None:
        self._composition.start(
            Program(
                name=name,
                command=(*stacks.COMMAND, *words),
                environment=self._teller.environment,
                log=self._state / f"{name.replace(' ', '-')}.log",
                ready=ready,
            )
        )

    def _answers(self) -> bool:
        return _is_open("127.0.0.1", self._control_port)

    # --- the public path -------------------------------------------------------------------------------------------

    def start_agents(self) -> None:
        """An agent in each customer's network; both find the cluster on the internet."""
        with self._teller.step("agents", "Two agents, each in its customer's network, with a token and nothing else"):
            agents = Agents(
                self._teller, self._composition, self._plane.operator, self._examples, self._state / "agents"
            )
            agents.revoke_earlier()
            for name in NETWORKS:
                agents.start(
                    AgentSpec(
                        name=name,
                        directory=self._state / f"agent-{name}",
                        url=f"https://{HOST}/{self._plane.deployment.config.deployment_id}",
                        authority=self._state / "ingress" / "authority.pem",
                        health_port=_HEALTH_PORT,
                        # The bundle belongs to the token that brought it, and each agent has its own.
                        roles=() if name == EAST else (Role.WORKER, Role.TRIGGERER),
                        entering=self._azure.entering(name),
                        environment=tuple(self._teller.environment.items()),
                    )
                )
            self._composition.await_ready(told=self._teller.ready)
            self._agents = agents
            self._runs = Runs(self._teller, self._plane.airflow, self._plane.operator, self._composition.check)
            self._teller.isthmus("agents", "list")

    def run_on_the_public_path(self) -> None:
        """DAGs run."""
        with self._teller.step("public_path", "DAGs run on the agents, over the public internet"):
            self._runs.await_dags()
            self._run("public", tuple(EXPECTED), (EAST, WEST))
            self._runs.show_log(*LOGGED)

    # --- the link --------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """The provider puts a link service in front of the ingress."""
        with self._teller.step("publish", "The provider publishes a private link"):
            frontend, subnet = self._outputs["frontend"], self._outputs["natSubnet"]
            self._teller.isthmus("link", "publish", "--frontend", frontend, "--nat-subnet", subnet)
            self._alias = str(self._link()["alias"])

    def create_endpoint(self) -> None:
        """The first customer asks; until somebody approves, nothing passes."""
        with self._teller.step("endpoint", "The first customer creates an endpoint; pending, it carries nothing"):
            self._endpoint("create", EAST, "--no-wait", "--message", "Agents of the eastern river board")
            address = str(self._endpoint_status(EAST)["endpoint"]["address"])
            seconds = self._silence(EAST, address)
            self._teller.say(f"from {EAST}, {address}:443 answers nothing in {seconds:.1f} s: pending")
            self._teller.isthmus("link", "connections")

    def approve(self) -> None:
        """The provider approves; the name follows, and the agent after it."""
        with self._teller.step("approve", "The provider approves; the name follows, and the agent moves by itself"):
            self._teller.isthmus("link", "approve", self._name(EAST), "--reason", "contract 17")
            approved = time.monotonic()
            self._endpoint("apply", EAST)
            address = str(self._endpoint_status(EAST)["endpoint"]["address"])
            self._say_name(EAST)
            agent = self._moved(EAST)
            seconds = time.monotonic() - approved
            self._teller.note("seconds_from_approval_to_healthy_on_the_link", round(seconds, 3))
            self._teller.say(
                f"agent {EAST} is healthy on {path_of(agent)}, {seconds:.1f} s after the approval, without a restart"
            )
            self._teller.note("address", address)
            self._run("east_private", (DAG,), (EAST, WEST))

    def join_over_peering(self) -> None:
        """The second network uses the first one's endpoint."""
        with self._teller.step("peering", "The second network joins over peering, by the same endpoint"):
            served, template = self._azure.served, self._examples / "azure" / "peering.json"
            networks = {
                name: f"/subscriptions/{served.customer_subscription}/resourceGroups/{name}"
                f"/providers/Microsoft.Network/virtualNetworks/{name}"
                for name in NETWORKS
            }
            for here, there in ((EAST, WEST), (WEST, EAST)):
                self._azure.deploy(
                    template,
                    served.customer_subscription,
                    here,
                    network=here,
                    remote=networks[there],
                    name=f"{here}-to-{there}",
                )
            self._teller.say(f"{EAST} and {WEST} are peered")
            began = time.monotonic()
            self._endpoint("apply", EAST, "--network", networks[WEST])
            self._say_name(WEST)
            agent = self._moved(WEST)
            self._teller.say(f"agent {WEST} is on {path_of(agent)}, the endpoint of {EAST}")
            self._teller.note("seconds_to_healthy_on_the_link", round(time.monotonic() - began, 3))
            self._run("peered", (DAG,), (EAST, WEST))

    def join_by_own_endpoint(self) -> None:
        """The second network gets its own endpoint, by the same alias; the first approval is inherited."""
        with self._teller.step("own_endpoint", "The second network gets an endpoint of its own, by the same alias"):
            before = self._find(WEST)
            began = time.monotonic()
            self._endpoint("create", WEST, "--move-networks", "--message", "Agents of the western river board")
            self._teller.say("approved at once: the provider had approved this customer before")
            self._say_name(WEST)
            agent = self._moved(WEST, since=before)
            self._teller.say(f"agent {WEST} is on {path_of(agent)}, its own")
            self._teller.note("seconds_to_healthy_on_the_link", round(time.monotonic() - began, 3))

    # --- verification and restriction ------------------------------------------------------------------------------

    def verify(self) -> None:
        """Each agent looks at its way."""
        with self._teller.step("verify", "Both agents verify their way, row by row"):
            for name in NETWORKS:
                address = str(self._endpoint_status(name)["endpoint"]["address"])
                self._teller.isthmus("agents", "verify", name, "--endpoint", address, "--wait")

    def restrict(self) -> None:
        """Only the cluster's network may come in; DAGs go on, the public path is shut."""
        with self._teller.step("restrict", "The deployment is restricted to the private path, while a DAG runs"):
            self._run("restricted", (DAG,), (EAST, WEST), meanwhile=self._restrict_now)
            public = self._outputs["publicAddress"]
            status, answer = self._fetch(EAST, public)
            if status != 403 or answer.get("code") != "source_not_allowed":
                raise DemoError(f"the public path answers {status} {answer}", code="demo_not_restricted")
            self._teller.say(f"from {EAST} over the internet ({public}): 403, {answer['code']}: {answer['detail']}")
            for name in NETWORKS:
                address = str(self._endpoint_status(name)["endpoint"]["address"])
                self._teller.isthmus(
                    "agents", "verify", name, "--endpoint", address, "--public-address", public, "--wait", shows=False
                )
            self._teller.say("both agents have verified that the public path is shut")

    def _restrict_now(self) -> None:
        for more in (("--dry-run",), ()):
            self._teller.isthmus("deployment", "restrict", "--to-cluster", *more)

    # --- a rejection -----------------------------------------------------------------------------------------------

    def reject(self) -> None:
        """One connection is rejected: its agent falls silent, the reason is known, and work goes on elsewhere."""
        with self._teller.step("reject", "The provider rejects a connection; its agent turns unhealthy"):
            self._teller.isthmus("link", "reject", self._name(WEST), "--reason", "contract 18 has ended")
            rejected = time.monotonic()
            self._await(f"agent {WEST} is unhealthy", lambda: self._health(WEST) is admin.AgentHealth.UNHEALTHY)
            self._teller.say(f"agent {WEST} is unhealthy, {time.monotonic() - rejected:.1f} s after the rejection")
            self._await("the control plane says why", self._why_unhealthy)
            self._teller.isthmus("cluster", "agents")
            self._run("rejected", (DAG,), (EAST,))

    def _why_unhealthy(self) -> str | None:
        """The reason that the control plane gives for the western agent, once it names the rejection."""
        told = self._quietly("cluster", "agents")["agents"]
        reasons = [str(one["reason"]["sentence"]) for one in told if one["name"] == WEST and one["reason"]]
        return next((one for one in reasons if "rejected" in one), None)

    def let_in_again(self) -> None:
        """A rejection is final: the customer asks again, and is approved."""
        with self._teller.step("let_in_again", "The customer creates the endpoint again, and is let in"):
            before = self._find(WEST)
            self._endpoint("create", WEST, "--recreate", "--no-wait")
            self._teller.isthmus("link", "approve", self._name(WEST), "--reason", "contract 19")
            approved = time.monotonic()
            self._endpoint("apply", WEST)
            agent = self._moved(WEST, since=before)
            seconds = time.monotonic() - approved
            self._teller.note("seconds_from_approval_to_healthy_on_the_link", round(seconds, 3))
            self._teller.say(f"agent {WEST} is healthy on {path_of(agent)}, {seconds:.1f} s after the approval")
            self._run("let_in_again", (DAG,), (EAST, WEST))
            self._teller.isthmus("agents", "list")

    def ending(self) -> Ending:
        """What is shown at the end."""
        token = short(self._state / "ann.token")
        looking = (
            f"Pages: http://127.0.0.1:{self._control_port}/ui/ (sign in with the token in {token})",
            f"Control plane: export ISTHMUS_CONTROL_URL=http://127.0.0.1:{self._control_port}",
            f"               export ISTHMUS_CONTROL_TOKEN_FILE={token}; .venv/bin/isthmus link connections",
            f"Networks: .venv/bin/isthmus lab exec --home {short(self._azure.home)} {EAST} -- getent hosts {HOST}",
        )
        return Ending(self._teller, self._composition, self._runs, self._plane, has_link=True, looking=looking)

    # --- what steps have in common ---------------------------------------------------------------------------------

    def _run(
        self, name: str, dag_ids: tuple[str, ...], agents: tuple[str, ...], meanwhile: Callable[[], None] | None = None
    ) -> None:
        rows = self._runs.run(name, dag_ids, self._agents.paths, agents, meanwhile)
        self._teller.say(f"{len(rows)} tasks: {handed_out_to(rows)}")

    def _endpoint(self, verb: str, customer: str, *more: str) -> None:
        known: tuple[str, ...] = ("--resource-group", customer)
        if verb == "create" and "--recreate" not in more:
            known = (*known, "--vnet", customer, "--subnet", "endpoints", "--alias", self._alias, "--host", HOST)
        self._teller.isthmus("endpoint", verb, *known, *more)

    def _endpoint_status(self, customer: str) -> Mapping[str, Any]:
        return self._quietly("endpoint", "show", "--resource-group", customer)

    def _link(self) -> Mapping[str, Any]:
        return self._quietly("link", "show")

    def _quietly(self, *words: str) -> Mapping[str, Any]:
        done = subprocess.run(
            (*stacks.COMMAND, *words, "--json"),
            env=self._teller.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_WAIT_SECONDS,
        )
        if done.returncode != 0:
            raise DemoError(f"isthmus {' '.join(words)} failed", code="demo_command_failed", hint=done.stderr.strip())
        found: Mapping[str, Any] = json.loads(done.stdout)
        return found

    def _name(self, customer: str) -> str:
        """How the provider names a customer's endpoint: by its resource id."""
        return str(self._endpoint_status(customer)["endpoint"]["id"])

    def _inside(self, network_name: str, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            (*self._azure.entering(network_name), *command),
            env=self._teller.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_WAIT_SECONDS,
        )

    def _silence(self, network_name: str, address: str) -> float:
        """For how long nothing answered. Raises DemoError if something does."""
        began = time.monotonic()
        script = f"import socket; socket.create_connection(('{address}', 443), 2)"
        done = self._inside(network_name, stacks.COMMAND[0], "-c", script)
        if "TimeoutError" not in done.stderr:
            raise DemoError(f"{address} answers", code="demo_not_pending", hint=done.stderr)
        return time.monotonic() - began

    def _say_name(self, network_name: str) -> None:
        found = self._inside(network_name, "getent", "ahostsv4", HOST).stdout.partition(" ")[0]
        if not any(found and IPv4Address(found) in IPv4Network(one[0]) for one in NETWORKS.values()):
            raise DemoError(f"in {network_name} {HOST} is {found or 'unknown'}", code="demo_not_resolved")
        self._teller.say(f"in {network_name} {HOST} is now {found}")

    def _fetch(self, network_name: str, address: str) -> tuple[int, Mapping[str, Any]]:
        """What the deployment's probe answers at ``address``: status and body."""
        url = f"https://{HOST}/{self._plane.deployment.config.deployment_id}/agent/v1/probe"
        authority = self._state / "ingress" / "authority.pem"
        done = self._inside(
            network_name,
            *("curl", "--silent", "--max-time", "10", "--cacert", str(authority), "--write-out", "\n%{http_code}"),
            *("--resolve", f"{HOST}:443:{address}", url),
        )
        body, _, status = done.stdout.rpartition("\n")
        try:
            return int(status), json.loads(body)
        except ValueError:
            return int(status or 0), {"detail": done.stdout + done.stderr}

    def _find(self, name: str) -> admin.AgentView | None:
        return next((agent for agent in self._agents.list() if agent.name == name), None)

    def _health(self, name: str) -> admin.AgentHealth | None:
        agent = self._find(name)
        return None if agent is None else agent.health

    def _moved(self, name: str, since: admin.AgentView | None = None) -> admin.AgentView:
        """An agent once it is healthy on a link; another one than it was on ``since``, if it was on one."""
        former = None if since is None else since.link_id
        began = datetime.now(UTC)

        def found() -> admin.AgentView | None:
            agent = self._agents.find(name, since=began)
            is_there = agent is not None and agent.path is PathKind.LINK and agent.link_id != former
            return agent if is_there else None

        return self._await(f"agent {name} is on the link", found)

    def _evidence(self) -> str:
        """What is known when something does not happen."""
        agents = [f"{one.name} is {one.health} on {path_of(one)}" for one in self._agents.list()]
        logs = [
            f"the end of {short(path)}:\n" + "\n".join(path.read_text(errors="replace").splitlines()[-8:])
            for path in sorted((self._state / "agents").glob("*.log"))
        ]
        return "\n".join((*agents, *logs))

    def _await(self, what: str, look: Callable[[], T | None]) -> T:
        deadline = time.monotonic() + _WAIT_SECONDS
        while not (found := look()):
            self._composition.check()
            if time.monotonic() > deadline:
                raise DemoError(f"not within {_WAIT_SECONDS:.0f} s: {what}", code="demo_stuck", hint=self._evidence())
            time.sleep(_POLL_SECONDS)
        return found


def _new_database(postgres: Path) -> str:
    """An empty database for the control plane, beside the deployment's; its URL."""
    server = embedded.find(postgres)
    if server is None:
        raise DemoError("PostgreSQL has ended", code="program_ended")
    engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {_DATABASE} WITH (FORCE)"))
        connection.execute(sa.text(f"CREATE DATABASE {_DATABASE}"))
    return server.database_url(_DATABASE).replace("postgresql+psycopg2://", "postgresql://", 1)


def _is_open(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=2):
            return True
    except OSError:
        return False
