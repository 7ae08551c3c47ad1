"""What the lab's own commands ask the process that serves: status, public names, where a network is.

HTTP with JSON over a UNIX socket in the lab's home; Azure has nothing of the kind, so it is kept apart from the
resource manager. Refusals are ``{"code", "summary", "hint"}``, 404 for what does not exist and 400 for wrong usage.
"""

import ipaddress
import json
from collections.abc import Awaitable, Mapping
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import unquote, urlsplit

from isthmus.kit import serving
from isthmus.kit.errors import ConfigError, IsthmusError, NotFoundError
from isthmus.lab import ids
from isthmus.lab.private_dns import names

#: The network that everything else is: what ``lab exec internet`` means.
INTERNET: Final = "internet"

Json = dict[str, Any]


class Controlled(Protocol):
    """The lab, as far as its commands are concerned."""

    def status(self) -> Awaitable[Json]:
        """Everything that ``lab status`` shows."""

    def networks(self) -> Mapping[str, str]:
        """The namespaces of the virtual networks by resource id. Raises PermanentError where there are none."""

    def internet(self) -> str:
        """The namespace of the internet. Raises PermanentError where there is none."""

    def public_names(self) -> dict[str, list[str]]:
        """The public resolver's names."""

    def set_public_name(self, name: str, addresses: list[str] | None) -> Awaitable[None]:
        """Have the public resolver answer a name, or forget it."""


class Control:
    """The answers."""

    def __init__(self, lab: Controlled) -> None:
        self._lab = lab

    def server(self) -> serving.Server:
        """A server of them."""
        return serving.Server(self.answer, serving.ServingConfig(idle_seconds=None))

    async def answer(self, request: serving.Request) -> serving.Answer:
        """Answer one request."""
        body = b"".join(request.content.chunks())
        try:
            given = json.loads(body) if body else None
            found = await self._dispatch(request.method, urlsplit(request.target.decode("ascii")).path, given)
        except IsthmusError as error:
            return _rendered(_status(error), {"code": error.code, "summary": error.summary, "hint": error.hint})
        except (ValueError, KeyError, TypeError) as error:
            return _rendered(HTTPStatus.BAD_REQUEST, {"code": "malformed", "summary": str(error), "hint": ""})
        return _rendered(HTTPStatus.OK, found)

    async def _dispatch(self, method: str, path: str, body: Any) -> Any:
        match method, path.strip("/").split("/"):
            case "GET", ["status"]:
                return await self._lab.status()
            case "POST", ["find"]:
                return {"namespace": self._find(str(body["network"]))}
            case "GET", ["public-names"]:
                return self._lab.public_names()
            case "PUT", ["public-names", name]:
                await self._lab.set_public_name(_name(unquote(name)), _addresses(body["addresses"]))
                return {}
            case "DELETE", ["public-names", name]:
                await self._unset(_name(unquote(name)))
                return {}
        raise NotFoundError(f"the lab has no {method} {path}", code="unknown_question", hint="Is it of this version?")

    def _find(self, wanted: str) -> str:
        if wanted == INTERNET:
            return self._lab.internet()
        found = find(self._lab.networks(), wanted)
        return self._lab.networks()[found]

    async def _unset(self, name: str) -> None:
        if name not in self._lab.public_names():
            raise NotFoundError(
                f"the public resolver does not know {name}",
                code="public_name_unknown",
                hint="List what it knows: isthmus lab public-dns list.",
            )
        await self._lab.set_public_name(name, None)


def find(networks: Mapping[str, Any], wanted: str) -> str:
    """The resource id of the network that is called ``wanted``, by name or id, in any case.

    Raises NotFoundError, and ConfigError when the name means several.
    """
    if "/" in wanted:
        found = [one for one in networks if ids.key(one) == ids.key(wanted)]
    else:
        found = [one for one in networks if ids.parse(one).name.lower() == wanted.lower()]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"{len(found)} virtual networks are called {wanted}",
            code="network_ambiguous",
            hint=f"Name one by its id: {' or '.join(sorted(found))}",
        )
    known = ", ".join(sorted(ids.parse(one).name for one in networks)) or "none"
    raise NotFoundError(
        f"there is no virtual network {wanted}", code="network_unknown", hint=f"There are: {known}; and internet."
    )


def _name(given: str) -> str:
    name = given.removesuffix(".").lower()
    if not names.is_domain(name):
        raise ConfigError(
            f"{given!r} is not a domain name", code="public_name_malformed", hint="As in: www.example.com"
        )
    return name


def _addresses(given: list[str]) -> list[str]:
    try:
        addresses = [str(ipaddress.ip_address(one)) for one in given]
    except ValueError as error:
        raise ConfigError(str(error), code="public_address_malformed", hint="Give IPv4 or IPv6 addresses.") from None
    if not addresses:
        raise ConfigError("there is no address", code="public_address_missing", hint="To forget a name: unset.")
    return addresses


def _status(error: IsthmusError) -> HTTPStatus:
    match error:
        case NotFoundError():
            return HTTPStatus.NOT_FOUND
        case ConfigError():
            return HTTPStatus.BAD_REQUEST
        case _:
            return HTTPStatus.CONFLICT


def _rendered(status: int, body: Any) -> serving.Answer:
    return serving.Answer(int(status), [(b"content-type", b"application/json")], json.dumps(body).encode())
