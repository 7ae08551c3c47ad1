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
#: ``POST`` LogTailRequest: the end of the agent's own log, when the answer to a heartbeat asked for it.
LOG_TAILS: Final = f"{AGENT_PREFIX}/log-tails"
#: ``POST`` ComponentTokenRequest: Airflow's token for an agent's own calls of the execution prefix.
COMPONENT_TOKENS: Final = f"{AGENT_PREFIX}/component-tokens"

#: DAG processing (``isthmus.wire.dags``), for agents with the role dag-processor; all ``POST``.
DAG_PROCESSING_PREFIX: Final = f"{AGENT_PREFIX}/dag-processing"
DAG_BUNDLES: Final = f"{DAG_PROCESSING_PREFIX}/bundles"
DAG_SUBMISSIONS: Final = f"{DAG_PROCESSING_PREFIX}/submissions"
DAG_OBSERVATIONS: Final = f"{DAG_PROCESSING_PREFIX}/observations"
DAG_CLAIMS: Final = f"{DAG_PROCESSING_PREFIX}/claims"
DAG_SETTLEMENTS: Final = f"{DAG_PROCESSING_PREFIX}/settlements"

# Triggers, for agents with the role triggerer (``isthmus.wire.triggers``).
#: ``POST`` TriggerLoadRequest: the triggers that the agent holds; answered when they change, or after a wait.
TRIGGER_LOADS: Final = f"{AGENT_PREFIX}/triggers/load"
#: ``POST`` TriggerWorkloadsRequest.
TRIGGER_WORKLOADS: Final = f"{AGENT_PREFIX}/triggers/workloads"
#: ``POST`` TriggerEventsRequest answers TriggerReportsResponse.
TRIGGER_EVENTS: Final = f"{AGENT_PREFIX}/triggers/events"
#: ``POST`` TriggerFailuresRequest answers TriggerReportsResponse.
TRIGGER_FAILURES: Final = f"{AGENT_PREFIX}/triggers/failures"

# Task logs, for agents with the role worker or triggerer (``isthmus.wire.logs``).
#: ``POST`` LogReadsRequest: the logs that are asked of the agent; answered when there is one, or after a wait.
LOG_READS: Final = f"{AGENT_PREFIX}/log-reads"
#: ``POST`` LogChunkRequest: the next part of one of them.
LOG_CHUNKS: Final = f"{AGENT_PREFIX}/log-reads/chunks"
#: ``POST`` LogShipmentRequest: the next part of a finished log, to be kept by the plane.
LOG_SHIPMENTS: Final = f"{AGENT_PREFIX}/log-shipments"

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
#: ``GET`` LogTailView: the last log tail of the agent; ``POST`` LogOrderRequest answers 202 LogTailView: the agent is
#: asked for one with its next heartbeat.
ADMIN_AGENT_LOG: Final = f"{ADMIN_PREFIX}/agents/{{agent_id}}/log"
#: ``GET`` VerificationPage, newest first; query ``agent`` (a name), ``limit``, ``before``.
ADMIN_VERIFICATIONS: Final = f"{ADMIN_PREFIX}/verifications"
#: ``GET`` VerificationView: one verification with its rows. The id is that of the order.
ADMIN_VERIFICATION: Final = f"{ADMIN_PREFIX}/verifications/{{verification_id}}"
#: ``POST`` without a body answers AgentView; ``{verb}`` is cordon, uncordon or drain.
ADMIN_AGENT_VERB: Final = f"{ADMIN_PREFIX}/agents/{{agent_id}}/{{verb}}"
#: ``GET`` WorkloadPage; query ``state``, ``queue``, ``kind``, ``dag_id``, ``agent_id``, ``limit``, ``before``.
ADMIN_WORKLOADS: Final = f"{ADMIN_PREFIX}/workloads"
#: ``GET`` WorkloadDetail.
ADMIN_WORKLOAD: Final = f"{ADMIN_PREFIX}/workloads/{{workload_id}}"
#: ``POST`` without a body answers 202 WorkloadView: cancelled if it had not started, else asked to stop.
ADMIN_WORKLOAD_CANCEL: Final = f"{ADMIN_PREFIX}/workloads/{{workload_id}}/cancel"
#: ``GET`` QueuePage.
ADMIN_QUEUES: Final = f"{ADMIN_PREFIX}/queues"
#: ``GET`` BundlePage; query ``start``, ``limit``.
ADMIN_BUNDLES: Final = f"{ADMIN_PREFIX}/bundles"
#: ``GET`` TriggersView; query ``start``, ``limit`` (of the triggerers).
ADMIN_TRIGGERS: Final = f"{ADMIN_PREFIX}/triggers"
#: ``GET`` ThroughputView.
ADMIN_THROUGHPUT: Final = f"{ADMIN_PREFIX}/throughput"
#: ``GET`` RefusedPage; query ``before``, ``limit``.
ADMIN_REFUSED: Final = f"{ADMIN_PREFIX}/refused"

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

# The control plane's API, on a listener of its own. Bodies are those of ``isthmus.wire.control``; errors are problems.
# Pages take ``limit`` and ``after``, the audit log ``before``. ``GET`` needs the role viewer, everything else admin.
CONTROL_PREFIX: Final = "/control/v1"
#: ``GET`` OrganizationView.
CONTROL_ORGANIZATION: Final = f"{CONTROL_PREFIX}/organization"
#: ``GET`` ClusterPage; ``POST`` ClusterCreateRequest answers 201 ClusterView, 200 for one that is there just so.
CONTROL_CLUSTERS: Final = f"{CONTROL_PREFIX}/clusters"
#: ``GET`` ClusterView.
CONTROL_CLUSTER: Final = f"{CONTROL_PREFIX}/clusters/{{cluster_id}}"
#: ``GET`` IngressView: what the cluster's ingress should do.
CONTROL_INGRESS: Final = f"{CONTROL_PREFIX}/clusters/{{cluster_id}}/ingress"
#: ``GET`` DeploymentPage.
CONTROL_DEPLOYMENTS: Final = f"{CONTROL_PREFIX}/clusters/{{cluster_id}}/deployments"
#: ``PUT`` DeploymentBody answers DeploymentRegistration; ``DELETE`` answers 204, also when there is none. Below it, the
#: deployment's admin API through the control plane: the paths of ``ADMIN_`` with the same bodies. Besides the problems
#: that the deployment itself answers with there are those that say why it cannot be asked.
CONTROL_DEPLOYMENT: Final = f"{CONTROL_PREFIX}/clusters/{{cluster_id}}/deployments/{{deployment_id}}"
#: ``GET`` LinkView; ``PUT`` LinkBody and ``DELETE`` answer 202 LinkView: it is on its way.
CONTROL_LINK: Final = f"{CONTROL_PREFIX}/clusters/{{cluster_id}}/link"
#: ``GET`` LinkTrafficView.
CONTROL_LINK_TRAFFIC: Final = f"{CONTROL_PREFIX}/clusters/{{cluster_id}}/link/traffic"
#: ``POST`` LinkPlanRequest answers PlanView: what publishing (a spec) or unpublishing (none) would do now.
CONTROL_LINK_PLAN: Final = f"{CONTROL_PREFIX}/clusters/{{cluster_id}}/link/plan"
#: ``GET`` ConnectionPage; query ``state``.
CONTROL_CONNECTIONS: Final = f"{CONTROL_PREFIX}/clusters/{{cluster_id}}/link/connections"
#: ``POST`` DecisionBody answers ConnectionView, 202 while the cloud has not heard of it. ``{verb}``: approve, reject,
#: remove.
CONTROL_DECISION: Final = f"{CONTROL_PREFIX}/clusters/{{cluster_id}}/link/connections/{{connection_id}}/{{verb}}"
#: ``GET`` ExpectationPage; ``POST`` ExpectationCreateRequest answers 201 ExpectationView, 200 if it was expected.
CONTROL_EXPECTATIONS: Final = f"{CONTROL_PREFIX}/clusters/{{cluster_id}}/link/expectations"
#: ``DELETE`` answers 204.
CONTROL_EXPECTATION: Final = f"{CONTROL_PREFIX}/clusters/{{cluster_id}}/link/expectations/{{expectation_id}}"
#: ``GET`` OverviewView: all deployments that there are, their agents, and why one is not healthy.
CONTROL_OVERVIEW: Final = f"{CONTROL_PREFIX}/overview"
#: ``GET`` OverviewView of one cluster.
CONTROL_CLUSTER_OVERVIEW: Final = f"{CONTROL_CLUSTER}/overview"
#: ``GET`` OperatorPage; ``POST`` OperatorCreateRequest answers 201 OperatorCreated.
CONTROL_OPERATORS: Final = f"{CONTROL_PREFIX}/operators"
#: ``POST`` without a body answers OperatorView; doing it twice changes nothing.
CONTROL_OPERATOR_REVOKE: Final = f"{CONTROL_PREFIX}/operators/{{name}}/revoke"
#: ``GET`` AuditPage, newest first; query ``subject``, ``operator``, ``action``, ``since``, ``until``.
CONTROL_AUDIT: Final = f"{CONTROL_PREFIX}/audit"
CONTROL_DOCUMENT: Final = "/openapi/control.json"
