"""Which bundles there are, whose they are, and which agent parses each.

A token may be limited to bundles of some names. A bundle belongs to the token that first brought it and to those that
follow that by rotation; once that token is dead (expired, revoked), to the next that brings it. Each bundle is leased
to one agent at a time. An agent asks every few seconds with all the bundles that it has: that extends its leases, and
gives it what is free. A bundle is free when its holder has gone, is unhealthy, cordoned or draining, or has given it
back. ``decide`` is pure: it spreads bundles over the agents that have them, and moves one at a time when another agent
has two fewer.

Invariant: the fence grows with every hand-over, so that whatever a former holder still sends is known to be old.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from isthmus.deployment.errors import translated
from isthmus.deployment.pooling import Connection, Pool
from isthmus.deployment.tokens import Token
from isthmus.wire.dags import OfferedBundle, RefusalCode

POLL_SECONDS: Final = 5.0
#: An agent that has not asked for this long is not waited for.
OFFER_SECONDS: Final = 3 * POLL_SECONDS
#: A free bundle is left to agents with fewer bundles for this long.
COURTESY_SECONDS: Final = 2 * POLL_SECONDS
#: One at a time decides about bundles.
_LOCK: Final = 0x6973746D62756E  # "istmbun"


@dataclass(frozen=True, slots=True)
class Asking:
    """An agent that asks. ``kin`` are the tokens that may have brought what is its own."""

    agent_id: UUID
    token: Token
    kin: frozenset[str]
    admits_work: bool


@dataclass(frozen=True, slots=True)
class Terms:
    """Times, in seconds, and how many bundles there may be."""

    lease_seconds: float
    healthy_seconds: float
    bundle_limit: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the asking agent is with one bundle; ``code`` where it is refused."""

    name: str
    assigned: bool = False
    fence: int = 0
    holder: str | None = None
    code: RefusalCode | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A bundle, as ``decide`` sees it: ``holder`` is who may keep it, ``others`` are other agents that could have it"""

    name: str
    holder: UUID | None
    others: frozenset[UUID]
    #: Whether it has been free for so long that nobody is waited for.
    waited: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of the bundles that an agent asks for."""

    taken: frozenset[str]
    kept: frozenset[str]
    released: frozenset[str]


def decide(
    agent_id: UUID, candidates: Iterable[Candidate], loads: Mapping[UUID, int], *, admits_work: bool
) -> Decision:
    """Which bundles the agent gets, keeps and gives back. ``loads`` are the numbers of bundles that agents hold."""
    load = loads.get(agent_id, 0)
    taken: set[str] = set()
    kept: set[str] = set()
    released: set[str] = set()
    for one in candidates:
        least = min((loads.get(other, 0) for other in one.others), default=None)
        if one.holder == agent_id:
            if not admits_work or (least is not None and least + 1 < load and not released):
                released.add(one.name)
                load -= 1
            else:
                kept.add(one.name)
        elif one.holder is None and admits_work and (one.waited or least is None or load <= least):
            taken.add(one.name)
            load += 1
    return Decision(frozenset(taken), frozenset(kept), frozenset(released))


_KNOWN: Final = """
SELECT b.name, b.token_id, (t.revoked_at IS NULL AND coalesce(t.expires_at > now(), true)) AS owned
FROM isthmus_bundle AS b JOIN isthmus_token AS t ON t.id = b.token_id
WHERE b.name = ANY($1::text[])
"""

_REGISTER: Final = """
INSERT INTO isthmus_bundle (name, token_id) SELECT name, $2 FROM unnest($1::text[]) AS n(name)
ON CONFLICT (name) DO UPDATE SET token_id = EXCLUDED.token_id, agent_id = NULL, lease_expires_at = NULL
"""

_OFFER: Final = """
INSERT INTO isthmus_bundle_offer (bundle, agent_id, version)
SELECT o.bundle, $1, o.version FROM unnest($2::text[], $3::text[]) AS o(bundle, version)
ON CONFLICT (bundle, agent_id) DO UPDATE SET version = EXCLUDED.version, offered_at = now()
"""

_WITHDRAW: Final = """
WITH gone AS (DELETE FROM isthmus_bundle_offer WHERE agent_id = $1 AND bundle <> ALL($2::text[]) RETURNING bundle)
UPDATE isthmus_bundle SET agent_id = NULL, lease_expires_at = now() WHERE agent_id = $1 AND name <> ALL($2::text[])
"""

_STANDINGS: Final = """
WITH able AS (
    SELECT id FROM isthmus_agent
    WHERE role = 'dag-processor' AND phase = 'ready' AND NOT cordoned AND NOT draining
      AND coalesce(last_heartbeat_at, enrolled_at) > now() - $2::float * interval '1 second'
)
SELECT b.name,
       CASE WHEN b.lease_expires_at > now() AND (b.agent_id = $4 OR b.agent_id IN (SELECT id FROM able))
            THEN b.agent_id END AS holder,
       coalesce(b.lease_expires_at < now() - $5::float * interval '1 second', true) AS waited,
       ARRAY(SELECT o.agent_id FROM isthmus_bundle_offer AS o
             WHERE o.bundle = b.name AND o.agent_id <> $4 AND o.agent_id IN (SELECT id FROM able)
               AND o.offered_at > now() - $3::float * interval '1 second') AS others
FROM isthmus_bundle AS b WHERE b.name = ANY($1::text[]) ORDER BY b.name
"""

_LOADS: Final = """
SELECT agent_id, count(*) AS load FROM isthmus_bundle
WHERE agent_id IS NOT NULL AND lease_expires_at > now() GROUP BY agent_id
"""

_CHANGE: Final = """
UPDATE isthmus_bundle AS b
SET agent_id = CASE WHEN c.verb = 'release' THEN NULL ELSE $1::uuid END,
    fence = b.fence + CASE WHEN c.verb = 'take' THEN 1 ELSE 0 END,
    lease_expires_at = now() + CASE WHEN c.verb = 'release' THEN 0 ELSE $4::float END * interval '1 second'
FROM unnest($2::text[], $3::text[]) AS c(name, verb)
WHERE b.name = c.name
"""

# Told every few seconds, written when it changes.
_REFUSE: Final = """
WITH refused AS (SELECT * FROM unnest($2::text[], $3::text[], $4::text[]) AS r(bundle, code, detail)),
gone AS (DELETE FROM isthmus_bundle_refusal WHERE agent_id = $1 AND bundle NOT IN (SELECT bundle FROM refused))
INSERT INTO isthmus_bundle_refusal AS old (agent_id, bundle, code, detail)
SELECT $1, bundle, code, detail FROM refused
ON CONFLICT (agent_id, bundle) DO UPDATE SET code = EXCLUDED.code, detail = EXCLUDED.detail, since = now()
WHERE old.code <> EXCLUDED.code
"""

_SHOWN: Final = """
SELECT b.name, b.fence, b.agent_id, a.name AS holder
FROM isthmus_bundle AS b LEFT JOIN isthmus_agent AS a ON a.id = b.agent_id
WHERE b.name = ANY($1::text[])
"""


async def ask(pool: Pool, asking: Asking, offered: Sequence[OfferedBundle], terms: Terms) -> list[Standing]:
    """Where the agent is with each of its bundles now, in their order. Raises DatabaseError."""
    with translated():
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            refused = await _register(connection, asking, [one.name for one in offered], terms)
            await connection.execute(
                _REFUSE,
                asking.agent_id,
                list(refused),
                [str(one.code) for one in refused.values()],
                [one.detail for one in refused.values()],
            )
            mine = list({one.name: one for one in offered if one.name not in refused}.values())
            names = [one.name for one in mine]
            await connection.execute(_WITHDRAW, asking.agent_id, names)
            await connection.execute(_OFFER, asking.agent_id, names, [one.version for one in mine])
            await _assign(connection, asking, names, terms)
            rows = {row["name"]: row for row in await connection.fetch(_SHOWN, names)}
    standings = []
    for one in offered:
        if one.name in refused:
            standings.append(refused[one.name])
        else:
            row = rows[one.name]
            assigned = row["agent_id"] == asking.agent_id
            standings.append(Standing(one.name, assigned, row["fence"] if assigned else 0, row["holder"]))
    return standings


async def _register(
    connection: Connection, asking: Asking, names: Collection[str], terms: Terms
) -> dict[str, Standing]:
    """Make the agent's token the owner of what nobody owns; what is refused, by name."""
    known = {row["name"]: row for row in await connection.fetch(_KNOWN, names)}
    room = terms.bundle_limit - int(await connection.fetchval("SELECT count(*) FROM isthmus_bundle"))
    refused, fresh = {}, []
    for name in dict.fromkeys(names):
        row = known.get(name)
        if not asking.token.covers_bundle(name):
            refused[name] = Standing(name, code=RefusalCode.BUNDLE_SCOPE, detail=_out_of_scope(asking.token))
        elif row is None and room <= 0:
            refused[name] = Standing(
                name,
                code=RefusalCode.BUNDLE_LIMIT,
                detail=f"The deployment takes {terms.bundle_limit} bundles ([isthmus] bundle_limit).",
            )
        elif row is None:
            fresh.append(name)
            room -= 1
        elif row["token_id"] not in asking.kin:
            if row["owned"]:
                refused[name] = Standing(
                    name,
                    code=RefusalCode.BUNDLE_FOREIGN,
                    detail="A bundle of this name belongs to agents with another token. Choose another name, or use "
                    "that token or its successor.",
                )
            else:
                fresh.append(name)
    if fresh:
        await connection.execute(_REGISTER, fresh, asking.token.token_id)
    return refused


def _out_of_scope(token: Token) -> str:
    return (
        f"The token {token.name!r} is for the bundles {token.bundle_scope}. Choose such a name, or use a token that "
        "may bring this one (isthmus token create --bundle)."
    )


async def _assign(connection: Connection, asking: Asking, names: Sequence[str], terms: Terms) -> None:
    rows = await connection.fetch(
        _STANDINGS, names, terms.healthy_seconds, OFFER_SECONDS, asking.agent_id, COURTESY_SECONDS
    )
    loads = {row["agent_id"]: row["load"] for row in await connection.fetch(_LOADS)}
    candidates = [Candidate(row["name"], row["holder"], frozenset(row["others"]), row["waited"]) for row in rows]
    decision = decide(asking.agent_id, candidates, loads, admits_work=asking.admits_work)
    changes = [
        *((name, "take") for name in sorted(decision.taken)),
        *((name, "keep") for name in sorted(decision.kept)),
        *((name, "release") for name in sorted(decision.released)),
    ]
    if changes:
        await connection.execute(
            _CHANGE, asking.agent_id, [name for name, _ in changes], [verb for _, verb in changes], terms.lease_seconds
        )
