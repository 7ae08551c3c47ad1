"""The composition of one lab: state, resource manager, identity, packets, and the socket of the lab's own commands.

Order of a start: the state is opened (a home is served once: its lock), word is left that the process begins, packets
converge to what the documents say, and only then is anything answered. Order of an end: sockets close, what was
accepted is followed by the packets, word is left. The network stays (ADR 0014): ``removing`` removes it.
"""

import asyncio
import os
import secrets
import signal
import socket
from collections import deque
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from isthmus.kit import guarding, logs
from isthmus.kit.clocks import Clock, SystemClock
from isthmus.kit.errors import ConfigError, IsthmusError, PermanentError
from isthmus.kit.health import Condition, Health, Occurrence, Severity
from isthmus.lab import authority, bundling, identity, picturing, private_dns, removing, reporting, running, tenancy
from isthmus.lab import network as microsoft_network
from isthmus.lab.arm.engine import Engine, EngineConfig
from isthmus.lab.arm.serving import Api
from isthmus.lab.config import LabConfig
from isthmus.lab.controlling import Control
from isthmus.lab.documents import PUBLIC_NAMES, Change
from isthmus.lab.identity import Tokens
from isthmus.lab.insights.answering import Insights
from isthmus.lab.insights.recording import Recorder, Sample
from isthmus.lab.packets import requirements
from isthmus.lab.packets.fabric import Limits
from isthmus.lab.packets.following import Packets
from isthmus.lab.resources import composing
from isthmus.lab.running import Phase, Served
from isthmus.lab.store import Snapshot, Store

#: The topic of notes that holds who this lab is.
_LAB: Final = "lab"
_LOOPBACK: Final = "127.0.0.1"
_KEPT_REPAIRS: Final = 100

#: What keeps the packets from being as the documents say.
PACKETS_BEHIND: Final = Condition("lab_packets_behind", Severity.ERROR)

log = logs.get(component="lab")


@dataclass(frozen=True, slots=True)
class Repair:
    """Something that was not as it should be, and is now."""

    at: datetime
    what: str


@dataclass(frozen=True, slots=True)
class _Self:
    """Who a lab is: kept with its state, so that clients go on after a restart."""

    tenancy: tenancy.Tenancy
    signing_key: bytes
    identity_header: str
    ports: Mapping[str, int]

    @classmethod
    def of(cls, store: Store) -> "_Self":
        """What the store says; made and kept if it says nothing yet. Raises ArmError (507) if it cannot be kept."""
        kept = store.world.notes(_LAB)
        if not kept:
            made = cls(tenancy.make("Provider", "Customer"), identity.make_key(), secrets.token_hex(32), {})
            made.keep(store)
            return made
        return cls(
            tenancy.from_json(kept["tenancy"]), kept["signingKey"].encode(), kept["identityHeader"], kept["ports"]
        )

    def keep(self, store: Store) -> None:
        """Write it down."""
        draft = store.draft()
        draft.note(_LAB, "tenancy", self.tenancy.to_json())
        draft.note(_LAB, "signingKey", self.signing_key.decode())
        draft.note(_LAB, "identityHeader", self.identity_header)
        draft.note(_LAB, "ports", dict(self.ports))
        store.commit(draft)


def main(config: LabConfig) -> int:
    """Serve a lab until SIGTERM or SIGINT. Raises IsthmusError."""
    logs.configure(config.log_level, config.log_format)
    check(config)
    asyncio.run(_serve(config))
    return 0


def check(config: LabConfig) -> None:
    """Whether this machine can do what the config asks for. Raises ConfigError."""
    if not config.without_packets and (lacking := requirements.missing()):
        raise ConfigError(
            "; ".join(lacking),
            code="lab_unfit",
            hint="Or serve the resource manager alone: --without-packets.",
        )


async def _serve(config: LabConfig) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    async with Lab.started(config) as lab:
        log.info("the lab answers", arm=lab.served.arm, home=str(config.home))
        async with asyncio.TaskGroup() as group:
            look = guarding.start(group, "looking at the packets", lab.look_after())
            watch = guarding.start(group, "health", lab.health.watch())
            record = guarding.start(group, "metrics", lab.recorder.run())
            await asked.wait()
            for task in (look, watch, record):
                task.cancel()
    log.info("the lab has ended; its state and its network stay", remove="isthmus lab down")


class Lab:
    """One lab that answers."""

    def __init__(self, config: LabConfig, store: Store, self_: _Self, packets: Packets | None, clock: Clock) -> None:
        self.config = config
        self.health = Health(clock)
        self.health.observe(_tell)
        self.served = Served(
            os.getpid(), running.began(os.getpid()) or 0, Phase.STARTING, has_packets=packets is not None
        )
        self._store = store
        self._self = self_
        self._packets = packets
        self._clock = clock
        self._since = clock.now()
        self._repairs: deque[Repair] = deque(maxlen=_KEPT_REPAIRS)
        self._turn = asyncio.Lock()
        self._followed: Snapshot | None = None
        self.recorder = Recorder(self._sample, clock, ports_per_address=config.ports_per_address)

    @classmethod
    def started(cls, config: LabConfig, clock: Clock | None = None) -> "_Started":
        """An asynchronous context with a lab that answers. Raises IsthmusError."""
        return _Started(config, clock or SystemClock())

    # --- packets ------------------------------------------------------------------------------------------------------

    async def converge(self) -> None:
        """Make the packets what the documents say, at the start. Raises PacketsError."""
        if self._packets is None:
            return
        world = self._store.world
        self._note_repairs(await self._packets.start(picturing.picture(world)))
        self._followed = world

    async def settle(self, _change: Change) -> None:
        """Let the packets follow what was committed; several changes at a time are followed at once.

        Raises PacketsError.
        """
        if self._packets is not None:
            await self._follow(self._packets)

    async def _follow(self, packets: Packets) -> None:
        async with self._turn:
            world = self._store.world
            if self._followed is world:
                return
            with self._condition():
                await packets.converge(picturing.picture(world))
                self._followed = world

    async def look_after(self) -> None:
        """Look from time to time whether all is as it should be, and repair it. Runs until cancelled."""
        while True:
            await self._clock.sleep(self.config.look_seconds)
            if self._packets is None:
                continue
            with suppress(PermanentError):
                await self._look(self._packets)

    async def _look(self, packets: Packets) -> None:
        await self._follow(packets)
        with self._condition():  # not in turn: a change need not wait for a look
            self._note_repairs(await packets.look())

    def _condition(self) -> "_Behind":
        return _Behind(self.health)

    def _note_repairs(self, repairs: list[str]) -> None:
        self._repairs.extend(Repair(self._clock.now(), what) for what in repairs)

    # --- what its commands ask ----------------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """Everything that ``lab status`` shows."""
        world = self._store.world
        shown = picturing.picture(world)
        counts = await self._counts()
        namespaces = self._packets.namespaces() if self._packets is not None else {}
        return {
            "lab": {
                "pid": self.served.pid,
                "since": self._since.isoformat(),
                "arm": self.served.arm,
                "home": str(self.config.home),
                "packets": self._packets is not None,
                "tenant": self.served.tenant,
                "provider_subscription": self.served.provider_subscription,
                "customer_subscription": self.served.customer_subscription,
            },
            "health": reporting.health(self.health.visible()),
            "networks": reporting.networks(world, shown, namespaces),
            "endpoints": reporting.endpoints(world, shown, counts),
            "services": reporting.services(world, shown, counts, self.config.ports_per_address),
            "repairs": [{"at": one.at.isoformat(), "what": one.what} for one in self._repairs],
        }

    async def _counts(self) -> reporting.Counts | None:
        if self._packets is None:
            return None
        try:
            return reporting.Counts(await self._packets.counters(), await self._packets.nat_ports_used())
        except PermanentError as error:
            log.warning("nothing could be counted", error=str(error))
            return None

    async def _sample(self) -> Sample | None:
        """What the packets have counted, for metrics."""
        shown, counts = picturing.picture(self._store.world), await self._counts()
        if counts is None:
            return None
        carried = {key: (one.bytes_in, one.bytes_out) for key, one in counts.endpoints.items()}
        return Sample(shown, carried, counts.ports_used)

    def networks(self) -> Mapping[str, str]:
        """The namespaces of the virtual networks by resource id."""
        world = self._store.world
        namespaces = self._with_packets().namespaces()
        return {str(document.id): name for key, name in namespaces.items() if (document := world.get(key)) is not None}

    def internet(self) -> str:
        """The namespace of the internet."""
        return self._with_packets().internet

    def public_names(self) -> dict[str, list[str]]:
        """What the public resolver knows."""
        return {name: list(addresses) for name, addresses in self._store.world.notes(PUBLIC_NAMES).items()}

    async def set_public_name(self, name: str, addresses: list[str] | None) -> None:
        """Have the public resolver answer a name, or forget it."""
        draft = self._store.draft()
        draft.note(PUBLIC_NAMES, name, addresses)
        self._store.commit(draft)
        await self.settle(draft)

    def _with_packets(self) -> Packets:
        if self._packets is None:
            raise PermanentError(
                "this lab has no packets",
                code="lab_without_packets",
                hint="It was started with --without-packets: isthmus lab down --keep, then isthmus lab up.",
            )
        return self._packets

    # --- answering ----------------------------------------------------------------------------------------------------

    async def listen(self, stack: AsyncExitStack) -> None:
        """Answer clients, and say where. Raises IsthmusError."""
        home, config, kept = self.config.home, self.config, self._self
        made = authority.ensure(home / "tls")
        bundle = home / "authorities.pem"
        bundling.write(bundle, made.certificate, os.environ)
        arm = _listener("port", config.port, kept.ports.get("arm", 0))
        tokens = _listener("identity_port", config.identity_port, kept.ports.get("identity", 0))
        url = f"https://{_LOOPBACK}:{arm.getsockname()[1]}"
        issuer = Tokens(kept.tenancy, kept.signing_key, (url,), kept.identity_header)
        kinds = composing.registry(
            (*microsoft_network.KINDS, *private_dns.KINDS),
            (*microsoft_network.VIRTUALS, *private_dns.VIRTUALS),
            microsoft_network.ACTIONS,
        )
        engine = Engine(
            kinds,
            self._store,
            issuer,
            settle=self.settle,
            pages=(*composing.pages(), *Insights(self.recorder, self._clock).pages()),
            config=EngineConfig(operation_seconds=config.operation_seconds),
            clock=self._clock,
        )
        stack.push_async_callback(engine.close)
        control = _control_listener(home)
        for server, listener, tls in (
            (Api(engine, url).server(), arm, made.server_context()),
            (identity.Endpoint(issuer, kept.identity_header).server(), tokens, None),
            (Control(self).server(), control, None),
        ):
            await server.listen(listener, tls)
            stack.push_async_callback(server.close)
        self._keep_ports({"arm": arm.getsockname()[1], "identity": tokens.getsockname()[1]})
        provider, customer = kept.tenancy.subscriptions
        self.served = replace(
            self.served,
            phase=Phase.SERVING,
            arm=url,
            identity_endpoint=f"http://{_LOOPBACK}:{tokens.getsockname()[1]}/msi/token",
            identity_header=kept.identity_header,
            tenant=kept.tenancy.tenant_id,
            client_id=kept.tenancy.client_id,
            provider_subscription=provider.id,
            customer_subscription=customer.id,
            authorities=str(bundle),
        )

    def _keep_ports(self, ports: Mapping[str, int]) -> None:
        if ports != self._self.ports:
            self._self = replace(self._self, ports=ports)
            self._self.keep(self._store)


class _Started:
    """Starts a lab and ends it."""

    def __init__(self, config: LabConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._stack = AsyncExitStack()
        self._lab: Lab | None = None

    async def __aenter__(self) -> Lab:
        async with AsyncExitStack() as stack:
            self._lab = await self._start(stack)
            self._stack = stack.pop_all()
        return self._lab

    async def __aexit__(self, *_: object) -> None:
        lab = self._lab
        await self._stack.aclose()
        if lab is not None:
            running.write(self._config.home, replace(lab.served, phase=Phase.STOPPED))

    async def _start(self, stack: AsyncExitStack) -> Lab:
        config = self._config
        store = _open(config.home)
        stack.callback(store.close)
        packets = None
        if not config.without_packets:
            limits = Limits(config.idle_seconds, config.ports_per_address)
            packets = Packets(removing.lab_id(config.home), limits)
            stack.push_async_callback(packets.close)
        lab = Lab(config, store, _Self.of(store), packets, self._clock)
        running.write(config.home, lab.served)
        await lab.converge()
        await lab.listen(stack)
        running.write(config.home, lab.served)
        return lab


class _Behind:
    """Raises the condition that packets are behind while something that should bring them forward fails."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, IsthmusError):
            self._health.raise_(PACKETS_BEHIND, f"the packets do not follow: {error.summary}", error.hint)
        elif error is None:
            self._health.clear(PACKETS_BEHIND)


def _tell(occurrence: Occurrence, came: bool) -> None:
    if came:
        log.error(occurrence.summary, code=occurrence.code, hint=occurrence.hint)
    else:
        log.info("over", code=occurrence.code)


def _open(home: Path) -> Store:
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"the lab's home {home} cannot be used: {error.strerror}",
            code="lab_home_unusable",
            hint="Name one that you may write with --home or ISTHMUS_LAB_HOME.",
        ) from None
    return Store.open(home / "state")


def _control_listener(home: Path) -> socket.socket:
    """The socket of the lab's own commands, for the user that serves alone."""
    with running.socket_path(home) as path:
        Path(path).unlink(missing_ok=True)
        control = socket.socket(socket.AF_UNIX)
        control.bind(path)
        Path(path).chmod(0o600)
    return control


def _listener(setting: str, asked: int, kept: int) -> socket.socket:
    """A socket on loopback: on the port that was asked for, on the one of last time, or on any. Raises ConfigError."""
    if asked == 0 and kept != 0:
        with suppress(OSError):
            return socket.create_server((_LOOPBACK, kept))
        log.warning("the port of last time is taken: clients have to be told the new one", port=kept)
    try:
        return socket.create_server((_LOOPBACK, asked))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {_LOOPBACK}:{asked}: {error.strerror}",
            code="lab_port_taken",
            hint=f"Choose another with --{setting.replace('_', '-')}, or 0 for any.",
        ) from None
