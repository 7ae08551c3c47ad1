"""What the plane wants done first: files to parse and callbacks to run, each under a lease. Pure.

A callback is settled when the process that ran it has ended, and not before: a component that dies with callbacks in
hand leaves them to their leases, and they run again. One whose process is killed from outside (memory) is given back,
a few times; one that takes longer than a file may take is not: it would do so each time.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from isthmus.wire import dags

#: A callback whose process died this often is settled, so that it cannot take the DAG processor's time for ever.
MAX_TRIES: Final = 3


@dataclass(slots=True)
class Claim:
    """One thing to do."""

    claim_id: str
    fence: int
    bundle: str
    relative_fileloc: str
    expires_at: float
    lease_seconds: float
    request: dict[str, Any] | None = field(default=None, repr=False)

    def reference(self, *, released: bool = False) -> dags.DagClaimReference:
        """The claim as the plane knows it."""
        return dags.DagClaimReference(claim_id=self.claim_id, fence=self.fence, released=released)


class Claims:
    """All that was claimed and is not settled, and what is to be told of it."""

    def __init__(self) -> None:
        self._open: dict[str, Claim] = {}
        self._tries: dict[str, int] = {}
        self._parses: list[Claim] = []
        self._callbacks: list[Claim] = []
        self._done: dict[str, dags.DagClaimReference] = {}

    def take(self, claims: Iterable[dags.DagClaim], now: float) -> None:
        """What came. One that is in hand already, whose lease had ended, only gets its new fence."""
        for came in claims:
            self._done.pop(came.claim_id, None)
            known = self._open.get(came.claim_id)
            if known is not None:
                known.fence, known.expires_at = came.fence, now + came.lease_seconds
                continue
            request = came.request if came.kind is dags.DagClaimKind.CALLBACK else None
            claim = Claim(
                came.claim_id,
                came.fence,
                came.bundle,
                came.relative_fileloc,
                now + came.lease_seconds,
                came.lease_seconds,
                request,
            )
            self._open[claim.claim_id] = claim
            (self._parses if request is None else self._callbacks).append(claim)

    def new_parses(self) -> list[Claim]:
        """Files to parse first, once each."""
        found, self._parses = self._parses, []
        return found

    def new_callbacks(self) -> list[Claim]:
        """Callbacks to run, once each."""
        found, self._callbacks = self._callbacks, []
        return found

    def parsed(self, bundle: str, relative_fileloc: str) -> None:
        """The plane has what came of parsing a file: whoever asked for it is served."""
        for claim in list(self._open.values()):
            if claim.request is None and (claim.bundle, claim.relative_fileloc) == (bundle, relative_fileloc):
                self.settle(claim)

    def settle(self, claim: Claim) -> None:
        """It is done, or never will be."""
        if self._open.pop(claim.claim_id, None) is not None:
            self._tries.pop(claim.claim_id, None)
            self._done[claim.claim_id] = claim.reference()

    def died(self, claim: Claim) -> bool:
        """Its process died: hand it back. False when it has died too often, and is settled."""
        tries = self._tries[claim.claim_id] = self._tries.get(claim.claim_id, 0) + 1
        if tries >= MAX_TRIES:
            self.settle(claim)
            return False
        if self._open.pop(claim.claim_id, None) is not None:
            self._done[claim.claim_id] = claim.reference(released=True)
        return True

    def drop(self, bundles: Iterable[str]) -> None:
        """These bundles are another agent's now, and so is what was claimed of them."""
        gone = set(bundles)
        self._open = {name: one for name, one in self._open.items() if one.bundle not in gone}
        self._parses = [one for one in self._parses if one.bundle not in gone]
        self._callbacks = [one for one in self._callbacks if one.bundle not in gone]

    def is_open(self, claim: Claim) -> bool:
        """Whether it is still this agent's to do."""
        return self._open.get(claim.claim_id) is claim

    def due(self, now: float) -> tuple[tuple[dags.DagClaimReference, ...], tuple[dags.DagClaimReference, ...]]:
        """What to tell: claims that are done or given back, and claims whose lease is half over."""
        half = [one for one in self._open.values() if one.expires_at - now < one.lease_seconds / 2]
        return tuple(self._done.values())[:1000], tuple(one.reference() for one in half)[:1000]

    def told(
        self,
        done: Iterable[dags.DagClaimReference],
        extended: Iterable[dags.DagClaimReference],
        lost: Iterable[str],
        now: float,
    ) -> None:
        """The plane has answered."""
        for reference in done:
            if self._done.get(reference.claim_id) == reference:
                del self._done[reference.claim_id]
        for reference in extended:
            if (claim := self._open.get(reference.claim_id)) is not None:
                claim.expires_at = now + claim.lease_seconds
        for claim_id in lost:
            self._open.pop(claim_id, None)
