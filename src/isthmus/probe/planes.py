"""The deployment, asked over the network: ``GET probe`` along a road, with an agent token or without one.

The token leaves only where TLS has proved that the other end is the cluster (or on plain HTTP, which is for planes on
this machine).
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from isthmus.probe import answering, asking
from isthmus.probe.answering import PlaneFindings
from isthmus.probe.asking import Answer, Road, RoadError
from isthmus.probe.reports import Finding
from isthmus.wire import paths

_HEADERS: Final = {"Accept": "application/json", "User-Agent": "isthmus-verify", "Connection": "close"}


def _now() -> datetime:
    return datetime.now(UTC)


class ProbedPlane:
    """Asks with ``token``, or as nobody when there is none. ``now`` is this machine's clock."""

    def __init__(self, token: str | None, *, now: Callable[[], datetime] = _now) -> None:
        self._token = token
        self._now = now

    async def ask(self, road: Road, path: str) -> PlaneFindings:
        """Ask through a new connection along ``road``. Raises nothing."""
        begun = self._now()
        answer = await self._probe(road, path)
        middle = begun + (self._now() - begun) / 2
        return answering.judge_probe(answer, path=path, has_token=self._token is not None, now=middle)

    async def is_served(self, road: Road, path: str) -> Finding:
        """Whether this road is served (FAIL) or refused (PASS). Raises nothing."""
        return answering.judge_public(await self._probe(road, path))

    async def _probe(self, road: Road, path: str) -> Answer | RoadError:
        headers = dict(_HEADERS)
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            async with asking.connected(road) as connection:
                return await connection.ask("GET", path + paths.PROBE, headers)
        except RoadError as error:
            return error
