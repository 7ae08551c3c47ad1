"""Create the tables of the control plane."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import CIDR, INET, JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "isthmus_control"


def upgrade() -> None:
    """Create the tables and their indexes."""
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("source_address", INET(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("before", JSONB(), nullable=True),
        sa.Column("after", JSONB(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        schema=SCHEMA,
    )
    op.create_index("ix_audit_subject", "audit", ["subject", "id"], unique=False, schema=SCHEMA)
    op.create_table(
        "cluster",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cidr", CIDR(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cluster"),
        schema=SCHEMA,
    )
    op.create_table(
        "operator",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.Column("secret_sha256", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_operator"),
        sa.UniqueConstraint("token_id", name="uq_operator_token_id"),
        schema=SCHEMA,
    )
    op.create_table(
        "organization",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_organization"),
        schema=SCHEMA,
    )
    op.create_table(
        "deployment",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cluster_id", sa.Text(), nullable=False),
        sa.Column("servers", JSONB(), nullable=False),
        sa.Column("tls_name", sa.Text(), nullable=True),
        sa.Column("admin_url", sa.Text(), nullable=True),
        sa.Column("admin_token_reference", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["cluster_id"], [f"{SCHEMA}.cluster.id"], name="fk_deployment_cluster_id"),
        sa.PrimaryKeyConstraint("id", name="pk_deployment"),
        schema=SCHEMA,
    )
    op.create_index("ix_deployment_cluster_id", "deployment", ["cluster_id"], unique=False, schema=SCHEMA)
    op.create_table(
        "expectation",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cluster_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("matched_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["cluster_id"], [f"{SCHEMA}.cluster.id"], name="fk_expectation_cluster_id"),
        sa.PrimaryKeyConstraint("id", name="pk_expectation"),
        schema=SCHEMA,
    )
    op.create_index("uq_expectation_value", "expectation", ["cluster_id", "kind", "value"], unique=True, schema=SCHEMA)
    op.create_table(
        "link",
        sa.Column("cluster_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("spec", JSONB(), nullable=False),
        sa.Column("may_disconnect", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("alias", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("nat_addresses", JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("problem", JSONB(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.ForeignKeyConstraint(["cluster_id"], [f"{SCHEMA}.cluster.id"], name="fk_link_cluster_id"),
        sa.PrimaryKeyConstraint("cluster_id", name="pk_link"),
        schema=SCHEMA,
    )
    op.create_table(
        "connection",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cluster_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("endpoint_id", sa.Text(), nullable=False),
        sa.Column("subscription", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("wanted", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("message", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("link_id", sa.BigInteger(), nullable=True),
        sa.Column("location", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_gone", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("problem", JSONB(), nullable=True),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.ForeignKeyConstraint(
            ["cluster_id"], [f"{SCHEMA}.link.cluster_id"], name="fk_connection_cluster_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_connection"),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_connection_list", "connection", ["cluster_id", "first_seen_at", "id"], unique=False, schema=SCHEMA
    )
    op.create_index(
        "uq_connection_name",
        "connection",
        ["cluster_id", "name"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("NOT is_gone"),
    )


def downgrade() -> None:
    """Drop them, and all that they hold."""
    op.drop_index("uq_connection_name", table_name="connection", schema=SCHEMA, postgresql_where=sa.text("NOT is_gone"))
    op.drop_index("ix_connection_list", table_name="connection", schema=SCHEMA)
    op.drop_table("connection", schema=SCHEMA)
    op.drop_table("link", schema=SCHEMA)
    op.drop_index("uq_expectation_value", table_name="expectation", schema=SCHEMA)
    op.drop_table("expectation", schema=SCHEMA)
    op.drop_index("ix_deployment_cluster_id", table_name="deployment", schema=SCHEMA)
    op.drop_table("deployment", schema=SCHEMA)
    op.drop_table("organization", schema=SCHEMA)
    op.drop_table("operator", schema=SCHEMA)
    op.drop_table("cluster", schema=SCHEMA)
    op.drop_index("ix_audit_subject", table_name="audit", schema=SCHEMA)
    op.drop_table("audit", schema=SCHEMA)
