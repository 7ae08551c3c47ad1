"""A lab in a process of its own, as its users have it, and a client of its resource manager."""

import json
import os
import ssl
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from isthmus.lab import removing, running

VERSION = "2024-05-01"
SECONDS = 30.0


class KilledError(Exception):
    """The lab ended before it had answered."""


class ServedLab:
    """One home. ``start`` serves it, perhaps with ``program`` in the place of ``isthmus lab``."""

    def __init__(self, home: Path, *flags: str, program: Path | None = None, **environment: str) -> None:
        self.home = home
        self._flags = flags
        self._command = [str(program)] if program else ["-m", "isthmus.cli.main", "lab", "serve"]
        self._environment = {"PATH": os.environ["PATH"], **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._http: httpx.Client | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def http(self) -> httpx.Client:
        """A client of the resource manager with a token."""
        assert self._http is not None, "it is not served"
        return self._http

    def start(self) -> Self:
        """Serve, and return when it answers."""
        self.close_client()
        with (self.home.parent / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._command, "--home", str(self.home), *self._flags],
                stderr=log,
                env=self._environment,
            )
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            served = running.read(self.home)
            if served is not None and served.pid == self._process.pid and served.phase is running.Phase.SERVING:
                self.served = served
                self._http = self._client()
                return self
            assert self._process.poll() is None, self.log()
            time.sleep(0.01)
        raise AssertionError(f"it does not answer: {self.log()}")

    def log(self) -> str:
        return (self.home.parent / "log").read_text()[-4000:]

    def wait(self) -> int:
        """Until the process has ended; its exit code."""
        assert self._process is not None
        return self._process.wait(SECONDS)

    def terminate(self) -> int:
        assert self._process is not None
        self._process.terminate()
        return self.wait()

    def close_client(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_client()
        removing.remove(self.home, keep=False)
        if self._process is not None:
            self._process.wait(SECONDS)

    def _client(self) -> httpx.Client:
        told = httpx.get(
            self.served.identity_endpoint,
            params={"api-version": "2019-08-01", "resource": self.served.arm},
            headers={"X-IDENTITY-HEADER": self.served.identity_header},
        )
        tls = ssl.create_default_context(cafile=self.served.authorities)
        headers = {"Authorization": f"Bearer {told.json()['access_token']}"}
        return httpx.Client(base_url=self.served.arm, headers=headers, verify=tls, timeout=SECONDS)

    # --- the resource manager

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """One call, without waiting for what it begins. Raises KilledError."""
        version = "2018-09-01" if "/privateDnsZones" in path else VERSION
        try:
            return self.http.request(method, path, params={"api-version": version}, json=body, headers=headers)
        except httpx.TransportError as error:
            raise KilledError from error

    def do(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """A write, and what is there when its operation has ended. Raises KilledError, AssertionError if it fails."""
        answer = self.call(method, path, body)
        assert answer.is_success, answer.text
        self.follow(answer)
        shown = self.call("GET", path)
        found: dict[str, Any] = shown.json() if shown.is_success else {}
        return found

    def follow(self, answer: httpx.Response) -> None:
        """Wait for the operation of a write. Raises KilledError, AssertionError if it fails."""
        where = answer.headers.get("azure-asyncoperation")
        while where is not None:
            status = self.call("GET", where.split("?")[0].removeprefix(self.served.arm)).json()
            assert status["status"] != "Failed", status
            if status["status"] == "Succeeded":
                return
            time.sleep(0.01)

    def exists(self, path: str) -> bool:
        return self.call("GET", path).is_success

    # --- the lab

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = running.ask(self.home, "GET", "/status")
        return found

    def entering(self, network: str) -> list[str]:
        """The words before a command that runs in a network."""
        return [sys.executable, "-m", "isthmus.cli.main", "lab", "exec", "--home", str(self.home), network, "--"]

    def exec(
        self, network: str, *command: str, given: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a network to its end; ``given`` is its standard input."""
        return subprocess.run(
            [*self.entering(network), *command],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
            env={**self._environment, **environment},
        )

    def namespace_of(self, network: str) -> str:
        """The namespace of a virtual network."""
        return str(running.ask(self.home, "POST", "/find", {"network": network})["namespace"])

    def namespaces(self) -> set[str]:
        """The lab's namespaces, as the machine tells."""
        prefix = f"isthmus-lab-{removing.lab_id(self.home)}-"
        told = subprocess.run(["ip", "-json", "netns"], capture_output=True, text=True, check=True).stdout
        return {one["name"] for one in json.loads(told or "[]") if one["name"].startswith(prefix)}
