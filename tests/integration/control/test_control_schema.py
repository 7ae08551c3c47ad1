"""The control plane's tables: made by migrations, as they are declared; and a database that is away or not ready."""

import asyncio
from collections.abc import Callable

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from tests.fakes.control_plane import prepare

from isthmus.control import operators, schema, tables
from isthmus.control.databases import Database
from isthmus.control.errors import ControlRefusedError, DatabaseError
from isthmus.kit.errors import ConfigError


async def test_migrations_lead_to_the_tables_as_declared(new_database: Callable[[], str]) -> None:
    def differences(connection: Connection) -> list[object]:
        options = {
            "include_schemas": True,
            "version_table_schema": tables.SCHEMA,
            "compare_server_default": True,
            "include_name": lambda name, kind, _: kind != "schema" or name == tables.SCHEMA,
        }
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, tables.metadata))

    async with Database(new_database()) as database:
        with pytest.raises(ConfigError, match="revision none") as caught:
            await schema.check(database)
        assert caught.value.code == "database_not_migrated"
        # At once by two processes, as when two replicas start.
        first, second = await asyncio.gather(schema.migrate(database), schema.migrate(database))
        assert first == second
        await schema.check(database)
        async with database.begin() as connection:
            assert await connection.run_sync(differences) == []


async def test_tokens_are_stored_hashed_and_compared_whole(new_database: Callable[[], str]) -> None:
    url = new_database()
    token = await prepare(url)
    async with Database(url) as database, database.begin() as connection:
        assert (await operators.verify(connection, token)).name == "ann"
        stored = str((await connection.execute(text("SELECT * FROM isthmus_control.operator"))).all())
        assert token.rpartition("_")[2] not in stored
        for wrong in ("", token[:-1], token + "x", token[:-1] + ("A" if token[-1] != "A" else "B"), "isthmus_op_a_b"):
            with pytest.raises(ControlRefusedError):
                await operators.verify(connection, wrong)


async def test_a_database_that_is_away_is_an_error_that_passes() -> None:
    async with Database("postgresql://nobody:secret@127.0.0.1:1/none") as database:
        with pytest.raises(DatabaseError) as caught:
            await schema.check(database)
        assert "secret" not in str(caught.value)
        assert caught.value.retryable


async def test_who_is_cancelled_at_the_end_leaves_no_connection(new_database: Callable[[], str]) -> None:
    url, busy = new_database(), asyncio.Event()

    async def use() -> None:
        async with database.begin() as connection:
            busy.set()
            await connection.execute(text("SELECT pg_sleep(10)"))

    async with Database(url) as database:
        user = asyncio.create_task(use())
        await busy.wait()
        user.cancel()  # and nobody waits for it
    assert user.done()
    async with Database(url) as after, after.begin() as connection:
        open_now = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        assert (await connection.execute(text(open_now))).scalar_one() == 1


@pytest.mark.parametrize("url", ["sqlite:///x", "mysql://a:b@c/d", "nonsense", ""])
def test_only_postgresql_is_taken(url: str) -> None:
    with pytest.raises(ConfigError):
        Database(url)
