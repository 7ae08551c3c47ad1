"""Carry task logs from agents to readers, in tables that the database's log does not hold."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "isthmus_log_read",
        sa.Column("id", UUID(as_uuid=True), nullable=False),
        sa.Column("agent_id", UUID(as_uuid=True), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("subject", JSONB()),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("claimed_at", sa.DateTime(timezone=True)),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("taken", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("ended", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("id", name="pk_isthmus_log_read"),
        prefixes=["UNLOGGED"],
    )
    op.create_index(
        "ix_isthmus_log_read_asked",
        "isthmus_log_read",
        ["agent_id"],
        postgresql_where=sa.text("claimed_at IS NULL"),
    )
    op.create_table(
        "isthmus_log_chunk",
        sa.Column("read_id", UUID(as_uuid=True), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("fault", sa.Text()),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("read_id", "sequence", name="pk_isthmus_log_chunk"),
        prefixes=["UNLOGGED"],
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("isthmus_log_chunk")
    op.drop_table("isthmus_log_read")
