"""What goes through a link, in the control plane's API: bytes, and how full its NAT addresses are."""

from datetime import datetime

from isthmus.wire.bodies import Response
from isthmus.wire.control import NoteView


class PortUseView(Response):
    """A NAT address: percent of its ports in use, in the last minute that the cloud measured and at most."""

    address: str
    last_percent: float
    most_percent: float


class LinkTrafficView(Response):
    """The last ``span_seconds`` before ``measured_at``, as the cloud measured them: it is minutes behind.

    ``bytes_in`` came from customers, ``bytes_out`` went to them; None where nothing was measured. Clouds do not say
    which connection they belong to. ``problem`` is why there is nothing newer; no ``measured_at``: nothing is known.
    """

    cluster_id: str
    measured_at: datetime | None
    span_seconds: int
    bytes_in: int | None
    bytes_out: int | None
    nat_addresses: tuple[PortUseView, ...]
    problem: NoteView | None
