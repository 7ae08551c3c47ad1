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

#: The agent's credential on the execution prefix, where ``Authorization`` carries Airflow's task token.
AGENT_TOKEN_HEADER: Final = "Isthmus-Agent-Token"
#: Which agent calls the execution prefix.
AGENT_ID_HEADER: Final = "Isthmus-Agent-Id"
#: Which workload the call is for; together with the agent id it is checked against the lease.
WORKLOAD_ID_HEADER: Final = "Isthmus-Workload-Id"
#: Airflow's own header for a renewed task token; the gateway keeps it to itself.
REFRESHED_TOKEN_HEADER: Final = "Refreshed-API-Token"

NOT_FOUND_TEXT: Final = "404 page not found\n"
