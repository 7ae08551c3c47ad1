"""What Airflow wants of a DAG processor besides parsing everything: files to parse first, and callbacks.

Airflow's own DAG processor deletes such a row when it reads it, and a crash loses the callback. Here the row stays
until the agent has settled it: handing it out writes a lease beside it. A lease that ends, or whose agent has gone, is
handed out again, so that a callback runs at least once; after ``MAX_TIMES`` it is given up, because something about it
kills agents. Runs in threads, with Airflow's ORM.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session

from isthmus.deployment import compat
from isthmus.deployment.dags import compat as compat_dags
from isthmus.wire.dags import DagClaim, DagClaimKind, DagClaimReference, HeldBundle

LEASE_SECONDS: Final = 60.0
MAX_TIMES: Final = 5
_LOCK: Final = 0x6973746D636C6D  # "istmclm"

_HELD: Final = text(
    "SELECT b.name FROM isthmus_bundle AS b "
    "JOIN unnest(CAST(:names AS text[]), CAST(:fences AS bigint[])) AS h(name, fence) "
    "ON h.name = b.name AND h.fence = b.fence WHERE b.agent_id = :agent_id"
)
#: What is handed out. A lease counts while its agent lives.
_TAKEN: Final = text(
    """
    SELECT c.id FROM isthmus_dag_claim AS c JOIN isthmus_agent AS a ON a.id = c.agent_id
    WHERE c.bundle = ANY(:bundles) AND c.lease_expires_at > now() AND a.phase <> 'left'
      AND coalesce(a.last_heartbeat_at, a.enrolled_at) > now() - :healthy * interval '1 second'
    """
)
_CLAIM: Final = text(
    """
    INSERT INTO isthmus_dag_claim AS c (id, bundle, agent_id, lease_expires_at)
    VALUES (:id, :bundle, :agent_id, now() + :lease * interval '1 second')
    ON CONFLICT (id) DO UPDATE
    SET bundle = EXCLUDED.bundle, agent_id = EXCLUDED.agent_id, lease_expires_at = EXCLUDED.lease_expires_at,
        fence = c.fence + 1
    RETURNING fence
    """
)
_MINE: Final = (
    "agent_id = :agent_id AND (id, fence) IN "
    "(SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:fences AS bigint[]))) RETURNING id"
)
_SETTLE: Final = text(f"DELETE FROM isthmus_dag_claim WHERE {_MINE}")  # noqa: S608 - a constant of ours
_EXTEND: Final = text(
    f"UPDATE isthmus_dag_claim SET lease_expires_at = now() + :lease * interval '1 second' WHERE {_MINE}"  # noqa: S608
)
_FORGET: Final = text("DELETE FROM isthmus_dag_claim WHERE lease_expires_at < now() - interval '1 day'")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Settled:
    """How many claims were settled, and which are not the agent's."""

    settled: int
    lost: tuple[str, ...]


def claim(agent_id: UUID, held: Sequence[HeldBundle], limit: int, healthy_seconds: float) -> list[DagClaim]:
    """Hand out up to ``limit`` things to do in the bundles that the agent really holds."""
    with compat.own_session() as session:
        values = {"names": [one.name for one in held], "fences": [one.fence for one in held], "agent_id": agent_id}
        bundles = list(session.scalars(_HELD, values))
        if not bundles:
            return []
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        taken = set(session.scalars(_TAKEN, {"bundles": bundles, "healthy": healthy_seconds}))
        claims = _parses(session, agent_id, bundles, taken, limit)
        return claims + _callbacks(session, agent_id, bundles, taken, limit - len(claims))


def settle(agent_id: UUID, claims: Iterable[DagClaimReference], extended: Iterable[DagClaimReference]) -> Settled:
    """Forget what was done, in Airflow's tables as well; release and extend leases."""
    claims, extended = list(claims), list(extended)
    with compat.own_session() as session:
        session.execute(_FORGET)
        done = _touch(session, _SETTLE, agent_id, [one for one in claims if not one.released])
        if done:
            compat_dags.finish(session, done)
        released = _touch(session, _EXTEND, agent_id, [one for one in claims if one.released], 0.0)
        kept = _touch(session, _EXTEND, agent_id, extended, LEASE_SECONDS)
    found = {*done, *released, *kept}
    lost = dict.fromkeys(one.claim_id for one in (*claims, *extended) if one.claim_id not in found)
    return Settled(len(done), tuple(lost))


def _parses(
    session: Session, agent_id: UUID, bundles: Collection[str], taken: Collection[str], limit: int
) -> list[DagClaim]:
    claims: list[DagClaim] = []
    for claim_id, bundle, path in compat_dags.waiting_parses(session, bundles, limit + len(taken)):
        if claim_id in taken or len(claims) == limit:
            continue
        fence = _lease(session, claim_id, bundle, agent_id)
        if fence > MAX_TIMES:
            _give_up(session, claim_id, bundle)
            continue
        claims.append(
            DagClaim(
                claim_id=claim_id,
                fence=fence,
                kind=DagClaimKind.PARSE,
                bundle=bundle,
                relative_fileloc=path,
                lease_seconds=LEASE_SECONDS,
            )
        )
    return claims


def _callbacks(
    session: Session, agent_id: UUID, bundles: Collection[str], taken: Collection[str], limit: int
) -> list[DagClaim]:
    if limit <= 0:
        return []
    claims = []
    callbacks = [UUID(one) for one in taken if "-" in one]
    for row in compat_dags.waiting_callbacks(session, bundles, callbacks, limit):
        claim_id, bundle = str(row.id), str(row.bundle_name)
        fence = _lease(session, claim_id, bundle, agent_id)
        request = _request(row, claim_id)
        if fence > MAX_TIMES or request is None:
            _give_up(session, claim_id, bundle)
            continue
        claims.append(
            DagClaim(
                claim_id=claim_id,
                fence=fence,
                kind=DagClaimKind.CALLBACK,
                bundle=bundle,
                relative_fileloc=str(request.get("filepath", "")),
                lease_seconds=LEASE_SECONDS,
                request=request,
            )
        )
    return claims


def _request(row: Any, claim_id: str) -> dict[str, Any] | None:
    try:
        return compat_dags.callback_request(row)
    except Exception as error:
        log.error("Airflow cannot read one of its callbacks", callback=claim_id, exc_info=error)
        return None


def _lease(session: Session, claim_id: str, bundle: str, agent_id: UUID) -> int:
    values = {"id": claim_id, "bundle": bundle, "agent_id": agent_id, "lease": LEASE_SECONDS}
    return int(session.execute(_CLAIM, values).scalar_one())


def _give_up(session: Session, claim_id: str, bundle: str) -> None:
    log.error("given up: handed out too often, or unreadable", claim=claim_id, bundle=bundle, times=MAX_TIMES)
    session.execute(text("DELETE FROM isthmus_dag_claim WHERE id = :id"), {"id": claim_id})
    compat_dags.finish(session, [claim_id])


def _touch(
    session: Session, statement: Any, agent_id: UUID, references: Sequence[DagClaimReference], lease: float = 0.0
) -> list[str]:
    if not references:
        return []
    values: dict[str, Any] = {
        "agent_id": agent_id,
        "ids": [one.claim_id for one in references],
        "fences": [one.fence for one in references],
    }
    if statement is _EXTEND:
        values["lease"] = lease
    return list(session.scalars(statement, values))
