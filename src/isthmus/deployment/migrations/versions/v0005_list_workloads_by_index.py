"""List workloads by index, whatever they are filtered by."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ORDER = (sa.text("queued_at DESC"), sa.text("id DESC"))
_BY = {"queue": "queue", "dag": "dag_id", "agent": "agent_id"}


def upgrade() -> None:
    """Create the indexes."""
    for name, column in _BY.items():
        op.create_index(f"ix_isthmus_workload_recent_{name}", "isthmus_workload", [column, *_ORDER])
    op.create_index(
        "ix_isthmus_workload_recent_ended",
        "isthmus_workload",
        ["state", *_ORDER],
        postgresql_where=sa.text("state IN ('failed', 'lost', 'cancelled')"),
    )


def downgrade() -> None:
    """Drop them."""
    for name in (*_BY, "ended"):
        op.drop_index(f"ix_isthmus_workload_recent_{name}", "isthmus_workload")
