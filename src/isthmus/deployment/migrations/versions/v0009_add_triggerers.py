"""Add the instances of agents that run triggers, and the events that were taken."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "isthmus_triggerer",
        sa.Column("job_id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("agent_id", UUID(as_uuid=True)),
        sa.Column("instance_id", UUID(as_uuid=True), nullable=False),
        sa.Column("capacity", sa.Integer(), nullable=False),
        sa.Column("bundles", JSONB(), nullable=False, server_default=sa.text("'[]'")),
        sa.Column("loaded_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("job_id", name="pk_isthmus_triggerer"),
        sa.UniqueConstraint("agent_id", name="uq_isthmus_triggerer_agent_id"),
        sa.ForeignKeyConstraint(
            ["agent_id"], ["isthmus_agent.id"], ondelete="SET NULL", name="fk_isthmus_triggerer_agent_id"
        ),
    )
    op.create_table(
        "isthmus_trigger_event",
        sa.Column("id", UUID(as_uuid=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("id", name="pk_isthmus_trigger_event"),
    )
    op.create_index("ix_isthmus_trigger_event_received_at", "isthmus_trigger_event", ["received_at"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("isthmus_trigger_event")
    op.drop_table("isthmus_triggerer")
