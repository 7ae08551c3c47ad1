"""The registry over the control plane's API: what a cluster's ingress should do."""

import ssl
from ipaddress import IPv4Network
from types import TracebackType
from typing import Final, Self

import httpx
from pydantic import ValidationError

from isthmus.control.ingress.config import IngressConfig
from isthmus.control.ingress.pictures import IngressPicture, LinkEntrance, route
from isthmus.kit.errors import ConfigError, IsthmusError, NotFoundError, RefusedError, UnreachableError
from isthmus.wire import paths
from isthmus.wire.control import IngressView
from isthmus.wire.problems import CONTENT_TYPE, Problem

_TIMEOUT_SECONDS: Final = 10.0


class HttpRegistry:
    """Asks the control plane. The token is read at each look, so that a new one needs no restart."""

    def __init__(self, config: IngressConfig) -> None:
        self._config = config
        try:
            context = ssl.create_default_context(cafile=config.control_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"{config.control_ca_file} cannot be read: {error}", code="ca_file_unreadable", hint="As PEM."
            ) from None
        self._client = httpx.AsyncClient(
            base_url=config.control_url, timeout=_TIMEOUT_SECONDS, verify=context, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def picture(self) -> IngressPicture:
        """What the ingress should do now. Raises IsthmusError."""
        path = paths.CONTROL_INGRESS.format(cluster_id=self._config.cluster)
        try:
            answer = await self._client.get(path, headers={"Authorization": f"Bearer {self._token()}"})
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ConfigError(
                f"{self._config.control_url!r} is not a URL: {error}",
                code="control_url_invalid",
                hint="See --control-url.",
            ) from None
        except httpx.TransportError as error:
            raise UnreachableError(
                f"the control plane at {self._config.control_url} does not answer: {error or type(error).__name__}",
                code="control_unreachable",
                hint="The ingress goes on with what it has. Is the control plane running?",
            ) from None
        if not answer.is_success:
            raise _refusal(answer)
        try:
            return _picture(IngressView.model_validate_json(answer.content))
        except ValidationError:
            raise UnreachableError(
                "what answers is not a control plane of this version",
                code="control_answer_foreign",
                hint="See its version.",
            ) from None

    def _token(self) -> str:
        try:
            return self._config.control_token_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            raise ConfigError(
                f"the token cannot be read from {self._config.control_token_file}",
                code="control_token_unreadable",
                hint="Make one with: isthmus operator create NAME --role viewer --output FILE.",
            ) from None


def _refusal(answer: httpx.Response) -> IsthmusError:
    try:
        problem = Problem.model_validate_json(answer.content)
    except ValueError:
        problem = None
    if problem is None or not answer.headers.get("content-type", "").startswith(CONTENT_TYPE):
        return UnreachableError(
            f"what answers in the control plane's place: status {answer.status_code} and {answer.content[:80]!r}",
            code="control_answer_foreign",
            hint="Check --control-url.",
        )
    if problem.retryable:
        return UnreachableError(problem.detail, code=problem.code, hint=problem.hint)
    if problem.status == 404:
        return NotFoundError(problem.detail, code=problem.code, hint=problem.hint)
    return RefusedError(problem.detail, code=problem.code, hint=problem.hint)


def _picture(view: IngressView) -> IngressPicture:
    networks = tuple(IPv4Network(network) for network in view.link_networks)
    return IngressPicture(
        view.cluster_id,
        routes=tuple(route(one.deployment_id, one.servers, one.tls_name) for one in view.routes),
        link=LinkEntrance(networks, view.has_proxy_protocol) if networks else None,
    )
