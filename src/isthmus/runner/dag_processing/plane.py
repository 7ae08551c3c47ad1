"""The plane's DAG processing API, through the gateway. One request at a time, from one thread, with a short patience.

Bodies over 1 KiB are compressed. Whatever goes wrong is an ``UnreachableError`` (try again) or a ``RefusedError`` (the
plane has said why, by a problem's code).
"""

import gzip
import json
import time
from collections.abc import Callable
from typing import Final, TypeVar
from uuid import UUID

import httpx
from pydantic import BaseModel, ValidationError

from isthmus.kit.errors import RefusedError, UnreachableError
from isthmus.wire import dags, frames, paths

Answer = TypeVar("Answer", bound=BaseModel)

_COMPRESS_FROM: Final = 1024
#: Airflow's tables are written while we wait; parsing goes on meanwhile in processes of its own.
_TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
#: Answers by which the plane says that the call may succeed later.
_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class Plane:
    """Typed calls. ``begun`` says who we are, anew for each call: an agent can be enrolled again at any time."""

    def __init__(self, begun: Callable[[], frames.Begin]) -> None:
        self._begun = begun
        self._client: httpx.Client | None = None
        self._socket = ""
        #: Bytes of bodies so far, as they went: of what is told of files, and of asking for bundles and work, which
        #: grows with time and not with files.
        self.sent_bytes = 0
        self.polled_bytes = 0
        self.requests = 0
        #: When a call last failed for want of the plane (monotonic).
        self.failed_at = float("-inf")

    @property
    def wants_reasons(self) -> bool:
        """Whether the plane may know why a file could not be imported."""
        return self._begun().wants_reasons

    def note_failure(self) -> None:
        """A call by the same road, of somebody else's, has failed for want of the plane."""
        self.failed_at = time.monotonic()

    def bundles(self, bundles: tuple[dags.OfferedBundle, ...]) -> dags.BundlesResponse:
        """``POST dag-processing/bundles``."""
        agent_id, instance_id = self._who()
        request = dags.BundlesRequest(agent_id=agent_id, instance_id=instance_id, bundles=bundles)
        return self._call(paths.DAG_BUNDLES, request, dags.BundlesResponse)

    def submissions(self, submissions: list[bytes]) -> dags.SubmissionsResponse:
        """``POST dag-processing/submissions`` of JSON that is ready."""
        agent_id, instance_id = self._who()
        body = b'{"agent_id":"%s","instance_id":"%s","submissions":[%s]}' % (
            str(agent_id).encode(),
            str(instance_id).encode(),
            b",".join(submissions),
        )
        return self._post(paths.DAG_SUBMISSIONS, body, dags.SubmissionsResponse)

    def observations(self, observations: tuple[dags.Observation, ...]) -> dags.ObservationsResponse:
        """``POST dag-processing/observations``."""
        agent_id, instance_id = self._who()
        request = dags.ObservationsRequest(agent_id=agent_id, instance_id=instance_id, observations=observations)
        return self._call(paths.DAG_OBSERVATIONS, request, dags.ObservationsResponse)

    def claims(self, bundles: tuple[dags.HeldBundle, ...], limit: int) -> dags.DagClaimsResponse:
        """``POST dag-processing/claims``."""
        agent_id, instance_id = self._who()
        request = dags.DagClaimsRequest(agent_id=agent_id, instance_id=instance_id, bundles=bundles, limit=limit)
        return self._call(paths.DAG_CLAIMS, request, dags.DagClaimsResponse)

    def settle(
        self, claims: tuple[dags.DagClaimReference, ...], extended: tuple[dags.DagClaimReference, ...]
    ) -> dags.DagSettleResponse:
        """``POST dag-processing/settlements``."""
        agent_id, instance_id = self._who()
        request = dags.DagSettleRequest(agent_id=agent_id, instance_id=instance_id, claims=claims, extended=extended)
        return self._call(paths.DAG_SETTLEMENTS, request, dags.DagSettleResponse)

    def _who(self) -> tuple[UUID, UUID]:
        begun = self._begun()
        return begun.agent_id, begun.instance_id

    def _call(self, path: str, request: BaseModel, answer: type[Answer]) -> Answer:
        return self._post(path, request.model_dump_json(exclude_none=True).encode(), answer)

    def _post(self, path: str, body: bytes, answer: type[Answer]) -> Answer:
        begun = self._begun()
        headers = {"content-type": "application/json", "authorization": f"Bearer {begun.gateway_token}"}
        if len(body) >= _COMPRESS_FROM:
            body = gzip.compress(body, compresslevel=6, mtime=0)
            headers["content-encoding"] = "gzip"
        try:
            response = self._opened(begun.gateway_socket).post(path, content=body, headers=headers)
        except httpx.HTTPError as error:
            self.failed_at = time.monotonic()
            raise UnreachableError(f"the gateway did not answer: {error!r}", code="plane_unreachable") from None
        if path in {paths.DAG_SUBMISSIONS, paths.DAG_OBSERVATIONS}:
            self.sent_bytes += len(body)
        else:
            self.polled_bytes += len(body)
        self.requests += 1
        if response.status_code >= 400:
            raise self._refusal(response)
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            self.failed_at = time.monotonic()
            raise UnreachableError(
                f"not the plane's answer: {error.errors(include_input=False)[0]['msg']}", code="plane_unreachable"
            ) from None

    def _refusal(self, response: httpx.Response) -> RefusedError | UnreachableError:
        try:
            problem = json.loads(response.content)
        except ValueError:
            problem = {}
        if not isinstance(problem, dict):
            problem = {}
        code = str(problem.get("code") or f"http_{response.status_code}")
        text = str(problem.get("detail") or problem.get("title") or f"status {response.status_code}")
        if response.status_code in _LATER or problem.get("retryable") is True:
            self.failed_at = time.monotonic()
            return UnreachableError(text, code=code, hint=str(problem.get("hint") or ""))
        return RefusedError(text, code=code, hint=str(problem.get("hint") or ""))

    def _opened(self, socket: str) -> httpx.Client:
        if self._client is None or socket != self._socket:
            if self._client is not None:
                self._client.close()
            self._socket = socket
            self._client = httpx.Client(
                base_url="http://gateway", transport=httpx.HTTPTransport(uds=socket), timeout=_TIMEOUT
            )
        return self._client
