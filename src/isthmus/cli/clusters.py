"""``isthmus cluster``: clusters, and the deployments that their ingress leads to."""

from typing import Annotated

import typer

from isthmus.cli import agents, printing
from isthmus.cli.asking import ClusterOption, ControlPlane, Json, body_of, segment, with_control
from isthmus.wire import control, paths
from isthmus.wire.admin import AgentHealth
from isthmus.wire.names import DEPLOYMENT_ID_PATTERN

app = typer.Typer(
    add_completion=False, help="Clusters: where orchestration planes run, and what their ingress leads to."
)
deployment = typer.Typer(help="The deployments that the cluster's ingress leads to.")
app.add_typer(deployment, name="deployment")

DeploymentId = Annotated[str, typer.Argument(metavar="DEPLOYMENT_ID", help="As in dq7xk2ma.")]


@app.command("create")
@with_control
def create(
    plane: ControlPlane,
    *,
    cidr: Annotated[str, typer.Option("--cidr", help="The cluster's network, as in 10.20.0.0/16.")],
    domain: Annotated[str, typer.Option("--domain", help="Hosts are CLUSTER-ID.external.DOMAIN.")],
    region: Annotated[str, typer.Option("--region", help="The cloud's name of the region, as in westeurope.")],
    cluster_id: Annotated[
        str | None, typer.Option("--id", help="An id of your own: asking twice makes one cluster.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Record a cluster: its network, domain and region."""
    body = body_of(control.ClusterCreateRequest, cluster_id=cluster_id, cidr=cidr, domain=domain, region=region)
    _show(plane.ask(control.ClusterView, "POST", paths.CONTROL_CLUSTERS, body), as_json=as_json)


@app.command("list")
@with_control
def list_clusters(plane: ControlPlane, *, as_json: Json = False) -> None:
    """List the clusters."""
    found = plane.clusters()
    if as_json:
        printing.json_of(control.ClusterPage(clusters=found))
        return
    printing.table(
        ("CLUSTER", "HOST", "NETWORK", "REGION", "DEPLOYMENTS", "LINK"),
        (
            (one.cluster_id, one.host, one.cidr, one.region, printing.words(one.deployments), one.alias or "-")
            for one in found
        ),
        empty="There is no cluster. Make one with: isthmus cluster create",
    )


@app.command("show")
@with_control
def show(plane: ControlPlane, *, cluster: ClusterOption = None, as_json: Json = False) -> None:
    """Show a cluster: its host, its deployments, its link's alias."""
    path = paths.CONTROL_CLUSTER.format(cluster_id=plane.cluster(cluster))
    _show(plane.ask(control.ClusterView, "GET", path), as_json=as_json)


@app.command("agents")
@with_control
def list_agents(
    plane: ControlPlane,
    *,
    cluster: Annotated[
        str | None, typer.Option("--cluster", "-c", envvar="ISTHMUS_CLUSTER", metavar="ID", help="Else all clusters.")
    ] = None,
    unhealthy: Annotated[bool, typer.Option("--unhealthy", help="Only those that are not healthy.")] = False,
    as_json: Json = False,
) -> None:
    """List the agents of all deployments, the path that they come by, and why one is not healthy.

    A deployment that does not answer is named beside the list, and its agents are shown as they were seen last.
    """
    path = paths.CONTROL_OVERVIEW
    if cluster is not None:
        path = paths.CONTROL_CLUSTER_OVERVIEW.format(cluster_id=plane.cluster(cluster))
    found = plane.ask(control.OverviewView, "GET", path)
    shown = [one for one in found.agents if not unhealthy or one.health is not AgentHealth.HEALTHY]
    if as_json:
        printing.json_of(found.model_copy(update={"agents": tuple(shown)}))
        return
    for one in found.deployments:
        if one.problem is not None:
            printing.note(f"{one.deployment_id}: {one.problem.sentence} {one.problem.hint}")
        elif one.more_agents:
            printing.note(
                f"{one.deployment_id} has more agents: isthmus agents list --deployment-id {one.deployment_id}"
            )
    empty = "Every agent is healthy." if unhealthy and found.agents else "No agent is known."
    printing.table(
        ("AGENT", "DEPLOYMENT", "ROLE", "HEALTH", "PATH", "HEARTBEAT", "WHY"),
        (
            (
                one.name,
                one.deployment_id,
                one.role.value,
                agents.condition(one),
                agents.path_of(one),
                _ago(one.heartbeat_seconds_ago),
                _why(one),
            )
            for one in shown
        ),
        empty=empty,
    )


def _ago(seconds: float | None) -> str:
    return printing.NOTHING if seconds is None else f"{printing.duration(seconds)} ago"


def _why(agent: control.AgentSight) -> str:
    if agent.reason is not None:
        return f"{agent.reason.sentence} ({agent.reason.code})"
    return "; ".join(one.summary for one in agent.warnings)


@deployment.command("add")
@with_control
def add_deployment(
    plane: ControlPlane,
    deployment_id: DeploymentId,
    *,
    cluster: ClusterOption = None,
    server: Annotated[list[str], typer.Option("--server", help="https://host:port of its API; may repeat.")],
    tls_name: Annotated[
        str | None, typer.Option("--tls-name", help="The name in its certificate; else the first server's host.")
    ] = None,
    admin_url: Annotated[str | None, typer.Option("--admin-url", help="Its internal listener.")] = None,
    admin_token_reference: Annotated[
        str,
        typer.Option(
            "--admin-token-reference",
            metavar="FILE",
            help="The file with its admin token, below the control plane's --admin-tokens; never the token itself.",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Register a deployment, or change where it is: the ingress leads to it within seconds."""
    body = body_of(
        control.DeploymentBody,
        servers=tuple(server),
        tls_name=tls_name,
        admin_url=admin_url,
        admin_token_reference=admin_token_reference,
    )
    made = plane.ask(control.DeploymentRegistration, "PUT", _path(plane, cluster, deployment_id), body)
    if as_json:
        printing.json_of(made)
    else:
        printing.facts(
            (
                ("deployment", made.deployment_id),
                ("cluster", made.cluster_id),
                ("url", made.url),
                ("servers", printing.words(made.servers)),
                ("tls name", made.tls_name or ""),
            )
        )


@deployment.command("list")
@with_control
def list_deployments(plane: ControlPlane, *, cluster: ClusterOption = None, as_json: Json = False) -> None:
    """List the deployments of a cluster."""
    path = paths.CONTROL_DEPLOYMENTS.format(cluster_id=plane.cluster(cluster))
    page = plane.ask(control.DeploymentPage, "GET", path)
    if as_json:
        printing.json_of(page)
        return
    printing.table(
        ("DEPLOYMENT", "URL", "SERVERS"),
        ((one.deployment_id, one.url, printing.words(one.servers)) for one in page.deployments),
        empty="No deployment is registered. Do so with: isthmus cluster deployment add",
    )


@deployment.command("remove")
@with_control
def remove_deployment(plane: ControlPlane, deployment_id: DeploymentId, *, cluster: ClusterOption = None) -> None:
    """Strike a deployment off: the ingress does not lead to it any more. It goes on itself."""
    plane.call("DELETE", _path(plane, cluster, deployment_id))
    printing.note(f"The ingress does not lead to {deployment_id} any more.")


def _path(plane: ControlPlane, cluster: str | None, deployment_id: str) -> str:
    named = segment(deployment_id, DEPLOYMENT_ID_PATTERN, "a deployment's id", "dq7xk2ma")
    return paths.CONTROL_DEPLOYMENT.format(cluster_id=plane.cluster(cluster), deployment_id=named)


def _show(view: control.ClusterView, *, as_json: bool) -> None:
    if as_json:
        printing.json_of(view)
        return
    printing.facts(
        (
            ("cluster", view.cluster_id),
            ("host", view.host),
            ("network", view.cidr),
            ("region", view.region),
            ("deployments", printing.words(view.deployments, "none")),
            ("link", view.alias or "not published"),
            ("created", printing.age(view.created_at)),
        )
    )
