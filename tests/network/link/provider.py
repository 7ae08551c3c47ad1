"""The provider's side of a private link, all of it real, in a lab with packets.

::

    the host:          lab (Azure) ◄── control plane ◄─┐      scheduler ─► PostgreSQL ◄─┐ (by its socket)
    network "plane":                   ingress ────────┘ ──► Remote Execution API ──────┘
                                       ▲        ▲
    load balancers:     "door", public ┘        └ "front", private, behind the link service

Programs are those that users start. Control plane and admin API listen on loopback, each on its side: `isthmus lab
forward` carries connections across.
"""

import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from tests.fakes.link_scene import HERE, HOST, Scene

from faults.harness import ports, waits
from faults.harness.planes import BINARIES, Plane
from faults.harness.programs import Program
from isthmus.kit import certificates
from isthmus.lab import running
from isthmus.wire import paths
from network.lab.served import ServedLab

Json = dict[str, Any]

NETWORK = "plane"
CIDR = "10.1.0.0/16"
#: Where the load balancers lead to, and where ingress and Remote Execution API are.
ADDRESS = "10.1.0.20"
PUBLIC_PORT, LINK_PORT = 443, 8443
LINK = f"/control/v1/clusters/{HOST.cluster_id}/link"


class Deployment(Plane):
    """The harness's plane, with its Remote Execution API in the provider's network, behind the ingress."""

    def __init__(self, lab: ServedLab) -> None:
        super().__init__(
            settings={
                "roles": "worker, dag-processor, triggerer",
                "listen_host": ADDRESS,
                "trusted_proxies": f"{ADDRESS}/32",
                "link_ingresses": f"{ADDRESS}/32",
                "public_url": f"https://{HOST}",
            }
        )
        self.api.command[:0] = lab.entering(NETWORK)

    @property
    def url(self) -> str:
        """What agents are given."""
        return f"https://{HOST}/{self.deployment_id}"

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.database.socket_url}

    @property
    def commands(self) -> dict[str, str]:
        """The environment of the deployment's commands."""
        return {
            "ISTHMUS_ADMIN_URL": f"http://127.0.0.1:{self.admin_port}",
            "ISTHMUS_ADMIN_TOKEN_FILE": str(self.directory / "admin-token"),
        }


class Provider:
    """Whoever runs the cluster. ``with Provider() as provider`` is the whole of it, with a published link."""

    def __init__(self) -> None:
        #: Short, because sockets are in it, and open to the users that programs become.
        self.directory = Path(tempfile.mkdtemp(prefix="isthmus-link-"))
        self.directory.chmod(0o711)
        self.lab = ServedLab(self.directory / "lab")
        self.authority = self.directory / "authority.pem"
        self._authority = certificates.make_authority("a test's authority")
        self.authority.write_bytes(self._authority[0])
        self._control_port = ports.free_port()
        self._programs: list[Program] = []

    def __enter__(self) -> "Provider":
        self.lab.start()
        try:
            return self._build()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything, and leave nothing."""
        for program in reversed(self._programs):
            if program.running:
                program.stop()
        if hasattr(self, "http"):
            self.http.close()
        if hasattr(self, "deployment"):
            self.deployment.close()
        self.lab.__exit__(None, None, None)
        shutil.rmtree(self.directory)

    def _build(self) -> "Provider":
        served = self.lab.served
        self.scene = Scene(
            self.lab.http, served.provider_subscription, served.customer_subscription, ports=(443, LINK_PORT)
        ).build()
        self.public_address = self._open_a_public_door()
        self.scene.add_server(ADDRESS, "front", "door")
        running.ask(self.lab.home, "PUT", f"/public-names/{HOST}", {"addresses": [self.public_address]})
        self.deployment = Deployment(self.lab)
        admin, control = self.deployment.admin_port, self._control_port
        crossing = (f"host:{admin}={NETWORK}:{admin}", f"{NETWORK}:{control}=host:{control}")
        self._start("crossing", ["lab", "forward", "--home", str(self.lab.home), *crossing])
        with ThreadPoolExecutor(1) as pool:
            deployment = pool.submit(self.deployment.start)
            self._start_control_plane()
            self._publish()
            self._start_ingress()
            deployment.result()
        return self

    def _start(
        self, name: str, words: list[str], flags: Mapping[str, str] | None = None, *, network: str | None = None
    ) -> Program:
        """A program of ours on the host, or in a network."""
        flat = [word for flag in (flags or {}).items() for word in flag]
        entering = [] if network is None else self.lab.entering(network)
        command = [*entering, str(BINARIES / "isthmus"), *words, *flat]
        environment = self.commands if network is None else {}
        program = Program(name, command, environment=environment, log=self.directory / f"{name}.log").start()
        self._programs.append(program)
        return program

    def _open_a_public_door(self) -> str:
        """A public address with a load balancer behind it; the address."""
        scene, address = self.scene, self.scene.path(self.scene.provider, "publicIPAddresses/door")
        properties: Json = {"publicIPAllocationMethod": "Static"}
        made = scene.put(address, {"location": HERE, "sku": {"name": "Standard"}, "properties": properties})
        here = scene.path(scene.provider, "loadBalancers/door")
        rule = {
            "protocol": "Tcp",
            "frontendPort": 443,
            "backendPort": PUBLIC_PORT,
            "frontendIPConfiguration": {"id": f"{here}/frontendIPConfigurations/door"},
            "backendAddressPool": {"id": f"{here}/backendAddressPools/servers"},
        }
        properties = {
            "frontendIPConfigurations": [{"name": "door", "properties": {"publicIPAddress": {"id": address}}}],
            "backendAddressPools": [{"name": "servers"}],
            "loadBalancingRules": [{"name": "https", "properties": rule}],
        }
        scene.put(here, {"location": HERE, "sku": {"name": "Standard"}, "properties": properties})
        return str(made["properties"]["ipAddress"])

    def _issue(self, program: str, name: str) -> tuple[Path, Path]:
        """The files of a certificate and its key."""
        chain, key = self.directory / f"{program}-chain.pem", self.directory / f"{program}-key.pem"
        for path, content in zip((chain, key), certificates.issue(*self._authority, [name]), strict=True):
            path.write_bytes(content)
        return chain, key

    # --- the control plane -----------------------------------------------------------------------------------------

    @property
    def commands(self) -> dict[str, str]:
        """The environment of operators' commands, at the control plane and at the deployment."""
        return {
            "ISTHMUS_CONTROL_URL": self.control_url,
            "ISTHMUS_CONTROL_CA_FILE": str(self.authority),
            "ISTHMUS_CONTROL_TOKEN_FILE": str(self.directory / "ann"),
            "ISTHMUS_CONTROL_HOME": str(self.directory / "control"),
            "COLUMNS": "300",
            **self.deployment.commands,
            **self.azure,
        }

    @property
    def azure(self) -> dict[str, str]:
        """The environment of what speaks to Azure."""
        return {"ISTHMUS_AZURE_ARM_ENDPOINT": self.lab.served.arm, **running.environment(self.lab.served)}

    def started(self, *words: str) -> "subprocess.Popen[str]":
        """A command of ours, as somebody types it on the host."""
        return subprocess.Popen(
            [BINARIES / "isthmus", *words],
            env={"PATH": os.environ["PATH"], **self.commands},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def isthmus(self, *words: str) -> str:
        """What a command prints; it has to end well."""
        process = self.started(*words)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, (words, out, err)
        return out

    @property
    def control_url(self) -> str:
        """Where operators are, with programs and with browsers."""
        return f"https://127.0.0.1:{self._control_port}"

    def _start_control_plane(self) -> None:
        self.isthmus("control", "admit", "ann", "--output", str(self.directory / "ann"))
        tokens = self.directory / "admin-tokens"
        tokens.mkdir(mode=0o700)
        (tokens / self.deployment.deployment_id).write_text(self.deployment.secrets["admin token"])
        chain, key = self._issue("control", "127.0.0.1")
        flags = {
            "--listen-port": str(self._control_port),
            "--look-seconds": "0.5",
            "--tls-certificate": str(chain),
            "--tls-private-key": str(key),
            "--admin-tokens": str(tokens),
        }
        self.control = self._start("control", ["control", "serve"], flags)
        self.http = httpx.Client(
            base_url=self.control_url,
            headers={"Authorization": f"Bearer {(self.directory / 'ann').read_text().strip()}"},
            timeout=20,
            verify=ssl.create_default_context(cafile=str(self.authority)),
        )
        self.await_control_plane()

    def await_control_plane(self) -> None:
        self.control.await_ready("the control plane answers", lambda: self.asked("GET", "/healthz"), seconds=60)

    def asked(self, method: str, path: str, body: object = None) -> Json | None:
        """What the control plane answers; None while it does not, or refuses."""
        try:
            answer = self.http.request(method, path, json=body)
        except httpx.TransportError:
            return None
        return dict(answer.json()) if answer.is_success else None

    def _publish(self) -> None:
        cluster = {"cluster_id": HOST.cluster_id, "cidr": CIDR, "domain": HOST.domain, "region": HERE}
        assert self.asked("POST", "/control/v1/clusters", cluster), self.control.tail()
        where = {
            "servers": [f"https://{ADDRESS}:{self.deployment.api_port}"],
            "tls_name": "localhost",
            "admin_url": f"http://127.0.0.1:{self.deployment.admin_port}",
            "admin_token_reference": self.deployment.deployment_id,
        }
        registered = f"/control/v1/clusters/{HOST.cluster_id}/deployments/{self.deployment.deployment_id}"
        assert self.asked("PUT", registered, where), self.control.tail()
        spec = self.scene.service_spec()
        asked = {
            "service_id": spec.service_id,
            "frontend_id": spec.frontend_id,
            "nat_subnet_id": spec.nat_subnet_id,
            "inherits_approval": False,  # tests decide about each connection
        }
        assert self.http.put(LINK, json=asked).status_code == 202

        def published() -> Json | None:
            found = self.asked("GET", LINK)
            return found if found is not None and found["state"] == "published" else None

        self.alias = str(waits.until("the link is published", published, seconds=30)["alias"])

    # --- connections -----------------------------------------------------------------------------------------------

    def connection(self, endpoint_id: str, state: str) -> Json:
        """An endpoint's connection when the control plane has it in a state."""

        def found() -> Json | None:
            page = self.asked("GET", f"{LINK}/connections?state={state}")
            connections: list[Json] = page["connections"] if page is not None else []
            return next((one for one in connections if one["endpoint_id"].lower() == endpoint_id.lower()), None)

        return waits.until(f"{endpoint_id} is {state}", found, seconds=20, evidence=self.control.tail)

    def expect(self, endpoint_id: str) -> None:
        """Have an endpoint's connection approved as it appears."""
        assert self.asked("POST", f"{LINK}/expectations", {"endpoint_id": endpoint_id}), self.control.tail()

    def decide(self, endpoint_id: str, decision: str, reason: str = "because") -> Json:
        """Approve, reject or remove an endpoint's connection, as an operator does on the web page."""
        before = "pending" if decision == "approve" else "approved"
        where = f"{LINK}/connections/{self.connection(endpoint_id, before)['connection_id']}"
        answer = self.http.post(f"{where}/{decision}", json={"reason": reason})
        assert answer.is_success, answer.text
        return dict(answer.json())

    # --- the ingress -----------------------------------------------------------------------------------------------

    def _start_ingress(self) -> None:
        door = self.asked("POST", "/control/v1/operators", {"name": "door", "role": "viewer"})
        assert door is not None
        (self.directory / "door").touch(mode=0o600)
        (self.directory / "door").write_text(door["secret"])
        chain, key = self._issue("ingress", str(HOST))
        flags = {
            "--cluster": HOST.cluster_id,
            "--control-url": self.commands["ISTHMUS_CONTROL_URL"],
            "--control-token-file": str(self.directory / "door"),
            "--control-ca-file": str(self.authority),
            "--certificate": str(chain),
            "--private-key": str(key),
            "--deployments-ca": str(self.deployment.authority.certificate),
            "--home": str(self.directory / "ingress"),
            "--listen-host": ADDRESS,
            "--listen-port": str(PUBLIC_PORT),
            "--link-host": ADDRESS,
            "--link-port": str(LINK_PORT),
            "--user": "haproxy",
            "--drain-seconds": "5",
        }
        self.ingress = self._start("ingress", ["control", "ingress"], flags, network=NETWORK)

    # --- the deployment --------------------------------------------------------------------------------------------

    def token(self, name: str, **more: object) -> str:
        """A new agent token."""
        answer = self.deployment.admin.post(paths.ADMIN_TOKENS, json={"name": name, "expires_days": 1, **more})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["secret"])

    def restrict(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """``isthmus deployment restrict`` to the cluster's network, whatever it answers."""
        process = self.started("deployment", "restrict", "--to", CIDR, *words)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    @contextmanager
    def unrestricted_afterwards(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.isthmus("deployment", "unrestrict")

    def evidence(self) -> str:
        return "\n".join(program.tail(25) for program in (self.control, self.ingress, self.deployment.api))
