"""The settings of a lab: flags over ``ISTHMUS_LAB_*`` over a TOML file over defaults.

The same prefix names what ``isthmus lab env`` tells clients (``ISTHMUS_LAB_ARM`` and the like); ``EXPORTED`` lists
those, so that a shell that knows a lab can start another one.
"""

# ruff: noqa: RUF009 - ``setting`` is ``dataclasses.field`` with the documentation in its metadata.

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from isthmus.kit import settings
from isthmus.kit.logs import LogFormat, LogLevel
from isthmus.kit.settings import Loaded, setting

PREFIX: Final = "ISTHMUS_LAB_"
#: Names the configuration file when no flag does.
FILE_VARIABLE: Final = f"{PREFIX}CONFIG"

#: What ``isthmus lab env`` sets under our prefix, as fields would be called.
EXPORTED: Final = ("arm", "tenant", "client_id", "provider_subscription", "customer_subscription")

Port = Annotated[int, Field(ge=0, le=65535)]


def _home(_: Mapping[str, Any]) -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/isthmus-lab")
    state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(state) / "isthmus-lab"


@dataclass(frozen=True, slots=True)
class LabConfig:
    """One lab."""

    home: Path = setting(
        "Where the lab keeps its state: one lab a home.",
        derive=_home,
        why="/var/lib/isthmus-lab for root, a folder of the user's otherwise.",
    )
    port: Port = setting(
        "The port of the resource manager, on 127.0.0.1; 0 takes a free one.",
        default=0,
        why="The one that was taken is kept with the state: clients that registered the lab as a cloud find it again.",
    )
    identity_port: Port = setting(
        "The port of the managed identity's tokens, on 127.0.0.1; 0 takes a free one.", default=0
    )
    without_packets: bool = setting(
        "Serve the resource manager alone: no namespaces, nftables, dnsmasq.",
        default=False,
        why="Packets need Linux and root; who tries a client of the API often needs neither.",
    )
    idle_seconds: Annotated[int, Field(ge=1, le=86400)] = setting(
        "How long a flow through an endpoint may be idle before it is reset.",
        default=240,
        unit="seconds",
        why="Azure's four minutes. Tests shorten it.",
    )
    ports_per_address: Annotated[int, Field(ge=1, le=64512)] = setting(
        "How many flows at a time each NAT address of a link service carries.",
        default=64512,
        unit="ports",
        why="Every port from 1024 up: Azure speaks of 64 thousand. Tests of exhaustion lower it.",
    )
    operation_seconds: Annotated[float, Field(ge=0, le=600)] = setting(
        "How long an asynchronous operation takes at least.",
        default=0.0,
        unit="seconds",
        why="Azure takes half a minute for an endpoint; nobody learns from waiting, but clients' polling can be tried.",
    )
    look_seconds: Annotated[float, Field(ge=0.1, le=3600)] = setting(
        "How often the machine is compared with what it should look like, and repaired.",
        default=5.0,
        unit="seconds",
        why="Something that was removed by hand is back before one has wondered for long.",
    )
    log_level: LogLevel = setting("The least level that is logged.", default=LogLevel.INFO)
    log_format: LogFormat = setting("Lines for people (console) or for machines (json).", default=LogFormat.CONSOLE)


def load(
    flags: Mapping[str, object], *, environment: Mapping[str, str] | None = None, file: Path | None = None
) -> Loaded[LabConfig]:
    """The lab's settings and where each came from. Raises ConfigError."""
    variables = dict(os.environ) if environment is None else environment
    if file is None and FILE_VARIABLE in variables:
        file = Path(variables[FILE_VARIABLE])
    return settings.load(
        LabConfig, flags=flags, environment=variables, prefix=PREFIX, file=file, ignored=["config", *EXPORTED]
    )
