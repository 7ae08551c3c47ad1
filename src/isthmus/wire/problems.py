"""Problems: why a request was refused, as ``application/problem+json`` (RFC 9457).

Who may come in is decided twice, by source address and by token, and the two say no with different codes, because a
bare "403" is what users get stuck on. The table below is the whole list; ``docs/problems.md`` is made from it.

On the execution prefix the reader is Airflow's SDK, which takes an error apart only where the body is
``application/json`` and ``detail`` an object: there a problem is sent as ``ExecutionProblem``, with the same members.
Airflow's own errors have no ``code``.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from isthmus.wire.bodies import Response

CONTENT_TYPE: Final = "application/problem+json"


class Code(StrEnum):
    """Stable codes. Adding one is compatible; changing what one means is not."""

    SOURCE_NOT_ALLOWED = "source_not_allowed"
    TOKEN_MISSING = "token_missing"
    TOKEN_INVALID = "token_invalid"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_REVOKED = "token_revoked"
    TOKEN_WRONG_DEPLOYMENT = "token_wrong_deployment"
    TOKEN_SCOPE = "token_scope"
    TOKEN_WRONG_LINK = "token_wrong_link"
    ROLE_NOT_USED = "role_not_used"
    TOKEN_LIMIT = "token_limit"
    TOKEN_NOT_FOUND = "token_not_found"
    ADMIN_TOKEN_INVALID = "admin_token_invalid"
    AGENT_UNKNOWN = "agent_unknown"
    AGENT_REPLACED = "agent_replaced"
    AGENT_NAME_TAKEN = "agent_name_taken"
    AGENT_BUSY = "agent_busy"
    AGENTS_CUT_OFF = "agents_cut_off"
    SDK_TOO_NEW = "sdk_too_new"
    AGENT_TOO_OLD = "agent_too_old"
    WORKLOAD_NOT_FOUND = "workload_not_found"
    VERIFICATION_NOT_FOUND = "verification_not_found"
    LOG_NOT_ASKED = "log_not_asked"
    LOG_READ_ENDED = "log_read_ended"
    LOGS_NOT_KEPT = "logs_not_kept"
    LEASE_LOST = "lease_lost"
    CONNECTION_NOT_ALLOWED = "connection_not_allowed"
    VARIABLE_NOT_ALLOWED = "variable_not_allowed"
    BODY_TOO_LARGE = "body_too_large"
    BODY_MALFORMED = "body_malformed"
    ENCODING_UNSUPPORTED = "encoding_unsupported"
    REQUEST_INVALID = "request_invalid"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    DATABASE_UNAVAILABLE = "database_unavailable"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL = "internal"
    # Said by the control plane and by a cluster's ingress.
    OPERATOR_TOKEN_INVALID = "operator_token_invalid"
    OPERATOR_ROLE = "operator_role"
    OPERATOR_NOT_FOUND = "operator_not_found"
    OPERATOR_EXISTS = "operator_exists"
    OPERATOR_LAST_ADMIN = "operator_last_admin"
    CLUSTER_NOT_FOUND = "cluster_not_found"
    CLUSTER_EXISTS = "cluster_exists"
    DEPLOYMENT_EXISTS = "deployment_exists"
    DEPLOYMENT_NOT_FOUND = "deployment_not_found"
    ADMIN_NOT_CONFIGURED = "admin_not_configured"
    ADMIN_UNREACHABLE = "admin_unreachable"
    ADMIN_REFUSED = "admin_refused"
    ADMIN_ANSWER_FOREIGN = "admin_answer_foreign"
    LINK_NOT_FOUND = "link_not_found"
    LINK_EXISTS = "link_exists"
    LINK_IN_USE = "link_in_use"
    PLAN_CHANGED = "plan_changed"
    CONNECTION_NOT_FOUND = "connection_not_found"
    CONNECTION_DECIDED = "connection_decided"
    CONNECTION_FINAL = "connection_final"
    EXPECTATION_NOT_FOUND = "expectation_not_found"
    CLOUD_REFUSED = "cloud_refused"
    CLOUD_UNAVAILABLE = "cloud_unavailable"
    DEPLOYMENT_UNREACHABLE = "deployment_unreachable"
    # Said by the agent's gateway to tasks, never by the plane.
    GATEWAY_TOKEN_UNKNOWN = "gateway_token_unknown"
    PLANE_UNREACHABLE = "plane_unreachable"
    PRIVACY_REFUSED = "privacy_refused"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code stands for: HTTP status, one-line title, whether the same request may succeed later, what to do."""

    status: int
    title: str
    retryable: bool
    hint: str


MEANINGS: Final[dict[Code, Meaning]] = {
    Code.SOURCE_NOT_ALLOWED: Meaning(
        403,
        "The source address is not in the deployment's allow list",
        False,
        "Add the address that was seen to the allow list (isthmus deployment allow add), or come from another.",
    ),
    Code.TOKEN_MISSING: Meaning(
        401,
        "No agent token was sent",
        False,
        "Give the agent a token (--token-file or ISTHMUS_AGENT_TOKEN_FILE); create one with: isthmus token create.",
    ),
    Code.TOKEN_INVALID: Meaning(
        401,
        "The agent token is not one of this deployment's",
        False,
        "Check that the token was copied whole; create a new one with: isthmus token create.",
    ),
    Code.TOKEN_EXPIRED: Meaning(
        401, "The agent token has expired", False, "Create or rotate a token: isthmus token rotate."
    ),
    Code.TOKEN_REVOKED: Meaning(401, "The agent token was revoked", False, "Create a new token: isthmus token create."),
    Code.TOKEN_WRONG_DEPLOYMENT: Meaning(
        403,
        "The agent token belongs to another deployment",
        False,
        "Use the token of the deployment that the URL names, or the URL of the token's deployment.",
    ),
    Code.TOKEN_SCOPE: Meaning(
        403,
        "The agent token does not cover this role, queue or bundle",
        False,
        "Start the agent with a role, queues and bundles that the token allows, or create a token for these.",
    ),
    Code.TOKEN_WRONG_LINK: Meaning(
        403,
        "The agent token is bound to a private link, and the request came another way",
        False,
        "Have the agent come through that link: the cluster's name must lead to its endpoint (isthmus verify looks). "
        "Or use a token for this path: isthmus token create.",
    ),
    Code.ROLE_NOT_USED: Meaning(
        403,
        "The deployment has no agents with this role",
        False,
        "Start the agent without this role (--role), or add the role to [isthmus] roles of the deployment.",
    ),
    Code.TOKEN_LIMIT: Meaning(
        409,
        "The deployment has as many active agent tokens as it may have",
        False,
        "Revoke a token that is no longer used, or raise [isthmus] token_limit.",
    ),
    Code.TOKEN_NOT_FOUND: Meaning(
        404, "No agent token has this id", False, "List the tokens with: isthmus token list."
    ),
    Code.ADMIN_TOKEN_INVALID: Meaning(
        401,
        "The admin token is missing or wrong",
        False,
        "Send the deployment's admin token; it is in the file that [isthmus] admin_token_file names.",
    ),
    Code.AGENT_UNKNOWN: Meaning(404, "No such agent is enrolled", True, "The agent must enrol again."),
    Code.AGENT_REPLACED: Meaning(
        409,
        "Another process enrolled under this agent's name",
        False,
        "Give every agent a name of its own (--name); the default is the host's name.",
    ),
    Code.AGENT_NAME_TAKEN: Meaning(
        409,
        "A healthy agent with another role holds this name",
        False,
        "Give every agent a name of its own (--name).",
    ),
    Code.AGENT_BUSY: Meaning(
        409, "The agent is still there", False, "Drain it first (isthmus agents drain), or remove it with --force."
    ),
    Code.AGENTS_CUT_OFF: Meaning(
        409,
        "No healthy agent would be left that may come in",
        False,
        "Wait until an agent has come from an address that stays allowed (isthmus agents list shows from where they "
        "come), or force it.",
    ),
    Code.SDK_TOO_NEW: Meaning(
        409,
        "The agent's Airflow Task SDK is newer than the deployment's",
        False,
        "Install the deployment's Airflow version at the agent, or upgrade the deployment first.",
    ),
    Code.AGENT_TOO_OLD: Meaning(
        409, "The agent is more than two minor versions behind", False, "Upgrade isthmus at the agent."
    ),
    Code.WORKLOAD_NOT_FOUND: Meaning(
        404, "This deployment has no such workload", False, "Check the id with: isthmus workloads list."
    ),
    Code.VERIFICATION_NOT_FOUND: Meaning(
        404,
        "There is no such verification",
        False,
        "Each agent's last 50 are kept, for 30 days. List them with: isthmus agents verifications.",
    ),
    Code.LOG_NOT_ASKED: Meaning(
        409, "The plane has not asked for this log tail", False, "Send one for each fetch_log, once."
    ),
    Code.LOG_READ_ENDED: Meaning(
        404,
        "Nobody waits for this log any more",
        False,
        "The agent stops sending it. Whoever closed the page opens it again.",
    ),
    Code.LOGS_NOT_KEPT: Meaning(
        409,
        "The deployment keeps no task logs",
        False,
        "Set [isthmus] ship_logs of the deployment, or leave the agent's ship_logs off.",
    ),
    Code.LEASE_LOST: Meaning(
        409, "The lease on this workload is gone", False, "Stop what was started for it; the plane has gone on."
    ),
    Code.CONNECTION_NOT_ALLOWED: Meaning(
        403,
        "The deployment does not hand this connection to tasks",
        False,
        "Define the connection at the agent (environment or secrets backend), or add its id to [isthmus] "
        "allowed_connections of the deployment.",
    ),
    Code.VARIABLE_NOT_ALLOWED: Meaning(
        403,
        "The deployment does not hand this variable to tasks",
        False,
        "Define the variable at the agent (environment or secrets backend), or add its key to [isthmus] "
        "allowed_variables of the deployment.",
    ),
    Code.BODY_TOO_LARGE: Meaning(
        413, "The request body is larger than the deployment accepts", False, "Send less, or raise the limit."
    ),
    Code.BODY_MALFORMED: Meaning(400, "The request body is not JSON", False, "Send a JSON object."),
    Code.ENCODING_UNSUPPORTED: Meaning(
        415, "The request body is compressed in a way that is not understood", False, "Send gzip, or plain JSON."
    ),
    Code.REQUEST_INVALID: Meaning(422, "The request does not have the expected form", False, "See errors."),
    Code.METHOD_NOT_ALLOWED: Meaning(405, "The path does not take this method", False, "See the OpenAPI document."),
    Code.DATABASE_UNAVAILABLE: Meaning(503, "The deployment's database does not answer", True, "Try again."),
    Code.SHUTTING_DOWN: Meaning(503, "This process is stopping", True, "Try again: another process answers."),
    Code.INTERNAL: Meaning(500, "Something failed that should not have", True, "See the deployment's log."),
    Code.OPERATOR_TOKEN_INVALID: Meaning(
        401,
        "The operator token is missing, wrong or revoked",
        False,
        "Send the token of an operator of this control plane; an admin makes one with: isthmus operator create.",
    ),
    Code.OPERATOR_ROLE: Meaning(
        403,
        "The operator may look and not change",
        False,
        "Ask an admin, or use the token of one.",
    ),
    Code.OPERATOR_NOT_FOUND: Meaning(
        404,
        "No operator has this name",
        False,
        "List them with: isthmus operator list.",
    ),
    Code.OPERATOR_EXISTS: Meaning(
        409,
        "An operator of this name exists",
        False,
        "Choose another name, or revoke the operator first.",
    ),
    Code.OPERATOR_LAST_ADMIN: Meaning(
        409,
        "This is the last admin",
        False,
        "Create another admin first: isthmus operator create --role admin.",
    ),
    Code.CLUSTER_NOT_FOUND: Meaning(
        404,
        "No cluster has this id",
        False,
        "List them with: isthmus cluster list.",
    ),
    Code.CLUSTER_EXISTS: Meaning(
        409,
        "A cluster of this id exists, and it is another one",
        False,
        "Leave the id out to have one made, or choose another CIDR.",
    ),
    Code.DEPLOYMENT_EXISTS: Meaning(
        409,
        "The deployment is registered with another cluster",
        False,
        "A deployment belongs to one cluster: remove it there first.",
    ),
    Code.DEPLOYMENT_NOT_FOUND: Meaning(
        404,
        "No deployment of this id is registered with the cluster",
        False,
        "List them with: isthmus cluster deployment list.",
    ),
    Code.ADMIN_NOT_CONFIGURED: Meaning(
        409,
        "The control plane does not know how to ask this deployment",
        False,
        "Register it with --admin-url and --admin-token-reference (isthmus cluster deployment add), and put its admin "
        "token into a file of that name below the control plane's --admin-tokens.",
    ),
    Code.ADMIN_UNREACHABLE: Meaning(
        503,
        "The deployment's admin API does not answer the control plane",
        True,
        "Try again. If it stays: does its Remote Execution API run, and does its admin_host let the control plane in?",
    ),
    Code.ADMIN_REFUSED: Meaning(
        409,
        "The deployment does not take the control plane's admin token",
        False,
        "Put the deployment's own admin token into the file that its registration names.",
    ),
    Code.ADMIN_ANSWER_FOREIGN: Meaning(
        502,
        "What answers in the deployment's place is not its admin API",
        False,
        "Check its --admin-url: it is [isthmus] admin_host and admin_port, not the address that agents use.",
    ),
    Code.LINK_NOT_FOUND: Meaning(
        404,
        "The cluster has no link",
        False,
        "Publish it first: isthmus link publish.",
    ),
    Code.LINK_EXISTS: Meaning(
        409,
        "The cluster has a link that is made differently",
        False,
        "A cluster has one link. Unpublish it first (isthmus link unpublish), or publish it as it is.",
    ),
    Code.LINK_IN_USE: Meaning(
        409,
        "Endpoints are still connected to the link",
        False,
        "Remove their connections first (isthmus link remove), or force it: they cannot come back.",
    ),
    Code.PLAN_CHANGED: Meaning(
        409,
        "What would be done now is not what was agreed to",
        False,
        "Nothing was done. Something has changed since the plan was made: look at the new plan, and agree to that.",
    ),
    Code.CONNECTION_NOT_FOUND: Meaning(
        404,
        "The link has no such connection",
        False,
        "List them with: isthmus link connections.",
    ),
    Code.CONNECTION_DECIDED: Meaning(
        409,
        "Somebody else has decided on this connection meanwhile",
        False,
        "Look at it again (isthmus link connections) and decide anew.",
    ),
    Code.CONNECTION_FINAL: Meaning(
        409,
        "The connection is in a state that nobody can change",
        False,
        "Remove it; the customer has to create the endpoint again.",
    ),
    Code.EXPECTATION_NOT_FOUND: Meaning(
        404,
        "Nothing of this id is expected",
        False,
        "List what is expected with: isthmus link expected.",
    ),
    Code.CLOUD_REFUSED: Meaning(
        409,
        "The cloud refused",
        False,
        "See detail: it is the cloud's own reason.",
    ),
    Code.CLOUD_UNAVAILABLE: Meaning(
        503,
        "The cloud does not answer",
        True,
        "Try again; whatever was begun is taken up where it was.",
    ),
    Code.DEPLOYMENT_UNREACHABLE: Meaning(
        503,
        "The ingress does not reach the deployment",
        True,
        "Try again. If it stays: is the deployment's Remote Execution API running, and is its "
        "certificate from an authority that the ingress trusts?",
    ),
    Code.GATEWAY_TOKEN_UNKNOWN: Meaning(
        403,
        "The agent's gateway knows no running workload by this token",
        False,
        "The workload has ended, or the call did not come from one.",
    ),
    Code.PLANE_UNREACHABLE: Meaning(
        503, "The agent does not reach the plane", True, "See the agent's log and its /healthz."
    ),
    Code.PRIVACY_REFUSED: Meaning(
        403,
        "The agent's privacy profile keeps this in its network",
        False,
        "Keep the value in a store of your own (an XCom backend, a state store backend) and set privacy_references to "
        "where it is, or choose another privacy profile: docs/privacy.md.",
    ),
}


class FieldProblem(Response):
    """One field of a request that is wrong: where it is, and why."""

    field: str
    reason: str


class Problem(Response):
    """The body of a refusal (RFC 9457), with ``code``, ``hint``, ``source_address``, ``link_id``, ``errors`` of ours.

    ``link_id`` is the private link that the request came through, null for the public path.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str
    retryable: bool = False
    source_address: str | None = None
    link_id: int | None = None
    errors: tuple[FieldProblem, ...] = ()


def problem(
    code: Code,
    detail: str = "",
    *,
    source_address: str | None = None,
    link_id: int | None = None,
    errors: tuple[FieldProblem, ...] = (),
    hint: str | None = None,
) -> Problem:
    """The problem for ``code``; ``detail`` says what is special about this occurrence."""
    meaning = MEANINGS[code]
    return Problem(
        type=f"urn:isthmus:problem:{code.value}",
        title=meaning.title,
        status=meaning.status,
        detail=detail or meaning.title,
        code=code.value,
        hint=meaning.hint if hint is None else hint,
        retryable=meaning.retryable,
        source_address=source_address,
        link_id=link_id,
        errors=errors,
    )


class ExecutionDetail(Response):
    """What is special about this occurrence, in the form of Airflow's own errors."""

    reason: str
    message: str
    hint: str


class ExecutionProblem(Response):
    """A problem on the execution prefix, as ``application/json``: the SDK shows ``detail`` in the task's log."""

    type: str
    title: str
    status: int
    detail: ExecutionDetail
    code: str
    hint: str
    retryable: bool = False
    source_address: str | None = None
    link_id: int | None = None


def execution_problem(problem: Problem) -> ExecutionProblem:
    """The same problem in the form for Airflow's SDK."""
    return ExecutionProblem(
        type=problem.type,
        title=problem.title,
        status=problem.status,
        detail=ExecutionDetail(reason=problem.code, message=problem.detail, hint=problem.hint),
        code=problem.code,
        hint=problem.hint,
        retryable=problem.retryable,
        source_address=problem.source_address,
        link_id=problem.link_id,
    )
