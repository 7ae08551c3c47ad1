"""What the pages ask of a deployment's database, explained on a large store: no scan of a whole large table.

Agents are thousands at most, and whether one is healthy is a question of the clock: their table may be read as a whole.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from tests import planting, scale

from isthmus.deployment import pooling, reading, tables, tallies
from isthmus.deployment.reading import WorkloadFilter
from isthmus.wire.admin import WorkloadState
from isthmus.wire.names import Kind

LARGE = {"isthmus_workload"}
#: Of 100,000 rows: what a page of fifty may touch at most, with the hour of the plot apart.
MOST_ROWS = 12_000
FILTERS = {
    "all": WorkloadFilter(),
    "queued": WorkloadFilter(state=WorkloadState.QUEUED),
    "running": WorkloadFilter(state=WorkloadState.RUNNING),
    "succeeded": WorkloadFilter(state=WorkloadState.SUCCEEDED),
    "failed": WorkloadFilter(state=WorkloadState.FAILED),
    "lost": WorkloadFilter(state=WorkloadState.LOST),
    "queue": WorkloadFilter(queue="queue-7"),
    "no such queue": WorkloadFilter(queue="none"),
    "dag": WorkloadFilter(dag_id="dag-7"),
    "no such dag": WorkloadFilter(dag_id="none"),
    "kind": WorkloadFilter(kind=Kind.TASK),
    "lost of a dag": WorkloadFilter(state=WorkloadState.LOST, dag_id="dag-7"),
}


@pytest.fixture(scope="module")
def store(postgres_url: str) -> Iterator[str]:
    name = "plans_of_pages"
    planting.execute(postgres_url, f'CREATE DATABASE "{name}"')
    url = make_url(postgres_url).set(database=name)
    engine = create_engine(url)
    tables.metadata.create_all(engine)
    engine.dispose()
    text = url.render_as_string(hide_password=False)
    scale.fill_deployment(text)
    yield text
    planting.execute(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


class Explaining:
    """A database that explains each statement besides running it."""

    def __init__(self, pool: pooling.Pool) -> None:
        self._pool = pool
        self.plans: list[dict[str, Any]] = []

    async def fetch(self, statement: str, *values: object) -> Any:
        found = await self._pool.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *values)
        (plan,) = json.loads(found) if isinstance(found, str) else found
        self.plans.append(plan["Plan"])
        return await self._pool.fetch(statement, *values)

    async def fetchrow(self, statement: str, *values: object) -> Any:
        rows = await self.fetch(statement, *values)
        return rows[0] if rows else None

    async def fetchval(self, statement: str, *values: object) -> Any:
        row = await self.fetchrow(statement, *values)
        return None if row is None else row[0]


def scans(plan: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Each scan of a table: how, which, and how many rows were looked at."""
    if "Relation Name" in plan:
        loops = plan["Actual Loops"]
        rows = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * loops
        yield plan["Node Type"], plan["Relation Name"], int(rows)
    for one in plan.get("Plans", ()):
        yield from scans(one)


async def explained(store: str, ask: Any) -> list[tuple[str, str, int]]:
    pool = await pooling.open_pool(store)
    try:
        database = Explaining(pool)
        await ask(database)
        assert database.plans
        return [scan for plan in database.plans for scan in scans(plan)]
    finally:
        await pool.close()


@pytest.mark.parametrize("name", FILTERS)
async def test_a_page_of_workloads_is_by_index(store: str, name: str) -> None:
    found = await explained(store, lambda database: reading.workloads(database, FILTERS[name], limit=50))
    print(name, found)
    assert not [scan for scan in found if scan[0] == "Seq Scan" and scan[1] in LARGE], found
    assert max(rows for _, table, rows in found if table in LARGE) <= MOST_ROWS, found


async def test_counts_and_tallies_are_by_index(store: str) -> None:
    async def ask(database: Any) -> None:
        await reading.counts(database, heartbeat_seconds=10)
        await tallies.queues(database, heartbeat_seconds=10)
        await tallies.last_hour(database)

    found = await explained(store, ask)
    print(found)
    assert not [scan for scan in found if scan[0] == "Seq Scan" and scan[1] in LARGE], found


def test_a_scan_of_a_large_table_is_found(store: str) -> None:
    """What the others look for is there to be found."""

    async def ask(database: Any) -> None:
        await database.fetch("SELECT count(*) FROM isthmus_workload WHERE detail = 'x'")

    found = asyncio.run(explained(store, ask))
    assert ("Seq Scan", "isthmus_workload") in [scan[:2] for scan in found]
