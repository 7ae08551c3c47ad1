"""Create the tables: tokens, allow list, agents, workloads."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import CIDR, INET, JSONB, UUID

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the four tables and the indexes of their loops."""
    op.create_table(
        "isthmus_token",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_sha256", sa.Text(), nullable=False),
        sa.Column("roles", JSONB(), nullable=False, server_default=sa.text("'[]'")),
        sa.Column("queues", JSONB(), nullable=False, server_default=sa.text("'[]'")),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.Column("last_used_at", sa.DateTime(timezone=True)),
        sa.Column("last_used_address", INET()),
        sa.Column("successor_id", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_isthmus_token"),
        sa.ForeignKeyConstraint(
            ["successor_id"], ["isthmus_token.id"], ondelete="SET NULL", name="fk_isthmus_token_successor_id"
        ),
    )
    op.create_table(
        "isthmus_allowed_range",
        sa.Column("range", CIDR(), nullable=False),
        sa.PrimaryKeyConstraint("range", name="pk_isthmus_allowed_range"),
    )
    op.create_table(
        "isthmus_agent",
        sa.Column("id", UUID(as_uuid=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("instance_id", UUID(as_uuid=True), nullable=False),
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.Column("queues", JSONB(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("slots_used", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("phase", sa.Text(), nullable=False, server_default=sa.text("'ready'")),
        sa.Column("cordoned", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("draining", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("versions", JSONB(), nullable=False),
        sa.Column("labels", JSONB(), nullable=False, server_default=sa.text("'{}'")),
        sa.Column("warnings", JSONB(), nullable=False, server_default=sa.text("'[]'")),
        sa.Column("probe_report", JSONB()),
        sa.Column("address", INET()),
        sa.Column("enrolled_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("last_heartbeat_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_isthmus_agent"),
        sa.UniqueConstraint("name", name="uq_isthmus_agent_name"),
        sa.ForeignKeyConstraint(["token_id"], ["isthmus_token.id"], name="fk_isthmus_agent_token_id"),
    )
    op.create_index("ix_isthmus_agent_token_id", "isthmus_agent", ["token_id"])
    op.create_table(
        "isthmus_workload",
        sa.Column("id", UUID(as_uuid=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, server_default=sa.text("'queued'")),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("bundle", sa.Text()),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("payload", JSONB(), nullable=False),
        sa.Column("executor_config", JSONB()),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("dag_id", sa.Text()),
        sa.Column("task_id", sa.Text()),
        sa.Column("run_id", sa.Text()),
        sa.Column("map_index", sa.Integer()),
        sa.Column("try_number", sa.Integer()),
        sa.Column("scheduler_job_id", sa.Integer()),
        sa.Column("team_name", sa.Text()),
        sa.Column("agent_id", UUID(as_uuid=True)),
        sa.Column("claim_id", UUID(as_uuid=True)),
        sa.Column("fence", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True)),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("releases", sa.SmallInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("leased_at", sa.DateTime(timezone=True)),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("settled_at", sa.DateTime(timezone=True)),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("detail", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("unseen", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("id", name="pk_isthmus_workload"),
        sa.ForeignKeyConstraint(
            ["agent_id"], ["isthmus_agent.id"], ondelete="SET NULL", name="fk_isthmus_workload_agent_id"
        ),
    )
    active = sa.text("state IN ('leased', 'running')")
    op.create_index(
        "ix_isthmus_workload_queued",
        "isthmus_workload",
        ["queue", sa.text("priority DESC"), "queued_at"],
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ix_isthmus_workload_unseen", "isthmus_workload", ["scheduler_job_id"], postgresql_where=sa.text("unseen")
    )
    op.create_index("ix_isthmus_workload_lease", "isthmus_workload", ["lease_expires_at"], postgresql_where=active)
    op.create_index("ix_isthmus_workload_held", "isthmus_workload", ["agent_id"], postgresql_where=active)
    op.create_index(
        "ix_isthmus_workload_cancelling",
        "isthmus_workload",
        ["agent_id"],
        postgresql_where=sa.text("cancel_requested AND state IN ('leased', 'running')"),
    )
    op.create_index("ix_isthmus_workload_subject", "isthmus_workload", ["subject_id"])
    op.create_index(
        "ix_isthmus_workload_settled",
        "isthmus_workload",
        ["settled_at"],
        postgresql_where=sa.text("settled_at IS NOT NULL"),
    )
    op.create_index("ix_isthmus_workload_recent", "isthmus_workload", [sa.text("queued_at DESC"), sa.text("id DESC")])


def downgrade() -> None:
    """Drop them, and all that they hold."""
    for table in ("isthmus_workload", "isthmus_agent", "isthmus_allowed_range", "isthmus_token"):
        op.drop_table(table)
