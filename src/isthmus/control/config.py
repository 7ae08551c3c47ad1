"""The settings of a control plane: flags over ``ISTHMUS_CONTROL_*`` over a TOML file over defaults."""

# ruff: noqa: RUF009 - ``setting`` is ``dataclasses.field`` with the documentation in its metadata.

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from isthmus.kit import settings
from isthmus.kit.errors import ConfigError
from isthmus.kit.logs import LogFormat, LogLevel
from isthmus.kit.settings import Loaded, setting

PREFIX: Final = "ISTHMUS_CONTROL_"
#: Names the configuration file when no flag does.
FILE_VARIABLE: Final = f"{PREFIX}CONFIG"
#: What clients read under our prefix, as fields would be called: where the control plane is, and what opens it.
CLIENTS: Final = ("url", "token_file", "ca_file")

_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")

Port = Annotated[int, Field(ge=0, le=65535)]


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """One process of the control plane."""

    database_url: str | None = setting(
        "The database: postgresql://user:password@host:5432/database, PostgreSQL 14 or later.",
        default=None,
        why="Not set: a PostgreSQL of its own in home, for one machine. Never a flag: other users see those.",
        secret=True,
        sources=(settings.Source.ENVIRONMENT, settings.Source.FILE),
    )
    home: Path = setting(
        "Where the embedded PostgreSQL keeps its files.",
        default=Path("/var/lib/isthmus-control"),
        why="Unused otherwise.",
    )
    organization: Annotated[str, Field(min_length=1, max_length=128)] = setting(
        "The name of the organization, shown to people.", default="default"
    )
    listen_host: str = setting(
        "The address that operators reach.", default="127.0.0.1", why="Not for agents, and not for the internet."
    )
    listen_port: Port = setting("The port that operators reach; 0 takes a free one.", default=8446)
    tls_certificate: Path | None = setting(
        "The certificate chain of the listener, as PEM.",
        default=None,
        why="Needed on anything but loopback: operators' tokens go over it.",
    )
    tls_private_key: Path | None = setting("Its key, as PEM.", default=None)
    admin_tokens: Path | None = setting(
        "A directory with the admin tokens of deployments, a file each.",
        default=None,
        why="Registrations name files below it. Not set: no deployment can be asked.",
    )
    admin_ca: Path | None = setting(
        "The authorities that sign the certificates of deployments' admin listeners, as PEM.",
        default=None,
        why="Not set: the machine's own. Admin URLs over http need none.",
    )
    look_seconds: Annotated[float, Field(ge=0.1, le=3600)] = setting(
        "How often links are looked at.",
        default=10.0,
        unit="seconds",
        why="New connections and changes made elsewhere are seen after this time; two calls a link each time.",
    )
    cloud_seconds: Annotated[float, Field(ge=1, le=3600)] = setting(
        "For how long failures that may pass are waited out before they are shown.", default=20.0, unit="seconds"
    )
    log_level: LogLevel = setting("The least level that is logged.", default=LogLevel.INFO)
    log_format: LogFormat = setting("Lines for people (console) or for machines (json).", default=LogFormat.CONSOLE)

    def __post_init__(self) -> None:
        if (self.tls_certificate is None) != (self.tls_private_key is None):
            raise ConfigError(
                "a certificate needs its key, and a key its certificate",
                code="tls_incomplete",
                hint="Give both --tls-certificate and --tls-private-key.",
            )
        if self.tls_certificate is None and self.listen_host not in _LOOPBACK:
            raise ConfigError(
                f"without TLS the control plane listens on loopback alone, not on {self.listen_host}",
                code="tls_required",
                hint="Give --tls-certificate and --tls-private-key, or --listen-host 127.0.0.1.",
            )


def load(
    flags: Mapping[str, object], *, environment: Mapping[str, str] | None = None, file: Path | None = None
) -> Loaded[ControlConfig]:
    """The settings and where each came from. Raises ConfigError."""
    variables = dict(os.environ) if environment is None else environment
    if file is None and FILE_VARIABLE in variables:
        file = Path(variables[FILE_VARIABLE])
    return settings.load(
        ControlConfig, flags=flags, environment=variables, prefix=PREFIX, file=file, ignored=["config", *CLIENTS]
    )
