"""The engine on a socket: HTTP in, Azure's headers out."""

import json
import uuid
from email.utils import formatdate
from typing import Any, Final

from isthmus.kit import serving
from isthmus.lab.arm import calls
from isthmus.lab.arm.calls import Answer, Call
from isthmus.lab.arm.engine import Engine

#: What the resource manager grants a subscription in an hour; ours never runs out.
_READS: Final = 11999
_WRITES: Final = 1199
_DELETES: Final = 14999
_REGION: Final = "LAB"


class Api:
    """The resource manager as ``kit.serving`` asks for it. ``origin`` is ours (``https://127.0.0.1:1234``)."""

    def __init__(self, engine: Engine, origin: str) -> None:
        self._engine = engine
        self._origin = origin

    def server(self) -> serving.Server:
        """A server of this API."""
        # A little more than is accepted, so that what is too large is refused in Azure's words.
        limit = 4 * calls.MAX_BODY_BYTES
        return serving.Server(self.answer, serving.ServingConfig(max_body_bytes=limit))

    async def answer(self, request: serving.Request) -> serving.Answer:
        """Answer one HTTP request."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        body = b"".join(request.content.chunks())
        call = calls.read(request.method, request.target.decode("latin-1"), headers, body, origin=self._origin)
        answer = calls.refused(calls.too_large()) if len(body) > calls.MAX_BODY_BYTES else None
        return _rendered(call, answer or await self._engine.answer(call))


def _rendered(call: Call, answer: Answer) -> serving.Answer:
    headers = _common(call, answer) | answer.headers
    body = b""
    if answer.body is not None:
        body = json.dumps(answer.body, separators=(",", ":")).encode()
        headers["Content-Type"] = "application/json; charset=utf-8"
    if call.method == "HEAD":
        body = b""
    encoded = [(name.encode("latin-1"), _one_line(value)) for name, value in headers.items()]
    return serving.Answer(answer.status, encoded, body)


def _common(call: Call, answer: Answer) -> dict[str, str]:
    request_id = str(uuid.uuid4())
    correlation = _guid(call.headers.get("x-ms-correlation-request-id")) or request_id
    now = formatdate(usegmt=True)
    common = {
        "Cache-Control": "no-cache",
        "Pragma": "no-cache",
        "Expires": "-1",
        "Date": now,
        "x-ms-request-id": request_id,
        "x-ms-correlation-request-id": correlation,
        "x-ms-routing-request-id": f"{_REGION}:{request_id}",
        "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
        "X-Content-Type-Options": "nosniff",
    }
    match call.method:
        case "GET" | "HEAD":
            common["x-ms-ratelimit-remaining-subscription-reads"] = str(_READS)
        case "DELETE":
            common["x-ms-ratelimit-remaining-subscription-deletes"] = str(_DELETES)
        case _:
            common["x-ms-ratelimit-remaining-subscription-writes"] = str(_WRITES)
    client = call.headers.get("x-ms-client-request-id")
    if client and call.headers.get("x-ms-return-client-request-id", "").lower() == "true":
        common["x-ms-client-request-id"] = client
    if "microsoft.network" in (word.lower() for word in call.segments):
        common["x-ms-arm-service-request-id"] = str(uuid.uuid4())
    if answer.status >= 400:
        common["x-ms-failure-cause"] = "gateway"
    return common


def _guid(text: str | None) -> str | None:
    try:
        return str(uuid.UUID(text)) if text else None
    except ValueError:
        return None


def _one_line(value: Any) -> bytes:
    text = str(value)
    if not (text.isascii() and text.isprintable()):
        text = "".join(one if 32 <= ord(one) < 127 else "?" for one in text)
    return text.encode("ascii")
