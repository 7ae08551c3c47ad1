"""Keep the logs of tasks that agents ship."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import UUID

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "isthmus_shipped_log",
        sa.Column("workload_id", UUID(as_uuid=True), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("agent_id", UUID(as_uuid=True), nullable=False),
        sa.Column("agent_name", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("complete", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("cut", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("workload_id", name="pk_isthmus_shipped_log"),
    )
    op.create_index("ix_isthmus_shipped_log_subject_id", "isthmus_shipped_log", ["subject_id"])
    op.create_index("ix_isthmus_shipped_log_begun_at", "isthmus_shipped_log", ["begun_at"])
    op.create_table(
        "isthmus_shipped_log_part",
        sa.Column("workload_id", UUID(as_uuid=True), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("workload_id", "start", name="pk_isthmus_shipped_log_part"),
        sa.ForeignKeyConstraint(
            ["workload_id"],
            ["isthmus_shipped_log.workload_id"],
            ondelete="CASCADE",
            name="fk_isthmus_shipped_log_part_workload_id",
        ),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("isthmus_shipped_log_part")
    op.drop_table("isthmus_shipped_log")
