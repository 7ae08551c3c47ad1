"""Keep the DAG bundles that agents bring, the files in them, and what was handed out of them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "isthmus_bundle",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.Column("agent_id", UUID(as_uuid=True)),
        sa.Column("fence", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True)),
        sa.Column("version", sa.Text()),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("passed_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("name", name="pk_isthmus_bundle"),
        sa.ForeignKeyConstraint(["token_id"], ["isthmus_token.id"], name="fk_isthmus_bundle_token_id"),
        sa.ForeignKeyConstraint(
            ["agent_id"], ["isthmus_agent.id"], ondelete="SET NULL", name="fk_isthmus_bundle_agent_id"
        ),
    )
    op.create_table(
        "isthmus_bundle_offer",
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("agent_id", UUID(as_uuid=True), nullable=False),
        sa.Column("version", sa.Text()),
        sa.Column("offered_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("bundle", "agent_id", name="pk_isthmus_bundle_offer"),
        sa.ForeignKeyConstraint(
            ["bundle"], ["isthmus_bundle.name"], ondelete="CASCADE", name="fk_isthmus_bundle_offer_bundle"
        ),
        sa.ForeignKeyConstraint(
            ["agent_id"], ["isthmus_agent.id"], ondelete="CASCADE", name="fk_isthmus_bundle_offer_agent_id"
        ),
    )
    op.create_index("ix_isthmus_bundle_offer_agent_id", "isthmus_bundle_offer", ["agent_id"])
    op.create_table(
        "isthmus_dag_file",
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("relative_fileloc", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("detail", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("dag_ids", JSONB(), nullable=False, server_default=sa.text("'[]'")),
        sa.Column("import_errors", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("duration_seconds", sa.Double(), nullable=False, server_default=sa.text("0")),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("bundle", "relative_fileloc", name="pk_isthmus_dag_file"),
        sa.ForeignKeyConstraint(
            ["bundle"], ["isthmus_bundle.name"], ondelete="CASCADE", name="fk_isthmus_dag_file_bundle"
        ),
    )
    op.create_table(
        "isthmus_dag_claim",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("agent_id", UUID(as_uuid=True)),
        sa.Column("fence", sa.BigInteger(), nullable=False, server_default=sa.text("1")),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_isthmus_dag_claim"),
        sa.ForeignKeyConstraint(
            ["bundle"], ["isthmus_bundle.name"], ondelete="CASCADE", name="fk_isthmus_dag_claim_bundle"
        ),
        sa.ForeignKeyConstraint(
            ["agent_id"], ["isthmus_agent.id"], ondelete="SET NULL", name="fk_isthmus_dag_claim_agent_id"
        ),
    )


def downgrade() -> None:
    """Drop them."""
    for name in ("isthmus_dag_claim", "isthmus_dag_file", "isthmus_bundle_offer", "isthmus_bundle"):
        op.drop_table(name)
