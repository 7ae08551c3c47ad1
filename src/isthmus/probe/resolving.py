"""DNS: what the resolver of this network says to the cluster's name, and what that says about the private zone.

Facts: inside an Azure network the resolver is 168.63.129.16; a private zone answers only in networks that are linked to
it, and hides every public name below its own that it does not hold (Azure DNS, "What is a virtual network link").
"""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver

from isthmus.probe.reports import Finding, Status

Address = IPv4Address | IPv6Address

#: Azure's resolver inside every virtual network.
AZURE_RESOLVER: Final = "168.63.129.16"


#: RFC 1918, RFC 6598 (shared), RFC 2544 (benchmarks), RFC 4193; loopback and link-local.
_PRIVATE: Final = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "198.18.0.0/15",
        "fc00::/7",
        "::1/128",
        "fe80::/10",
    )
)


class Outcome(StrEnum):
    """How a query ended."""

    ANSWER = "answer"
    NO_DATA = "no data"
    NO_SUCH_NAME = "no such name"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    NO_RESOLVER = "no resolver"


@dataclass(frozen=True, slots=True)
class Resolution:
    """What one name resolved to. ``aliases`` are the names that its CNAMEs lead through; ``reason`` is for people."""

    name: str
    resolvers: tuple[str, ...]
    outcome: Outcome
    addresses: tuple[Address, ...] = ()
    aliases: tuple[str, ...] = ()
    ttl_seconds: int | None = None
    reason: str = ""
    #: The zone that says that there is no such name, where the answer names it.
    zone: str = ""


async def resolve(name: str, *, timeout_seconds: float, nameservers: Sequence[str] = ()) -> Resolution:
    """Ask this system's resolvers (or ``nameservers``) for the IPv4 and IPv6 addresses of ``name``. Raises nothing."""
    try:
        resolver = dns.asyncresolver.Resolver(configure=not nameservers)
    except dns.resolver.NoResolverConfiguration as error:
        return Resolution(name, (), Outcome.NO_RESOLVER, reason=str(error))
    if nameservers:
        resolver.nameservers = list(nameservers)
    resolver.lifetime = timeout_seconds
    resolvers = tuple(str(one) for one in resolver.nameservers)
    found: list[Resolution] = []
    for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
        found.append(await _ask(resolver, name, kind, resolvers))
        if found[-1].outcome not in (Outcome.ANSWER, Outcome.NO_DATA):
            break
    first = found[0]
    if first.outcome is Outcome.NO_DATA and len(found) > 1:
        return found[1]
    if first.outcome is Outcome.ANSWER and len(found) > 1:
        addresses = (*first.addresses, *found[1].addresses)
        return Resolution(name, resolvers, Outcome.ANSWER, addresses, first.aliases, first.ttl_seconds)
    return first


async def _ask(
    resolver: dns.asyncresolver.Resolver, name: str, kind: dns.rdatatype.RdataType, resolvers: tuple[str, ...]
) -> Resolution:
    try:
        answer = await resolver.resolve(name, kind, search=False, raise_on_no_answer=False)
    except dns.resolver.NXDOMAIN as error:
        reason = f"{name} does not exist (NXDOMAIN)"
        return Resolution(name, resolvers, Outcome.NO_SUCH_NAME, reason=reason, zone=_zone(error))
    except dns.resolver.NoNameservers as error:
        return Resolution(name, resolvers, Outcome.REFUSED, reason=str(error))
    except dns.exception.Timeout:
        return Resolution(name, resolvers, Outcome.TIMEOUT, reason=f"no answer from {', '.join(resolvers)}")
    except dns.exception.DNSException as error:
        return Resolution(name, resolvers, Outcome.REFUSED, reason=str(error) or type(error).__name__)
    aliases = tuple(
        cname.target.to_text(omit_final_dot=True) for rrset in answer.chaining_result.cnames for cname in rrset
    )
    if answer.rrset is None:
        return Resolution(name, resolvers, Outcome.NO_DATA, aliases=aliases, reason=f"{name} has no address")
    addresses = tuple(ip_address(str(record.address)) for record in answer.rrset)
    return Resolution(name, resolvers, Outcome.ANSWER, addresses, aliases, answer.rrset.ttl)


def _zone(error: dns.resolver.NXDOMAIN) -> str:
    """The owner of the SOA record that comes with a negative answer (RFC 2308); empty if there is none."""
    for response in error.kwargs.get("responses", {}).values():
        for rrset in response.authority:
            if rrset.rdtype == dns.rdatatype.SOA:
                return str(rrset.name.to_text(omit_final_dot=True))
    return ""


def is_private(address: Address) -> bool:
    """Whether ``address`` is of a private network. Documentation ranges, which Python counts in, are not."""
    return any(address in network for network in _PRIVATE)


async def resolve_as_programs(name: str, *, timeout_seconds: float) -> tuple[Address, ...]:
    """What this system gives programs for ``name``: as a rule the hosts file before DNS. Empty where it has nothing."""
    try:
        async with asyncio.timeout(timeout_seconds):
            found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(ip_address(str(address[0]).partition("%")[0]) for *_, address in found))


def judge_hosts(resolution: Resolution, local: Sequence[Address]) -> Finding:
    """A name that programs here look up elsewhere than in DNS, with another result."""
    shown = ", ".join(str(one) for one in local)
    if all(one.is_loopback for one in local):
        return Finding(Status.PASS, f"{shown}, this system itself")
    asked = ", ".join(str(one) for one in resolution.addresses) or "nothing"
    return Finding(
        Status.WARN,
        f"{shown}, from this system's own list (the hosts file); DNS has {asked}",
        "Nobody corrects such a list when an address changes: remove the name from it once DNS is right.",
    )


def judge_resolver(resolution: Resolution) -> Finding:
    """Which resolver was asked, and whether it answers at all."""
    asked = ", ".join(resolution.resolvers)
    match resolution.outcome:
        case Outcome.NO_RESOLVER:
            return Finding(
                Status.FAIL,
                f"this system has no resolver: {resolution.reason}",
                f"Name one in /etc/resolv.conf; in an Azure network it is {AZURE_RESOLVER}.",
            )
        case Outcome.TIMEOUT:
            return Finding(
                Status.FAIL,
                resolution.reason,
                f"Check that port 53 to {asked} is open, or that the network's DNS servers are right.",
            )
        case Outcome.REFUSED:
            return Finding(
                Status.FAIL,
                f"{asked} did not answer: {resolution.reason}",
                "Ask who runs the network's DNS servers why they refuse or fail.",
            )
        case _:
            azure = " (Azure's)" if AZURE_RESOLVER in resolution.resolvers else ""
            return Finding(Status.PASS, f"{asked}{azure} answers")


def judge_name(resolution: Resolution, public: Resolution | None = None) -> Finding:
    """Whether the name exists here. ``public`` is what a public resolver says, where one was asked."""
    if resolution.outcome is Outcome.ANSWER:
        shown = ", ".join(str(one) for one in resolution.addresses)
        through = f" by way of {', '.join(resolution.aliases)}" if resolution.aliases else ""
        return Finding(Status.PASS, f"{shown}{through}, TTL {resolution.ttl_seconds} s")
    zone = f" The zone {resolution.zone} says so." if resolution.zone else ""
    if public is not None and public.outcome is Outcome.ANSWER:
        shown = ", ".join(str(one) for one in public.addresses)
        return Finding(
            Status.FAIL,
            f"{resolution.reason} here, and on the internet it does ({shown}): a private zone hides it.{zone}",
            "A private zone that is linked to this network answers for every name below its own. Add this name's A "
            "record to it, or give the endpoint a zone of the cluster's own name, which hides nothing else "
            "(isthmus endpoint create --zone-scope cluster).",
        )
    if public is not None and public.outcome is Outcome.NO_SUCH_NAME:
        return Finding(
            Status.FAIL,
            f"{resolution.reason}, here and on the internet",
            "Check the URL's host: it is shown by isthmus deployment show.",
        )
    custom = AZURE_RESOLVER not in resolution.resolvers
    forward = f" {resolution.resolvers[0]} must forward the name to {AZURE_RESOLVER}." if custom else ""
    return Finding(
        Status.FAIL,
        f"{resolution.reason}{'.' if zone else ''}{zone}",
        "A private zone that is linked to this network may hide the public name without holding the record: add the "
        f"record, or link the zone that holds it.{forward}",
    )


def judge_address(
    resolution: Resolution, *, endpoint: Address | None, private_wanted: bool, public: Sequence[Address] = ()
) -> Finding:
    """Whether the name leads to the endpoint (its address, when known), or at least to a private address."""
    seen = resolution.addresses
    shown = ", ".join(str(one) for one in seen)
    private = [one for one in seen if is_private(one)]
    if not private and (private_wanted or endpoint is not None):
        known = " (the cluster's public address)" if any(one in public for one in seen) else ""
        return Finding(
            Status.FAIL,
            f"{shown} is public{known}: no private zone that holds the name answers in this network",
            "Create the zone and its record, and link it to this network (isthmus endpoint create does all three). "
            "Peering does not carry DNS: each network needs a link of its own; a custom DNS server must forward to "
            f"{AZURE_RESOLVER}.",
        )
    if endpoint is not None:
        if all(one == endpoint for one in seen):
            return Finding(Status.PASS, f"{shown} is the endpoint's address")
        return Finding(
            Status.FAIL,
            f"the name leads to {shown}, the endpoint is {endpoint}",
            "Put the endpoint's address into the zone's A record, and look for a second zone of the same name.",
        )
    if not private:
        return Finding(Status.PASS, f"{shown} is public, as the public path has it")
    if len(private) == len(seen):
        return Finding(Status.PASS, f"{shown} is private")
    return Finding(
        Status.FAIL, f"some of {shown} are public", "Keep only the endpoint's address in the zone's A record."
    )
