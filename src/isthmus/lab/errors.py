"""What the resource manager says no with: a status, Azure's code, a message, and nothing of ours.

Azure's own codes and wordings are kept as far as they are published or were recorded, since clients match on them. The
body is ``{"error": {"code", "message", "target"?, "details"?}}`` (Azure REST API guidelines, "Error condition
responses"). Two things are older than the guidelines and were recorded with private DNS: record sets refuse with a bare
``{"code", "message"}``, and what zones and network links refuse is often the outcome of an operation that was accepted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from isthmus.kit.errors import IsthmusError


@dataclass(frozen=True, slots=True)
class Detail:
    """One of several reasons."""

    code: str
    message: str
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal as it is kept, for an operation that failed after it had been accepted.

    ``is_bare`` ones are answered without the surrounding ``error``; with ``has_details`` there is a list of details
    even if it is empty, as Microsoft.Network has it.
    """

    status: int
    code: str
    message: str
    target: str | None = None
    details: Sequence[Detail] = field(default=())
    is_bare: bool = False
    has_details: bool = False

    def answer(self) -> dict[str, Any]:
        """The whole body of an answer."""
        return self.body() if self.is_bare else {"error": self.body()}

    def body(self) -> dict[str, Any]:
        """``{"code", "message", ...}``: what stands under ``error``."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.target is not None:
            body["target"] = self.target
        if self.details or self.has_details:
            body["details"] = [
                {"code": one.code, "message": one.message, **({"target": one.target} if one.target else {})}
                for one in self.details
            ]
        return body


class ArmError(IsthmusError):
    """The resource manager refuses. ``status`` is HTTP's; ``headers`` go with the answer.

    With ``is_outcome`` a kind that answers asynchronously accepts the request, and its operation fails with this.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        target: str | None = None,
        details: Sequence[Detail] = (),
        headers: Mapping[str, str] | None = None,
        is_bare: bool = False,
        has_details: bool = False,
        is_outcome: bool = False,
    ) -> None:
        super().__init__(message, code=code)
        self.refusal = Refusal(status, code, message, target, tuple(details), is_bare, has_details)
        self.headers = dict(headers or {})
        self.is_outcome = is_outcome

    @property
    def status(self) -> int:
        """HTTP's status."""
        return self.refusal.status
