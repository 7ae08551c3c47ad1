"""What the triggerer asks of the plane, through the gateway of its agent.

The gateway adds the agent token and makes one try; waiting and trying again are ours (``holding``, ``reporting``).
A refusal is an ``IsthmusError`` with the plane's code; what passes by itself is a ``TemporaryError``.
"""

import ssl
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import httpx
from pydantic import ValidationError

from isthmus.kit.errors import IsthmusError, RefusedError, TemporaryError, UnreachableError
from isthmus.wire import frames, paths, problems, triggers
from isthmus.wire.bodies import Request, Response

#: The gateway itself waits a minute for the plane at most.
_TIMEOUT: Final = httpx.Timeout(90.0, connect=30.0)
#: Never used on a UNIX socket; making one for each client costs 35 ms.
_UNUSED_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

Said = TypeVar("Said", bound=Response)


class Calls:
    """The plane, for one thread. ``begun`` says who we are today."""

    def __init__(self, begun: Callable[[], frames.Begin]) -> None:
        self._begun = begun
        self._client: httpx.Client | None = None
        self._socket = ""

    def load(
        self, revision: str, capacity: int, bundles: Sequence[str], wait_seconds: float
    ) -> triggers.TriggerLoadResponse:
        """The triggers that are ours, when they are not as ``revision`` says. Raises IsthmusError."""
        begin = self._begun()
        asked = triggers.TriggerLoadRequest(
            agent_id=begin.agent_id,
            instance_id=begin.instance_id,
            capacity=capacity,
            bundles=tuple(bundles),
            revision=revision,
            wait_seconds=wait_seconds,
        )
        return self._post(paths.TRIGGER_LOADS, asked, triggers.TriggerLoadResponse)

    def workloads(self, fence: int, trigger_ids: Sequence[int]) -> triggers.TriggerWorkloadsResponse:
        """What these triggers are. Raises IsthmusError."""
        begin = self._begun()
        asked = triggers.TriggerWorkloadsRequest(
            agent_id=begin.agent_id, instance_id=begin.instance_id, fence=fence, trigger_ids=tuple(trigger_ids)
        )
        return self._post(paths.TRIGGER_WORKLOADS, asked, triggers.TriggerWorkloadsResponse)

    def events(self, fence: int, events: Sequence[triggers.TriggerEventReport]) -> tuple[triggers.TriggerVerdict, ...]:
        """Tell what has fired; a verdict for each. Raises IsthmusError."""
        begin = self._begun()
        asked = triggers.TriggerEventsRequest(
            agent_id=begin.agent_id, instance_id=begin.instance_id, fence=fence, events=tuple(events)
        )
        return self._post(paths.TRIGGER_EVENTS, asked, triggers.TriggerReportsResponse).verdicts

    def failures(self, fence: int, failures: Sequence[triggers.TriggerFailure]) -> tuple[triggers.TriggerVerdict, ...]:
        """Tell what has failed; a verdict for each. Raises IsthmusError."""
        begin = self._begun()
        asked = triggers.TriggerFailuresRequest(
            agent_id=begin.agent_id, instance_id=begin.instance_id, fence=fence, failures=tuple(failures)
        )
        return self._post(paths.TRIGGER_FAILURES, asked, triggers.TriggerReportsResponse).verdicts

    def _post(self, path: str, asked: Request, said: type[Said]) -> Said:
        begin = self._begun()
        if self._client is None or self._socket != begin.gateway_socket:
            self._socket = begin.gateway_socket
            self._client = httpx.Client(
                base_url="http://gateway",
                transport=httpx.HTTPTransport(uds=begin.gateway_socket, verify=_UNUSED_TLS),
                timeout=_TIMEOUT,
                trust_env=False,
            )
        headers = {"authorization": f"Bearer {begin.gateway_token}", "content-type": "application/json"}
        try:
            answer = self._client.post(path, content=asked.model_dump_json().encode(), headers=headers)
        except httpx.HTTPError as error:
            raise UnreachableError(f"the gateway does not answer: {error!r}", code="gateway_unreachable") from error
        if answer.status_code == httpx.codes.OK:
            try:
                return said.model_validate_json(answer.content)
            except ValidationError as error:
                raise TemporaryError(f"the plane's answer cannot be read: {error}", code="answer_unreadable") from None
        raise _refusal(answer)


def _refusal(answer: httpx.Response) -> IsthmusError:
    try:
        problem = problems.Problem.model_validate_json(answer.content)
    except ValidationError:
        return TemporaryError(f"HTTP {answer.status_code} from the gateway", code="gateway_unreachable")
    kind = TemporaryError if answer.status_code >= 500 else RefusedError
    return kind(problem.detail or problem.title, code=problem.code, hint=problem.hint)
