"""Agent tokens: their text, their life, and who may pass.

The text is ``isthmus_<deployment id>_<token id>_<secret>``: 12 base-32 characters name the token, 43 base64url
characters (256 bits) prove it. The plane stores the SHA-256 of the secret; a fast hash is enough for a random secret.
All tokens are in memory (there are few by limit), refreshed when the access channel is notified; a token that is
unknown is looked for in the database, at most once a second for all.

Invariant: a secret is compared in constant time, and before anything about its token is told.
"""

import asyncio
import base64
import fnmatch
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from isthmus.deployment.arrivals import Arrival
from isthmus.deployment.errors import PlaneRefusedError, translated
from isthmus.deployment.pooling import Connection, Pool, Record, plain_text
from isthmus.deployment.refreshing import Refresher
from isthmus.deployment.tables import ACCESS_CHANNEL
from isthmus.kit.clocks import Clock, SystemClock
from isthmus.wire.admin import TokenState
from isthmus.wire.names import PathKind, Role
from isthmus.wire.problems import Code

_TEXT: Final = re.compile(r"isthmus_(d[a-z2-7]{7})_([a-z2-7]{12})_([A-Za-z0-9_-]{43})")
#: Looking for unknown tokens in the database must not be a lever: once in this time, for all of them.
_MISS_SECONDS: Final = 1.0
#: Patterns of a token's scope that a refusal names.
_NAMED_PATTERNS: Final = 5
#: Only one transaction at a time counts the active tokens and adds one.
_LIMIT_LOCK: Final = 0x6973746D746F6B  # "istmtok"


@dataclass(frozen=True, slots=True)
class TokenText:
    """The parts of a token's text. The secret does not show in ``repr``."""

    deployment_id: str
    token_id: str
    secret: str

    def __str__(self) -> str:
        return f"isthmus_{self.deployment_id}_{self.token_id}_{self.secret}"

    def __repr__(self) -> str:
        return f"TokenText({self.deployment_id}, {self.token_id}, …)"

    @property
    def secret_sha256(self) -> str:
        """What the plane stores of the secret, as hex digits."""
        return hashlib.sha256(self.secret.encode()).hexdigest()


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
    #: The private link connections that it is bound to; empty where any path will do.
    links: frozenset[int] = frozenset()
    #: Patterns of the names of DAG bundles that its agents may bring and run triggers of; empty where any will do.
    bundles: frozenset[str] = frozenset()

    def covers_bundle(self, name: str) -> bool:
        """Whether its agents may bring a bundle of this name, and run triggers of its DAGs."""
        return not self.bundles or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.bundles)

    @property
    def bundle_scope(self) -> str:
        """The bundles that it is limited to, for people."""
        patterns = sorted(self.bundles)
        named = ", ".join(patterns[:_NAMED_PATTERNS])
        return f"{named} and {len(patterns) - _NAMED_PATTERNS} more" if len(patterns) > _NAMED_PATTERNS else named

    def state(self, now: datetime) -> TokenState:
        """Whether the token opens the door at ``now``."""
        if self.revoked_at is not None:
            return TokenState.REVOKED
        if self.expires_at is not None and self.expires_at <= now:
            return TokenState.EXPIRED
        return TokenState.ACTIVE


@dataclass(frozen=True, slots=True)
class TokenUse:
    """When and from where a token was last used."""

    token_id: str
    used_at: datetime
    address: str | None


def parse(text: str) -> TokenText | None:
    """The parts of ``text``, or None when it is not a token's text."""
    matched = _TEXT.fullmatch(text)
    return None if matched is None else TokenText(*matched.groups())


def mint(deployment_id: str) -> TokenText:
    """A new token's text: 60 bits name it, 256 bits prove it."""
    token_id = base64.b32encode(secrets.token_bytes(8)).decode().lower()[:12]
    return TokenText(deployment_id, token_id, secrets.token_urlsafe(32))


def check_scope(token: Token, role: Role, queues: Iterable[str]) -> None:
    """Raise PlaneRefusedError(TOKEN_SCOPE) unless the token covers the role and all queues."""
    if token.roles and role not in token.roles:
        allowed = ", ".join(sorted(token.roles))
        raise PlaneRefusedError(Code.TOKEN_SCOPE, f"The token {token.name!r} is for the roles {allowed}, not {role}.")
    if token.queues and (outside := sorted(set(queues) - token.queues)):
        allowed = ", ".join(sorted(token.queues))
        raise PlaneRefusedError(
            Code.TOKEN_SCOPE, f"The token {token.name!r} is for the queues {allowed}, not {', '.join(outside)}."
        )


def covered_bundles(token: Token, names: Sequence[str]) -> tuple[str, ...]:
    """Those of ``names`` that the token covers. No names at all mean any bundle, for which it must not be limited.

    Raises PlaneRefusedError(TOKEN_SCOPE) when it is limited and nothing is left.
    """
    covered = tuple(name for name in names if token.covers_bundle(name))
    if token.bundles and not covered:
        said = "names none of these" if names else "names none, which would mean all"
        raise PlaneRefusedError(
            Code.TOKEN_SCOPE,
            f"The token {token.name!r} is for the bundles {token.bundle_scope}, and the triggerer {said} "
            "([dag_processor] dag_bundle_config_list of its environment).",
        )
    return covered


def check_path(token: Token, arrival: Arrival) -> None:
    """Raise PlaneRefusedError(TOKEN_WRONG_LINK) with what was seen, if the token is bound to other links."""
    if not token.links or (arrival.path is PathKind.LINK and arrival.link_id in token.links):
        return
    bound = ", ".join(map(str, sorted(token.links)))
    raise PlaneRefusedError(
        Code.TOKEN_WRONG_LINK,
        f"The token {token.name!r} is bound to link {bound}; this request came {arrival}.",
        source_address=arrival.address,
        link_id=arrival.link_id,
    )


_INSERT: Final = """
INSERT INTO isthmus_token (id, name, secret_sha256, roles, queues, expires_at, links, bundles)
VALUES ($1, $2, $3, $4, $5, now() + $6 * interval '1 day', $7, $8)
RETURNING *
"""

# A token that has a successor is on its way out and does not count, so that rotation works at the limit.
_COUNT_ACTIVE: Final = """
SELECT count(*) FROM isthmus_token
WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) AND successor_id IS NULL AND id <> $1
"""

_REVOKE: Final = "UPDATE isthmus_token SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1 RETURNING *"

_SUCCEED: Final = """
UPDATE isthmus_token
SET successor_id = $2, expires_at = LEAST(expires_at, now() + $3::interval)
WHERE id = $1
"""


class TokenBook:
    """The tokens of one deployment."""

    def __init__(self, pool: Pool, deployment_id: str, *, limit: int = 50, clock: Clock | None = None) -> None:
        self._pool = pool
        self._deployment_id = deployment_id
        self._limit = limit
        self._clock = clock or SystemClock()
        self._tokens: dict[str, Token] = {}
        self._uses: dict[str, TokenUse] = {}
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()
        self._refresher = Refresher("tokens", self.load)

    def refresh(self) -> None:
        """Callback of the access channel: read again soon."""
        self._refresher.request()

    async def run(self) -> None:
        """Read again when asked to, and every half minute."""
        await self._refresher.run()

    async def load(self) -> None:
        """Read all tokens. Raises DatabaseError."""
        self._tokens = {token.token_id: token for token in await self.all()}

    async def all(self) -> list[Token]:
        """All tokens from the database, newest first. Raises DatabaseError."""
        with translated():
            rows = await self._pool.fetch("SELECT * FROM isthmus_token ORDER BY created_at DESC, id")
        return [_token(row) for row in rows]

    async def verify(self, text: str | None, arrival: Arrival) -> Token:
        """The token of ``text``, good for the path of ``arrival``; notes its use.

        Raises PlaneRefusedError with a TOKEN_… code, DatabaseError.
        """
        if not text:
            raise PlaneRefusedError(Code.TOKEN_MISSING)
        parts = parse(text)
        if parts is None:
            raise PlaneRefusedError(Code.TOKEN_INVALID, "The token does not have the form of an agent token.")
        if parts.deployment_id != self._deployment_id:
            raise PlaneRefusedError(
                Code.TOKEN_WRONG_DEPLOYMENT,
                f"The token is one of {parts.deployment_id}; this is {self._deployment_id}.",
            )
        token = self._tokens.get(parts.token_id)
        if token is None:
            token = await self._look_for(parts.token_id)
        expected = token.secret_sha256 if token is not None else "0" * 64
        if not hmac.compare_digest(parts.secret_sha256, expected) or token is None:
            raise PlaneRefusedError(Code.TOKEN_INVALID)
        now = self._clock.now()
        match token.state(now):
            case TokenState.REVOKED:
                raise PlaneRefusedError(Code.TOKEN_REVOKED, f"The token {token.name!r} was revoked.")
            case TokenState.EXPIRED:
                raise PlaneRefusedError(
                    Code.TOKEN_EXPIRED, f"The token {token.name!r} expired at {token.expires_at:%Y-%m-%d %H:%M} UTC."
                )
            case TokenState.ACTIVE:
                check_path(token, arrival)
                self._uses[token.token_id] = TokenUse(token.token_id, now, arrival.address)
                return token

    def knows(self, token_id: str) -> bool:
        """Whether there is such a token, whatever its secret and its state."""
        return token_id in self._tokens

    def related(self, one: str, other: str) -> bool:
        """Whether two tokens are the same or follow each other by rotation."""
        return one == other or self._leads_to(one, other) or self._leads_to(other, one)

    def kin(self, token_id: str) -> frozenset[str]:
        """The token, those that it follows by rotation, and those that follow it."""
        return frozenset({token_id, *(other for other in self._tokens if self.related(token_id, other))})

    async def create(
        self,
        name: str,
        *,
        expires_days: int | None,
        roles: Iterable[Role] = (),
        queues: Iterable[str] = (),
        links: Iterable[int] = (),
        bundles: Iterable[str] = (),
    ) -> tuple[Token, TokenText]:
        """Make a token. Raises PlaneRefusedError(TOKEN_LIMIT), DatabaseError."""
        text = mint(self._deployment_id)
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await self._check_limit(connection, besides="")
                row = await _insert(
                    connection,
                    text,
                    name=name,
                    roles=sorted(set(roles)),
                    queues=sorted(set(queues)),
                    links=sorted(set(links)),
                    bundles=sorted(set(bundles)),
                    expires_days=expires_days,
                )
                await _notify(connection)
        token = _token(row)
        self._tokens[token.token_id] = token
        return token, text

    async def revoke(self, token_id: str) -> Token:
        """Close the door to a token; doing so again changes nothing.

        Raises PlaneRefusedError(TOKEN_NOT_FOUND), DatabaseError.
        """
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow(_REVOKE, plain_text(token_id))
                if row is None:
                    raise PlaneRefusedError(Code.TOKEN_NOT_FOUND)
                await _notify(connection)
        token = _token(row)
        self._tokens[token.token_id] = token
        return token

    async def rotate(self, token_id: str, *, overlap: timedelta, expires_days: int | None) -> tuple[Token, TokenText]:
        """Make a successor of the same name and scope; the old token ends after ``overlap``, or sooner by itself.

        Raises PlaneRefusedError: TOKEN_NOT_FOUND, TOKEN_LIMIT, or REQUEST_INVALID for a revoked token; DatabaseError.
        """
        text = mint(self._deployment_id)
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                old = await connection.fetchrow(
                    "SELECT * FROM isthmus_token WHERE id = $1 FOR UPDATE", plain_text(token_id)
                )
                if old is None:
                    raise PlaneRefusedError(Code.TOKEN_NOT_FOUND)
                if old["revoked_at"] is not None:
                    raise PlaneRefusedError(
                        Code.REQUEST_INVALID, "The token was revoked and cannot be rotated: create a new one."
                    )
                await self._check_limit(connection, besides=old["id"])
                row = await _insert(
                    connection,
                    text,
                    name=old["name"],
                    roles=old["roles"],
                    queues=old["queues"],
                    links=old["links"],
                    bundles=old["bundles"],
                    expires_days=expires_days,
                )
                await connection.execute(_SUCCEED, old["id"], text.token_id, overlap)
                await _notify(connection)
        await self.load()
        return _token(row), text

    def take_uses(self) -> list[TokenUse]:
        """The uses since the last call, one per token."""
        uses, self._uses = list(self._uses.values()), {}
        return uses

    def give_back_uses(self, uses: Iterable[TokenUse]) -> None:
        """Keep uses that could not be written, unless there are newer ones."""
        for use in uses:
            self._uses.setdefault(use.token_id, use)

    async def _look_for(self, token_id: str) -> Token | None:
        """A token that this process has not heard of yet: one that was made a moment ago elsewhere, or none."""
        async with self._looking:
            if token_id not in self._tokens and self._clock.monotonic() - self._looked_at >= _MISS_SECONDS:
                self._looked_at = self._clock.monotonic()
                await self.load()
        return self._tokens.get(token_id)

    async def _check_limit(self, connection: Connection, *, besides: str) -> None:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LIMIT_LOCK)
        active = await connection.fetchval(_COUNT_ACTIVE, besides)
        if active >= self._limit:
            raise PlaneRefusedError(Code.TOKEN_LIMIT, f"{active} tokens are active; the limit is {self._limit}.")

    def _leads_to(self, first: str, last: str) -> bool:
        seen: set[str] = set()
        current: str | None = first
        while current is not None and current not in seen:
            seen.add(current)
            token = self._tokens.get(current)
            current = None if token is None else token.successor_id
            if current == last:
                return True
        return False


async def _insert(
    connection: Connection,
    text: TokenText,
    *,
    name: str,
    roles: Iterable[str],
    queues: Iterable[str],
    links: Iterable[int],
    bundles: Iterable[str],
    expires_days: int | None,
) -> Record:
    row = await connection.fetchrow(
        _INSERT,
        text.token_id,
        plain_text(name),
        text.secret_sha256,
        list(roles),
        list(queues),
        expires_days,
        list(links),
        list(bundles),
    )
    assert row is not None  # noqa: S101 - INSERT … RETURNING has a row
    return row


async def _notify(connection: Connection) -> None:
    await connection.execute("SELECT pg_notify($1, '')", ACCESS_CHANNEL)


def _token(row: Record) -> Token:
    return Token(
        token_id=row["id"],
        name=row["name"],
        secret_sha256=row["secret_sha256"],
        roles=frozenset(Role(role) for role in row["roles"]),
        queues=frozenset(row["queues"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
        last_used_address=None if row["last_used_address"] is None else str(row["last_used_address"]),
        successor_id=row["successor_id"],
        links=frozenset(row["links"]),
        bundles=frozenset(row["bundles"]),
    )
