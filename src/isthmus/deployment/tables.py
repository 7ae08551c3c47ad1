"""The tables of a deployment, in Airflow's own database.

They live beside Airflow's tables so that a workload exists exactly when the scheduler's transaction commits.
``airflow db migrate`` creates and upgrades them (``isthmus.deployment.schema``). This module imports SQLAlchemy
alone: the metadata is shared by the executor (Airflow's session), the migrations, and the tests; the Remote Execution
API writes its own SQL against the same names.

Each partial index serves one loop, so that a loop costs what it changes and not what is stored.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import CIDR, INET, JSONB, UUID

#: Channels of LISTEN/NOTIFY. The payload is empty, except where it says otherwise.
QUEUED_CHANNEL: Final = "isthmus_queued"  #: workloads can be claimed
AGENTS_CHANNEL: Final = "isthmus_agents"  #: an agent's flags or a workload's cancellation changed
ACCESS_CHANNEL: Final = "isthmus_access"  #: tokens or the allow list changed
SCHEDULER_CHANNEL: Final = "isthmus_scheduler"  #: the scheduler has something to look at

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _time(name: str, *, nullable: bool = True, now: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable, server_default=func.now() if now else None)


token = Table(
    "isthmus_token",
    metadata,
    Column("id", Text, primary_key=True),  # public part of the token, 12 base-32 characters
    Column("name", Text, nullable=False),
    Column("secret_sha256", Text, nullable=False),  # hex digest of the secret part
    Column("roles", JSONB, nullable=False, server_default=text("'[]'")),
    Column("queues", JSONB, nullable=False, server_default=text("'[]'")),
    _time("created_at", nullable=False, now=True),
    _time("expires_at"),
    _time("revoked_at"),
    _time("last_used_at"),
    Column("last_used_address", INET),
    Column("successor_id", Text, ForeignKey("isthmus_token.id", ondelete="SET NULL")),
    Column("links", JSONB, nullable=False, server_default=text("'[]'")),  # ids of private link connections
)

allowed_range = Table(
    "isthmus_allowed_range",
    metadata,
    Column("range", CIDR, primary_key=True),
)

agent = Table(
    "isthmus_agent",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("role", Text, nullable=False),
    Column("instance_id", UUID(as_uuid=True), nullable=False),
    Column("token_id", Text, ForeignKey("isthmus_token.id"), nullable=False, index=True),
    Column("queues", JSONB, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("slots_used", Integer, nullable=False, server_default=text("0")),
    Column("phase", Text, nullable=False, server_default=text("'ready'")),
    Column("cordoned", Boolean, nullable=False, server_default=false()),
    Column("draining", Boolean, nullable=False, server_default=false()),
    Column("versions", JSONB, nullable=False),
    Column("labels", JSONB, nullable=False, server_default=text("'{}'")),
    Column("warnings", JSONB, nullable=False, server_default=text("'[]'")),
    Column("probe_report", JSONB),
    Column("address", INET),
    _time("enrolled_at", nullable=False, now=True),
    _time("last_heartbeat_at"),
    # By which path the agent came last, and since when it has been that one. The address is no part of the path: a
    # network has several, and a link service several NAT addresses.
    Column("path", Text, nullable=False, server_default=text("'public'")),
    Column("link_id", BigInteger),
    _time("path_since"),
    Column("probes_order", JSONB),  # what was asked of the agent, until its report is here
    _time("probe_reported_at"),
)

workload = Table(
    "isthmus_workload",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'queued'")),
    Column("queue", Text, nullable=False),
    Column("priority", Integer, nullable=False, server_default=text("0")),
    Column("bundle", Text),
    Column("display_name", Text, nullable=False),
    Column("payload", JSONB, nullable=False),  # Airflow's JSON of the workload without its token
    Column("executor_config", JSONB),  # Airflow leaves it out of the payload
    # What the workload is about: the task instance's id, the callback's id, the connection test's id.
    Column("subject_id", Text, nullable=False),
    Column("dag_id", Text),
    Column("task_id", Text),
    Column("run_id", Text),
    Column("map_index", Integer),
    Column("try_number", Integer),
    # Whose executor waits for the outcome; adoption moves the row to another scheduler job. With Airflow's multi-team
    # mode one scheduler job has an executor for each team.
    Column("scheduler_job_id", Integer),
    Column("team_name", Text),
    # The lease. The fence grows by one with every claim; reports with an older one are refused.
    Column("agent_id", UUID(as_uuid=True), ForeignKey("isthmus_agent.id", ondelete="SET NULL")),
    Column("claim_id", UUID(as_uuid=True)),
    Column("fence", BigInteger, nullable=False, server_default=text("0")),
    _time("lease_expires_at"),
    Column("cancel_requested", Boolean, nullable=False, server_default=false()),
    Column("releases", SmallInteger, nullable=False, server_default=text("0")),  # times that a lease ended unstarted
    _time("queued_at", nullable=False, now=True),
    _time("leased_at"),
    _time("started_at"),
    _time("settled_at"),
    Column("exit_code", Integer),
    Column("detail", Text, nullable=False, server_default=text("''")),
    # True from a change that the executor must report to Airflow until its sync has taken it.
    Column("unseen", Boolean, nullable=False, server_default=false()),
    Index(
        "ix_isthmus_workload_queued",
        "queue",
        text("priority DESC"),
        "queued_at",
        postgresql_where=text("state = 'queued'"),
    ),
    Index("ix_isthmus_workload_unseen", "scheduler_job_id", postgresql_where=text("unseen")),
    Index(
        "ix_isthmus_workload_lease",
        "lease_expires_at",
        postgresql_where=text("state IN ('leased', 'running')"),
    ),
    Index("ix_isthmus_workload_held", "agent_id", postgresql_where=text("state IN ('leased', 'running')")),
    Index(
        "ix_isthmus_workload_cancelling",
        "agent_id",
        postgresql_where=text("cancel_requested AND state IN ('leased', 'running')"),
    ),
    Index("ix_isthmus_workload_subject", "subject_id"),
    Index("ix_isthmus_workload_settled", "settled_at", postgresql_where=text("settled_at IS NOT NULL")),
    Index("ix_isthmus_workload_recent", text("queued_at DESC"), text("id DESC")),
)
