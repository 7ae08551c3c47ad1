"""When connections were refused, also those that are gone: a customer that asks again is not let in by a rule."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SCHEMA = "isthmus_control"


def upgrade() -> None:
    """Add the time; of rejections that stand it is the last change."""
    op.add_column("connection", sa.Column("refused_at", sa.DateTime(timezone=True), nullable=True), schema=SCHEMA)
    op.execute(f"UPDATE {SCHEMA}.connection SET refused_at = changed_at WHERE state = 'rejected'")  # noqa: S608


def downgrade() -> None:
    """Remove it."""
    op.drop_column("connection", "refused_at", schema=SCHEMA)
