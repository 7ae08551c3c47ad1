"""``isthmus link``: the provider's side of private links.

Plans and answers go to standard output, progress beside it. What is asked for is done by the control plane, also when
this program ends before.
"""

import time
from collections.abc import Callable, Iterator
from typing import Annotated, Final

import typer

from isthmus.cli import printing
from isthmus.cli.asking import ClusterOption, ControlPlane, Json, body_of, segment, with_control
from isthmus.kit.errors import ConfigError, NotFoundError, RefusedError, TemporaryError
from isthmus.link import names
from isthmus.wire import control, paths
from isthmus.wire.control import ConnectionView, LinkState, LinkView, PlanView, Verb
from isthmus.wire.names import ConnectionState
from isthmus.wire.traffic import LinkTrafficView, PortUseView

app = typer.Typer(add_completion=False, help="Private links of your clusters: publish them, decide who may connect.")

#: How often a link that is on its way is looked at.
_LOOK_SECONDS: Final = 0.5
#: A problem that has lasted for this long will not pass by itself soon.
_PROBLEM_SECONDS: Final = 30.0

Which = Annotated[
    str, typer.Argument(metavar="CONNECTION", help="A connection's id, or its endpoint's name or resource id.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why: the customer reads it, and the audit log keeps it.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan, and do nothing.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return when it is written down, before it is done.")]
WaitSeconds = Annotated[float, typer.Option("--wait-seconds", min=0, help="Wait no longer than that.")]


@app.command("publish")
@with_control
def publish(
    plane: ControlPlane,
    *,
    cluster: ClusterOption = None,
    frontend: Annotated[
        str, typer.Option("--frontend", metavar="ID", help="The load balancer's frontend that leads to the ingress.")
    ],
    nat_subnet: Annotated[
        str, typer.Option("--nat-subnet", metavar="ID", help="Where NAT addresses are from, in the cluster's network.")
    ],
    service: Annotated[
        str | None,
        typer.Option("--service", metavar="ID", help="The link service; else isthmus-CLUSTER beside the frontend."),
    ] = None,
    nat_addresses: Annotated[
        int, typer.Option("--nat-addresses", min=1, max=8, help="Each carries 64 thousand connections.")
    ] = 1,
    visible_to: Annotated[
        list[str] | None,
        typer.Option("--visible-to", metavar="SUBSCRIPTION", help="Who may ask; may repeat. Else everybody."),
    ] = None,
    approve_at_once: Annotated[
        list[str] | None,
        typer.Option("--approve-at-once", metavar="SUBSCRIPTION", help="Whom the cloud approves itself; may repeat."),
    ] = None,
    no_proxy_protocol: Annotated[
        bool, typer.Option("--no-proxy-protocol", help="Without the link's id: tokens cannot be bound to links.")
    ] = False,
    no_inherit: Annotated[
        bool, typer.Option("--no-inherit", help="Ask about each endpoint, also of customers that were approved.")
    ] = False,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    wait_seconds: WaitSeconds = 900.0,
    as_json: Json = False,
) -> None:
    """Plan, put a link service in front of the ingress, and show its alias. Also changes the one that is there."""
    cluster_id = plane.cluster(cluster)
    body = body_of(
        control.LinkBody,
        service_id=service or names.service_beside(frontend, cluster_id),
        frontend_id=frontend,
        nat_subnet_id=nat_subnet,
        nat_addresses=nat_addresses,
        visible_to=tuple(visible_to or ("*",)),
        approved_at_once=tuple(approve_at_once or ()),
        has_proxy_protocol=not no_proxy_protocol,
        inherits_approval=not no_inherit,
    )
    plan = _plan(plane, cluster_id, control.LinkPlanRequest(link=body))
    _tell_plan(plan, "All is as it should be.", as_json=as_json, is_answer=dry_run)
    if dry_run:
        return
    path = paths.CONTROL_LINK.format(cluster_id=cluster_id)
    view = plane.ask(LinkView, "PUT", path, body, plan=plan.digest or None)
    if not no_wait:
        view = _wait(plane, path, wait_seconds, lambda one: one.state is LinkState.PUBLISHED)
    _show(view, as_json=as_json)


@app.command("show")
@with_control
def show(plane: ControlPlane, *, cluster: ClusterOption = None, as_json: Json = False) -> None:
    """Show the link: its alias, its NAT addresses, how many connections it has, what went through it."""
    cluster_id = plane.cluster(cluster)
    view = plane.ask(LinkView, "GET", paths.CONTROL_LINK.format(cluster_id=cluster_id))
    if as_json or view.state is not LinkState.PUBLISHED:
        _show(view, as_json=as_json)
        return
    measured = _traffic(plane, cluster_id)
    _show(view, measured)
    _tell_problem(measured)


@app.command("traffic")
@with_control
def traffic(plane: ControlPlane, *, cluster: ClusterOption = None, as_json: Json = False) -> None:
    """Show what went through the link in the last hour, and how full its NAT addresses are."""
    measured = _traffic(plane, plane.cluster(cluster))
    if as_json:
        printing.json_of(measured)
        return
    printing.facts(
        (
            ("from customers", _bytes(measured.bytes_in)),
            ("to customers", _bytes(measured.bytes_out)),
            *((f"ports of {one.address}", _use(one)) for one in measured.nat_addresses),
            ("measured", printing.age(measured.measured_at)),
        )
    )
    _tell_problem(measured)


def _traffic(plane: ControlPlane, cluster_id: str) -> LinkTrafficView:
    return plane.ask(LinkTrafficView, "GET", paths.CONTROL_LINK_TRAFFIC.format(cluster_id=cluster_id))


def _bytes(count: int | None) -> str:
    return "nothing measured" if count is None else printing.size(count)


def _use(one: PortUseView) -> str:
    return f"{_percent(one.last_percent)} in use, {_percent(one.most_percent)} at most"


def _percent(value: float) -> str:
    """Of 64 thousand ports a tenth of a percent is still some; what is less is not nothing."""
    return "under 0.1 %" if 0 < value < 0.1 else f"{value:.1f} %" if 0 < value < 10 else f"{value:.0f} %"


def _tell_problem(measured: LinkTrafficView) -> None:
    if measured.problem is not None:
        beginning = "Traffic is not shown" if measured.measured_at is None else "There is nothing newer"
        printing.note(f"{beginning}: {measured.problem.sentence}\n{measured.problem.hint}".rstrip())


@app.command("unpublish")
@with_control
def unpublish(
    plane: ControlPlane,
    *,
    cluster: ClusterOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also when endpoints are connected: they are cut off.")
    ] = False,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    wait_seconds: WaitSeconds = 900.0,
    as_json: Json = False,
) -> None:
    """Plan, and remove the link service. Its alias never comes back."""
    cluster_id = plane.cluster(cluster)
    plan = _plan(plane, cluster_id, control.LinkPlanRequest(force=force))
    _tell_plan(plan, "There is nothing left to remove.", as_json=as_json, is_answer=dry_run)
    if dry_run:
        return
    path = paths.CONTROL_LINK.format(cluster_id=cluster_id)
    view = plane.ask(LinkView, "DELETE", path, force=force or None, plan=plan.digest or None)
    if not no_wait:
        try:
            _wait(plane, path, wait_seconds, lambda _: False)
        except NotFoundError:
            printing.note(f"The link of {cluster_id} is gone.")
            return
    _show(view, as_json=as_json)


@app.command("connections")
@with_control
def connections(
    plane: ControlPlane,
    *,
    cluster: ClusterOption = None,
    state: Annotated[
        ConnectionState | None, typer.Option("--state", help="Only these; disconnected ones only so.")
    ] = None,
    find: Annotated[
        str | None, typer.Option("--find", metavar="TEXT", help="Only with this in the endpoint's id or the message.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the connections, the oldest first."""
    found = plane.connections(plane.cluster(cluster), None if state is None else state.value, find)
    if as_json:
        printing.json_of(control.ConnectionPage(connections=found))
        return
    printing.table(
        ("CONNECTION", "ENDPOINT", "STATE", "SEEN", "DETAILS"),
        (
            (
                one.connection_id,
                one.endpoint_id.rpartition("/")[2],
                one.state.value,
                printing.age(one.first_seen_at),
                "\n".join(_details(one)),
            )
            for one in found
        ),
        empty="Nobody has asked for a connection.",
    )
    if any(one.state is ConnectionState.PENDING and one.wanted is None for one in found):
        printing.note("Let one in with: isthmus link approve CONNECTION")


def _details(one: ConnectionView) -> Iterator[str]:
    """What an operator decides by: what the customer said, who it is, and what has become of it."""
    if one.message:
        yield f'"{one.message}"'
    yield f"of {one.subscription}"
    if one.link_id is not None:
        yield f"link id {one.link_id}"
    if one.problem is not None:
        yield one.problem.sentence
    if one.wanted is not None:
        yield f"{one.wanted} is on its way"
    elif one.expires_at is not None:
        yield f"expires {printing.age(one.expires_at)}"
    if one.decided_by is not None or one.reason:
        yield printing.words(part for part in (one.decided_by, one.reason) if part)


@app.command("approve")
@with_control
def approve(
    plane: ControlPlane, which: Which, *, cluster: ClusterOption = None, reason: Reason = "", as_json: Json = False
) -> None:
    """Let an endpoint's packets through."""
    _decide(plane, cluster, which, Verb.APPROVE, reason, as_json=as_json)


@app.command("reject")
@with_control
def reject(
    plane: ControlPlane, which: Which, *, cluster: ClusterOption = None, reason: Reason = "", as_json: Json = False
) -> None:
    """Refuse an endpoint, or stop one that was approved. It cannot be approved again: only a new endpoint helps."""
    _decide(plane, cluster, which, Verb.REJECT, reason, as_json=as_json)


@app.command("remove")
@with_control
def remove(
    plane: ControlPlane, which: Which, *, cluster: ClusterOption = None, reason: Reason = "", as_json: Json = False
) -> None:
    """Remove a connection, in whatever state. The endpoint is left disconnected."""
    _decide(plane, cluster, which, Verb.REMOVE, reason, as_json=as_json)


@app.command("expect")
@with_control
def expect(
    plane: ControlPlane,
    *,
    cluster: ClusterOption = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="ID", help="The resource id of an endpoint.")
    ] = None,
    subscription: Annotated[
        str | None, typer.Option("--subscription", metavar="ID", help="Any endpoint of a subscription.")
    ] = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Approve an endpoint, or all of a subscription, as they appear; also those that are pending already."""
    if (endpoint is None) == (subscription is None):
        raise ConfigError(
            "what is expected?", code="expectation_missing", hint="Give either --endpoint or --subscription."
        )
    body = body_of(control.ExpectationCreateRequest, endpoint_id=endpoint, subscription=subscription, reason=reason)
    path = paths.CONTROL_EXPECTATIONS.format(cluster_id=plane.cluster(cluster))
    made = plane.ask(control.ExpectationView, "POST", path, body)
    if as_json:
        printing.json_of(made)
    else:
        printing.say(f"{made.expectation_id}: {made.kind} {made.value} is approved as it appears.")


@app.command("expected")
@with_control
def expected(
    plane: ControlPlane,
    *,
    cluster: ClusterOption = None,
    find: Annotated[
        str | None, typer.Option("--find", metavar="TEXT", help="Only with this in the id or the reason.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List what is expected."""
    path = paths.CONTROL_EXPECTATIONS.format(cluster_id=plane.cluster(cluster))
    page = plane.ask(control.ExpectationPage, "GET", path, find=find)
    if as_json:
        printing.json_of(page)
        return
    printing.table(
        ("EXPECTATION", "KIND", "VALUE", "BY", "MADE", "MET"),
        (
            (
                one.expectation_id,
                one.kind.value,
                one.value,
                one.created_by,
                printing.age(one.created_at),
                printing.age(one.matched_at),
            )
            for one in page.expectations
        ),
        empty="Nothing is expected: each connection is decided on by an operator.",
    )


@app.command("unexpect")
@with_control
def unexpect(
    plane: ControlPlane,
    expectation_id: Annotated[str, typer.Argument(metavar="EXPECTATION", help="As in: isthmus link expected.")],
    *,
    cluster: ClusterOption = None,
) -> None:
    """Expect something no longer. What was approved stays approved."""
    named = segment(expectation_id, r"^ex[a-z2-7]{10}$", "an expectation's id", "exq7xk2ma4bc")
    path = paths.CONTROL_EXPECTATION.format(cluster_id=plane.cluster(cluster), expectation_id=named)
    plane.call("DELETE", path)
    printing.note(f"{named} is not expected any more.")


def _decide(plane: ControlPlane, cluster: str | None, which: str, verb: Verb, reason: str, *, as_json: bool) -> None:
    """Decide on the connection as it was seen: whoever changes it in between makes this fail."""
    cluster_id = plane.cluster(cluster)
    seen = find(plane, cluster_id, which)
    path = paths.CONTROL_DECISION.format(cluster_id=cluster_id, connection_id=seen.connection_id, verb=verb.value)
    body = body_of(control.DecisionBody, reason=reason, version=seen.version)
    decided = plane.ask(ConnectionView, "POST", path, body)
    if as_json:
        printing.json_of(decided)
    elif decided.wanted is not None:
        printing.say(f"{decided.endpoint_id} is still {decided.state}.")
        printing.note("The cloud does not answer: the control plane carries the decision on.")
    else:
        printing.say(f"{decided.endpoint_id} is {decided.state}.")


def find(plane: ControlPlane, cluster_id: str, which: str) -> ConnectionView:
    """The connection of an endpoint, by its name or id, or the connection's. Raises NotFoundError, ConfigError."""
    wanted = which.lower().rstrip("/")
    found = [
        one
        for one in plane.connections(cluster_id)
        if wanted in (one.connection_id, one.endpoint_id.lower(), one.endpoint_id.rpartition("/")[2].lower())
    ]
    if not found:
        raise NotFoundError(
            f"no connection is called {which!r}",
            code="connection_not_found",
            hint="List them with: isthmus link connections.",
        )
    if len(found) > 1:
        listed = ", ".join(f"{one.connection_id} ({one.state})" for one in found)
        raise ConfigError(
            f"{which!r} is several connections: {listed}", code="connection_ambiguous", hint="Name one by its id."
        )
    return found[0]


def _plan(plane: ControlPlane, cluster_id: str, body: control.LinkPlanRequest) -> PlanView:
    return plane.ask(PlanView, "POST", paths.CONTROL_LINK_PLAN.format(cluster_id=cluster_id), body)


def _tell_plan(plan: PlanView, otherwise: str, *, as_json: bool, is_answer: bool) -> None:
    """Print a plan; on standard output if it is all that was asked for. Raises RefusedError for one with blocks."""
    if as_json and is_answer:
        printing.json_of(plan)
    else:
        write = printing.note if as_json else printing.say
        for number, step in enumerate(plan.steps, 1):
            write(f"{number}. {step.sentence}")
        if not plan.steps and not plan.blocks:
            write(otherwise)
        for warning in plan.warnings:
            printing.note(f"warning: {warning.sentence}")
    if plan.blocks:
        first = plan.blocks[0]
        raise RefusedError("; ".join(one.sentence for one in plan.blocks), code=first.code, hint=first.hint)


def _wait(plane: ControlPlane, path: str, seconds: float, is_there: Callable[[LinkView], bool]) -> LinkView:
    """The link when it is there. Raises what looking does, TemporaryError, and RefusedError for what does not pass."""
    end = time.monotonic() + seconds
    troubled_since: float | None = None
    said = ""
    while True:
        view = plane.ask(LinkView, "GET", path)
        if is_there(view):
            return view
        now = time.monotonic()
        if view.problem is None:
            troubled_since = None
        else:
            troubled_since = troubled_since or now
            if view.problem.sentence != said:
                said = view.problem.sentence
                printing.note(f"held up: {said}")
            if now - troubled_since > _PROBLEM_SECONDS:
                raise RefusedError(view.problem.sentence, code=view.problem.code, hint=view.problem.hint)
        if now >= end:
            raise TemporaryError(
                f"the link is still {view.state} after {seconds:.0f} seconds",
                code="link_on_its_way",
                hint="The control plane goes on with it; see: isthmus link show.",
            )
        time.sleep(_LOOK_SECONDS)


def _show(view: LinkView, measured: LinkTrafficView | None = None, *, as_json: bool = False) -> None:
    if as_json:
        printing.json_of(view)
        return
    use = {one.address: _use(one) for one in (() if measured is None else measured.nat_addresses)}
    counted = printing.words((f"{number} {state}" for state, number in sorted(view.connections.items())), "none")
    printing.facts(
        (
            ("alias", view.alias or "not known yet"),
            ("state", view.state.value),
            ("problem", "" if view.problem is None else f"{view.problem.sentence}\n{view.problem.hint}".strip()),
            ("cluster", view.cluster_id),
            ("service", view.service_id),
            ("NAT addresses", "\n".join(_address(one, use.get(one)) for one in view.nat_addresses) or printing.NOTHING),
            ("visible to", "everybody" if "*" in view.visible_to else printing.words(view.visible_to)),
            ("approved at once", printing.words(view.approved_at_once, "nobody")),
            ("PROXY protocol", "on" if view.has_proxy_protocol else "off"),
            ("further endpoints", "approved with the first" if view.inherits_approval else "decided one by one"),
            ("connections", counted),
            ("traffic", "" if measured is None or measured.measured_at is None else _carried(measured)),
            ("seen", printing.age(view.observed_at)),
        )
    )


def _address(address: str, use: str | None) -> str:
    return address if use is None else f"{address}, ports: {use}"


def _carried(measured: LinkTrafficView) -> str:
    if measured.bytes_in is None and measured.bytes_out is None:
        return "none measured in the last hour (the cloud is a few minutes behind)"
    came, went = printing.size(measured.bytes_in or 0), printing.size(measured.bytes_out or 0)
    return f"{came} from customers, {went} to them in the last hour"
