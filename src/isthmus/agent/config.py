"""The settings of an agent: flags over ``ISTHMUS_AGENT_*`` over a TOML file over defaults.

Each field says what it means, in which unit, and why its default is what it is; ``isthmus config explain`` prints it.
The token itself comes from the environment or from a file, never from a command line or a configuration file, which
other users can read or which end up in repositories; it is removed from the environment as soon as it is read.

``Timing`` holds what is not for users: the waits of the loops, which tests shorten.
"""

# ruff: noqa: RUF009 - ``setting`` is ``dataclasses.field`` with the documentation in its metadata.

import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from isthmus.kit import calling, settings
from isthmus.kit.backoffs import BackoffConfig
from isthmus.kit.errors import ConfigError
from isthmus.kit.logs import LogFormat, LogLevel, masked
from isthmus.kit.settings import Loaded, Source, setting
from isthmus.wire.agents import MAX_HELD, GroupName, LabelName, LabelText, Slots
from isthmus.wire.names import AgentName, Privacy, QueueName, Role

PREFIX: Final = "ISTHMUS_AGENT_"
#: Names the configuration file when no flag does.
FILE_VARIABLE: Final = f"{PREFIX}CONFIG"
TOKEN_VARIABLE: Final = f"{PREFIX}TOKEN"

#: A value that turns ``proxy`` or ``health_listen`` off.
OFF: Final = "off"

#: The longest path that fits into ``sockaddr_un`` (unix(7)), with its final zero.
_SOCKET_PATH_BYTES: Final = 107

#: A verification makes some connections of its own; more often than this it would be a load.
_LEAST_VERIFY_SECONDS: Final = 10

#: What an agent does that was not told: all of it.
DEFAULT_ROLES: Final = tuple(Role)

_LOOPBACK: Final = re.compile(r"localhost|127(\.\d+){3}|::1")


def _check_url(url: str) -> str:
    origin = calling.parse_origin(url)
    if origin.scheme == "http" and not _LOOPBACK.fullmatch(origin.host):
        raise ValueError("the agent token would cross the network in the clear: use https")
    parts = urlsplit(url)
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("write scheme, host, port and path, and nothing else")
    return url.rstrip("/")


def _check_proxy(proxy: str) -> str:
    if proxy not in {"", OFF}:
        calling.parse_proxy(proxy)
    return proxy


def _check_listen(listen: str) -> str:
    if listen != OFF:
        parse_listen(listen)
    return listen


def _check_token(token: str | None) -> str | None:
    # A line break in a token would be a header of its own.
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise ValueError("an agent token is one word of ASCII characters")
    return token


def _check_reference(prefix: str) -> str:
    # Without the slash, s3://data would cover s3://data-of-others.
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s]*/", prefix):
        raise ValueError("write the beginning of a URL, with its scheme and a slash at the end")
    return prefix


def parse_listen(listen: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[host]:port``. Raises ValueError."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"write host:port, or {OFF!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _host_name(_: Mapping[str, Any]) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", socket.gethostname().lower()).strip("-._")
    return name or "agent"


def _state_dir(values: Mapping[str, Any]) -> Path:
    name = str(values["name"])
    if os.geteuid() == 0:
        return Path("/var/lib/isthmus/agent") / name
    home = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(home) / "isthmus" / "agent" / name


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """One agent. A config that exists is consistent; whether the plane accepts it is the plane's answer."""

    url: Annotated[str, AfterValidator(_check_url)] = setting(
        "The deployment's Remote Execution API, as https://<cluster-id>.external.<domain>/<deployment-id>.",
        show=masked,
        why="http is for a plane on this machine only: the token goes along with every request.",
    )
    token_file: Path | None = setting(
        "A file that holds the agent token. It is read again when the plane refuses the token.",
        default=None,
        why="With a file, a token is rotated without a restart. Its owner should be the agent's user, its mode 0600.",
    )
    token: Annotated[str | None, AfterValidator(_check_token)] = setting(
        "The agent token itself.",
        default=None,
        secret=True,
        sources=(Source.ENVIRONMENT, Source.DEFAULT),
        why="Only from the environment, and removed from there at once: command lines and files are read by others.",
    )
    name: AgentName = setting(
        "The agent's name, one of its own in the deployment.",
        derive=_host_name,
        why="The host's name, as with Celery. An agent that comes back under its name replaces its former self.",
    )
    role: Annotated[tuple[Role, ...], Field(max_length=3)] = setting(
        "What the agent does: worker, dag-processor, triggerer, or several of them, separated by commas.",
        default=(),
        why="Not set means all of them. A role that was not asked for by name is left out when the deployment or the "
        "agent token does not admit it.",
    )
    queues: Annotated[tuple[QueueName, ...], Field(min_length=1, max_length=64)] = setting(
        "The queues to take workloads from.", default=("default",), why="Airflow's default queue."
    )
    slots: Slots = setting(
        "How many workloads run at once.",
        default=8,
        unit="workloads",
        why="Each takes about 50 MB and up to one core; half of Celery's default, because agents are often small.",
    )
    triggers: Annotated[int, Field(ge=1, le=MAX_HELD)] = setting(
        "How many triggers of deferred tasks run at once, in the role triggerer.",
        default=1000,
        unit="triggers",
        why="As in Airflow's own triggerer: they wait most of the time, and share one process.",
    )
    group: GroupName | None = setting(
        "The group that the agent belongs to: agents that others may stand by for.", default=None
    )
    standby_for: GroupName | None = setting(
        "The group that the agent stands by for: it gets no work while that group has an agent of the same role that "
        "takes some.",
        default=None,
        why="For a second site, or a dearer one, that is to run nothing while the first one can.",
    )
    standby_seconds: Annotated[float, Field(ge=0, le=86400)] = setting(
        "How long the group must have had no such agent before this one takes over, and one again before it stands "
        "back.",
        default=60.0,
        unit="seconds",
        why="An agent is unhealthy after 30 seconds of silence; a minute more outlasts a restart.",
    )
    labels: Annotated[dict[LabelName, LabelText], Field(max_length=32)] = setting(
        "What else to show of this agent, as name=value pairs.", default={}
    )
    state_dir: Path = setting(
        "Where the agent keeps its lock and its socket.",
        derive=_state_dir,
        why="Under /var/lib for root, under the user's state folder otherwise; one folder per name.",
    )
    user: str | None = setting(
        "The user that the control process becomes when it was started as root: a name, a number, or number:number.",
        default=None,
        why="The control process holds the agent token; it needs no other privilege than to change to the task user.",
    )
    task_user: str | None = setting(
        "The user that runs tasks: a name, a number, or number:number.",
        default=None,
        why="Code that runs under the control process's user can take the agent token: in production they differ.",
    )
    runner_command: Annotated[tuple[str, ...], Field(min_length=1)] = setting(
        "The program that runs tasks, the fork server; it may live in another virtual environment.",
        default=(sys.executable, "-m", "isthmus.runner"),
        words=True,
        why="The agent imports no Airflow; whatever Airflow the command brings is the one that tasks run on.",
    )
    runner_environment_file: Path | None = setting(
        "A file of NAME=value lines that are added to the environment of the fork server and of tasks.",
        default=None,
        why="The place for AIRFLOW__* settings and AIRFLOW_CONN_*; the agent's own ISTHMUS_* never reach tasks.",
    )
    privacy: Privacy = setting(
        "What of tasks leaves this network: open (what Airflow sends), masked (nothing that people only look at, as "
        "rendered fields, reasons of failures, notes) or strict (and XComs and stored states only as references).",
        default=Privacy.OPEN,
        why="As Airflow does. The deployment may ask for more, and the stricter one holds.",
    )
    privacy_references: tuple[Annotated[str, AfterValidator(_check_reference)], ...] = setting(
        "Where XComs and stored states that leave under the profile strict may refer to: beginnings of URLs, separated "
        "by commas, as in s3://warehouse@team-data/xcom/.",
        default=(),
        why="None: no value counts as a reference, and strict refuses every XCom.",
    )
    show_logs: bool | None = setting(
        "Whether tasks' logs may be read in Airflow's UI, through this agent.",
        default=None,
        why="Unset: they may, but not under the profile strict.",
    )
    ship_logs: bool = setting(
        "Whether the log of a task that has ended is sent to the plane, which keeps it if the deployment has ship_logs "
        "as well. Under the privacy profile strict only with show_logs.",
        default=False,
        why="Logs stay here; they are lost with this agent's disk unless tasks have remote logging to a store.",
    )
    proxy: Annotated[str, AfterValidator(_check_proxy)] = setting(
        "The HTTP proxy towards the plane, as http://[user:password@]host:port, or 'off'.",
        default="",
        show=masked,
        why="Empty means HTTPS_PROXY and NO_PROXY of the environment, as other programs do.",
    )
    ca_file: Path | None = setting(
        "Certificates (PEM) of the authorities to trust, instead of the system's.",
        default=None,
        why="For a private CA, and for proxies that open TLS.",
    )
    client_certificate: Path | None = setting(
        "The certificate (PEM, with its chain) that the agent shows to a plane or ingress that asks for one.",
        default=None,
    )
    client_key: Path | None = setting("The private key (PEM) of client_certificate.", default=None)
    drain_seconds: Annotated[float, Field(ge=0, le=7 * 86400)] = setting(
        "How long running workloads may take to finish after SIGTERM before they are killed.",
        default=300.0,
        unit="seconds",
        why="Airflow retries what is killed. Whatever stops the agent (systemd, Kubernetes) must wait longer.",
    )
    kill_grace_seconds: Annotated[float, Field(ge=0, le=3600)] = setting(
        "How long a workload that is to end has from SIGTERM to SIGKILL.",
        default=10.0,
        unit="seconds",
        why="Operators cancel what they have started elsewhere (on_kill) in this time.",
    )
    outage_seconds: Annotated[float, Field(ge=0, le=7 * 86400)] = setting(
        "How long the calls of running tasks are held while the plane cannot be reached.",
        default=3600.0,
        unit="seconds",
        why="A plane's maintenance or a cut line should not fail work that runs well; after an hour nobody waits.",
    )
    health_listen: Annotated[str, AfterValidator(_check_listen)] = setting(
        "Where /healthz and /metrics are served, as host:port, or 'off'.",
        default="127.0.0.1:9321",
        why="Loopback: it says which queues and versions there are. In a pod, 0.0.0.0:9321 lets the probes in.",
    )
    verify_every_seconds: Annotated[float, Field(ge=0, le=7 * 86400)] = setting(
        "How often the agent verifies its road to the plane by itself: name, TCP, TLS, token, source. 0 for never.",
        default=0.0,
        unit="seconds",
        why="Off: the plane can ask for it (isthmus agents verify), and an agent that gets through needs no proof.",
    )
    log_level: LogLevel = setting("The least level that is logged.", default=LogLevel.INFO)
    log_format: LogFormat = setting("Lines for people (console) or for machines (json).", default=LogFormat.CONSOLE)

    def __post_init__(self) -> None:
        """Check what concerns more than one field. Raises ValueError."""
        if (self.token is None) == (self.token_file is None):
            raise ValueError(f"set one of token_file and {TOKEN_VARIABLE}: the agent needs one agent token")
        if 0 < self.verify_every_seconds < _LEAST_VERIFY_SECONDS:
            raise ValueError(f"verify_every_seconds is 0 or at least {_LEAST_VERIFY_SECONDS}")
        if self.standby_for is not None and self.standby_for == self.group:
            raise ValueError("standby_for names the agent's own group")
        if (self.client_certificate is None) != (self.client_key is None):
            raise ValueError("set client_certificate and client_key together")
        if len(set(self.role)) != len(self.role):
            raise ValueError("role names one role twice")
        if max(len(os.fsencode(self.gateway_socket(role))) for role in Role) > _SOCKET_PATH_BYTES:
            raise ValueError(f"state_dir is too long for a socket in it ({_SOCKET_PATH_BYTES} bytes with its name)")

    @property
    def roles(self) -> tuple[Role, ...]:
        """What the agent does, the worker first."""
        return tuple(role for role in Role if role in (self.role or DEFAULT_ROLES))

    def name_of(self, role: Role) -> str:
        """The name under which the agent enrols with a role: its own as a worker, with the role behind it else."""
        return self.name if role is Role.WORKER else f"{self.name}.{role}"

    def slots_of(self, role: Role) -> int:
        """How much an agent with this role holds at once."""
        return {Role.WORKER: self.slots, Role.DAG_PROCESSOR: 1, Role.TRIGGERER: self.triggers}[role]

    def gateway_socket(self, role: Role = Role.WORKER) -> Path:
        """Where tasks, or the component of a role, reach the plane."""
        name = "gateway" if role is Role.WORKER else role.value
        return self.state_dir.absolute() / "gateway" / f"{name}.sock"


def load(
    flags: Mapping[str, object], *, environment: Mapping[str, str] | None = None, file: Path | None = None
) -> Loaded[AgentConfig]:
    """The agent's settings and where each came from. Raises ConfigError.

    Without ``environment`` the process's own is read, and the token is removed from it for good.
    """
    if environment is None:
        environment = dict(os.environ)
        settings.take_secret(TOKEN_VARIABLE)
    if file is None and FILE_VARIABLE in environment:
        file = Path(environment[FILE_VARIABLE])
    return settings.load(
        AgentConfig, flags=flags, environment=environment, prefix=PREFIX, file=file, ignored=["config"]
    )


def read_environment_file(file: Path) -> dict[str, str]:
    """The ``NAME=value`` lines of a file; blank lines and ``#`` comments are skipped, quotes around a value dropped.

    Raises ConfigError.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the environment file {file} cannot be read: {error}", code="environment_file_unreadable"
        ) from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip().removeprefix("export ")
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name.strip()):
            raise ConfigError(
                f"line {number} of {file} is not NAME=value",
                code="environment_file_malformed",
                hint="One variable a line; values are taken as they are, without expansion.",
            )
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        found[name.strip()] = value
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The waits of the agent's loops, in seconds. The defaults are for production."""

    #: After a failure that may be over soon. Ten seconds at most, so that work goes on soon after an outage.
    outage: BackoffConfig = field(default_factory=lambda: BackoffConfig(first_seconds=0.25, longest_seconds=10.0))
    #: After a refusal that lasts until someone changes something.
    refusal: BackoffConfig = field(default_factory=lambda: BackoffConfig(first_seconds=10.0, longest_seconds=120.0))
    #: Between two starts of a fork server that dies.
    restart: BackoffConfig = field(
        default_factory=lambda: BackoffConfig(first_seconds=0.5, longest_seconds=60.0, reset_after_seconds=120.0)
    )
    #: For the fork server to have imported Airflow. A cold import on a busy small machine takes 15 s.
    runner_ready: float = 180.0
    #: Enrol without the fork server's versions after this, so that the plane shows what is wrong here.
    runner_patience: float = 30.0
    #: For an answer from the plane, and on top of what a claim waits there.
    answer: float = 15.0
    #: For an answer to a heartbeat of a task; the supervisor that waits for it does nothing else meanwhile.
    task_heartbeat: float = 5.0
    #: For the first answer to another call of a task: XComs of many megabytes take their time.
    task_call: float = 60.0
    #: For the last settlements and the last heartbeat of an agent that ends.
    farewell: float = 10.0
    #: For what should have died to be gone, beyond the grace it was given.
    reaping: float = 5.0
    #: For the processes of a former instance to end.
    locking: float = 300.0
    #: Between two looks at where the plane's name leads.
    follow: float = 5.0
    #: For each answer to a verification.
    probe: float = 5.0
    #: A shown condition is not sent to the plane more often than this.
    heartbeat_least: float = 1.0
