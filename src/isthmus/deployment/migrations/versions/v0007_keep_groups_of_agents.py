"""Keep the groups of agents, and who stands by for which."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_STANDS_BY = sa.text("standby_for IS NOT NULL")


def upgrade() -> None:
    """Add the columns and the table."""
    op.add_column("isthmus_agent", sa.Column("group_name", sa.Text()))
    op.add_column("isthmus_agent", sa.Column("standby_for", sa.Text()))
    op.add_column(
        "isthmus_agent", sa.Column("standby_seconds", sa.Double(), nullable=False, server_default=sa.text("0"))
    )
    op.add_column("isthmus_agent", sa.Column("standby_active", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index("ix_isthmus_agent_standby", "isthmus_agent", ["standby_for"], postgresql_where=_STANDS_BY)
    op.create_index(
        "ix_isthmus_agent_group", "isthmus_agent", ["group_name"], postgresql_where=sa.text("group_name IS NOT NULL")
    )
    op.create_table(
        "isthmus_group",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("able", sa.Boolean(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("name", "role", name="pk_isthmus_group"),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("isthmus_group")
    op.drop_index("ix_isthmus_agent_group", "isthmus_agent")
    op.drop_index("ix_isthmus_agent_standby", "isthmus_agent")
    for name in ("standby_active", "standby_seconds", "standby_for", "group_name"):
        op.drop_column("isthmus_agent", name)
