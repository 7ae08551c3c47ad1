"""Calls of deployments' admin APIs: the control plane asks each deployment for what is the deployment's own (DESIGN,
decision 13).

Each deployment has a pool of connections and a few calls at a time of its own, so that one which does not answer holds
up nobody but those who ask for it. Bodies are those of ``wire.admin``. Errors: DeploymentRefusedError (its
own problem), AdminUnreachableError, ControlRefusedError (ADMIN_NOT_CONFIGURED, ADMIN_REFUSED, ADMIN_ANSWER_FOREIGN).
Invariant: a deployment's admin token is in no error and no log.
"""

import asyncio
import ssl
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlencode, urlsplit

from pydantic import ValidationError

from isthmus.control.clusters import Deployment
from isthmus.control.credentials import AdminTokens
from isthmus.control.errors import AdminUnreachableError, ControlRefusedError, DeploymentRefusedError
from isthmus.kit import calling
from isthmus.kit.calling import Caller, CallingConfig, Reply
from isthmus.kit.clocks import Clock
from isthmus.kit.errors import ConfigError, UnreachableError
from isthmus.wire.bodies import Request, Response
from isthmus.wire.problems import CONTENT_TYPE, Code, Problem

#: An admin call is one short statement of a database beside it: longer means trouble there.
ANSWER_SECONDS: Final = 5.0
_CONNECT_SECONDS: Final = 2.0
#: So many calls of one deployment at a time; the rest wait in line, and within the time for the answer.
_AT_ONCE: Final = 8
#: A page of agents with warnings and reports has less.
_MAX_BYTES: Final = 16 * 1024 * 1024

#: How far a call came for which nothing can have been done (``kit.calling``).
_NOT_SENT: Final = ("name_unresolved", "connect_failed", "proxy_refused", "tls_untrusted", "tls_failed")
_HINTS: Final = {
    "name_unresolved": "Check the host in its --admin-url, and the control plane's resolver.",
    "tls_untrusted": "Name the authority of its admin listener with the control plane's --admin-ca.",
    "tls_failed": "Does its admin listener speak TLS? Its --admin-url says https.",
}

Body = TypeVar("Body", bound=Response)


@dataclass(frozen=True, slots=True)
class _Door:
    """The way to one deployment."""

    url: str
    caller: Caller
    slots: asyncio.Semaphore

    @property
    def prefix(self) -> str:
        """What paths begin with there."""
        return urlsplit(self.url).path.rstrip("/")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    content_type: str
    content: bytes
    at: datetime | None


class AdminApis:
    """The admin APIs of all deployments."""

    def __init__(self, tokens: AdminTokens, clock: Clock, *, tls: ssl.SSLContext | None = None) -> None:
        self._tokens = tokens
        self._clock = clock
        self._tls = tls or ssl.create_default_context()
        self._doors: dict[str, _Door] = {}

    async def ask(
        self,
        deployment: Deployment,
        kind: type[Body],
        method: str,
        path: str,
        body: Request | None = None,
        /,
        *,
        once: bool = False,
        **query: Any,
    ) -> Body:
        """One call. ``once``: it may not arrive twice. Raises what the module says."""
        return (await self.ask_dated(deployment, kind, method, path, body, once=once, **query))[0]

    async def ask_dated(
        self,
        deployment: Deployment,
        kind: type[Body],
        method: str,
        path: str,
        body: Request | None = None,
        /,
        *,
        once: bool = False,
        **query: Any,
    ) -> tuple[Body, datetime | None]:
        """One call; the answer, and the deployment's own time if it says so (to the second)."""
        answer = await self._call(deployment, method, path, body, query, once=once)
        try:
            return kind.model_validate_json(answer.content), answer.at
        except ValidationError:
            raise _foreign(deployment, f"an answer without the form of {kind.__name__}") from None

    async def command(self, deployment: Deployment, method: str, path: str, /, **query: Any) -> None:
        """One call that is answered without a body."""
        await self._call(deployment, method, path, None, query, once=False)

    async def forget(self, deployment_id: str) -> None:
        """Close the connections to a deployment."""
        door = self._doors.pop(deployment_id, None)
        if door is not None:
            await door.caller.close()

    async def close(self) -> None:
        """Close all connections."""
        for deployment_id in list(self._doors):
            await self.forget(deployment_id)

    async def _call(
        self, deployment: Deployment, method: str, path: str, body: Request | None, query: dict[str, Any], *, once: bool
    ) -> _Answer:
        token = self._tokens.read(deployment.admin_token_reference)
        door = await self._door(deployment)
        asked = {name: _text(value) for name, value in query.items() if value is not None}
        target = f"{door.prefix}{path}" + (f"?{urlencode(asked)}" if asked else "")
        headers = [(b"authorization", f"Bearer {token}".encode()), (b"accept", b"application/json")]
        content = b""
        if body is not None:
            content = body.model_dump_json().encode()
            headers.append((b"content-type", b"application/json"))
        try:
            async with asyncio.timeout(ANSWER_SECONDS), door.slots:
                reply = await door.caller.call(
                    method, target.encode(), headers, content, once=once, answer_seconds=ANSWER_SECONDS
                )
                answer = _Answer(
                    reply.status, _header(reply, b"content-type"), await reply.read(_MAX_BYTES), _date(reply)
                )
        except UnreachableError as error:
            raise AdminUnreachableError(
                f"{deployment.deployment_id} does not answer: {error.summary}.",
                hint=_HINTS.get(error.code, ""),
                was_sent=error.code not in _NOT_SENT,
            ) from None
        except TimeoutError:
            raise AdminUnreachableError(
                f"{deployment.deployment_id} did not answer within {ANSWER_SECONDS:g} s.", was_sent=True
            ) from None
        if 200 <= answer.status < 300:
            return answer
        raise _refusal(deployment, answer)

    async def _door(self, deployment: Deployment) -> _Door:
        url = deployment.admin_url
        if url is None:
            raise ControlRefusedError(Code.ADMIN_NOT_CONFIGURED, "Its registration has no admin URL.")
        door = self._doors.get(deployment.deployment_id)
        if door is not None and door.url == url:
            return door
        try:
            origin = calling.parse_origin(url)
        except ConfigError as error:
            raise ControlRefusedError(Code.ADMIN_NOT_CONFIGURED, f"Its admin URL is none: {error.summary}.") from None
        config = CallingConfig(connect_seconds=_CONNECT_SECONDS, body_seconds=ANSWER_SECONDS)
        caller = Caller(origin, self._clock, config=config, tls=self._tls)
        self._doors[deployment.deployment_id] = fresh = _Door(url, caller, asyncio.Semaphore(_AT_ONCE))
        if door is not None:
            await door.caller.close()
        return fresh


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _header(reply: Reply, name: bytes) -> str:
    return (reply.header(name) or b"").decode("latin-1")


def _date(reply: Reply) -> datetime | None:
    try:
        return parsedate_to_datetime(_header(reply, b"date"))
    except ValueError:
        return None


def _refusal(deployment: Deployment, answer: _Answer) -> Exception:
    problem: Problem | None = None
    if answer.content_type.partition(";")[0].strip() == CONTENT_TYPE:
        try:
            problem = Problem.model_validate_json(answer.content)
        except ValidationError:
            problem = None
    if problem is None or not 400 <= problem.status < 600:
        return _foreign(deployment, f"status {answer.status} and {answer.content[:80]!r}")
    if problem.code == Code.ADMIN_TOKEN_INVALID:
        return ControlRefusedError(
            Code.ADMIN_REFUSED,
            f"{deployment.deployment_id} does not take the token in {deployment.admin_token_reference}.",
        )
    return DeploymentRefusedError(problem)


def _foreign(deployment: Deployment, evidence: str) -> ControlRefusedError:
    return ControlRefusedError(
        Code.ADMIN_ANSWER_FOREIGN, f"{deployment.deployment_id} is said to be at {deployment.admin_url}: {evidence}."
    )
