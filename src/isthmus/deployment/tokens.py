"""Agent tokens: their text, their life, and who may pass.

The text is ``isthmus_<deployment id>_<token id>_<secret>``: 12 base-32 characters name the token, 43 base64url characters
(256 bits) prove it. The plane stores the SHA-256 of the secret; a fast hash is enough for a random secret. All tokens are
in memory (there are few by limit), refreshed when the access channel is notified; a token that is unknown is looked for in
the database, at most once a second for all.

Invariant: a secret is compared in constant time, and before anything about its token is told.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from isthmus.deployment.pooling import Pool
from isthmus.kit.clocks import Clock, SystemClock
from isthmus.wire.admin import TokenState
from isthmus.wire.names import Role


@dataclass(frozen=True, slots=True)
class TokenText:
    """The parts of a token's text."""

    deployment_id: str
    token_id: str
    secret: str

    def __str__(self) -> str:
        return f"isthmus_{self.deployment_id}_{self.token_id}_{self.secret}"


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is stored."""

    token_id: str
    name: str
    secret_sha256: str
    roles: frozenset[Role]
    queues: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    last_used_address: str | None
    successor_id: str | None

    def state(self, now: datetime) -> TokenState:
        """Whether the token opens the door at ``now``."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class TokenUse:
    """When and from where a token was last used."""

    token_id: str
    used_at: datetime
    address: str | None


def parse(text: str) -> TokenText | None:
    """The parts of ``text``, or None when it is not a token's text."""
    raise NotImplementedError


def check_scope(token: Token, role: Role, queues: Iterable[str]) -> None:
    """Raise PlaneRefusedError(TOKEN_SCOPE) unless the token covers the role and all queues."""
    raise NotImplementedError


class TokenBook:
    """The tokens of one deployment."""

    def __init__(self, pool: Pool, deployment_id: str, *, limit: int = 50, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    async def load(self) -> None:
        """Read all tokens. Raises DatabaseError."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Callback of the access channel: read again soon."""
        raise NotImplementedError

    async def run(self) -> None:
        """Read again when asked to, and every half minute."""
        raise NotImplementedError

    async def verify(self, text: str | None, address: str | None) -> Token:
        """The token of ``text``; notes its use. Raises PlaneRefusedError with a TOKEN_… code."""
        raise NotImplementedError

    async def all(self) -> list[Token]:
        """All tokens from the database, newest first."""
        raise NotImplementedError

    async def create(
        self, name: str, *, expires_days: int | None, roles: Iterable[Role] = (), queues: Iterable[str] = ()
    ) -> tuple[Token, TokenText]:
        """Make a token. Raises PlaneRefusedError(TOKEN_LIMIT)."""
        raise NotImplementedError

    async def revoke(self, token_id: str) -> Token:
        """Close the door to a token; doing so again changes nothing. Raises PlaneRefusedError(TOKEN_NOT_FOUND)."""
        raise NotImplementedError

    async def rotate(self, token_id: str, *, overlap: timedelta, expires_days: int | None) -> tuple[Token, TokenText]:
        """Make a successor of the same name and scope; the old token ends after ``overlap``.

        Raises PlaneRefusedError: TOKEN_NOT_FOUND, TOKEN_LIMIT, or REQUEST_INVALID for a revoked token.
        """
        raise NotImplementedError

    def take_uses(self) -> list[TokenUse]:
        """The uses since the last call, one per token."""
        raise NotImplementedError
