"""Where things are on the wire.

Agents reach exactly two prefixes of a deployment, ``/<deployment-id>/agent/v1`` and ``/<deployment-id>/execution``;
every other path answers ``404 page not found`` as text, with and without authentication. The admin API has a listener
of its own and never faces agents.
"""

from typing import Final

AGENT_PREFIX: Final = "/agent/v1"
EXECUTION_PREFIX: Final = "/execution"
ADMIN_PREFIX: Final = "/admin/v1"

ENROLMENTS: Final = f"{AGENT_PREFIX}/enrolments"
HEARTBEATS: Final = f"{AGENT_PREFIX}/heartbeats"
CLAIMS: Final = f"{AGENT_PREFIX}/claims"
STARTS: Final = f"{AGENT_PREFIX}/starts"
SETTLEMENTS: Final = f"{AGENT_PREFIX}/settlements"
#: ``{workload_id}`` is filled in by the caller.
TASK_TOKENS: Final = f"{AGENT_PREFIX}/workloads/{{workload_id}}/token"

#: ``GET`` ProbeResponse: who the caller is to the plane, and where it seems to come from.
PROBE: Final = f"{AGENT_PREFIX}/probe"

# The admin API. Bodies are those of ``isthmus.wire.admin``; errors are problems. The pages take ``limit`` and
# ``after`` (agents) or ``before`` (workloads) as query parameters.
#: ``GET`` DeploymentView.
ADMIN_DEPLOYMENT: Final = f"{ADMIN_PREFIX}/deployment"
#: ``GET`` AllowListView; ``PUT`` AllowListBody answers AllowListView.
ADMIN_ALLOW_LIST: Final = f"{ADMIN_PREFIX}/allow-list"
#: ``PUT`` RestrictionRequest answers RestrictionView; ``DELETE`` (every address may come in) answers the same.
ADMIN_RESTRICTION: Final = f"{ADMIN_PREFIX}/restriction"
#: ``GET`` TokenPage; ``POST`` TokenCreateRequest answers 201 TokenCreated.
ADMIN_TOKENS: Final = f"{ADMIN_PREFIX}/tokens"
#: ``POST`` without a body answers TokenView; doing it twice changes nothing.
ADMIN_TOKEN_REVOKE: Final = f"{ADMIN_PREFIX}/tokens/{{token_id}}/revoke"
#: ``POST`` TokenRotateRequest answers 201 TokenCreated.
ADMIN_TOKEN_ROTATE: Final = f"{ADMIN_PREFIX}/tokens/{{token_id}}/rotate"
#: ``GET`` AgentPage; query ``role``, ``limit``, ``after``.
ADMIN_AGENTS: Final = f"{ADMIN_PREFIX}/agents"
#: ``GET`` AgentView; ``DELETE`` with ``?force=true`` for one that is still there, answers 204.
ADMIN_AGENT: Final = f"{ADMIN_PREFIX}/agents/{{agent_id}}"
#: ``POST`` ProbesRequest answers 202 AgentView: the agent is asked to run probes; its report comes with a heartbeat.
ADMIN_AGENT_PROBES: Final = f"{ADMIN_PREFIX}/agents/{{agent_id}}/probes"
#: ``POST`` without a body answers AgentView; ``{verb}`` is cordon, uncordon or drain.
ADMIN_AGENT_VERB: Final = f"{ADMIN_PREFIX}/agents/{{agent_id}}/{{verb}}"
#: ``GET`` WorkloadPage; query ``state``, ``queue``, ``kind``, ``dag_id``, ``agent_id``, ``limit``, ``before``.
ADMIN_WORKLOADS: Final = f"{ADMIN_PREFIX}/workloads"
#: ``GET`` WorkloadDetail.
ADMIN_WORKLOAD: Final = f"{ADMIN_PREFIX}/workloads/{{workload_id}}"
#: ``POST`` without a body answers 202 WorkloadView: cancelled if it had not started, else asked to stop.
ADMIN_WORKLOAD_CANCEL: Final = f"{ADMIN_PREFIX}/workloads/{{workload_id}}/cancel"

# The rest of the internal listener, without a token.
#: ``GET`` HealthView; status 503 while the process cannot do its work.
HEALTH: Final = "/healthz"
#: ``GET`` the metrics in Prometheus' text format.
METRICS: Final = "/metrics"
#: ``GET`` the OpenAPI documents.
AGENT_DOCUMENT: Final = "/openapi/agent.json"
ADMIN_DOCUMENT: Final = "/openapi/admin.json"

#: The agent's credential on the execution prefix, where ``Authorization`` carries Airflow's task token.
AGENT_TOKEN_HEADER: Final = "Isthmus-Agent-Token"
#: Which agent calls the execution prefix.
AGENT_ID_HEADER: Final = "Isthmus-Agent-Id"
#: Which workload the call is for; together with the agent id it is checked against the lease.
WORKLOAD_ID_HEADER: Final = "Isthmus-Workload-Id"
#: The private link connection that a request came through, in decimal, or ``unknown`` where the ingress knows that it
#: was a link and not which. It counts only from an ingress of the deployment's link_ingresses.
LINK_ID_HEADER: Final = "Isthmus-Link-Id"
UNKNOWN_LINK: Final = "unknown"
#: Airflow's own header for a renewed task token; the gateway keeps it to itself.
REFRESHED_TOKEN_HEADER: Final = "Refreshed-API-Token"

NOT_FOUND_TEXT: Final = "404 page not found\n"
