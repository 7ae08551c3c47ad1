"""Keep which bundles a token may bring, and which bundles of agents are refused."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and the table."""
    op.add_column("isthmus_token", sa.Column("bundles", JSONB(), nullable=False, server_default=sa.text("'[]'")))
    op.create_table(
        "isthmus_bundle_refusal",
        sa.Column("agent_id", UUID(as_uuid=True), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("agent_id", "bundle", name="pk_isthmus_bundle_refusal"),
        sa.ForeignKeyConstraint(
            ["agent_id"], ["isthmus_agent.id"], ondelete="CASCADE", name="fk_isthmus_bundle_refusal_agent_id"
        ),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("isthmus_bundle_refusal")
    op.drop_column("isthmus_token", "bundles")
