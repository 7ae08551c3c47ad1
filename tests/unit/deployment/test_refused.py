"""What is kept of those who were turned away, before it is written."""

import asyncio
from typing import Any

import pytest

from isthmus.deployment.arrivals import Arrival
from isthmus.deployment.errors import DatabaseError
from isthmus.deployment.refused import MAX_PENDING, RefusedCallers
from isthmus.wire.names import PathKind
from isthmus.wire.problems import Code


class Pool:
    """Takes the columns of a statement, or is away."""

    def __init__(self) -> None:
        self.away = False
        self.rows: list[tuple[Any, ...]] = []

    async def execute(self, _: str, *columns: list[Any]) -> None:
        if self.away:
            raise OSError("gone")
        self.rows += zip(*columns, strict=True)


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def callers(pool: Any) -> RefusedCallers:
    return RefusedCallers(pool)


def test_repetitions_are_one_row(callers: RefusedCallers, pool: Pool) -> None:
    here = Arrival("192.0.2.7", PathKind.LINK, 7)
    for number in range(5):
        callers.note(Code.TOKEN_REVOKED, here, token_id="abcdefgh2345", detail=f"time {number}\x00")
    callers.note(Code.REQUEST_INVALID, here)
    asyncio.run(callers.flush())
    assert pool.rows == [("token_revoked", "192.0.2.7", "link", 7, "abcdefgh2345", 5, "time 4")]
    asyncio.run(callers.flush())
    assert len(pool.rows) == 1


def test_an_address_that_is_none_and_a_link_of_unknown_id_have_a_key(callers: RefusedCallers, pool: Pool) -> None:
    callers.note(Code.TOKEN_MISSING, Arrival(None, PathKind.LINK, None))
    asyncio.run(callers.flush())
    assert pool.rows == [("token_missing", "0.0.0.0", "link", -1, "", 1, "")]


def test_an_outage_loses_none_of_them(callers: RefusedCallers, pool: Pool) -> None:
    callers.note(Code.TOKEN_MISSING, Arrival("192.0.2.7"))
    pool.away = True
    with pytest.raises(DatabaseError):
        asyncio.run(callers.flush())
    pool.away = False
    callers.note(Code.TOKEN_MISSING, Arrival("192.0.2.7"))
    asyncio.run(callers.flush())
    assert [row[5] for row in pool.rows] == [2]


def test_a_flood_of_addresses_is_bounded(callers: RefusedCallers, pool: Pool) -> None:
    for number in range(3 * MAX_PENDING):
        callers.note(Code.SOURCE_NOT_ALLOWED, Arrival(f"10.0.{number // 250}.{number % 250}"))
    asyncio.run(callers.flush())
    assert len(pool.rows) == MAX_PENDING
