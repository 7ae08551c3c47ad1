"""Where a request comes from: the address that the allow list judges.

Pure: peer and headers in, address out. ``X-Forwarded-For`` is anyone's to write, so it counts only when the peer is a
trusted proxy, and then it is read from the right: each proxy appends the address that it saw, and the first one that is
not itself a trusted proxy is the source. What stands further left was written by a stranger.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from isthmus.deployment.access import Address, Network, plain_address

_FORWARDED_FOR: Final = b"x-forwarded-for"


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
