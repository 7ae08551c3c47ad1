"""What operators see of DAG bundles."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from isthmus.deployment.errors import translated
from isthmus.deployment.pooling import Database


@dataclass(frozen=True, slots=True)
class BundleRow:
    """A bundle in numbers, as ``wire.admin.BundleView`` says them."""

    name: str
    version: str | None
    token_id: str
    token_name: str
    agent_name: str | None
    agents: tuple[str, ...]
    files: int
    refused: int
    refused_file: str | None
    refused_detail: str | None
    dags: int
    import_errors: int
    registered_at: datetime
    passed_at: datetime | None


@dataclass(frozen=True, slots=True)
class RefusedBundleRow:
    """A bundle that an agent has and may not bring."""

    name: str
    agent_name: str
    token_id: str
    token_name: str
    code: str
    detail: str
    since: datetime


#: Refused bundles that are shown, the last ones first.
MOST_REFUSED: Final = 100

_REFUSED: Final = """
SELECT r.bundle AS name, a.name AS agent_name, a.token_id, t.name AS token_name, r.code, r.detail, r.since
FROM isthmus_bundle_refusal AS r
JOIN isthmus_agent AS a ON a.id = r.agent_id
JOIN isthmus_token AS t ON t.id = a.token_id
WHERE a.phase <> 'left' ORDER BY r.since DESC, r.bundle, a.name LIMIT $1
"""

# DAGs and import errors are counted where Airflow shows them: it may make a DAG stale by itself. Airflow has no index
# on the bundle of either, so both tables are read once for the whole page.
_BUNDLES: Final = """
WITH page AS (
    SELECT b.*, CASE WHEN b.lease_expires_at > now() THEN a.name END AS agent_name
    FROM isthmus_bundle AS b LEFT JOIN isthmus_agent AS a ON a.id = b.agent_id
    ORDER BY (a.name IS NOT NULL AND b.lease_expires_at > now()) IS TRUE, b.name LIMIT $1 OFFSET $2
)
SELECT b.name, b.version, b.token_id, t.name AS token_name, b.registered_at, b.passed_at, b.agent_name,
       ARRAY(SELECT o.name FROM isthmus_bundle_offer AS f JOIN isthmus_agent AS o ON o.id = f.agent_id
             WHERE f.bundle = b.name AND o.phase <> 'left' ORDER BY o.name LIMIT 20) AS agents,
       coalesce(f.files, 0)::int AS files, coalesce(f.refused, 0)::int AS refused,
       r.relative_fileloc AS refused_file, r.detail AS refused_detail,
       coalesce(d.dags, 0)::int AS dags, coalesce(e.import_errors, 0)::int AS import_errors
FROM page AS b
JOIN isthmus_token AS t ON t.id = b.token_id
LEFT JOIN LATERAL (
    SELECT count(*) AS files, count(*) FILTER (WHERE code <> '') AS refused
    FROM isthmus_dag_file WHERE bundle = b.name
) AS f ON true
LEFT JOIN LATERAL (
    SELECT relative_fileloc, detail FROM isthmus_dag_file
    WHERE bundle = b.name AND code <> '' ORDER BY submitted_at DESC, relative_fileloc LIMIT 1
) AS r ON true
LEFT JOIN (
    SELECT bundle_name, count(*) AS dags FROM dag
    WHERE NOT is_stale AND bundle_name IN (SELECT name FROM page) GROUP BY bundle_name
) AS d ON d.bundle_name = b.name
LEFT JOIN (
    SELECT bundle_name, count(*) AS import_errors FROM import_error
    WHERE bundle_name IN (SELECT name FROM page) GROUP BY bundle_name
) AS e ON e.bundle_name = b.name
ORDER BY b.agent_name IS NOT NULL, b.name
"""


async def bundles(database: Database, *, start: int, limit: int) -> list[BundleRow]:
    """A page of bundles, those that nobody parses first. Raises DatabaseError."""
    with translated():
        rows = await database.fetch(_BUNDLES, limit, start)
    return [BundleRow(**{**row, "agents": tuple(row["agents"])}) for row in rows]


async def refused(database: Database) -> list[RefusedBundleRow]:
    """The bundles that agents have and may not bring, the last ones first. Raises DatabaseError."""
    with translated():
        rows = await database.fetch(_REFUSED, MOST_REFUSED)
    return [RefusedBundleRow(**row) for row in rows]
