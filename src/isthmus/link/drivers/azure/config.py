"""What the driver needs to know: where Azure is, whom to trust, how long to wait."""

# ruff: noqa: RUF009 - ``setting`` is ``dataclasses.field`` with the documentation in its metadata.

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isthmus.kit import settings
from isthmus.kit.errors import ConfigError
from isthmus.kit.settings import setting

#: Environment variables begin with it.
PREFIX: Final = "ISTHMUS_AZURE_"


@dataclass(frozen=True, slots=True)
class AzureConfig:
    """Where and how. Azure's public cloud needs none of it."""

    arm_endpoint: str = setting(
        "The resource manager's URL.",
        default="https://management.azure.com",
        why="Sovereign clouds have others, and the lab has one of its own.",
    )
    authority: str | None = setting(
        "The host that gives tokens.", default=None, why="Sovereign clouds have others; else the SDK's default."
    )
    ca_file: Path | None = setting(
        "A file of certificate authorities to trust, in place of the machine's.",
        default=None,
        why="Proxies that look into TLS, and the lab, have authorities of their own.",
    )
    operation_seconds: float = setting(
        "How long an operation of Azure's may take.",
        unit="seconds",
        default=900.0,
        why="Endpoints take up to a few minutes; what takes longer is stuck.",
    )
    poll_seconds: float = setting(
        "How often an operation is looked at, unless Azure says when.",
        unit="seconds",
        default=1.0,
        why="Azure mostly says when.",
    )
    call_seconds: float = setting(
        "How long one call may take.", unit="seconds", default=60.0, why="The resource manager answers within a few."
    )

    def __post_init__(self) -> None:
        if not self.arm_endpoint.startswith("https://"):
            raise ConfigError(
                f"{self.arm_endpoint!r} is not the URL of a resource manager",
                code="arm_endpoint_malformed",
                hint="It begins with https://: Azure's SDK sends no token over anything else.",
            )
        if self.ca_file is not None and not self.ca_file.is_file():
            raise ConfigError(
                f"There is no file {self.ca_file}", code="ca_file_not_found", hint="Name a file of PEM certificates."
            )

    @property
    def scope(self) -> str:
        """What tokens are asked for."""
        return f"{self.arm_endpoint.rstrip('/')}/.default"


#: What can be said by flags.
FLAGS: Final = tuple(settings.settings_of(AzureConfig))


def load(flags: Mapping[str, object], environment: Mapping[str, str]) -> AzureConfig:
    """Flags over environment over defaults. Raises ConfigError."""
    return settings.load(AzureConfig, flags=flags, environment=environment, prefix=PREFIX).config
