"""How a request arrived: by which path, and from which address as it was seen.

The path is known from the connection alone, never from what its sender says (``api.sources``). On a link the address is
the one that the ingress saw: the link service's NAT address, which many customers share.
"""

from dataclasses import dataclass
from typing import Final

from isthmus.wire.names import PathKind


@dataclass(frozen=True, slots=True)
class Arrival:
    """``address`` is None where the transport knows none; ``link_id`` where it was no link, or is not known which."""

    address: str | None = None
    path: PathKind = PathKind.PUBLIC
    link_id: int | None = None

    def __str__(self) -> str:
        return f"{described(self.path, self.link_id)}, from {self.address or 'an unknown address'}"


#: Before anything is known, and where a transport knows nothing.
NOWHERE: Final = Arrival()


def described(path: PathKind, link_id: int | None) -> str:
    """The path in words: ``over the public path``, ``through link 7``, ``through a link``."""
    if path is PathKind.PUBLIC:
        return "over the public path"
    return "through a link of unknown id" if link_id is None else f"through link {link_id}"
