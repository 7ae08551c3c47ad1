"""What there is in a bundle after a pass over it, compared with what is remembered of it.

Equal digests mean that nothing has changed: one statement computes ours in the database, one says that all of the
bundle's DAGs were parsed just now, and no row reaches this process. Otherwise the agent sends its list; what it has not
got any more becomes stale, and what differs is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import text

from isthmus.deployment import compat
from isthmus.deployment.dags import compat as compat_dags
from isthmus.deployment.errors import translated
from isthmus.deployment.pooling import Connection, Pool

#: A file that was refused is asked for again after this: the reason may be gone (a plugin was installed).
RETRY_SECONDS: Final = 300.0
#: Files that are asked for at once; the next pass asks for more.
MAX_WANTED: Final = 5000


@dataclass(frozen=True, slots=True)
class Pass:
    """A pass of an agent over a bundle."""

    agent_id: UUID
    bundle: str
    fence: int
    version: str | None
    count: int
    digest: str
    #: Files whose DAGs are of ``version`` from now on, as they are.
    moved: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """The answer to a pass."""

    held: bool
    known: bool = False
    wanted: tuple[str, ...] = ()


# As ``wire.dags.digest``: in the order of bytes, which in UTF-8 is that of code points.
_DIGEST: Final = """
SELECT count(*) AS count,
       encode(sha256(coalesce(string_agg(
           convert_to(relative_fileloc, 'UTF8') || '\\x00'::bytea || convert_to(content_hash, 'UTF8') || '\\x0a'::bytea,
           ''::bytea ORDER BY relative_fileloc COLLATE "C"), ''::bytea)), 'hex') AS digest
FROM isthmus_dag_file WHERE bundle = $1
"""

_PASSED: Final = """
UPDATE isthmus_bundle SET passed_at = now(), version = coalesce($4, version)
WHERE name = $1 AND agent_id = $2 AND fence = $3 RETURNING name
"""

_REFUSED: Final = """
SELECT relative_fileloc FROM isthmus_dag_file
WHERE bundle = $1 AND code <> '' AND submitted_at < now() - $2::float * interval '1 second'
"""

_WANTED: Final = """
SELECT o.relative_fileloc FROM unnest($2::text[], $3::text[]) AS o(relative_fileloc, content_hash)
LEFT JOIN isthmus_dag_file AS f ON f.bundle = $1 AND f.relative_fileloc = o.relative_fileloc
WHERE f.content_hash IS DISTINCT FROM o.content_hash ORDER BY 1 LIMIT $4
"""

_HELD: Final = text(
    "SELECT 1 FROM isthmus_bundle WHERE name = :bundle AND agent_id = :agent_id AND fence = :fence FOR SHARE"
)
_FORGET: Final = text(
    "DELETE FROM isthmus_dag_file WHERE bundle = :bundle AND relative_fileloc <> ALL(CAST(:present AS text[]))"
)


async def observe(pool: Pool, one: Pass) -> Seen:
    """Take in a pass of which only the digest came. Raises DatabaseError."""
    with translated():
        async with pool.acquire() as connection, connection.transaction():
            if not await _passed(connection, one):
                return Seen(held=False)
            ours = await connection.fetchrow(_DIGEST, one.bundle)
            assert ours is not None  # noqa: S101 - an aggregate has a row
            if (ours["count"], ours["digest"]) != (one.count, one.digest):
                return Seen(held=True)
            await connection.execute(compat_dags.BUMP, one.bundle)
            return Seen(held=True, known=True, wanted=await _lost(connection, one.bundle))


async def compare(pool: Pool, one: Pass, files: Mapping[str, str]) -> Seen:
    """Say what to submit of ``files``, content hashes by path; ``retire`` goes before it. Raises DatabaseError."""
    with translated():
        async with pool.acquire() as connection, connection.transaction():
            if not await _passed(connection, one):
                return Seen(held=False)
            rows = await connection.fetch(_WANTED, one.bundle, list(files), list(files.values()), MAX_WANTED)
            wanted = {row["relative_fileloc"] for row in rows}
            await connection.execute(compat_dags.BUMP, one.bundle)
            lost = await _lost(connection, one.bundle)
    return Seen(held=True, known=not wanted, wanted=tuple(sorted({*wanted, *lost})))


def retire(one: Pass, present: frozenset[str]) -> int:
    """Make stale what is not in ``present``, if the bundle is still the agent's; how many DAGs. Runs in a thread."""
    with compat.own_session() as session:
        values = {"bundle": one.bundle, "agent_id": one.agent_id, "fence": one.fence}
        if session.execute(_HELD, values).first() is None:
            return 0
        session.execute(_FORGET, {"bundle": one.bundle, "present": list(present)})
        return compat_dags.retire(session, one.bundle, present)


async def _passed(connection: Connection, one: Pass) -> bool:
    """Whether the bundle is the agent's; if so, what has moved is of the version that it is at."""
    if await connection.fetchrow(_PASSED, one.bundle, one.agent_id, one.fence, one.version) is None:
        return False
    if one.moved and one.version is not None:
        await connection.execute(compat_dags.MOVE, one.bundle, one.moved, one.version)
    return True


async def _lost(connection: Connection, bundle: str) -> tuple[str, ...]:
    """Files to submit again though they have not changed: their DAGs are gone, or why they were refused may be."""
    missing = await connection.fetch(compat_dags.MISSING, bundle)
    refused = await connection.fetch(_REFUSED, bundle, RETRY_SECONDS)
    return tuple(sorted({row["relative_fileloc"] for row in (*missing, *refused)}))[:MAX_WANTED]
