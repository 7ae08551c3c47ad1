"""``/healthz`` and ``/metrics``, for probes and for people on the host.

``/healthz`` shows the same list as the log and the heartbeat, and answers 503 while something of severity "error" is on
it. It is told nothing that a stranger must not know; it listens on the loopback address unless configured otherwise.
"""

import json
import socket
from collections.abc import Callable, Sequence
from typing import Any

from isthmus.agent import conditions
from isthmus.agent.config import OFF, parse_listen
from isthmus.agent.metrics import Metrics
from isthmus.kit import serving
from isthmus.kit.health import Health, Occurrence, Severity
from isthmus.kit.logs import get
from isthmus.kit.serving import Answer, Request

log = get(component="serving")

_TEXT = ((b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),)
_JSON = ((b"content-type", b"application/json"),)


class HealthPage:
    """The listener. ``state`` gives what ``/healthz`` says beside the list; ``refresh`` sets the gauges."""

    def __init__(
        self,
        healths: Sequence[Health],
        metrics: Metrics,
        *,
        state: Callable[[], dict[str, Any]],
        refresh: Callable[[], None],
    ) -> None:
        """``healths`` are those of the roles; what is wrong with the page itself goes to the first."""
        self._healths = healths
        self._metrics = metrics
        self._state = state
        self._refresh = refresh
        self._server = serving.Server(self.answer, serving.ServingConfig(max_body_bytes=0))

    async def open(self, listen: str) -> None:
        """Listen on ``host:port``, unless that is "off". A port that is taken is a warning and no more."""
        if listen == OFF:
            return
        host, port = parse_listen(listen)
        try:
            listener = socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=64
            )
        except OSError as error:
            self._healths[0].raise_(
                conditions.HEALTH_PORT,
                f"/healthz and /metrics are not served: {listen}: {error.strerror}",
                "Give this agent a health_listen of its own, or 'off'.",
            )
            return
        listener.setblocking(False)
        await self._server.listen(listener)
        log.debug("serving /healthz and /metrics", address=f"{host}:{listener.getsockname()[1]}")

    async def close(self) -> None:
        """Stop listening."""
        await self._server.close()

    async def answer(self, request: Request) -> Answer:
        """Answer one request."""
        path = request.target.partition(b"?")[0]
        if request.method not in {"GET", "HEAD"}:
            return Answer(405, _TEXT, b"405 method not allowed\n")
        if path == b"/healthz":
            return self._healthz()
        if path == b"/metrics":
            self._refresh()
            return Answer(200, _TEXT, self._metrics.text())
        return Answer(404, _TEXT, b"404 page not found\n")

    def _healthz(self) -> Answer:
        # What concerns all roles, like an outage, is in each list.
        shown = {(one.code, one.summary): one for health in self._healths for one in health.visible()}.values()
        well = all(health.well for health in self._healths)
        # What is as somebody wants it (cordoned, a role left out) is told, and nothing to be warned of.
        quiet = all(one.severity is Severity.INFO for one in shown)
        body = {
            "status": ("ok" if quiet else "warning") if well else "error",
            **self._state(),
            "warnings": [_written(one) for one in shown],
        }
        return Answer(200 if well else 503, _JSON, json.dumps(body, indent=2).encode() + b"\n")


def _written(occurrence: Occurrence) -> dict[str, str]:
    return {
        "code": occurrence.code,
        "severity": occurrence.severity.value,
        "summary": occurrence.summary,
        "hint": occurrence.hint,
        "since": occurrence.since.isoformat(timespec="seconds"),
    }
