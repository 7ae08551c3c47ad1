"""The control plane's tables, in a schema of their own, so that the database may be somebody else's as well.

Invariants: a row's ``version`` grows with each change that somebody decides on; ``audit`` is only ever added to.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import CIDR, INET, JSONB

SCHEMA: Final = "isthmus_control"

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    },
)


def _time(name: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable, server_default=None if nullable else func.now())


def _text(name: str, default: str | None = None) -> Column[str]:
    return Column(name, Text, nullable=False, server_default=None if default is None else text(f"'{default}'"))


def _cluster_id(*, primary_key: bool = False) -> Column[str]:
    return Column(
        "cluster_id", ForeignKey(f"{SCHEMA}.cluster.id"), primary_key=primary_key, nullable=False, index=not primary_key
    )


organization = Table(
    "organization", metadata, Column("name", Text, primary_key=True), _time("created_at", nullable=False)
)

operator = Table(
    "operator",
    metadata,
    Column("name", Text, primary_key=True),
    _text("role"),
    Column("token_id", Text, nullable=False, unique=True),
    _text("secret_sha256"),  # hex digest of the secret part
    _text("created_by"),
    _time("created_at", nullable=False),
    _time("revoked_at"),
    _time("last_used_at"),
)

session = Table(
    "session",
    metadata,
    Column("id", Text, primary_key=True),  # hex SHA-256 of the cookie's secret
    Column("operator", ForeignKey(f"{SCHEMA}.operator.name"), nullable=False),
    _time("created_at", nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False, index=True),
)

cluster = Table(
    "cluster",
    metadata,
    Column("id", Text, primary_key=True),
    Column("cidr", CIDR, nullable=False),
    _text("domain"),
    _text("region"),
    _time("created_at", nullable=False),
)

deployment = Table(
    "deployment",
    metadata,
    Column("id", Text, primary_key=True),
    _cluster_id(),
    Column("servers", JSONB, nullable=False),
    Column("tls_name", Text),
    Column("admin_url", Text),
    _text("admin_token_reference", ""),
    _time("created_at", nullable=False),
)

link = Table(
    "link",
    metadata,
    _cluster_id(primary_key=True),
    _text("state"),
    Column("spec", JSONB, nullable=False),  # wire.control.LinkBody
    Column("may_disconnect", Boolean, nullable=False, server_default=false()),
    _text("alias", ""),
    Column("nat_addresses", JSONB, nullable=False, server_default=text("'[]'")),
    Column("problem", JSONB),  # wire.control.NoteView
    _time("created_at", nullable=False),
    _time("published_at"),
    _time("observed_at"),
    Column("version", Integer, nullable=False, server_default=text("1")),
)

connection = Table(
    "connection",
    metadata,
    Column("id", Text, primary_key=True),
    Column("cluster_id", ForeignKey(f"{SCHEMA}.link.cluster_id", ondelete="CASCADE"), nullable=False),
    _text("name"),  # the cloud's
    _text("endpoint_id"),
    _text("subscription"),
    _text("state"),
    Column("wanted", Text),  # a decision that the cloud has not taken yet
    _text("reason", ""),
    _text("message", ""),
    Column("link_id", BigInteger),
    _text("location", ""),
    _time("first_seen_at", nullable=False),
    _time("changed_at", nullable=False),
    Column("decided_by", Text),
    _time("decided_at"),
    Column("is_gone", Boolean, nullable=False, server_default=false()),
    _time("refused_at"),  # when somebody rejected or removed it; stays when it is gone
    Column("problem", JSONB),
    Column("version", Integer, nullable=False, server_default=text("1")),
)
Index("ix_connection_list", connection.c.cluster_id, connection.c.first_seen_at, connection.c.id)
Index(
    "uq_connection_name",
    connection.c.cluster_id,
    connection.c.name,
    unique=True,
    postgresql_where=~connection.c.is_gone,
)

expectation = Table(
    "expectation",
    metadata,
    Column("id", Text, primary_key=True),
    Column("cluster_id", ForeignKey(f"{SCHEMA}.cluster.id"), nullable=False),
    _text("kind"),
    _text("value"),  # lower case, as Azure compares
    _text("reason", ""),
    _text("created_by"),
    _time("created_at", nullable=False),
    _time("matched_at"),
    Index("uq_expectation_value", "cluster_id", "kind", "value", unique=True),
)

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _time("at", nullable=False),
    _text("operator"),
    Column("source_address", INET),
    _text("action"),
    _text("subject"),
    Column("before", JSONB),
    Column("after", JSONB),
)
Index("ix_audit_subject", audit.c.subject, audit.c.id)
Index("ix_audit_operator", audit.c.operator, audit.c.id)
Index("ix_audit_action", audit.c.action, audit.c.id)
Index("ix_audit_at", audit.c.at, audit.c.id)

#: Changes that deployments were asked for, until their entry is in ``audit`` (``changing``).
asked = Table(
    "asked",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _time("at", nullable=False),
    _text("operator"),
    Column("source_address", INET),
    _text("action"),
    _text("subject"),
    Column("before", JSONB),
    Column("wanted", JSONB),
)
