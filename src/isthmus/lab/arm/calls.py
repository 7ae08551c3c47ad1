"""A request as the resource manager reads it, and an answer as it gives one.

Paths and the names of query parameters have no case; segments are decoded one by one. What cannot be read is refused
here in Azure's words.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from isthmus.lab.arm import leniency
from isthmus.lab.errors import ArmError

#: Azure's limit of a request (4 MB).
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
#: Far beyond any resource; it keeps the interpreter's stack out of danger.
_MAX_DEPTH: Final = 64
_HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9a-fA-F:]{2,45}\](:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Call:
    """One request. ``query`` and ``headers`` have names in lower case; ``origin`` is ours as the client sees it.

    (``https://127.0.0.1:1234``.)
    """

    method: str
    segments: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    origin: str

    @property
    def path(self) -> str:
        """The path, decoded."""
        return "/" + "/".join(self.segments)

    def json(self) -> dict[str, Any]:
        """The body, which must be a JSON object. Raises errors.ArmError (400)."""
        found = _parse(self.body)
        if not isinstance(found, dict):
            raise _unreadable("The request content must be a JSON object.")
        return found

    def lenient_json(self) -> dict[str, Any]:
        """The body, which may be written as templates are. Raises errors.ArmError (400)."""
        found = _parse(self.body, is_lenient=True)
        if not isinstance(found, dict):
            raise _unreadable("The request content must be a JSON object.")
        return found

    def json_if_any(self) -> dict[str, Any]:
        """The body, or nothing where there is none. Raises errors.ArmError (400)."""
        return self.json() if self.body.strip() else {}


@dataclass(slots=True)
class Answer:
    """One answer. Without ``body`` nothing is sent; ``headers`` go with those that every answer has."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


def read(method: str, target: str, headers: Mapping[str, str], body: bytes, *, origin: str) -> Call:
    """The call in an HTTP request; ``origin`` is ours, where the client names none that could be one."""
    path, _, query = target.partition("?")
    if path.startswith(("http://", "https://")):
        path = "/" + path.partition("//")[2].partition("/")[2]
    host = headers.get("host", "")
    if _HOST.fullmatch(host):
        origin = f"{origin.partition('://')[0]}://{host}"
    return Call(
        method=method.upper(),
        segments=tuple(unquote(part) for part in path.split("/") if part),
        query={name.lower(): value for name, value in parse_qsl(query.partition("#")[0], keep_blank_values=True)},
        headers=headers,
        body=body,
        origin=origin,
    )


def refused(error: ArmError) -> Answer:
    """The answer that an error is."""
    return Answer(error.status, error.refusal.answer(), dict(error.headers))


def _parse(body: bytes, *, is_lenient: bool = False) -> Any:
    if len(body) > MAX_BODY_BYTES:
        raise too_large()
    try:
        text = body.decode("utf-8-sig")
        found = leniency.parse(text) if is_lenient else json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _unreadable(
            f"The request content was invalid and could not be deserialized: '{str(error)[:200]}'."
        ) from None
    if _depth(found) > _MAX_DEPTH:
        raise _unreadable(f"The request content is nested deeper than {_MAX_DEPTH} levels.")
    return found


def too_large() -> ArmError:
    """A body beyond ``MAX_BODY_BYTES``."""
    return ArmError(
        413, "RequestEntityTooLarge", f"The request content size exceeds the maximum size of {MAX_BODY_BYTES >> 20} MB."
    )


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _depth(value: Any) -> int:
    """How many levels of objects and arrays there are, counted without recursion."""
    depth, level = 0, [value]
    while level:
        containers = [one for one in level if isinstance(one, (dict, list))]
        depth += bool(containers)
        level = [inner for one in containers for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def _unreadable(message: str) -> ArmError:
    return ArmError(400, "InvalidRequestContent", message)
