"""Calls of the control plane's API: where it is, how to prove who we are, and what its refusals mean.

The address and the operator's token come from ``--control-url`` and ``--control-token-file`` or their variables. Every
refusal becomes an error of ``isthmus.kit.errors`` with the problem's own code and hint. Invariant: the token is in no
error and no log.
"""

import functools
import inspect
import re
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, ParamSpec, TypeVar

import httpx
import typer
from pydantic import ValidationError

from isthmus.kit.errors import ConfigError, IsthmusError, NotFoundError, RefusedError, TemporaryError, UnreachableError
from isthmus.wire import control, paths
from isthmus.wire.bodies import Request, Response
from isthmus.wire.names import DEPLOYMENT_ID_PATTERN
from isthmus.wire.problems import CONTENT_TYPE, Problem

P = ParamSpec("P")
Answer = TypeVar("Answer", bound=Response)

#: Planning and deciding ask the cloud, which takes seconds.
TIMEOUT_SECONDS: Final = 90.0
#: How many rows a page has at most when all of them are wanted.
PAGE: Final = 500

UrlOption = Annotated[
    str | None,
    typer.Option("--control-url", envvar="ISTHMUS_CONTROL_URL", metavar="URL", help="Where the control plane listens."),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--control-token-file",
        envvar="ISTHMUS_CONTROL_TOKEN_FILE",
        metavar="FILE",
        help="Holds your operator token.",
    ),
]
AuthorityOption = Annotated[
    Path | None,
    typer.Option(
        "--control-ca-file", envvar="ISTHMUS_CONTROL_CA_FILE", metavar="FILE", help="Authorities to trust, as PEM."
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster", "-c", envvar="ISTHMUS_CLUSTER", metavar="ID", help="The cluster; not needed if there is one."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, as the control API has it.")]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a control plane is, what opens it, and whom to trust there."""

    url: str
    token: str = field(repr=False)
    tls: ssl.SSLContext


class ControlPlane:
    """The control plane's API."""

    def __init__(self, url: str | None, token_file: Path | None, ca_file: Path | None) -> None:
        if url is None or token_file is None:
            missing = "--control-url" if url is None else "--control-token-file"
            raise ConfigError(
                f"which control plane is meant? {missing} is not set",
                code="control_endpoint_missing",
                hint="Give --control-url and --control-token-file, or ISTHMUS_CONTROL_URL and "
                "ISTHMUS_CONTROL_TOKEN_FILE.",
            )
        self._url = url.rstrip("/")
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{ca_file} cannot be read: {error}", code="ca_file_unreadable") from None
        self._origin = Origin(self._url, read_token(token_file), context)
        self._client = httpx.Client(
            base_url=self._url,
            headers={"Authorization": f"Bearer {self._origin.token}"},
            timeout=TIMEOUT_SECONDS,
            verify=context,
            trust_env=False,
        )

    def ask(self, kind: type[Answer], method: str, path: str, body: Request | None = None, **query: Any) -> Answer:
        """One call. Raises IsthmusError."""
        answer = self.call(method, path, body, **query)
        try:
            return kind.model_validate_json(answer)
        except ValidationError:
            raise self._foreign(f"an answer without the form of {kind.__name__}") from None

    def call(self, method: str, path: str, body: Request | None = None, **query: Any) -> bytes:
        """One call; the body of the answer. Raises IsthmusError."""
        content = None if body is None else body.model_dump_json().encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        params = {name: value for name, value in query.items() if value is not None}
        try:
            answer = self._client.request(method, path, params=params, content=content, headers=headers)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ConfigError(
                f"{self._url!r} is not a URL: {error}",
                code="control_url_invalid",
                hint="Write it as https://control.example.org:8446.",
            ) from None
        except httpx.TransportError as error:
            raise UnreachableError(
                f"the control plane at {self._url} does not answer: {error or type(error).__name__}",
                code="control_unreachable",
                hint="Is it running (isthmus control serve)? Is --control-ca-file its authority?",
            ) from None
        if answer.is_success:
            return answer.content
        raise self._refusal(answer)

    def clusters(self) -> tuple[control.ClusterView, ...]:
        """All clusters."""
        found: list[control.ClusterView] = []
        after: str | None = None
        while True:
            page = self.ask(control.ClusterPage, "GET", paths.CONTROL_CLUSTERS, limit=PAGE, after=after)
            found += page.clusters
            after = page.next_after
            if after is None:
                return tuple(found)

    def cluster(self, cluster_id: str | None) -> str:
        """The id of the cluster that is meant: the one that is named, or the only one. Raises ConfigError."""
        if cluster_id is not None:
            return segment(cluster_id, control.CLUSTER_ID_PATTERN, "a cluster's id", "cl4k2nq4tz7")
        known = self.clusters()
        if len(known) != 1:
            listed = ", ".join(one.cluster_id for one in known) or "none"
            raise ConfigError(
                f"which cluster is meant? There are: {listed}",
                code="cluster_missing",
                hint="Give --cluster ID or ISTHMUS_CLUSTER." if known else "Create one with: isthmus cluster create.",
            )
        return known[0].cluster_id

    def home_of(self, deployment_id: str) -> control.ClusterView:
        """The cluster that a deployment is registered with. Raises NotFoundError."""
        for one in self.clusters():
            if deployment_id in one.deployments:
                return one
        raise NotFoundError(
            f"no deployment {deployment_id} is registered with the control plane at {self._url}",
            code="deployment_not_found",
            hint="Register it with: isthmus cluster deployment add.",
        )

    def deployment(self, cluster_id: str | None, deployment_id: str | None) -> tuple[str, str]:
        """The cluster and the deployment that are meant: what is named, or the only one. Raises ConfigError."""
        if deployment_id is not None:
            named = segment(deployment_id, DEPLOYMENT_ID_PATTERN, "a deployment's id", "dq7xk2ma")
            return (self.cluster(cluster_id) if cluster_id is not None else self.home_of(named).cluster_id), named
        known = [
            (one.cluster_id, name)
            for one in self.clusters()
            if cluster_id in (None, one.cluster_id)
            for name in one.deployments
        ]
        if len(known) != 1:
            listed = ", ".join(name for _, name in known) or "none"
            raise ConfigError(
                f"which deployment is meant? There are: {listed}",
                code="deployment_missing",
                hint="Give --deployment-id ID or ISTHMUS_DEPLOYMENT_ID."
                if known
                else "Register one with: isthmus cluster deployment add.",
            )
        return known[0]

    @property
    def origin(self) -> "Origin":
        """Where it is, and what opens it: for whoever speaks another API through it."""
        return self._origin

    def connections(
        self, cluster_id: str, state: str | None = None, find: str | None = None
    ) -> tuple[control.ConnectionView, ...]:
        """All connections of a cluster's link, in a state, with a text in the endpoint's id or the message."""
        found: list[control.ConnectionView] = []
        after: str | None = None
        path = paths.CONTROL_CONNECTIONS.format(cluster_id=cluster_id)
        while True:
            page = self.ask(control.ConnectionPage, "GET", path, limit=PAGE, after=after, state=state, find=find)
            found += page.connections
            after = page.next_after
            if after is None:
                return tuple(found)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _refusal(self, answer: httpx.Response) -> IsthmusError:
        problem: Problem | None = None
        if answer.headers.get("content-type", "").partition(";")[0].strip() == CONTENT_TYPE:
            try:
                problem = Problem.model_validate_json(answer.content)
            except ValueError:
                problem = None
        if problem is None:
            return self._foreign(f"status {answer.status_code} and {answer.content[:80]!r}")
        summary = problem.detail
        if problem.errors:
            summary += ": " + "; ".join(f"{error.field}: {error.reason}" for error in problem.errors)
        family: type[IsthmusError] = RefusedError
        if problem.status in {400, 422}:
            family = ConfigError
        elif problem.status == 404:
            family = NotFoundError
        elif problem.retryable:
            family = TemporaryError
        return family(summary, code=problem.code, hint=problem.hint)

    def _foreign(self, evidence: str) -> UnreachableError:
        return UnreachableError(
            f"what answers at {self._url} is not a control plane of this version: {evidence}",
            code="control_answer_foreign",
            hint="Check --control-url: it is --listen-host and --listen-port of isthmus control serve.",
        )


def read_token(file: Path) -> str:
    """The token in a file. Raises ConfigError."""
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a token"
        raise ConfigError(
            f"the operator token cannot be read from {file}: {reason}",
            code="control_token_unreadable",
            hint="Name the file with --control-token-file; an admin makes tokens with: isthmus operator create.",
        ) from None


def segment(text: str, pattern: str, what: str, example: str) -> str:
    """``text`` if it has the form of an id: it becomes part of a path. Raises ConfigError."""

    if re.fullmatch(pattern, text) is None:
        raise ConfigError(f"{text!r} is not {what}", code="id_malformed", hint=f"It reads like {example}.")
    return text


def body_of(kind: type[Any], **values: Any) -> Any:
    """A request's body. Raises ConfigError for what the wire does not take."""
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "the request"
        raise ConfigError(f"{name}: {first['msg']}", code="request_invalid", hint="See --help.") from None


def with_control(command: Callable[Concatenate[ControlPlane, P], None]) -> Callable[..., None]:
    """Give a command the options that find the control plane, and call it with the ``ControlPlane``."""

    @functools.wraps(command)
    def wrapped(
        *args: Any,
        control_url: str | None,
        control_token_file: Path | None,
        control_ca_file: Path | None,
        **kwargs: Any,
    ) -> None:
        plane = ControlPlane(control_url, control_token_file, control_ca_file)
        try:
            command(plane, *args, **kwargs)
        finally:
            plane.close()

    own = list(inspect.signature(command).parameters.values())[1:]
    wrapped.__signature__ = inspect.Signature([*own, *_parameters()])  # type: ignore[attr-defined]
    return wrapped


def _parameters() -> Iterator[inspect.Parameter]:
    for name, annotation in (
        ("control_url", UrlOption),
        ("control_token_file", TokenFileOption),
        ("control_ca_file", AuthorityOption),
    ):
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
