import asyncio
from datetime import UTC, timedelta

import pytest
from tests import planting

from isthmus.deployment import pooling
from isthmus.deployment.arrivals import NOWHERE, Arrival
from isthmus.deployment.errors import PlaneRefusedError
from isthmus.deployment.pooling import Pool
from isthmus.deployment.tokens import TokenBook
from isthmus.kit.clocks import ManualClock, SystemClock
from isthmus.wire.admin import TokenState
from isthmus.wire.names import Role
from isthmus.wire.problems import Code

DEPLOYMENT_ID = "dtest234"


@pytest.fixture
async def book(pool: Pool) -> TokenBook:
    return TokenBook(pool, DEPLOYMENT_ID, limit=3)


async def refused(awaitable: object) -> Code:
    with pytest.raises(PlaneRefusedError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value.problem


async def test_a_token_opens_the_door_and_only_its_hash_is_stored(pool: Pool, book: TokenBook) -> None:
    token, text = await book.create("site", expires_days=30, roles=[Role.WORKER], queues=["edge", "edge"])
    assert await book.verify(str(text), Arrival("192.0.2.1")) == token
    assert (token.roles, token.queues, token.state(SystemClock().now())) == (
        {Role.WORKER},
        {"edge"},
        TokenState.ACTIVE,
    )
    assert token.expires_at is not None
    assert token.expires_at - token.created_at == timedelta(days=30)
    stored = await pool.fetchval("SELECT t::text FROM isthmus_token AS t")
    assert text.secret not in stored


async def test_each_refusal_has_its_own_code(book: TokenBook) -> None:
    token, text = await book.create("site", expires_days=None)
    assert token.expires_at is None
    assert await refused(book.verify(None, NOWHERE)) == Code.TOKEN_MISSING
    assert await refused(book.verify("isthmus_nonsense", NOWHERE)) == Code.TOKEN_INVALID
    other = str(text).replace(DEPLOYMENT_ID, "dother22")
    assert await refused(book.verify(other, NOWHERE)) == Code.TOKEN_WRONG_DEPLOYMENT
    wrong = str(text)[:-1] + ("A" if str(text)[-1] != "A" else "B")
    assert await refused(book.verify(wrong, NOWHERE)) == Code.TOKEN_INVALID
    unknown = str(text).replace(token.token_id, "aaaaaaaaaaaa")
    assert await refused(book.verify(unknown, NOWHERE)) == Code.TOKEN_INVALID
    await book.revoke(token.token_id)
    assert await refused(book.verify(str(text), NOWHERE)) == Code.TOKEN_REVOKED
    # What a token's state is, is told only to who has its secret.
    assert await refused(book.verify(wrong, NOWHERE)) == Code.TOKEN_INVALID


async def test_an_expired_token_is_refused_as_expired(pool: Pool) -> None:
    clock = ManualClock(SystemClock().now())
    book = TokenBook(pool, DEPLOYMENT_ID, clock=clock)
    _, text = await book.create("site", expires_days=1)
    await book.verify(str(text), NOWHERE)
    clock.advance(86400 + 60)
    assert await refused(book.verify(str(text), NOWHERE)) == Code.TOKEN_EXPIRED


async def test_a_token_that_another_process_made_or_revoked_is_known(pool: Pool, book: TokenBook) -> None:
    other = TokenBook(pool, DEPLOYMENT_ID)
    await other.load()
    token, text = await book.create("site", expires_days=1)
    assert (await other.verify(str(text), NOWHERE)).token_id == token.token_id
    await book.revoke(token.token_id)
    await other.load()  # what the access channel's notification does
    assert await refused(other.verify(str(text), NOWHERE)) == Code.TOKEN_REVOKED


async def test_unknown_tokens_are_looked_for_at_most_once_a_second(pool: Pool) -> None:
    clock = ManualClock()
    book = TokenBook(pool, DEPLOYMENT_ID, clock=clock)
    _, text = await TokenBook(pool, DEPLOYMENT_ID).create("site", expires_days=1)
    clock.advance(10)
    unknown = f"isthmus_{DEPLOYMENT_ID}_aaaaaaaaaaaa_{'x' * 43}"
    await pool.execute("DELETE FROM isthmus_token")
    assert await refused(book.verify(unknown, NOWHERE)) == Code.TOKEN_INVALID
    token, text = await TokenBook(pool, DEPLOYMENT_ID).create("site", expires_days=None)
    assert await refused(book.verify(str(text), NOWHERE)) == Code.TOKEN_INVALID
    clock.advance(1)
    assert (await book.verify(str(text), NOWHERE)).token_id == token.token_id


async def test_the_limit_counts_active_tokens_and_holds_under_a_race(pool: Pool, book: TokenBook) -> None:
    books = [TokenBook(pool, DEPLOYMENT_ID, limit=3) for _ in range(8)]
    made = await asyncio.gather(*(one.create("site", expires_days=1) for one in books), return_exceptions=True)
    refusals = [one.problem for one in made if isinstance(one, PlaneRefusedError)]
    assert refusals == [Code.TOKEN_LIMIT] * 5
    assert await pool.fetchval("SELECT count(*) FROM isthmus_token") == 3
    first = (await book.all())[0]
    await book.revoke(first.token_id)
    await book.create("site", expires_days=1)
    assert await refused(book.create("site", expires_days=1)) == Code.TOKEN_LIMIT
    await pool.execute("UPDATE isthmus_token SET expires_at = now() WHERE revoked_at IS NULL")
    await book.create("site", expires_days=1)


async def test_rotation_works_at_the_limit_and_the_old_token_ends_after_the_overlap(
    pool: Pool, book: TokenBook
) -> None:
    made = [await book.create("site", expires_days=None, roles=[Role.WORKER], queues=["edge"]) for _ in range(3)]
    old, old_text = made[0]
    new, new_text = await book.rotate(old.token_id, overlap=timedelta(hours=2), expires_days=10)
    assert (new.name, new.roles, new.queues) == (old.name, old.roles, old.queues)
    await book.verify(str(old_text), NOWHERE)
    await book.verify(str(new_text), NOWHERE)
    [rotated] = [token for token in await book.all() if token.token_id == old.token_id]
    assert rotated.successor_id == new.token_id
    assert rotated.expires_at is not None
    left = rotated.expires_at.astimezone(UTC) - SystemClock().now()
    assert timedelta(hours=1, minutes=59) < left <= timedelta(hours=2)
    assert await refused(book.create("another", expires_days=1)) == Code.TOKEN_LIMIT
    assert book.related(old.token_id, new.token_id)
    assert book.related(new.token_id, old.token_id)
    assert not book.related(made[1][0].token_id, new.token_id)
    newest, _ = await book.rotate(new.token_id, overlap=timedelta(0), expires_days=10)
    assert book.related(old.token_id, newest.token_id)
    assert await refused(book.verify(str(new_text), NOWHERE)) == Code.TOKEN_EXPIRED


async def test_what_cannot_be_rotated_or_revoked_says_so(book: TokenBook) -> None:
    token, _ = await book.create("site", expires_days=1)
    await book.revoke(token.token_id)
    revoked_at = (await book.revoke(token.token_id)).revoked_at
    assert revoked_at == (await book.revoke(token.token_id)).revoked_at
    zero = timedelta(0)
    assert await refused(book.rotate(token.token_id, overlap=zero, expires_days=1)) == Code.REQUEST_INVALID
    assert await refused(book.rotate("nothing\x00", overlap=zero, expires_days=1)) == Code.TOKEN_NOT_FOUND
    assert await refused(book.revoke("nothing")) == Code.TOKEN_NOT_FOUND


async def test_the_access_channel_is_notified_of_every_change(core_url: str, book: TokenBook) -> None:
    heard: list[str] = []
    connection = await pooling.connect(core_url)
    try:
        await connection.add_listener("isthmus_access", lambda *arguments: heard.append(str(arguments[2])))
        token, _ = await book.create("site", expires_days=1)
        await planting.until(lambda: len(heard) == 1)
        await book.rotate(token.token_id, overlap=timedelta(0), expires_days=1)
        await planting.until(lambda: len(heard) == 2)
        await book.revoke(token.token_id)
        await planting.until(lambda: len(heard) == 3)
    finally:
        await connection.close()
