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
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
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
LOGS_CHANNEL: Final = "isthmus_logs"  #: a task's log is asked of an agent
LOG_ROOM_CHANNEL: Final = "isthmus_log_room"  #: a reader of a log has taken something, or gone
#: What the channel of one read begins with, to which an agent has sent something; the rest is its id in hexadecimal.
LOG_READ_CHANNEL: Final = "isthmus_log_"
TRIGGERS_CHANNEL: Final = "isthmus_triggers"  #: a trigger was made, handed out or removed

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
    Column("bundles", JSONB, nullable=False, server_default=text("'[]'")),  # patterns of DAG bundles' names
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
    Column("log_order", UUID(as_uuid=True)),  # the log tail that was asked for, until it is here
    # The group it belongs to; the one it stands by for, after how many seconds, and whether it has taken over.
    Column("group_name", Text),
    Column("standby_for", Text),
    Column("standby_seconds", Double, nullable=False, server_default=text("0")),
    Column("standby_active", Boolean, nullable=False, server_default=false()),
    Index("ix_isthmus_agent_standby", "standby_for", postgresql_where=text("standby_for IS NOT NULL")),
    Index("ix_isthmus_agent_group", "group_name", postgresql_where=text("group_name IS NOT NULL")),
)

#: What a group that somebody stands by for can do (``standby``), by role, and since when.
group = Table(
    "isthmus_group",
    metadata,
    Column("name", Text, primary_key=True),
    Column("role", Text, primary_key=True),
    Column("able", Boolean, nullable=False),
    _time("since", nullable=False, now=True),
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
    # The list of operators, filtered: the newest first. Those that did not succeed are few, and looked for.
    Index("ix_isthmus_workload_recent_queue", "queue", text("queued_at DESC"), text("id DESC")),
    Index("ix_isthmus_workload_recent_dag", "dag_id", text("queued_at DESC"), text("id DESC")),
    Index("ix_isthmus_workload_recent_agent", "agent_id", text("queued_at DESC"), text("id DESC")),
    Index(
        "ix_isthmus_workload_recent_ended",
        "state",
        text("queued_at DESC"),
        text("id DESC"),
        postgresql_where=text("state IN ('failed', 'lost', 'cancelled')"),
    ),
)

#: Who was turned away at the door (``refused``). What is not known of a caller is empty, so that it has a key.
refusal = Table(
    "isthmus_refusal",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("code", Text, nullable=False),
    Column("address", INET, nullable=False),
    Column("path", Text, nullable=False),
    Column("link_id", BigInteger, nullable=False),
    Column("token_id", Text, nullable=False),
    Column("times", BigInteger, nullable=False),
    Column("detail", Text, nullable=False),
    _time("first_at", nullable=False, now=True),
    _time("last_at", nullable=False, now=True),
    UniqueConstraint("code", "address", "path", "link_id", "token_id"),
    Index("ix_isthmus_refusal_last_at", text("last_at DESC"), text("id DESC")),
)

#: The history of verifications (``verifications``). The id is the order's; the name stays when the agent has gone.
verification = Table(
    "isthmus_verification",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("agent_id", UUID(as_uuid=True), ForeignKey("isthmus_agent.id", ondelete="SET NULL")),
    Column("agent_name", Text, nullable=False),
    Column("ordered_by", Text),
    Column("ordered", JSONB),  # the order; null for what an agent does by itself
    _time("ordered_at", nullable=False, now=True),
    _time("reported_at"),  # when the last rows came
    _time("finished_at"),
    Column("unanswered", Text),  # why there is no end to it (``verifications.Unanswered``)
    Column("report", JSONB),  # the rows that have come
    Index("ix_isthmus_verification_recent", text("ordered_at DESC"), text("id DESC")),
    Index("ix_isthmus_verification_agent", "agent_name", text("ordered_at DESC"), text("id DESC")),
    Index(
        "ix_isthmus_verification_open",
        "agent_id",
        postgresql_where=text("finished_at IS NULL AND unanswered IS NULL"),
    ),
)

#: The last log tail of each agent (``logtails``), for an hour.
log_tail = Table(
    "isthmus_log_tail",
    metadata,
    Column("agent_id", UUID(as_uuid=True), ForeignKey("isthmus_agent.id", ondelete="CASCADE"), primary_key=True),
    Column("order_id", UUID(as_uuid=True), nullable=False),
    Column("ordered_by", Text),
    _time("ordered_at", nullable=False, now=True),
    _time("received_at"),
    Column("lines", JSONB, nullable=False, server_default=text("'[]'")),
)

#: The DAG bundles that agents bring (``dags.bundles``). A bundle belongs to the token that registered it and those that
#: follow that by rotation; one agent at a time parses it, under a lease with a fence.
bundle = Table(
    "isthmus_bundle",
    metadata,
    Column("name", Text, primary_key=True),
    Column("token_id", Text, ForeignKey("isthmus_token.id"), nullable=False),
    Column("agent_id", UUID(as_uuid=True), ForeignKey("isthmus_agent.id", ondelete="SET NULL")),
    Column("fence", BigInteger, nullable=False, server_default=text("0")),
    _time("lease_expires_at"),
    Column("version", Text),
    _time("registered_at", nullable=False, now=True),
    _time("passed_at"),  # when an agent had last gone through all of its files
)

#: Which agents have a bundle: those among which it is handed on.
bundle_offer = Table(
    "isthmus_bundle_offer",
    metadata,
    Column("bundle", Text, ForeignKey("isthmus_bundle.name", ondelete="CASCADE"), primary_key=True),
    Column(
        "agent_id",
        UUID(as_uuid=True),
        ForeignKey("isthmus_agent.id", ondelete="CASCADE"),
        primary_key=True,
        index=True,
    ),
    Column("version", Text),
    _time("offered_at", nullable=False, now=True),
)

#: The bundles that an agent has and may not bring, with why, for as long as it goes on naming them.
bundle_refusal = Table(
    "isthmus_bundle_refusal",
    metadata,
    Column("agent_id", UUID(as_uuid=True), ForeignKey("isthmus_agent.id", ondelete="CASCADE"), primary_key=True),
    Column("bundle", Text, primary_key=True),
    Column("code", Text, nullable=False),
    Column("detail", Text, nullable=False),
    _time("since", nullable=False, now=True),
)

#: The files of bundles as they were last submitted (``dags.persisting``). ``code`` is why one was refused.
dag_file = Table(
    "isthmus_dag_file",
    metadata,
    Column("bundle", Text, ForeignKey("isthmus_bundle.name", ondelete="CASCADE"), primary_key=True),
    Column("relative_fileloc", Text, primary_key=True),
    Column("content_hash", Text, nullable=False),
    Column("code", Text, nullable=False, server_default=text("''")),
    Column("detail", Text, nullable=False, server_default=text("''")),
    Column("dag_ids", JSONB, nullable=False, server_default=text("'[]'")),  # those that must be in Airflow's table
    Column("import_errors", Integer, nullable=False, server_default=text("0")),
    Column("duration_seconds", Double, nullable=False, server_default=text("0")),
    _time("submitted_at", nullable=False, now=True),
)

#: What was handed out of Airflow's callbacks and requests to parse (``dags.claims``), by their ids there.
dag_claim = Table(
    "isthmus_dag_claim",
    metadata,
    Column("id", Text, primary_key=True),
    Column("bundle", Text, ForeignKey("isthmus_bundle.name", ondelete="CASCADE"), nullable=False),
    Column("agent_id", UUID(as_uuid=True), ForeignKey("isthmus_agent.id", ondelete="SET NULL")),
    Column("fence", BigInteger, nullable=False, server_default=text("1")),
    _time("lease_expires_at", nullable=False),
)

#: Task logs on their way to a reader (``logreads``, ``logreading``). Nothing of them rests: the tables are not in the
#: database's log (nor in its backups and replicas), a reader deletes what it has read, and what nobody reads is swept.
log_read = Table(
    "isthmus_log_read",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("agent_id", UUID(as_uuid=True), nullable=False),
    Column("source", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("subject", JSONB),
    _time("asked_at", nullable=False, now=True),
    _time("claimed_at"),
    _time("expires_at", nullable=False),  # the reader moves it on; a minute after a reader died the read is swept
    Column("sent", Integer, nullable=False, server_default=text("0")),  # chunks that came
    Column("taken", Integer, nullable=False, server_default=text("0")),  # chunks that the reader has read
    Column("ended", Boolean, nullable=False, server_default=false()),
    Index("ix_isthmus_log_read_asked", "agent_id", postgresql_where=text("claimed_at IS NULL")),
    prefixes=["UNLOGGED"],
)

log_chunk = Table(
    "isthmus_log_chunk",
    metadata,
    Column("read_id", UUID(as_uuid=True), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),  # deflated, as the agent sent it
    Column("origin", Text, nullable=False),
    Column("final", Boolean, nullable=False),
    Column("fault", Text),
    Column("detail", Text, nullable=False),
    prefixes=["UNLOGGED"],
)

#: Logs of tasks that have ended, as agents ship them (``logshipping``). They outlive workload and agent.
shipped_log = Table(
    "isthmus_shipped_log",
    metadata,
    Column("workload_id", UUID(as_uuid=True), primary_key=True),
    Column("subject_id", Text, nullable=False),
    Column("agent_id", UUID(as_uuid=True), nullable=False),
    Column("agent_name", Text, nullable=False),
    Column("size", BigInteger, nullable=False, server_default=text("0")),  # bytes of the file that are here
    Column("complete", Boolean, nullable=False, server_default=false()),  # no more is taken
    Column("cut", Boolean, nullable=False, server_default=false()),  # the file goes on
    _time("begun_at", nullable=False, now=True),
    Index("ix_isthmus_shipped_log_subject_id", "subject_id"),
    Index("ix_isthmus_shipped_log_begun_at", "begun_at"),
)

shipped_log_part = Table(
    "isthmus_shipped_log_part",
    metadata,
    Column(
        "workload_id",
        UUID(as_uuid=True),
        ForeignKey("isthmus_shipped_log.workload_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("start", BigInteger, primary_key=True, autoincrement=False),  # where it begins in the file, in bytes
    Column("data", LargeBinary, nullable=False),  # deflated, as the agent sent it
)

#: Instances of agents that run triggers (``triggers.holding``). The key is that of Airflow's ``job`` row, which
#: ``trigger.triggerer_id`` names; an agent that was removed leaves a row behind until a round has seen it.
triggerer = Table(
    "isthmus_triggerer",
    metadata,
    Column("job_id", Integer, primary_key=True, autoincrement=False),
    Column("agent_id", UUID(as_uuid=True), ForeignKey("isthmus_agent.id", ondelete="SET NULL"), unique=True),
    Column("instance_id", UUID(as_uuid=True), nullable=False),
    Column("capacity", Integer, nullable=False),
    Column("bundles", JSONB, nullable=False, server_default=text("'[]'")),  # none: any
    _time("loaded_at", nullable=False, now=True),
)

#: Events of asset watchers that were taken, for a day: the same one again changes no asset a second time.
trigger_event = Table(
    "isthmus_trigger_event",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    _time("received_at", nullable=False, now=True),
    Index("ix_isthmus_trigger_event_received_at", "received_at"),
)
