"""Alembic's environment: run the revisions on Airflow's database, with a version table of our own.

Alembic executes this file by its path; nobody imports it. A test may hand over a connection in the config's attributes.
"""

import contextlib

from alembic import context

from isthmus.deployment import compat, schema, tables


def _run() -> None:
    with contextlib.ExitStack() as stack:
        if context.is_offline_mode():
            context.configure(
                url=context.config.get_main_option("sqlalchemy.url"),
                target_metadata=tables.metadata,
                literal_binds=True,
                version_table=schema.VERSION_TABLE,
            )
        else:
            connection = context.config.attributes.get("connection")
            context.configure(
                connection=connection or stack.enter_context(compat.engine().connect()),
                target_metadata=tables.metadata,
                transaction_per_migration=True,
                version_table=schema.VERSION_TABLE,
            )
        with context.begin_transaction():
            context.run_migrations()


_run()
