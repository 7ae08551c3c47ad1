"""The names that both sides use: identifiers, roles, kinds, and their syntax."""

from enum import StrEnum
from typing import Annotated, Final, NewType
from uuid import UUID

from pydantic import BeforeValidator, Field, StringConstraints

AgentId = NewType("AgentId", UUID)
InstanceId = NewType("InstanceId", UUID)
WorkloadId = NewType("WorkloadId", UUID)
TokenId = NewType("TokenId", str)
DeploymentId = NewType("DeploymentId", str)

#: A deployment id: ``d`` and seven base-32 characters (DESIGN: vocabulary).
DEPLOYMENT_ID_PATTERN = r"^d[a-z2-7]{7}$"

#: An agent's name: a DNS label sequence, as host names and pod names are (RFC 1123), at most 253 characters.
AgentName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9._]*[a-z0-9])?$", max_length=253)]

#: An Airflow queue: what ``task_instance.queue`` can hold (256 characters), without commas (lists are comma-separated).
QueueName = Annotated[str, StringConstraints(pattern=r"^[^,\x00-\x1f]+$", min_length=1, max_length=256)]

#: The names of DAG bundles (``dags.BundleName``) that are meant: ``*`` stands for any characters, ``?`` for one.
BundlePattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_*?][A-Za-z0-9_. *?-]*$", max_length=250)]


def _number(value: object) -> object:
    """False is no link 0."""
    if isinstance(value, bool):
        raise ValueError("a link id is a number")
    return value


#: A private link connection, as the link service numbers it: Azure's LINKID, an unsigned number of 32 bits
#: (``linkIdentifier`` of the connection, in decimal).
LinkId = Annotated[int, Field(ge=0, le=2**32 - 1), BeforeValidator(_number)]


class Role(StrEnum):
    """What an agent does."""

    WORKER = "worker"
    DAG_PROCESSOR = "dag-processor"
    TRIGGERER = "triggerer"


class Privacy(StrEnum):
    """What leaves the customer's network, the most permissive profile first (``docs/privacy.md``)."""

    OPEN = "open"
    MASKED = "masked"
    STRICT = "strict"


#: In place of a reason that does not leave the network. It is in the log of whatever it happened to.
WITHHELD: Final = "withheld: see the agent's log"


class PathKind(StrEnum):
    """How a request reached the plane: over the internet, or through a private link."""

    PUBLIC = "public"
    LINK = "link"


class ConnectionState(StrEnum):
    """Where an endpoint's connection is (DESIGN: vocabulary); only an approved one carries packets."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    DISCONNECTED = "disconnected"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


class Kind(StrEnum):
    """What a workload is, after Airflow's ``ExecuteTask``, ``ExecuteCallback`` and ``TestConnection``."""

    TASK = "task"
    CALLBACK = "callback"
    CONNECTION_TEST = "connection_test"
