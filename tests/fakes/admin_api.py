"""A deployment's admin API from memory, over real HTTP: bodies of ``isthmus.wire.admin``, problems, pages of two rows.

The pages are small on purpose, so that whoever reads lists meets more than one. It can be told to answer a path with
something else. Every request is recorded.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

from isthmus.wire import admin, problems
from isthmus.wire.agents import AgentWarning, Phase, Severity
from isthmus.wire.names import Kind, PathKind, Role
from isthmus.wire.probes import ProbeReport, ProbeStatus

TOKEN = "the-admin-token"
PAGE = 2
ORDER = UUID(int=99)
NOW = datetime.now(UTC)


def agent(number: int, **changes: Any) -> admin.AgentView:
    return admin.AgentView(
        **{
            "agent_id": UUID(int=number),
            "name": f"agent-{number}",
            "role": Role.WORKER,
            "health": admin.AgentHealth.HEALTHY,
            "phase": Phase.READY,
            "cordoned": False,
            "draining": False,
            "queues": ("default", "gpu"),
            "slots": 8,
            "slots_used": number,
            "versions": {"isthmus": "0.1.0", "airflow": "3.3.2"},
            "labels": {"site": "oslo"},
            "warnings": (),
            "token_id": "abcdefghijkl",
            "address": "192.0.2.7",
            "enrolled_at": NOW - timedelta(hours=3),
            "last_heartbeat_at": NOW - timedelta(seconds=4),
            **changes,
        }
    )


def bundle(name: str, **changes: Any) -> admin.BundleView:
    return admin.BundleView(
        **{
            "name": name,
            "version": "4f2c1d9",
            "token_id": "abcdefghijkl",
            "token_name": "site-a",
            "agent_name": "edge-1.dag-processor",
            "agents": ("edge-1.dag-processor",),
            "files": 12,
            "refused": 1,
            "dags": 30,
            "import_errors": 2,
            "registered_at": NOW,
            "passed_at": None,
            **changes,
        }
    )


def refused_bundle(name: str, **changes: Any) -> admin.RefusedBundleView:
    return admin.RefusedBundleView(
        **{
            "name": name,
            "agent_name": "edge-3.dag-processor",
            "token_id": "abcdefghijkl",
            "token_name": "site-c",
            "code": "bundle_scope",
            "detail": "The token 'site-c' is for the bundles sales_*.",
            "since": NOW,
            **changes,
        }
    )


def triggerer(name: str, **changes: Any) -> admin.TriggererView:
    return admin.TriggererView(
        **{
            "agent_id": UUID(int=7),
            "agent_name": name,
            "held": 250,
            "capacity": 1000,
            "queues": ("default", "etl"),
            "bundles": (),
            "takes": True,
            "loaded_at": NOW,
            **changes,
        }
    )


def waiting_triggers(count: int, **changes: Any) -> admin.WaitingTriggersView:
    return admin.WaitingTriggersView(
        **{
            "kind": "task",
            "queue": "gpu",
            "bundles": ("sales",),
            "count": count,
            "oldest_seconds": 41.0,
            "triggerers": 0,
            **changes,
        }
    )


def queue(name: str, **changes: Any) -> admin.QueueView:
    return admin.QueueView(
        **{
            "queue": name,
            "queued": 0,
            "oldest_queued_seconds": None,
            "leased": 0,
            "running": 0,
            "agents": ("oslo-1",),
            "agents_count": 1,
            "slots": 8,
            "slots_used": 0,
            **changes,
        }
    )


def hour(ends: dict[int, tuple[int, int]]) -> tuple[admin.MinuteView, ...]:
    now = NOW.replace(second=0, microsecond=0)
    return tuple(
        admin.MinuteView(
            at=now - timedelta(minutes=ago),
            succeeded=ends.get(ago, (0, 0))[0],
            failed=ends.get(ago, (0, 0))[1],
            lost=0,
            cancelled=0,
        )
        for ago in range(59, -1, -1)
    )


def workload(number: int, **changes: Any) -> admin.WorkloadView:
    return admin.WorkloadView(
        **{
            "workload_id": UUID(f"00000000-0000-7000-8000-{number:012x}"),
            "kind": Kind.TASK,
            "state": admin.WorkloadState.SUCCEEDED,
            "queue": "default",
            "priority": 1,
            "dag_id": "river_levels",
            "task_id": "summarise",
            "run_id": "manual__1",
            "map_index": number,
            "try_number": 1,
            "subject_id": "01890000-0000-7000-8000-0000000000ff",
            "agent_id": UUID(int=1),
            "agent_name": "agent-1",
            "fence": 1,
            "queued_at": NOW - timedelta(minutes=5),
            "leased_at": NOW - timedelta(minutes=5),
            "started_at": NOW - timedelta(minutes=5),
            "settled_at": NOW - timedelta(minutes=5) + timedelta(milliseconds=340),
            "lease_expires_at": None,
            "exit_code": 0,
            "detail": "",
            **changes,
        }
    )


def token(token_id: str, **changes: Any) -> admin.TokenView:
    return admin.TokenView(
        **{
            "token_id": token_id,
            "name": "site-oslo",
            "state": admin.TokenState.ACTIVE,
            "roles": (),
            "queues": (),
            "created_at": NOW,
            "expires_at": NOW + timedelta(days=365),
            "revoked_at": None,
            "last_used_at": None,
            "last_used_address": None,
            **changes,
        }
    )


@dataclass
class FakeAdminApi:
    url: str = ""
    agents: dict[UUID, admin.AgentView] = field(default_factory=dict)
    workloads: dict[UUID, admin.WorkloadView] = field(default_factory=dict)
    queues: list[admin.QueueView] = field(default_factory=list)
    bundles: list[admin.BundleView] = field(default_factory=list)
    refused_bundles: list[admin.RefusedBundleView] = field(default_factory=list)
    triggerers: list[admin.TriggererView] = field(default_factory=list)
    waiting_triggers: list[admin.WaitingTriggersView] = field(default_factory=list)
    held_centrally: int = 0
    refused: list[admin.RefusedCaller] = field(default_factory=list)
    #: Minutes ago → how many succeeded, how many failed.
    hour: dict[int, tuple[int, int]] = field(default_factory=dict)
    tokens: dict[str, admin.TokenView] = field(default_factory=dict)
    ranges: tuple[str, ...] = ()
    restriction: admin.RestrictionOutcome = admin.RestrictionOutcome.RESTRICTED
    #: Numbers of the agents that a restriction cuts off.
    cut_off: tuple[int, ...] = (1,)
    #: What an agent that is asked for probes has reported when it is looked at next.
    report: ProbeReport | None = None
    #: What else is true of the next verification.
    verified_as: dict[str, Any] = field(default_factory=dict)
    verifications: dict[UUID, admin.VerificationView] = field(default_factory=dict)
    #: What an agent that is asked for its log sends at once; None for one that sends nothing.
    log: tuple[str, ...] | None = ("started", "enrolled")
    log_tails: dict[UUID, admin.LogTailView] = field(default_factory=dict)
    #: Path → status, content type, body: what to answer in the place of the truth.
    instead: dict[str, tuple[int, str, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        match method, path.removeprefix("/admin/v1/").split("/"):
            case "GET", ["deployment"]:
                return 200, deployment(self)
            case "GET", ["allow-list"]:
                return 200, admin.AllowListView(ranges=self.ranges)
            case "PUT", ["allow-list"]:
                whole = admin.AllowListBody.model_validate(body)
                made = restriction(
                    self,
                    admin.RestrictionOutcome.RESTRICTED,
                    tuple(str(one) for one in whole.ranges),
                    dry_run=whole.dry_run,
                )
                return 200, admin.AllowListView(ranges=self.ranges, change=made)
            case "PUT", ["restriction"]:
                wish = admin.RestrictionRequest.model_validate(body)
                if self.restriction is admin.RestrictionOutcome.REFUSED and not (wish.dry_run or wish.force):
                    return 409, problems.problem(problems.Code.AGENTS_CUT_OFF, "No healthy agent comes from there.")
                outcome = admin.RestrictionOutcome.RESTRICTED if wish.force else self.restriction
                return 200, restriction(self, outcome, tuple(str(one) for one in wish.ranges), dry_run=wish.dry_run)
            case "DELETE", ["restriction"]:
                return 200, restriction(self, admin.RestrictionOutcome.UNRESTRICTED, ())
            case "GET", ["tokens"]:
                return 200, admin.TokenPage(tokens=tuple(self.tokens.values()))
            case "POST", ["tokens"]:
                wanted = admin.TokenCreateRequest.model_validate(body)
                made = token(
                    "newtokenidaa", name=wanted.name, roles=wanted.roles, queues=wanted.queues, bundles=wanted.bundles
                )
                if wanted.expires_days is None:
                    made = made.model_copy(update={"expires_at": None})
                self.tokens[made.token_id] = made
                return 201, admin.TokenCreated(token=made, secret="isthmus_dtest234_newtokenidaa_s3cret")
            case "POST", ["tokens", token_id, "revoke"]:
                if token_id not in self.tokens:
                    return 404, problems.problem(problems.Code.TOKEN_NOT_FOUND)
                self.tokens[token_id] = self.tokens[token_id].model_copy(update={"state": admin.TokenState.REVOKED})
                return 200, self.tokens[token_id]
            case "POST", ["tokens", token_id, "rotate"]:
                admin.TokenRotateRequest.model_validate(body)
                return 201, admin.TokenCreated(token=token("successoridaa"), secret="isthmus_dtest234_successoridaa_s3")
            case "GET", ["agents"]:
                rows = sorted(self.agents.values(), key=lambda one: one.name)
                for name in ("role", "health", "name"):
                    rows = [one for one in rows if getattr(one, name) == query.get(name, getattr(one, name))]
                rows = [one for one in rows if query.get("search", "").lower() in one.name.lower()]
                if query.get("order") == admin.AgentOrder.URGENCY:
                    ranks = ("unhealthy", "healthy", "left")
                    rows.sort(key=lambda one: ranks.index(one.health))
                    start, limit = int(query.get("start", 0)), int(query["limit"])
                    return 200, admin.AgentPage(
                        agents=tuple(rows[start : start + limit]),
                        next_start=start + limit if len(rows) > start + limit else None,
                        matching=len(rows),
                    )
                rows = [one for one in rows if one.name > query.get("after", "")]
                return 200, admin.AgentPage(
                    agents=tuple(rows[:PAGE]), next_after=rows[PAGE - 1].name if len(rows) > PAGE else None
                )
            case "GET" | "DELETE" | "POST", ["agents", agent_id, *_] if UUID(agent_id) not in self.agents:
                return 404, problems.problem(problems.Code.AGENT_UNKNOWN)
            case "GET", ["agents", agent_id]:
                return 200, self.agents[UUID(agent_id)]
            case "DELETE", ["agents", agent_id]:
                found = self.agents[UUID(agent_id)]
                if found.health == "healthy" and query.get("force") != "true":
                    return 409, problems.problem(problems.Code.AGENT_BUSY)
                del self.agents[found.agent_id]
                return 204, None
            case "POST", ["agents", agent_id, "probes"]:
                order = admin.ProbesRequest.model_validate(body)
                asked = self.agents[UUID(agent_id)].model_copy(update={"probes_order_id": ORDER})
                done = {} if self.report is None else {"probe_report": self.report, "probes_order_id": None}
                self.agents[UUID(agent_id)] = asked.model_copy(update=done)
                self.verifications[ORDER] = verification(asked, order, self.report, **self.verified_as)
                return 202, asked
            case "GET", ["agents", agent_id, "log"]:
                return 200, self.log_tails.get(UUID(agent_id), log_tail(UUID(agent_id)))
            case "POST", ["agents", agent_id, "log"]:
                wish_log = admin.LogOrderRequest.model_validate(body)
                made_log = log_tail(
                    UUID(agent_id), order_id=ORDER, ordered_by=wish_log.ordered_by or "admin token", ordered_at=NOW
                )
                sent = {} if self.log is None else {"received_at": NOW, "lines": self.log}
                self.log_tails[UUID(agent_id)] = made_log.model_copy(update=sent)
                return 202, made_log
            case "GET", ["verifications"]:
                found_all = [one for one in self.verifications.values() if query.get("agent") in (None, one.agent_name)]
                found_all.sort(key=lambda one: one.ordered_at, reverse=True)
                begin = int(query.get("before", "0").partition("~")[0])
                fits = int(query["limit"])
                return 200, admin.VerificationPage(
                    verifications=tuple(
                        admin.VerificationEntry.model_validate(one.model_dump())
                        for one in found_all[begin : begin + fits]
                    ),
                    next_before=f"{begin + fits}~0" if begin + fits < len(found_all) else None,
                )
            case "GET", ["verifications", verification_id]:
                if UUID(verification_id) not in self.verifications:
                    return 404, problems.problem(problems.Code.VERIFICATION_NOT_FOUND)
                return 200, self.verifications[UUID(verification_id)]
            case "POST", ["agents", agent_id, verb]:
                flags = {
                    "cordon": {"cordoned": True},
                    "uncordon": {"cordoned": False, "draining": False},
                    "drain": {"draining": True},
                }[verb]
                self.agents[UUID(agent_id)] = self.agents[UUID(agent_id)].model_copy(update=flags)
                return 200, self.agents[UUID(agent_id)]
            case "GET", ["bundles"]:
                page, following = _cut(self.bundles, query)
                return 200, admin.BundlePage(bundles=page, next_start=following, refused=tuple(self.refused_bundles))
            case "GET", ["triggers"]:
                some, following = _cut(self.triggerers, query)
                return 200, admin.TriggersView(
                    triggerers=some,
                    next_start=following,
                    held=sum(one.held for one in self.triggerers),
                    capacity=sum(one.capacity for one in self.triggerers),
                    held_centrally=self.held_centrally,
                    waiting_count=sum(one.count for one in self.waiting_triggers),
                    oldest_waiting_seconds=max((one.oldest_seconds for one in self.waiting_triggers), default=None),
                    waiting=tuple(self.waiting_triggers),
                )
            case "GET", ["queues"]:
                return 200, admin.QueuePage(queues=tuple(self.queues))
            case "GET", ["refused"]:
                return 200, admin.RefusedPage(callers=tuple(self.refused))
            case "GET", ["throughput"]:
                return 200, admin.ThroughputView(minutes=hour(self.hour))
            case "GET", ["workloads"]:
                rows = [
                    one
                    for one in self.workloads.values()
                    if all(
                        str(getattr(one, key)) == value
                        for key, value in query.items()
                        if key in {"state", "queue", "kind", "dag_id", "agent_id"}
                    )
                ]
                start = int(query.get("before", 0))
                size = min(PAGE, int(query["limit"]))
                more = start + size if start + size < len(rows) else None
                return 200, admin.WorkloadPage(
                    workloads=tuple(rows[start : start + size]), next_before=None if more is None else str(more)
                )
            case "GET" | "POST", ["workloads", workload_id, *_] if UUID(workload_id) not in self.workloads:
                return 404, problems.problem(problems.Code.WORKLOAD_NOT_FOUND)
            case "GET", ["workloads", workload_id]:
                return 200, admin.WorkloadDetail(workload=self.workloads[UUID(workload_id)], payload={"type": "x"})
            case "POST", ["workloads", workload_id, "cancel"]:
                found = self.workloads[UUID(workload_id)]
                if found.state is admin.WorkloadState.QUEUED:
                    found = found.model_copy(update={"state": admin.WorkloadState.CANCELLED})
                return 202, found
            case _:
                return 404, "404 page not found\n"


def _cut(everything: list[Any], query: dict[str, str]) -> tuple[tuple[Any, ...], int | None]:
    """A page of two rows, and where the next one begins."""
    start = int(query.get("start", "0"))
    end = start + PAGE
    return tuple(everything[start:end]), end if end < len(everything) else None


def verification(
    asked: admin.AgentView, order: admin.ProbesRequest, report: ProbeReport | None, **changes: Any
) -> admin.VerificationView:
    rows = () if report is None else report.rows
    ended = report is not None and report.finished
    unfinished = admin.VerificationState.ORDERED if report is None else admin.VerificationState.RUNNING
    return admin.VerificationView(
        **{
            "verification_id": ORDER,
            "agent_id": asked.agent_id,
            "agent_name": asked.name,
            "state": admin.VerificationState.FINISHED if ended else unfinished,
            "ordered_by": order.ordered_by or "admin token",
            "ordered_at": NOW,
            "started_at": None if report is None else report.started_at,
            "finished_at": NOW if ended else None,
            "status": None if report is None else report.status,
            "failed": next((row for row in rows if row.status is ProbeStatus.FAIL), None),
            "endpoint": order.endpoint,
            "connection": order.connection,
            "url": "" if report is None else report.url,
            "public_addresses": order.public_addresses,
            "public_allowed": order.public_allowed,
            "rows": rows,
            **changes,
        }
    )


def log_tail(agent_id: UUID, **changes: Any) -> admin.LogTailView:
    return admin.LogTailView(
        **{
            "agent_id": agent_id,
            "order_id": None,
            "ordered_by": None,
            "ordered_at": None,
            "received_at": None,
            "lines": (),
            **changes,
        }
    )


def place(number: int, **changes: Any) -> admin.AgentPlace:
    return admin.AgentPlace(
        **{
            "agent_id": UUID(int=number),
            "name": f"agent-{number}",
            "health": admin.AgentHealth.HEALTHY,
            "path": PathKind.PUBLIC,
            "link_id": None,
            "address": "198.51.100.7",
            "last_heartbeat_at": NOW,
            **changes,
        }
    )


def restriction(
    fake: FakeAdminApi, outcome: admin.RestrictionOutcome, ranges: tuple[str, ...], *, dry_run: bool = False
) -> admin.RestrictionView:
    before = fake.ranges
    if not dry_run:
        fake.ranges = ranges
    return admin.RestrictionView(
        deployment_id="dtest234",
        decided_at=NOW,
        outcome=outcome,
        reason="Because.",
        dry_run=dry_run,
        forced=False,
        ranges_before=before,
        ranges_after=ranges,
        cut_off=tuple(place(number) for number in fake.cut_off),
        stays=(place(2, path=PathKind.LINK, link_id=268435747, address="10.20.0.5"),),
    )


def deployment(fake: FakeAdminApi) -> admin.DeploymentView:
    found = fake.agents.values()
    return admin.DeploymentView(
        deployment_id="dtest234",
        version="0.1.0",
        airflow_version="3.3.2",
        airflow_url="https://airflow.example.org",
        heartbeat_seconds=10,
        lease_seconds=30,
        running_lease_seconds=120,
        token_limit=50,
        allowed_ranges=fake.ranges,
        allowed_connections=(),
        allowed_variables=("shared_*",),
        agents_healthy=sum(one.health == "healthy" for one in found),
        agents_unhealthy=sum(one.health == "unhealthy" for one in found),
        agents_left=sum(one.health == "left" for one in found),
        agents_by_way=tuple(
            admin.WayView(
                path=path,
                link_id=link_id,
                last_heartbeat_at=max(one.last_heartbeat_at for one in found if one.last_heartbeat_at),
                names=tuple(
                    f"{one.name} ({one.health})" for one in found if (one.path, one.link_id) == (path, link_id)
                ),
                healthy=sum(one.health == "healthy" for one in found if (one.path, one.link_id) == (path, link_id)),
                unhealthy=sum(one.health == "unhealthy" for one in found if (one.path, one.link_id) == (path, link_id)),
            )
            for path, link_id in dict.fromkeys((one.path, one.link_id) for one in found if one.health != "left")
        ),
        workloads_queued=3,
        workloads_active=1,
    )


@contextmanager
def serving() -> Iterator[FakeAdminApi]:
    fake = FakeAdminApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            text = self.rfile.read(length)
            url = urlsplit(self.path)
            query = dict(parse_qsl(url.query))
            body = json.loads(text) if text else None
            fake.requests.append((self.command, url.path, query, body))
            if url.path in fake.instead:
                self.reply(*fake.instead[url.path])
                return
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                status, answer = 401, problems.problem(problems.Code.ADMIN_TOKEN_INVALID)
            else:
                status, answer = fake.answer(self.command, url.path, query, body)
            if answer is None or isinstance(answer, str):
                self.reply(status, "text/plain", (answer or "").encode())
                return
            kind = problems.CONTENT_TYPE if status >= 400 else "application/json"
            self.reply(status, kind, answer.model_dump_json().encode())

        do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815 - the names of http.server

        def reply(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        fake.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()


def warning(summary: str) -> AgentWarning:
    return AgentWarning(code="clock_skew", severity=Severity.WARNING, summary=summary, hint="run an NTP client")
