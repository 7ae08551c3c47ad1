"""The demo's Azure: a lab with packets, templates deployed in it, and what crosses from this machine into it.

The templates are those of ``examples/azure``, which Azure takes as well; they are deployed as any client of the
resource manager would do it, over HTTPS with a managed identity's token.
"""

import json
import os
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from isthmus.cli.composing import Composition, Program
from isthmus.cli.demo.telling import DemoError
from isthmus.cli.stacks import bare_environment
from isthmus.lab import removing, running
from isthmus.lab.packets import namespaces
from isthmus.lab.running import Phase, Served

REGION: Final = "westeurope"
_READY_SECONDS: Final = 60.0
_DEPLOY_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02
_GROUPS: Final = "2024-11-01"
_DEPLOYMENTS: Final = "2024-03-01"


@dataclass(frozen=True, slots=True)
class Azure:
    """A lab that is served from ``home``."""

    home: Path
    served: Served
    http: httpx.Client

    @property
    def environment(self) -> dict[str, str]:
        """What commands and SDKs need to use it."""
        return {"ISTHMUS_AZURE_ARM_ENDPOINT": self.served.arm, **running.environment(self.served)}

    def deploy(self, template: Path, subscription: str, group: str, **parameters: str) -> dict[str, str]:
        """Deploy a template into a resource group, which is made if needed; its outputs. Raises DemoError."""
        place = f"/subscriptions/{subscription}/resourceGroups/{group}"
        self._call("PUT", place, _GROUPS, {"location": REGION})
        where = f"{place}/providers/Microsoft.Resources/deployments/{template.stem}-{time.monotonic_ns()}"
        given = {name: {"value": value} for name, value in parameters.items()}
        properties = {"mode": "Incremental", "template": json.loads(template.read_text()), "parameters": given}
        self._call("PUT", where, _DEPLOYMENTS, {"properties": properties})
        deadline = time.monotonic() + _DEPLOY_SECONDS
        while True:
            found = self._call("GET", where, _DEPLOYMENTS)["properties"]
            match found["provisioningState"]:
                case "Succeeded":
                    return {name: str(one["value"]) for name, one in (found.get("outputs") or {}).items()}
                case "Failed" | "Canceled":
                    raise DemoError(
                        f"{template.name} could not be deployed",
                        code="demo_not_deployed",
                        hint=json.dumps(found.get("error"), indent=2),
                    )
            if time.monotonic() > deadline:
                raise DemoError(f"{template.name} is not deployed after {_DEPLOY_SECONDS:.0f} s", code="demo_stuck")
            time.sleep(_POLL_SECONDS)

    def entering(self, network: str) -> tuple[str, ...]:
        """The words before a command that runs inside a network; it needs nothing of our environment."""
        command = (sys.executable, "-m", "isthmus.cli.main", "lab", "exec", "--home", str(self.home))
        return (*command, network, "--")

    @contextmanager
    def inside(self, network: str) -> Iterator[None]:
        """Be inside a network, with everything that is started in the block. For a process of a single thread."""
        found = running.ask(self.home, "POST", "/find", {"network": network})
        with namespaces.inside(str(found["namespace"])):
            yield

    def publish_name(self, name: str, address: str) -> None:
        """Let the internet know a name."""
        running.ask(self.home, "PUT", f"/public-names/{name}", {"addresses": [address]})

    def loopback_ports(self) -> tuple[int, ...]:
        """Where resource manager and managed identity answer on this machine's loopback."""
        urls = (self.served.arm, self.served.identity_endpoint)
        return tuple(port for port in (urlsplit(url).port for url in urls) if port is not None)

    def _call(self, method: str, path: str, version: str, body: Any = None) -> Any:
        answer = self.http.request(method, path, params={"api-version": version}, json=body)
        if not answer.is_success:
            raise DemoError(f"Azure refuses {method} {path}", code="demo_not_deployed", hint=answer.text)
        return answer.json()


@contextmanager
def served(composition: Composition, home: Path) -> Iterator[Azure]:
    """A new lab in ``home``, without a trace of it afterwards."""
    removing.remove(home, keep=False)  # of a demo that was killed
    composition.start(
        Program(
            name="Azure (the lab)",
            command=(sys.executable, "-m", "isthmus.cli.main", "lab", "serve", "--home", str(home)),
            environment=bare_environment(),
            log=home.parent / "lab.log",
            ready=lambda: _is_serving(home),
            ready_seconds=_READY_SECONDS,
        )
    )
    try:
        composition.await_ready()
        found = running.serving(home)
        with _client(found) as http:
            yield Azure(home, found, http)
    finally:
        removing.remove(home, keep=False)


def forwarding(azure: Azure, *forwards: str) -> Program:
    """A program that carries connections between networks (``lab forward``)."""
    return Program(
        name="lab forward",
        command=(sys.executable, "-m", "isthmus.cli.main", "lab", "forward", "--home", str(azure.home), *forwards),
        environment=bare_environment(),
        log=azure.home.parent / "forward.log",
        ready=lambda: True,
    )


def _is_serving(home: Path) -> bool:
    found = running.read(home)
    return found is not None and found.is_alive and found.phase is Phase.SERVING


def _client(found: Served) -> httpx.Client:
    tls = ssl.create_default_context(cafile=found.authorities)
    asked = httpx.get(
        found.identity_endpoint,
        params={"api-version": "2019-08-01", "resource": found.arm},
        headers={"X-IDENTITY-HEADER": found.identity_header},
        trust_env=False,
    )
    token = asked.raise_for_status().json()["access_token"]
    return httpx.Client(
        base_url=found.arm, verify=tls, headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False
    )


def commands_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """What commands get: a system's bare necessities, and ``extra``."""
    return {**bare_environment(), "COLUMNS": os.environ.get("COLUMNS", "120"), **extra}
