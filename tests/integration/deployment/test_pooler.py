"""Behind PgBouncer in transaction mode, where each transaction may be in another session of the server."""

import asyncio

from tests import poolers

from isthmus.deployment import pooling


@poolers.NEEDED
async def test_statements_take_turns_at_the_servers_sessions(core_url: str) -> None:
    async def ask(number: int) -> tuple[int, int]:
        async with pool.acquire() as connection, connection.transaction():
            session = await connection.fetchval("SELECT pg_backend_pid()")
            await connection.execute("UPDATE isthmus_token SET name = $1 WHERE false", str(number))
            return session, await connection.fetchval("SELECT $1::int + jsonb_array_length($2)", number, [1, 2])

    with poolers.pooled(core_url) as url:
        async with await pooling.open_pool(url, size=6) as pool:
            answers = await asyncio.gather(*(ask(number) for number in range(200)))
            alone = [await pool.fetchval("SELECT $1::int", number) for number in range(20)]
    assert [answer for _, answer in answers] == [number + 2 for number in range(200)]
    assert len({session for session, _ in answers}) == poolers.SESSIONS
    assert alone == list(range(20))


async def test_a_direct_connection_keeps_its_statements(core_url: str) -> None:
    pool = await pooling.open_pool(core_url, size=1)
    try:
        await pool.fetchval("SELECT 1 + $1::int", 1)
        assert await pool.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SELECT 1 + %'")
    finally:
        await pool.close()
