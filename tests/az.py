"""The ``az`` command, unchanged, on a lab: signed in as a managed identity, with a configuration of its own.

``make az`` installs it. It starts in about a second, so tests make few calls and ask each for much.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).resolve().parents[1] / ".az" / "venv" / "bin" / "az"

#: Nothing is sent anywhere, nothing is asked, nothing is written outside the folder.
QUIET = {
    "AZURE_AUTO_UPGRADE_ENABLE": "no",
    "AZURE_CLIENTS_SHOW_SECRETS_WARNING": "no",
    "AZURE_CORE_COLLECT_TELEMETRY": "no",
    "AZURE_CORE_LOGIN_EXPERIENCE_V2": "off",
    "AZURE_CORE_NO_COLOR": "yes",
    "AZURE_CORE_ONLY_SHOW_ERRORS": "yes",
    "AZURE_CORE_SURVEY_MESSAGE": "no",
    "AZURE_EXTENSION_USE_DYNAMIC_INSTALL": "no",
}


class AzError(Exception):
    """A command failed: its exit code and what it said."""

    def __init__(self, arguments: tuple[str, ...], code: int, said: str) -> None:
        super().__init__(f"az {' '.join(arguments)} ended with {code}: {said}")
        self.code = code
        self.said = said


@dataclass(frozen=True)
class Az:
    """Call it with a command's words; what it printed comes back, parsed."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, seconds: float = 60) -> Any:
        """The JSON that a command printed, None if nothing. Raises AzError."""
        done = subprocess.run(
            [PROGRAM, *arguments],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "AZURE_CONFIG_DIR": str(self.folder / "azure"),
                **QUIET,
                **self.environment,
            },
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode != 0:
            raise AzError(arguments, done.returncode, done.stderr)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def sign_in(self, arm: str) -> None:
        """Make the resource manager at ``arm`` the current cloud, and sign in there."""
        self("cloud", "register", "--name", "lab", "--endpoint-resource-manager", arm)
        self("cloud", "set", "--name", "lab")
        self("login", "--identity")


def on(folder: Path, *, arm: str, ca: Path, identity_endpoint: str, identity_header: str) -> Az:
    """An ``az`` that is signed in to a lab; ``folder`` is where it keeps what it keeps."""
    az = Az(
        folder,
        {
            "REQUESTS_CA_BUNDLE": str(ca),
            "SSL_CERT_FILE": str(ca),
            "IDENTITY_ENDPOINT": identity_endpoint,
            "IDENTITY_HEADER": identity_header,
        },
    )
    az.sign_in(arm)
    return az
