"""Sessions of browsers, and indexes for what the audit log is filtered by."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMA = "isthmus_control"


def upgrade() -> None:
    """Create the table and the indexes."""
    op.create_table(
        "session",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["operator"], [f"{SCHEMA}.operator.name"], name="fk_session_operator"),
        sa.PrimaryKeyConstraint("id", name="pk_session"),
        schema=SCHEMA,
    )
    op.create_index("ix_session_expires_at", "session", ["expires_at"], unique=False, schema=SCHEMA)
    for column in ("operator", "action", "at"):
        op.create_index(f"ix_audit_{column}", "audit", [column, "id"], unique=False, schema=SCHEMA)


def downgrade() -> None:
    """Drop them."""
    for column in ("operator", "action", "at"):
        op.drop_index(f"ix_audit_{column}", table_name="audit", schema=SCHEMA)
    op.drop_table("session", schema=SCHEMA)
