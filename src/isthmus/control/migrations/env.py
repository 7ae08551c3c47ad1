"""Alembic's environment: run the revisions on the connection that ``schema`` hands over.

Alembic executes this file by its path; nobody imports it.
"""

from alembic import context

from isthmus.control import schema, tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    version_table=schema.VERSION_TABLE,
    version_table_schema=tables.SCHEMA,
    include_schemas=True,
)
with context.begin_transaction():
    context.run_migrations()
