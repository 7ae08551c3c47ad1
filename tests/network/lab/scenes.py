"""Pictures for tests: customers, providers, and what leads from the ones to the others."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from isthmus.lab.ids import Key
from isthmus.lab.picture import Endpoint, Frontend, Network, Picture, Protocol, Rule, Service

PREFIX = "10.0.0.0/24"
HOST = "10.0.0.4"
NAT = "10.0.0.5"
FRONTEND = "10.0.0.6"
ENDPOINT = "10.0.0.9"


def network(number: int, name: str, *, prefix: str = PREFIX, host: str = HOST, **more: object) -> Network:
    return Network(
        Key(f"/networks/{name}"),
        name,
        number,
        (IPv4Network(prefix),),
        IPv4Address(host),
        **more,  # type: ignore[arg-type]
    )


def rule(port: int = 80, to: int = 8080, *backends: str, protocol: Protocol = Protocol.TCP) -> Rule:
    return Rule(protocol, port, to, tuple(map(IPv4Address, backends or (HOST,))))


def service(
    number: int, provider: Network, *rules: Rule, nat: tuple[str, ...] = (NAT,), proxy: bool = False
) -> Service:
    return Service(
        Key(f"/services/{number}"),
        number,
        provider.key,
        tuple(map(IPv4Address, nat)),
        Frontend(IPv4Address(FRONTEND), False, rules or (rule(),)),
        proxy,
    )


def endpoint(
    number: int, customer: Network, to: Service | None, *, address: str = ENDPOINT, approved: bool = True, link: int = 1
) -> Endpoint:
    return Endpoint(
        Key(f"/endpoints/{number}"),
        number,
        customer.key,
        IPv4Address(address),
        None if to is None else to.key,
        approved,
        link,
    )


def approve(picture: Picture, number: int, approved: bool = True) -> Picture:
    """The same, with the endpoint approved or not."""
    endpoints = tuple(replace(one, is_approved=approved) if one.number == number else one for one in picture.endpoints)
    return replace(picture, endpoints=endpoints)


def simple(*, approved: bool = True, **more: object) -> Picture:
    """One customer, one provider, one endpoint."""
    customer, provider = network(1, "customer"), network(2, "provider")
    its = service(1, provider, **more)  # type: ignore[arg-type]
    return Picture((customer, provider), (), (its,), (endpoint(1, customer, its, approved=approved),))
