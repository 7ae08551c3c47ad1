"""What a route of the agent API is: one value from which routing, validation and documentation come."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from pydantic import ValidationError

from isthmus.deployment.api import asgi
from isthmus.deployment.api.refusals import BadRequestError
from isthmus.deployment.arrivals import Arrival
from isthmus.deployment.tokens import Token
from isthmus.wire.bodies import Request, Response
from isthmus.wire.problems import Code

#: What may be refused wherever an agent says who it is.
ENROLLED: Final = (Code.AGENT_UNKNOWN, Code.AGENT_REPLACED)


class Nothing(Request):
    """What a route is asked that takes no body."""


Asked = TypeVar("Asked", bound=Request)
Said = TypeVar("Said", bound=Response)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the token that opened the door, how they arrived, and the connection's ``receive``."""

    token: Token
    arrival: Arrival
    receive: asgi.Receive
    #: The workload that the path names, as it stands there.
    workload_id: str = ""


@dataclass(frozen=True, slots=True)
class Operation(Generic[Asked, Said]):
    """One route of the agent API: POST with a JSON body, or GET without one (``asked`` is ``Nothing``)."""

    name: str
    path: str
    asked: type[Asked]
    said: type[Said]
    call: Callable[[Caller, Asked], Awaitable[Said]]
    codes: tuple[Code, ...]
    #: Whether the answer waits for something, so that its duration says nothing.
    waits: bool = False
    #: Whether bodies are large: bounded by max_dags_body_bytes, perhaps compressed, and taken apart in a thread.
    large: bool = False

    @property
    def method(self) -> str:
        """The one method that the route takes."""
        return "GET" if self.asked is Nothing else "POST"

    def parse(self, body: bytes) -> Asked:
        """The request in ``body``. Raises BadRequestError."""
        try:
            if self.asked is Nothing:
                return self.asked()
            return self.asked.model_validate_json(body, strict=True)
        except ValidationError as error:
            raise BadRequestError.of(error) from None
