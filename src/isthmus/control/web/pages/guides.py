"""What the customer does, step by step, with this cluster's values in it: portal, ``az``, Isthmus, Terraform.

The customer's own values are in the address, so that a page can be sent to somebody with everything filled in. What is
not known yet stands there in capitals.
"""

from typing import Final

from isthmus.control import clusters, links
from isthmus.control.api import views
from isthmus.control.api.refusals import field
from isthmus.control.api.routes import ProblemError
from isthmus.control.web.visits import Page, View, Visit
from isthmus.kit.errors import ConfigError
from isthmus.link import exporting, names
from isthmus.link.endpoints import ENDPOINT_NAME, EndpointSpec, ZoneScope
from isthmus.link.exporting import Format

WAYS: Final = ("portal", "isthmus", "az", "terraform")

#: The customer's fields: what stands for each until it is known.
_FIELDS: Final = {
    "subscription": "YOUR-SUBSCRIPTION-ID",
    "group": "YOUR-RESOURCE-GROUP",
    "region": "YOUR-REGION",
    "vnet": "YOUR-NETWORK",
    "subnet": "YOUR-SUBNET",
    "name": ENDPOINT_NAME,
}


async def guide(visit: Visit) -> View:
    """The guide, one way at a time."""
    cluster_id = visit.part("cluster_id")
    async with visit.core.database.begin() as database:
        cluster = await clusters.get(database, cluster_id)
        link = await links.find(database, cluster_id)
    way = visit.query("way") or WAYS[0]
    if way not in WAYS:
        raise ProblemError(field("way", f"is none of {', '.join(WAYS)}"))
    given = {name: visit.query(name) for name in _FIELDS}
    wanted = visit.query("zone") or ZoneScope.CLUSTER.value
    if wanted not in list(ZoneScope):
        raise ProblemError(field("zone", "is cluster or domain"))
    scope = ZoneScope(wanted)
    alias = link.alias if link is not None and link.alias else "ALIAS"
    spec = _spec(alias, cluster.host, {name: given[name] or other for name, other in _FIELDS.items()}, scope)
    values = {
        "cluster": views.cluster(cluster, ()),
        "alias": alias,
        "is_published": alias != "ALIAS",
        "way": way,
        "ways": WAYS,
        "given": given,
        "defaults": _FIELDS,
        "missing": [name for name in _FIELDS if name != "name" and not given[name]],
        "spec": spec,
        "scope": scope,
        "az": exporting.export(spec, Format.AZ),
        "terraform": exporting.export(spec, Format.TERRAFORM),
    }
    return View("clusters/guide.html", f"Connect to {cluster_id}", "clusters", values)


def _spec(alias: str, host: str, found: dict[str, str], scope: ZoneScope) -> EndpointSpec:
    """The endpoint that the customer wants. Raises ProblemError for names that Azure does not have."""
    if any("/" in value or not value.isprintable() for value in found.values()):
        raise ProblemError(field("address", "has a name with characters that Azure's names do not have"))
    network = names.ResourceId(found["subscription"], found["group"], names.NETWORK, (found["vnet"],))
    endpoint = names.ResourceId(found["subscription"], found["group"], names.ENDPOINT, (found["name"],))
    try:
        return EndpointSpec(
            endpoint_id=str(endpoint),
            alias=alias,
            location=found["region"],
            subnet_id=f"{network}/subnets/{found['subnet']}",
            host=names.parse_host(host),
            networks=(str(network),),
            zone_group=found["group"],
            zone_scope=scope,
        )
    except ConfigError as error:
        raise ProblemError(field("address", str(error))) from None


PAGES: Final = (Page("/clusters/{cluster_id}/guide", guide),)
