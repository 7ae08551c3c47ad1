"""Private zones as a network sees them: documents → ``picture.Zone``."""

from isthmus.lab import ids, picture
from isthmus.lab.documents import Document, World
from isthmus.lab.ids import Key, ResourceId
from isthmus.lab.private_dns import links, records, registering


def zones_of(world: World, network_id: ResourceId | Key | str) -> tuple[picture.Zone, ...]:
    """The zones that are linked with a network, by name, with their records. Empty record sets are left out."""
    key = network_id.key if isinstance(network_id, ResourceId) else ids.key(network_id)
    found = [_zone(world, one) for one in links.links_of(world, key)]
    return tuple(sorted(found, key=lambda one: one.name))


def _zone(world: World, link: Document) -> picture.Zone:
    zone = records.zone_of(link.id)
    said = [one for document in records.sets_of(world, zone) if (one := _record(document)) is not None]
    registered = [
        picture.Record(name, "A", registering.TTL_SECONDS, (str(address),))
        for name, address in sorted(registering.registered(world, zone).items())
    ]
    return picture.Zone(zone.name.lower(), links.falls_back(link), (*said, *registered))


def _record(document: Document) -> picture.Record | None:
    type_ = records.TYPES[document.id.types[-1]]
    given = document.properties.get(type_.member)
    values = tuple(_value(type_.name, one) for one in ([given] if type_.is_single and given else given or ()))
    if type_.name == "SOA" or not values:
        return None
    return picture.Record(document.id.name, type_.name, document.properties["ttl"], values)


def _value(type_: str, record: dict[str, object]) -> str:  # noqa: PLR0911 - one line a type
    match type_:
        case "A":
            return str(record["ipv4Address"])
        case "AAAA":
            return str(record["ipv6Address"])
        case "CNAME":
            return str(record["cname"]).removesuffix(".")
        case "PTR":
            return str(record["ptrdname"]).removesuffix(".")
        case "MX":
            return f"{record['preference']} {_bare(record['exchange'])}"
        case "SRV":
            return f"{record['priority']} {record['weight']} {record['port']} {_bare(record['target'])}"
        case "TXT":
            strings = record["value"]
            return "".join(map(str, strings)) if isinstance(strings, list) else str(strings)
        case _:
            return ""


def _bare(name: object) -> str:
    return str(name).removesuffix(".")
