"""Calls of a deployment's admin API: where it is, how to prove who we are, and what its refusals mean.

The endpoint and the admin token come from ``--admin-url`` and ``--admin-token-file``, or from the directory that
``isthmus deployment init`` made (``--deployment``). Where neither is given the control plane asks the deployment
(``--control-url``), with the operator's token and the same paths below its own. ``Plane`` speaks
``isthmus.wire.admin``; every refusal becomes an error of ``isthmus.kit.errors`` with the problem's own code and hint.
Invariant: the token is in no error and no log.
"""

import contextlib
import functools
import inspect
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, ParamSpec, TypeVar
from urllib.parse import quote
from uuid import UUID

import httpx
import typer
from pydantic import ValidationError

from isthmus.cli.asking import AuthorityOption, ClusterOption, ControlPlane, TokenFileOption, UrlOption
from isthmus.kit.errors import ConfigError, IsthmusError, NotFoundError, RefusedError, TemporaryError, UnreachableError
from isthmus.wire import admin, paths
from isthmus.wire.bodies import Request, Response
from isthmus.wire.control import ClusterView, NoteView, OverviewView
from isthmus.wire.problems import CONTENT_TYPE, Problem

P = ParamSpec("P")
Answer = TypeVar("Answer", bound=Response)
Paged = TypeVar("Paged", admin.BundlePage, admin.TriggersView)

#: An admin call is one short statement; longer means that the database is in trouble.
TIMEOUT_SECONDS: Final = 20.0
#: How many rows a page has at most when all of them are wanted.
PAGE: Final = 200

DeploymentOption = Annotated[
    Path | None,
    typer.Option(
        "--deployment",
        "-d",
        envvar="ISTHMUS_DEPLOYMENT",
        metavar="DIR",
        help="The deployment's directory, made by: isthmus deployment init.",
    ),
]
AdminUrlOption = Annotated[
    str | None,
    typer.Option("--admin-url", envvar="ISTHMUS_ADMIN_URL", metavar="URL", help="The deployment's internal listener."),
]
AdminTokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--admin-token-file", envvar="ISTHMUS_ADMIN_TOKEN_FILE", metavar="FILE", help="Holds its admin token."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, as the admin API has it.")]


DeploymentIdOption = Annotated[
    str | None,
    typer.Option(
        "--deployment-id",
        envvar="ISTHMUS_DEPLOYMENT_ID",
        metavar="ID",
        help="The deployment to ask through the control plane; not needed if there is one.",
    ),
]


@dataclass(frozen=True, slots=True)
class Door:
    """Where an admin API is, and what opens it. ``is_control``: the control plane asks it for us."""

    url: str
    token: str = field(repr=False)
    tls: ssl.SSLContext | None = None
    is_control: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """What was said of the deployment and of the control plane."""

    deployment: Path | None = None
    admin_url: str | None = None
    admin_token_file: Path | None = None
    deployment_id: str | None = None
    cluster: str | None = None
    control_url: str | None = None
    control_token_file: Path | None = None
    control_ca_file: Path | None = None

    @property
    def is_through_control(self) -> bool:
        """Whether the control plane is to ask. What names a deployment directly comes first."""
        if self.deployment_id is not None:
            return True
        return self.control_url is not None and self.deployment is None and self.admin_url is None


def _door(said: Said, control: Callable[[], ControlPlane]) -> Door:
    if not said.is_through_control:
        return find_door(said.deployment, said.admin_url, said.admin_token_file)
    cluster_id, deployment_id = control().deployment(said.cluster, said.deployment_id)
    below = paths.CONTROL_DEPLOYMENT.format(cluster_id=cluster_id, deployment_id=deployment_id)
    origin = control().origin
    return Door(origin.url + below, origin.token, origin.tls, is_control=True)


def find_door(deployment: Path | None, url: str | None, token_file: Path | None) -> Door:
    """The admin API that the options name; the more specific option wins. Raises ConfigError."""
    if deployment is not None and (url is None or token_file is None):
        # Only here: it brings the plane's libraries, and whoever has such a directory has them.
        from isthmus.deployment import initializing  # noqa: PLC0415

        found = initializing.load(deployment)
        url = url or internal_url(found.config.admin_host, found.config.admin_port)
        token_file = token_file or found.admin_token_file
    if url is None or token_file is None:
        missing = "--admin-url" if url is None else "--admin-token-file"
        raise ConfigError(
            f"which deployment is meant? {missing} is not set",
            code="admin_endpoint_missing",
            hint="Give --deployment DIR (or ISTHMUS_DEPLOYMENT), or --admin-url and --admin-token-file; or "
            "--control-url, and the control plane asks it.",
        )
    try:
        token = token_file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a token"
        raise ConfigError(
            f"the admin token cannot be read from {token_file}: {reason}",
            code="admin_token_unreadable",
            hint="Name the file with --admin-token-file; it is readable by the user who runs the deployment.",
        ) from None
    return Door(url.rstrip("/"), token)


def internal_url(host: str, port: int) -> str:
    """The URL of a deployment's internal listener, from the same machine."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{reached}:{port}"


class Plane:
    """One deployment's admin API. ``control`` leads to the control plane, which knows the deployment's cluster."""

    def __init__(self, door: Door, control: Callable[[], ControlPlane] | None = None) -> None:
        self._door = door
        self._control = control
        self._client = httpx.Client(
            base_url=door.url,
            headers={"Authorization": f"Bearer {door.token}"},
            timeout=TIMEOUT_SECONDS,
            verify=True if door.tls is None else door.tls,
            trust_env=False,  # the internal listener is never behind the proxy that leads outside
        )

    @property
    def control(self) -> ControlPlane:
        """The control plane. Raises ConfigError where none was named."""
        return self._control() if self._control is not None else ControlPlane(None, None, None)

    def home(self) -> ClusterView:
        """The cluster of this deployment. Raises ConfigError where no control plane was named, NotFoundError."""
        return self.control.home_of(self.deployment().deployment_id)

    def deployment(self) -> admin.DeploymentView:
        """The deployment and how it is doing."""
        return self._ask(admin.DeploymentView, "GET", paths.ADMIN_DEPLOYMENT)

    def allow_list(self) -> admin.AllowListView:
        """The allow list in force."""
        return self._ask(admin.AllowListView, "GET", paths.ADMIN_ALLOW_LIST)

    def replace_allow_list(self, body: admin.AllowListBody) -> admin.AllowListView:
        """Put a whole allow list in force."""
        return self._ask(admin.AllowListView, "PUT", paths.ADMIN_ALLOW_LIST, body)

    def restrict(self, body: admin.RestrictionRequest) -> admin.RestrictionView:
        """Let only some ranges in, or hear what that would do."""
        return self._ask(admin.RestrictionView, "PUT", paths.ADMIN_RESTRICTION, body)

    def unrestrict(self) -> admin.RestrictionView:
        """Let every address in."""
        return self._ask(admin.RestrictionView, "DELETE", paths.ADMIN_RESTRICTION)

    def tokens(self) -> admin.TokenPage:
        """All agent tokens."""
        return self._ask(admin.TokenPage, "GET", paths.ADMIN_TOKENS)

    def create_token(self, body: admin.TokenCreateRequest) -> admin.TokenCreated:
        """A new agent token, with its secret."""
        return self._ask(admin.TokenCreated, "POST", paths.ADMIN_TOKENS, body)

    def revoke_token(self, token_id: str) -> admin.TokenView:
        """End a token now."""
        return self._ask(admin.TokenView, "POST", paths.ADMIN_TOKEN_REVOKE.format(token_id=_segment(token_id)))

    def rotate_token(self, token_id: str, body: admin.TokenRotateRequest) -> admin.TokenCreated:
        """A successor for a token, with its secret."""
        path = paths.ADMIN_TOKEN_ROTATE.format(token_id=_segment(token_id))
        return self._ask(admin.TokenCreated, "POST", path, body)

    def agents(self, **query: str | None) -> admin.AgentPage:
        """All agents that match, by name."""
        found: list[admin.AgentView] = []
        after: str | None = None
        while True:
            wanted = {**query, "limit": str(PAGE), "after": after}
            page = self._ask(admin.AgentPage, "GET", paths.ADMIN_AGENTS, query=wanted)
            found += page.agents
            after = page.next_after
            if after is None:
                return admin.AgentPage(agents=tuple(found))

    def reason(self, agent: admin.AgentView) -> NoteView | None:
        """Why an agent is not healthy: the control plane knows. None where it is not asked, or the agent is well."""
        if not self._door.is_control or agent.health is admin.AgentHealth.HEALTHY:
            return None
        path = paths.CONTROL_CLUSTER_OVERVIEW.format(cluster_id=self.home().cluster_id)
        seen = self.control.ask(OverviewView, "GET", path)
        return next((one.reason for one in seen.agents if one.agent_id == agent.agent_id), None)

    def agent(self, name_or_id: str) -> admin.AgentView:
        """The agent of this name or id. Raises NotFoundError."""
        agent_id = _uuid(name_or_id)
        if agent_id is not None:
            return self._ask(admin.AgentView, "GET", paths.ADMIN_AGENT.format(agent_id=agent_id))
        for agent in self.agents(name=name_or_id).agents:
            if agent.name == name_or_id:
                return agent
        raise NotFoundError(
            f"no agent is called {name_or_id!r}",
            code="agent_unknown",
            hint="List the agents with: isthmus agents list.",
        )

    def steer_agent(self, agent_id: UUID, verb: str) -> admin.AgentView:
        """Cordon, uncordon or drain."""
        return self._ask(admin.AgentView, "POST", paths.ADMIN_AGENT_VERB.format(agent_id=agent_id, verb=verb))

    def order_probes(self, agent_id: UUID, body: admin.ProbesRequest) -> admin.AgentView:
        """Have an agent verify its way to the plane."""
        return self._ask(admin.AgentView, "POST", paths.ADMIN_AGENT_PROBES.format(agent_id=agent_id), body)

    def verifications(self, limit: int, agent: str | None = None) -> admin.VerificationPage:
        """The newest ``limit`` verifications, of one agent (by name) or of all."""
        return self._ask(
            admin.VerificationPage, "GET", paths.ADMIN_VERIFICATIONS, query={"agent": agent, "limit": str(limit)}
        )

    def verification(self, verification_id: UUID) -> admin.VerificationView:
        """One verification with the rows that have come."""
        path = paths.ADMIN_VERIFICATION.format(verification_id=verification_id)
        return self._ask(admin.VerificationView, "GET", path)

    def log_tail(self, agent_id: UUID) -> admin.LogTailView:
        """The end of an agent's own log, if it is there."""
        return self._ask(admin.LogTailView, "GET", paths.ADMIN_AGENT_LOG.format(agent_id=agent_id))

    def order_log_tail(self, agent_id: UUID) -> admin.LogTailView:
        """Ask an agent for the end of its own log."""
        path = paths.ADMIN_AGENT_LOG.format(agent_id=agent_id)
        return self._ask(admin.LogTailView, "POST", path, admin.LogOrderRequest())

    def remove_agent(self, agent_id: UUID, *, force: bool) -> None:
        """Strike an agent off the roster."""
        path = paths.ADMIN_AGENT.format(agent_id=agent_id)
        self._call("DELETE", path, None, {"force": "true"} if force else {})

    def workloads(self, limit: int, **query: str | None) -> admin.WorkloadPage:
        """The newest ``limit`` workloads that match; ``next_before`` tells where the rest begins."""
        found: list[admin.WorkloadView] = []
        before: str | None = None
        while True:
            wanted = {**query, "limit": str(min(PAGE, limit - len(found))), "before": before}
            page = self._ask(admin.WorkloadPage, "GET", paths.ADMIN_WORKLOADS, query=wanted)
            found += page.workloads
            before = page.next_before
            if before is None or len(found) >= limit:
                return admin.WorkloadPage(workloads=tuple(found), next_before=before)

    def bundles(self) -> admin.BundlePage:
        """All DAG bundles."""
        pages = self._pages(admin.BundlePage, paths.ADMIN_BUNDLES)
        found = tuple(bundle for page in pages for bundle in page.bundles)
        return pages[-1].model_copy(update={"bundles": found})

    def triggers(self) -> admin.TriggersView:
        """Who runs triggers, and what waits for somebody to."""
        pages = self._pages(admin.TriggersView, paths.ADMIN_TRIGGERS)
        found = tuple(triggerer for page in pages for triggerer in page.triggerers)
        return pages[-1].model_copy(update={"triggerers": found})

    def queues(self) -> admin.QueuePage:
        """All queues."""
        return self._ask(admin.QueuePage, "GET", paths.ADMIN_QUEUES)

    def refused(self, limit: int) -> admin.RefusedPage:
        """Who was turned away last."""
        return self._ask(admin.RefusedPage, "GET", paths.ADMIN_REFUSED, query={"limit": str(limit)})

    def workload(self, workload_id: UUID) -> admin.WorkloadDetail:
        """One workload with its payload."""
        return self._ask(admin.WorkloadDetail, "GET", paths.ADMIN_WORKLOAD.format(workload_id=workload_id))

    def cancel_workload(self, workload_id: UUID) -> admin.WorkloadView:
        """Cancel a workload, or ask it to stop."""
        return self._ask(admin.WorkloadView, "POST", paths.ADMIN_WORKLOAD_CANCEL.format(workload_id=workload_id))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _pages(self, kind: type[Paged], path: str) -> list[Paged]:
        """Every page of a list, one at least."""
        pages: list[Paged] = []
        start: int | None = 0
        while start is not None:
            pages.append(self._ask(kind, "GET", path, query={"start": str(start), "limit": str(PAGE)}))
            start = pages[-1].next_start
        return pages

    def _ask(
        self,
        kind: type[Answer],
        method: str,
        path: str,
        body: Request | None = None,
        query: dict[str, str | None] | None = None,
    ) -> Answer:
        answer = self._call(
            method, path, body, {key: value for key, value in (query or {}).items() if value is not None}
        )
        try:
            return kind.model_validate_json(answer)
        except ValidationError:
            raise self._foreign(f"an answer without the form of {kind.__name__}") from None

    def _call(self, method: str, path: str, body: Request | None, query: dict[str, str]) -> bytes:
        content = None if body is None else body.model_dump_json().encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            answer = self._client.request(method, path, params=query, content=content, headers=headers)
        except httpx.InvalidURL as error:
            raise ConfigError(f"{self._door.url!r} is not a URL: {error}", code="admin_url_invalid") from None
        except httpx.UnsupportedProtocol:
            raise ConfigError(
                f"{self._door.url!r} is not a URL", code="admin_url_invalid", hint="Write it as http://127.0.0.1:8444."
            ) from None
        except httpx.TransportError as error:
            if self._door.is_control:
                raise UnreachableError(
                    f"the control plane does not answer: {error or type(error).__name__}",
                    code="control_unreachable",
                    hint="Is it running (isthmus control serve)?",
                ) from None
            raise UnreachableError(
                f"the admin API at {self._door.url} does not answer: {error or type(error).__name__}",
                code="admin_unreachable",
                hint="Is the Remote Execution API running (isthmus deployment run, isthmus api)? It listens for this "
                "on [isthmus] admin_host and admin_port.",
            ) from None
        if answer.is_success:
            return answer.content
        raise self._refusal(answer.status_code, answer.headers.get("content-type", ""), answer.content)

    def _refusal(self, status: int, content_type: str, body: bytes) -> IsthmusError:
        problem: Problem | None = None
        if content_type.partition(";")[0].strip() == CONTENT_TYPE:
            try:
                problem = Problem.model_validate_json(body)
            except ValueError:
                problem = None
        if problem is None:
            return self._foreign(f"status {status} and {body[:80]!r}")
        summary = problem.detail
        if problem.errors:
            summary += ": " + "; ".join(f"{error.field}: {error.reason}" for error in problem.errors)
        if problem.status in {400, 422}:  # the server knows limits that the command line does not
            return ConfigError(summary, code=problem.code, hint=problem.hint)
        if problem.status == 404:
            return NotFoundError(summary, code=problem.code, hint=problem.hint)
        if problem.retryable:
            return TemporaryError(summary, code=problem.code, hint=problem.hint)
        return RefusedError(summary, code=problem.code, hint=problem.hint)

    def _foreign(self, evidence: str) -> UnreachableError:
        return UnreachableError(
            f"what answers at {self._door.url} is not an Isthmus admin API of this version: {evidence}",
            code="admin_answer_foreign",
            hint="Check --admin-url: it is [isthmus] admin_host and admin_port, not the address that agents use.",
        )


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _segment(text: str) -> str:
    """``text`` as one segment of a path."""
    return quote(text, safe="")


def with_plane(command: Callable[Concatenate[Plane, P], None]) -> Callable[..., None]:
    """Give a command the options that find the admin API, and call it with the ``Plane``."""

    @functools.wraps(command)
    def wrapped(*args: Any, **given: Any) -> None:
        said = Said(**{name: given.pop(name) for name in _OPTIONS})
        with contextlib.ExitStack() as stack:

            @functools.cache
            def control() -> ControlPlane:
                made = ControlPlane(said.control_url, said.control_token_file, said.control_ca_file)
                stack.callback(made.close)
                return made

            plane = Plane(_door(said, control), control)
            stack.callback(plane.close)
            command(plane, *args, **given)

    own = list(inspect.signature(command).parameters.values())[1:]
    wrapped.__signature__ = inspect.Signature([*own, *_plane_parameters()])  # type: ignore[attr-defined]
    return wrapped


_OPTIONS: Final[dict[str, Any]] = {
    "deployment": DeploymentOption,
    "admin_url": AdminUrlOption,
    "admin_token_file": AdminTokenFileOption,
    "deployment_id": DeploymentIdOption,
    "cluster": ClusterOption,
    "control_url": UrlOption,
    "control_token_file": TokenFileOption,
    "control_ca_file": AuthorityOption,
}


def _plane_parameters() -> Iterator[inspect.Parameter]:
    for name, annotation in _OPTIONS.items():
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
