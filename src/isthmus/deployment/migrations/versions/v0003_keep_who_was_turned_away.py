"""Keep who was turned away at the door."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import INET

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "isthmus_refusal",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("address", INET(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("link_id", sa.BigInteger(), nullable=False),
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.Column("times", sa.BigInteger(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("id", name="pk_isthmus_refusal"),
        sa.UniqueConstraint(
            "code",
            "address",
            "path",
            "link_id",
            "token_id",
            name="uq_isthmus_refusal_code_address_path_link_id_token_id",
        ),
    )
    op.create_index("ix_isthmus_refusal_last_at", "isthmus_refusal", [sa.text("last_at DESC"), sa.text("id DESC")])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("isthmus_refusal")
