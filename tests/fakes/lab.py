"""A lab without packets: the resource manager over TLS on 127.0.0.1, in a thread, with whatever kinds a test wants."""

import asyncio
import functools
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from azure.core.credentials import AccessToken

from isthmus.kit.clocks import SystemClock
from isthmus.lab import authority, identity
from isthmus.lab import tenancy as tenancies
from isthmus.lab.arm.engine import Engine, EngineConfig, Settle
from isthmus.lab.arm.registry import Registry
from isthmus.lab.arm.serving import Api
from isthmus.lab.insights.answering import Insights
from isthmus.lab.insights.recording import Recorder, Sample
from isthmus.lab.kinds import Action, Kind, Virtual
from isthmus.lab.resources import composing
from isthmus.lab.store import Store

_T = TypeVar("_T")

PORTS_PER_ADDRESS = 1000

#: Making a key takes a good part of a second.
_key = functools.cache(identity.make_key)


async def _nothing(_change: object) -> None:
    return None


@dataclass
class FakeLab:
    """Start it with ``with``. ``url`` is the resource manager's, ``ca`` what clients trust."""

    folder: Path
    kinds: Sequence[Kind] = ()
    virtuals: Sequence[Virtual] = ()
    actions: Sequence[Action] = ()
    settle: Settle = _nothing
    store: Store = field(default_factory=Store.in_memory)
    tenancy: tenancies.Tenancy = field(default_factory=lambda: tenancies.make("Provider", "Customer"))
    config: EngineConfig = field(default_factory=EngineConfig)
    url: str = ""
    identity_url: str = ""
    #: What the packets would have counted, if there were any.
    sample: Sample | None = None
    identity_header: str = "a-secret-of-the-lab"
    client_secret: str = "a-secret-of-a-client"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def provider(self) -> str:
        """The provider's subscription."""
        return self.tenancy.subscriptions[0].id

    @property
    def customer(self) -> str:
        """The customer's subscription."""
        return self.tenancy.subscriptions[1].id

    def token(self) -> str:
        return self.tokens.issue(self.url)[0]

    def tls(self) -> ssl.SSLContext:
        """What trusts the lab."""
        return ssl.create_default_context(cafile=self.ca)

    def http(self, **headers: str) -> httpx.Client:
        """A client with a token."""
        return httpx.Client(
            base_url=self.url, verify=self.tls(), headers={"Authorization": f"Bearer {self.token()}", **headers}
        )

    def client(self, factory: Callable[..., _T], subscription: str | None = None, **arguments: Any) -> _T:
        """One of Microsoft's SDK clients: ``lab.client(NetworkManagementClient)``."""
        return factory(
            credential=self,
            subscription_id=subscription or self.provider,
            base_url=self.url,
            credential_scopes=[f"{self.url}/.default"],
            connection_verify=str(self.ca),
            retry_total=0,
            **arguments,
        )

    def get_token(self, *scopes: str, **_options: Any) -> AccessToken:
        """What makes this a credential of the SDK."""
        token, expires = self.tokens.issue(scopes[0].removesuffix("/.default"))
        return AccessToken(token, expires)

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run something on the lab's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="a lab", daemon=True)
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self.store.close()

    async def _start(self) -> None:
        made = authority.ensure(self.folder)
        listener = socket.create_server(("127.0.0.1", 0))
        tokens_listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        self.identity_url = f"http://127.0.0.1:{tokens_listener.getsockname()[1]}/msi/token"
        self.tokens = identity.Tokens(self.tenancy, _key(), (self.url,), self.client_secret)
        registry: Registry = composing.registry(self.kinds, self.virtuals, self.actions)
        clock = SystemClock()
        recorder = Recorder(self._take, clock, ports_per_address=PORTS_PER_ADDRESS)
        pages = (*composing.pages(), *Insights(recorder, clock).pages())
        self.engine = Engine(registry, self.store, self.tokens, settle=self.settle, pages=pages, config=self.config)
        self._servers = [
            Api(self.engine, self.url).server(),
            identity.Endpoint(self.tokens, self.identity_header).server(),
        ]
        await self._servers[0].listen(listener, made.server_context())
        await self._servers[1].listen(tokens_listener)

    async def _take(self) -> Sample | None:
        return self.sample

    async def _stop(self) -> None:
        for server in self._servers:
            await server.close()
        await self.engine.close()
