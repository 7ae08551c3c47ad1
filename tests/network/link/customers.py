"""A customer: a virtual network, an endpoint in it, and agents."""

import http.client
import json
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from tests.fakes.link_scene import HERE, HOST, network_body

from faults.harness import waits
from faults.harness.agents import Agent
from faults.harness.planes import BINARIES
from isthmus.lab.packets import namespaces
from isthmus.wire.admin import AgentHealth, AgentView
from isthmus.wire.names import PathKind
from network.link.provider import Json, Provider

ENDPOINT = "isthmus-privatelink"
#: What a verification found, by check.
Rows = dict[str, Json]


class Customer:
    """One network, in a resource group of its own, because a group has one private zone of a name."""

    def __init__(self, provider: Provider, name: str, prefix: str = "10.1") -> None:
        """All customers may have the same addresses, and the provider's."""
        self.provider = provider
        self.name = name
        scene = provider.scene
        scene.put(f"/subscriptions/{scene.customer}/resourceGroups/{name}", {"location": HERE})
        scene.put(self._path(f"virtualNetworks/{name}"), network_body(prefix, "agents"))
        self.namespace = provider.lab.namespace_of(name)

    def _path(self, rest: str) -> str:
        return self.provider.scene.path(self.provider.scene.customer, rest, self.name)

    # --- its endpoint ----------------------------------------------------------------------------------------------

    @property
    def endpoint_id(self) -> str:
        return self._path(f"privateEndpoints/{ENDPOINT}")

    def start_endpoint(self, *words: str) -> "subprocess.Popen[str]":
        """``isthmus endpoint …`` in this customer's resource group."""
        return self.provider.started("endpoint", *words, "--resource-group", self.name)

    def endpoint(self, *words: str) -> str:
        process = self.start_endpoint(*words)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, (words, out, err)
        return out

    def create_words(self, *words: str) -> tuple[str, ...]:
        """To create the endpoint."""
        where = ("--vnet", self.name, "--subnet", "agents", "--alias", self.provider.alias, "--host", str(HOST))
        return ("create", *where, *words)

    def join(self) -> int:
        """Create the endpoint, which is expected, and lead the network's names there; the link's id."""
        self.provider.expect(self.endpoint_id)
        self.endpoint(*self.create_words("--look-seconds", "0.2"))
        return self.link_id()

    def link_id(self) -> int:
        """What the provider calls the connection when it is approved."""
        return int(self.provider.connection(self.endpoint_id, "approved")["link_id"])

    def address(self) -> str:
        """The endpoint's."""
        scene = self.provider.scene
        [interface] = scene.get(self.endpoint_id)["properties"]["networkInterfaces"]
        [configuration] = scene.get(interface["id"])["properties"]["ipConfigurations"]
        return str(configuration["properties"]["privateIPAddress"])

    # --- inside the network ----------------------------------------------------------------------------------------

    def run(self, *command: str, given: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
        """A command in the network, to its end; ``given`` is its standard input."""
        return self.provider.lab.exec(self.name, *command, given=given, **environment)

    def host_address(self) -> str:
        """Where the cluster's name leads to here."""
        return self.run("getent", "ahostsv4", str(HOST)).stdout.partition(" ")[0]

    def verify(self, token: str, *words: str) -> tuple[int, Rows]:
        """``isthmus verify`` in the network: its exit code, and its rows."""
        place = ("--url", self.provider.deployment.url, "--ca-file", str(self.provider.authority))
        done = self.run(
            *(str(BINARIES / "isthmus"), "verify", *place, "--timeout-seconds", "3", "--json", *words),
            ISTHMUS_AGENT_TOKEN=token,
        )
        assert done.stdout, done.stderr
        return done.returncode, {row["check"]: row for row in json.loads(done.stdout)["rows"]}

    def failing(self, token: str, *words: str) -> Rows:
        """The rows that failed."""
        code, rows = self.verify(token, *words)
        failed = {check: row for check, row in rows.items() if row["status"] == "fail"}
        assert code == (1 if failed else 0), rows
        return failed


def connected_in(namespace: str, port: int) -> socket.socket:
    """A connection to the loopback of a namespace: a socket stays where it was made."""

    def connect() -> socket.socket:
        namespaces.enter(namespace)
        return socket.create_connection(("127.0.0.1", port), 5)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(connect).result()


class NetworkAgent(Agent):
    """A real agent in a customer's network, that knows the cluster by its name."""

    def __init__(self, customer: Customer, lane: str, *, token: str | None = None, **options: Any) -> None:
        self.customer = customer
        provider = customer.provider
        settings = {
            "ISTHMUS_AGENT_URL": provider.deployment.url,
            "ISTHMUS_AGENT_CA_FILE": str(provider.authority),
            **options.pop("settings", {}),
        }
        super().__init__(provider.deployment, lane, settings=settings, **options)
        self.control.command[:0] = provider.lab.entering(customer.name)
        if token is not None:
            self.token = token
            self.token_file.write_text(token + "\n")

    def health(self) -> Json:
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", self.health_port, timeout=5)
            connection.sock = connected_in(self.customer.namespace, self.health_port)
            with connection.sock:
                connection.request("GET", "/healthz")
                return dict(json.load(connection.getresponse()))
        return {}

    def await_path(self, path: PathKind, link_id: int | None = None, *, seconds: float = 30) -> AgentView:
        """Until the plane has the agent as healthy on that path."""

        def there() -> AgentView | None:
            view = self.view()
            right = view is not None and (view.health, view.path, view.link_id) == (AgentHealth.HEALTHY, path, link_id)
            return view if right else None

        what = f"{self.name} comes over {path} {link_id or ''}"
        return waits.until(what, there, seconds=seconds, pause=0.05, evidence=self.evidence)
