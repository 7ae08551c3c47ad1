"""Keep the path of agents, the links that tokens are bound to, and the order and the time of an agent's report."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; an agent that is there came over the public path as far as anybody knows."""
    op.add_column("isthmus_token", sa.Column("links", JSONB(), nullable=False, server_default=sa.text("'[]'")))
    op.add_column("isthmus_agent", sa.Column("path", sa.Text(), nullable=False, server_default=sa.text("'public'")))
    op.add_column("isthmus_agent", sa.Column("link_id", sa.BigInteger()))
    op.add_column("isthmus_agent", sa.Column("path_since", sa.DateTime(timezone=True)))
    op.add_column("isthmus_agent", sa.Column("probes_order", JSONB()))
    op.add_column("isthmus_agent", sa.Column("probe_reported_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    """Drop the columns."""
    for column in ("probe_reported_at", "probes_order", "path_since", "link_id", "path"):
        op.drop_column("isthmus_agent", column)
    op.drop_column("isthmus_token", "links")
