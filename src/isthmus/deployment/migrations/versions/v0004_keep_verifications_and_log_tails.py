"""Keep the history of verifications, and the last log tail of an agent."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both tables, and the column for the order of a log tail."""
    op.add_column("isthmus_agent", sa.Column("log_order", UUID(as_uuid=True)))
    op.create_table(
        "isthmus_verification",
        sa.Column("id", UUID(as_uuid=True), nullable=False),
        sa.Column("agent_id", UUID(as_uuid=True)),
        sa.Column("agent_name", sa.Text(), nullable=False),
        sa.Column("ordered_by", sa.Text()),
        sa.Column("ordered", JSONB()),
        sa.Column("ordered_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("reported_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("unanswered", sa.Text()),
        sa.Column("report", JSONB()),
        sa.PrimaryKeyConstraint("id", name="pk_isthmus_verification"),
        sa.ForeignKeyConstraint(
            ["agent_id"], ["isthmus_agent.id"], ondelete="SET NULL", name="fk_isthmus_verification_agent_id"
        ),
    )
    op.create_index(
        "ix_isthmus_verification_recent", "isthmus_verification", [sa.text("ordered_at DESC"), sa.text("id DESC")]
    )
    op.create_index(
        "ix_isthmus_verification_agent",
        "isthmus_verification",
        ["agent_name", sa.text("ordered_at DESC"), sa.text("id DESC")],
    )
    op.create_index(
        "ix_isthmus_verification_open",
        "isthmus_verification",
        ["agent_id"],
        postgresql_where=sa.text("finished_at IS NULL AND unanswered IS NULL"),
    )
    op.create_table(
        "isthmus_log_tail",
        sa.Column("agent_id", UUID(as_uuid=True), nullable=False),
        sa.Column("order_id", UUID(as_uuid=True), nullable=False),
        sa.Column("ordered_by", sa.Text()),
        sa.Column("ordered_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("received_at", sa.DateTime(timezone=True)),
        sa.Column("lines", JSONB(), nullable=False, server_default=sa.text("'[]'")),
        sa.PrimaryKeyConstraint("agent_id", name="pk_isthmus_log_tail"),
        sa.ForeignKeyConstraint(
            ["agent_id"], ["isthmus_agent.id"], ondelete="CASCADE", name="fk_isthmus_log_tail_agent_id"
        ),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("isthmus_log_tail")
    op.drop_table("isthmus_verification")
    op.drop_column("isthmus_agent", "log_order")
