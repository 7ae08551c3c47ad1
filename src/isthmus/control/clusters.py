"""Clusters, the deployments that are registered with them, and what their ingress should do."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from isthmus.control import auditing, names
from isthmus.control.auditing import Actor
from isthmus.control.errors import ControlRefusedError
from isthmus.control.tables import cluster, deployment, link, operator
from isthmus.control.tables import connection as connection_table
from isthmus.link.states import ConnectionState
from isthmus.wire.problems import Code

#: Networks of which a cluster's can be a part: RFC 1918 and RFC 6598.
_PRIVATE: Final = tuple(
    ipaddress.IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
)
#: "isthclus": held while a cluster is added, so that two do not get the same addresses.
_LOCK: Final = 0x69737468636C7573


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster. ``alias`` is its link's, empty without."""

    cluster_id: str
    cidr: ipaddress.IPv4Network
    domain: str
    region: str
    created_at: datetime
    alias: str = ""
    deployments: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """What agents' URLs begin with (DESIGN: vocabulary)."""
        return f"{self.cluster_id}.external.{self.domain}"


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment as it is registered."""

    deployment_id: str
    cluster_id: str
    servers: tuple[str, ...]
    tls_name: str | None
    admin_url: str | None
    admin_token_reference: str
    created_at: datetime


async def create(
    connection: AsyncConnection, actor: Actor, *, cluster_id: str | None, cidr: str, domain: str, region: str
) -> tuple[Cluster, bool]:
    """A cluster, and whether it is new: one of the same id and values is as good.

    Raises ControlRefusedError: REQUEST_INVALID for a network that is none, CLUSTER_EXISTS.
    """
    network = _network(cidr)
    await connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    if cluster_id is not None and (present := await _find(connection, cluster_id)) is not None:
        if (present.cidr, present.domain, present.region) == (network, domain, region):
            return present, False
        raise ControlRefusedError(Code.CLUSTER_EXISTS)
    for other in await listed(connection, after=None, limit=None):
        if other.cidr.overlaps(network):
            raise ControlRefusedError(
                Code.CLUSTER_EXISTS,
                f"{network} overlaps {other.cidr} of cluster {other.cluster_id}.",
                hint="Allow lists tell clusters apart by their networks: choose another CIDR.",
            )
    values = {"cidr": network, "domain": domain, "region": region}
    statement = insert(cluster).values(id=cluster_id or names.cluster_id(), **values).returning(cluster)
    made = _cluster((await connection.execute(statement)).one())
    after = {"cidr": str(network), "domain": domain, "region": region}
    await auditing.write(connection, actor, "cluster.create", f"cluster/{made.cluster_id}", after=after)
    return made, True


async def listed(connection: AsyncConnection, *, after: str | None, limit: int | None) -> Sequence[Cluster]:
    """Clusters by id, after ``after``."""
    query = _query().order_by(cluster.c.id).limit(limit)
    if after is not None:
        query = query.where(cluster.c.id > after)
    return [_cluster(row) for row in (await connection.execute(query)).all()]


async def get(connection: AsyncConnection, cluster_id: str) -> Cluster:
    """One cluster. Raises ControlRefusedError(CLUSTER_NOT_FOUND)."""
    found = await _find(connection, cluster_id)
    if found is None:
        raise ControlRefusedError(Code.CLUSTER_NOT_FOUND, f"There is no cluster {cluster_id}.")
    return found


async def register(
    connection: AsyncConnection, actor: Actor, cluster_id: str, deployment_id: str, values: dict[str, Any]
) -> Deployment:
    """Make or change a registration. Raises ControlRefusedError: CLUSTER_NOT_FOUND, DEPLOYMENT_EXISTS elsewhere."""
    await get(connection, cluster_id)
    row = (
        await connection.execute(select(deployment).where(deployment.c.id == deployment_id).with_for_update())
    ).one_or_none()
    before = None if row is None else _deployment(row)
    if before is not None and before.cluster_id != cluster_id:
        raise ControlRefusedError(
            Code.DEPLOYMENT_EXISTS, f"{deployment_id} is registered with cluster {before.cluster_id}."
        )
    statement = insert(deployment).values(id=deployment_id, cluster_id=cluster_id, **values)
    # Where two register the same one elsewhere at once, the first one's cluster stays, and the second is told.
    statement = statement.on_conflict_do_update(
        index_elements=["id"], set_=values, where=deployment.c.cluster_id == cluster_id
    )
    fresh = (await connection.execute(statement.returning(deployment))).one_or_none()
    if fresh is None:
        raise ControlRefusedError(Code.DEPLOYMENT_EXISTS)
    after = _deployment(fresh)
    if before is None or _values(before) != _values(after):
        await auditing.write(
            connection,
            actor,
            "deployment.register",
            f"deployment/{deployment_id}",
            before=None if before is None else _values(before),
            after=_values(after),
        )
    return after


async def unregister(connection: AsyncConnection, actor: Actor, cluster_id: str, deployment_id: str) -> None:
    """Strike a deployment off the registry; itself goes on. Raises ControlRefusedError(CLUSTER_NOT_FOUND)."""
    await get(connection, cluster_id)
    which = (deployment.c.id == deployment_id) & (deployment.c.cluster_id == cluster_id)
    row = (await connection.execute(delete(deployment).where(which).returning(deployment))).one_or_none()
    if row is not None:
        before = _values(_deployment(row))
        await auditing.write(connection, actor, "deployment.unregister", f"deployment/{deployment_id}", before=before)


async def deployments(connection: AsyncConnection, cluster_id: str) -> Sequence[Deployment]:
    """The deployments of a cluster, by id."""
    query = select(deployment).where(deployment.c.cluster_id == cluster_id).order_by(deployment.c.id)
    return [_deployment(row) for row in (await connection.execute(query)).all()]


async def registered(connection: AsyncConnection, cluster_id: str, deployment_id: str) -> Deployment:
    """One deployment of a cluster. Raises ControlRefusedError: CLUSTER_NOT_FOUND, DEPLOYMENT_NOT_FOUND."""
    await get(connection, cluster_id)
    query = select(deployment).where(deployment.c.id == deployment_id, deployment.c.cluster_id == cluster_id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise ControlRefusedError(Code.DEPLOYMENT_NOT_FOUND, f"{deployment_id} is not registered with {cluster_id}.")
    return _deployment(row)


async def deployment_ids(connection: AsyncConnection, cluster_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The ids of the deployments of several clusters."""
    query = select(deployment.c.cluster_id, deployment.c.id).where(deployment.c.cluster_id.in_(cluster_ids))
    found: dict[str, tuple[str, ...]] = {}
    for row in (await connection.execute(query.order_by(deployment.c.id))).all():
        found[row.cluster_id] = (*found.get(row.cluster_id, ()), row.id)
    return found


async def counts(connection: AsyncConnection) -> dict[str, int]:
    """How many clusters, deployments, pending connections and operators (who may still come in) there are."""
    pending = connection_table.c.state == ConnectionState.PENDING
    queries = {
        "clusters": select(func.count()).select_from(cluster),
        "deployments": select(func.count()).select_from(deployment),
        "connections_pending": select(func.count()).select_from(connection_table).where(pending),
        "operators": select(func.count()).select_from(operator).where(operator.c.revoked_at.is_(None)),
    }
    return {name: int((await connection.execute(query)).scalar_one()) for name, query in queries.items()}


def _query() -> Any:
    return select(cluster, func.coalesce(link.c.alias, "").label("alias")).outerjoin(link)


async def _find(connection: AsyncConnection, cluster_id: str) -> Cluster | None:
    row = (await connection.execute(_query().where(cluster.c.id == cluster_id))).one_or_none()
    return None if row is None else _cluster(row)


def _network(text: str) -> ipaddress.IPv4Network:
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise ControlRefusedError(
            Code.REQUEST_INVALID, f"{text} is no network: {error}.", hint="As in 10.20.0.0/16."
        ) from None
    if not any(network.subnet_of(private) for private in _PRIVATE):
        raise ControlRefusedError(
            Code.REQUEST_INVALID,
            f"{text} is not a private network.",
            hint="It becomes an allow list: public addresses in it would be let in from anywhere. As in 10.20.0.0/16.",
        )
    return network


def _values(one: Deployment) -> dict[str, Any]:
    return {
        "cluster_id": one.cluster_id,
        "servers": list(one.servers),
        "tls_name": one.tls_name,
        "admin_url": one.admin_url,
        "admin_token_reference": one.admin_token_reference,
    }


def _cluster(row: Row[Any]) -> Cluster:
    network = ipaddress.IPv4Network(str(row.cidr))
    return Cluster(row.id, network, row.domain, row.region, row.created_at, getattr(row, "alias", ""))


def _deployment(row: Row[Any]) -> Deployment:
    return Deployment(
        row.id,
        row.cluster_id,
        tuple(row.servers),
        row.tls_name,
        row.admin_url,
        row.admin_token_reference,
        row.created_at,
    )
