"""Where a request comes from: the address that the allow list judges, and the path.

Pure: peer and headers in, address out. ``X-Forwarded-For`` is anyone's to write, so it counts only when the peer is a
trusted proxy, and then it is read from the right: each proxy appends the address that it saw, and the first one that is
not itself a trusted proxy is the source. What stands further left was written by a stranger. In the same way
``Isthmus-Link-Id`` counts only from an ingress that is known to set or remove it on every request.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from isthmus.deployment.arrivals import Arrival
from isthmus.deployment.ranges import Address, Network, plain_address
from isthmus.wire import paths
from isthmus.wire.names import PathKind

_FORWARDED_FOR: Final = b"x-forwarded-for"
_LINK_ID: Final = paths.LINK_ID_HEADER.lower().encode()
_UNKNOWN: Final = paths.UNKNOWN_LINK.encode()
#: PROXY v2 carries 32 bits.
_LARGEST_LINK_ID: Final = 2**32 - 1


@lru_cache(maxsize=16384)
def parse(text: str) -> Address | None:
    """The address in ``text``: bare, with a port, or in brackets; None if there is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return plain_address(text)
    except ValueError:
        return None


def _trusted(address: Address, proxies: Sequence[Network]) -> bool:
    return any(address in network for network in proxies)


def source(peer: str | None, headers: Iterable[tuple[bytes, bytes]], trusted_proxies: Sequence[Network]) -> str:
    """The address that the request comes from, as text; empty if the transport knows none.

    A forwarded hop that is no address ends the search: then the proxy that passed it on is the source.
    """
    if peer is None:
        return ""
    if not trusted_proxies:
        return peer
    address = parse(peer)
    if address is None or not _trusted(address, trusted_proxies):
        return peer
    hops: list[str] = []
    for name, value in headers:
        if name == _FORWARDED_FOR:
            hops.extend(value.decode("latin-1").split(","))
    for hop in reversed(hops):
        forwarded = parse(hop)
        if forwarded is None:
            break
        address = forwarded
        if not _trusted(address, trusted_proxies):
            break
    return str(address)


def arrival(
    peer: str | None,
    headers: Sequence[tuple[bytes, bytes]],
    trusted_proxies: Sequence[Network],
    link_ingresses: Sequence[Network],
) -> Arrival:
    """How the request arrived. A header that is no number of 32 bits, or is there twice, counts for nothing."""
    address = source(peer, headers, trusted_proxies)
    link = _link(peer, headers, link_ingresses)
    return Arrival(address) if link is None else Arrival(address, PathKind.LINK, link[0])


def _link(
    peer: str | None, headers: Iterable[tuple[bytes, bytes]], link_ingresses: Sequence[Network]
) -> tuple[int | None] | None:
    if not link_ingresses:
        return None
    told = [value for name, value in headers if name == _LINK_ID]
    if len(told) != 1 or peer is None:
        return None
    ingress = parse(peer)
    if ingress is None or not _trusted(ingress, link_ingresses):
        return None
    value = told[0].strip()
    if value == _UNKNOWN:
        return (None,)
    if not value.isdigit() or len(value) > 10 or int(value) > _LARGEST_LINK_ID:
        return None
    return (int(value),)
