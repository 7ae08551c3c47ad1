"""A large store: rows as the scheduler, the agents and operators leave them, in two databases.

``fill_deployment`` makes agents in every health, role and queue, with reports and labels, tokens, and workloads of the
last day, an hour of which is dense. ``fill_control`` makes one link with many endpoints, an audit log, operators. Both
write plain SQL on the server's side, because a hundred thousand rows one by one would take longer than the tests.
"""

import json
from dataclasses import asdict, dataclass

from tests import planting

from isthmus.control.links import LinkSpec
from isthmus.link.services import ServiceSpec

DAGS = 40


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is."""

    agents: int = 2_000
    workloads: int = 100_000
    queues: int = 50
    tokens: int = 200
    endpoints: int = 50
    audit: int = 200_000
    operators: int = 100


#: What issue 5 asks for, and what a test has time for: the tables are as large, the lists as long.
FULL = Size()

GROUP = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network"
_SPEC = LinkSpec(
    ServiceSpec(
        f"{GROUP}/privateLinkServices/ingress",
        "clabcdefgh2",
        "westeurope",
        f"{GROUP}/loadBalancers/ingress/frontendIPConfigurations/ingress",
        f"{GROUP}/virtualNetworks/plane/subnets/nat",
    )
)


def fill_deployment(url: str, size: Size = FULL) -> None:
    """Tokens, agents, workloads. One agent in twenty is silent, one in fifty has left; heartbeats are of now."""
    planting.execute(
        url,
        f"""
        INSERT INTO isthmus_token (id, name, secret_sha256, expires_at, revoked_at)
        SELECT lpad(translate(n::text, '0123456789', 'cdefghijkl'), 12, 'a'), 'site-' || n, md5(n::text),
               now() + interval '90 days', CASE WHEN n % 25 = 0 THEN now() END
        FROM generate_series(1, {size.tokens}) AS n
        """,
        f"""
        INSERT INTO isthmus_agent (id, name, role, instance_id, token_id, queues, slots, slots_used, phase, cordoned,
                                   versions, labels, address, enrolled_at, last_heartbeat_at, path, link_id, path_since)
        SELECT gen_random_uuid(), 'agent-' || lpad(n::text, 5, '0'),
               (ARRAY['worker', 'worker', 'worker', 'dag-processor', 'triggerer'])[1 + n % 5], gen_random_uuid(),
               lpad(translate((1 + n % {size.tokens})::text, '0123456789', 'cdefghijkl'), 12, 'a'),
               jsonb_build_array('queue-' || n % {size.queues}, 'queue-' || (n * 7) % {size.queues}), 16, n % 17,
               CASE WHEN n % 50 = 0 THEN 'left' ELSE 'ready' END, n % 40 = 0,
               '{{"isthmus": "0.1.0", "airflow": "3.3.2", "python": "3.11.9"}}',
               jsonb_build_object('site', 'oslo-' || n % 30, 'rack', 'r' || n % 9),
               ('10.20.' || n % 200 || '.' || n % 250)::inet, now() - interval '9 days',
               CASE WHEN n % 20 = 1 THEN now() - interval '10 minutes' ELSE now() + interval '1 hour' END,
               CASE WHEN n % 4 = 0 THEN 'public' ELSE 'link' END,
               CASE WHEN n % 4 = 0 THEN NULL ELSE 1000 + n % {size.endpoints} END, now() - interval '1 day'
        FROM generate_series(1, {size.agents}) AS n
        """,
        f"""
        INSERT INTO isthmus_workload (id, kind, state, queue, priority, display_name, payload, subject_id, dag_id,
                                      task_id, run_id, map_index, try_number, agent_id, fence, lease_expires_at,
                                      queued_at, leased_at, started_at, settled_at, exit_code, detail)
        SELECT gen_random_uuid(), 'task', state, 'queue-' || n % {size.queues}, n % 3, 'dag.task',
               jsonb_build_object('ti', jsonb_build_object('task_id', 'task-' || n % 12)), n::text,
               'dag-' || n % {DAGS}, 'task-' || n % 12, 'scheduled__' || n / 50, -1, 1,
               CASE WHEN state <> 'queued' THEN a.id END, 1,
               CASE WHEN state IN ('leased', 'running') THEN now() + interval '1 hour' END,
               at, CASE WHEN state <> 'queued' THEN at END, CASE WHEN state <> 'queued' THEN at END,
               CASE WHEN state IN ('succeeded', 'failed', 'lost', 'cancelled') THEN at + interval '30 seconds' END,
               CASE state WHEN 'succeeded' THEN 0 WHEN 'failed' THEN 1 END, ''
        FROM (
            SELECT n, CASE WHEN n <= 3000 THEN 'queued' WHEN n <= 3200 THEN 'leased' WHEN n <= 8000 THEN 'running'
                           WHEN n % 100 = 0 THEN 'failed' WHEN n % 997 = 0 THEN 'lost' WHEN n % 499 = 0 THEN 'cancelled'
                           ELSE 'succeeded' END AS state,
                   now() - n * interval '0.4 seconds' AS at
            FROM generate_series(1, {size.workloads}) AS n
        ) AS made
        JOIN (SELECT id, row_number() OVER (ORDER BY name) - 1 AS place FROM isthmus_agent) AS a
            ON a.place = made.n % {size.agents}
        """,
        "ANALYZE",
    )


def fill_control(url: str, cluster_id: str, size: Size = FULL) -> None:
    """Operators, an audit log, and the connections of a link that is there."""
    endpoint = f"{GROUP}/privateEndpoints/ep-"
    planting.execute(
        url,
        f"""
        INSERT INTO isthmus_control.operator (name, role, token_id, secret_sha256, created_by)
        SELECT 'operator-' || n, CASE WHEN n % 5 = 0 THEN 'admin' ELSE 'viewer' END, 'seeded-' || n, md5(n::text), 'ann'
        FROM generate_series(1, {size.operators}) AS n
        """,
        f"""
        INSERT INTO isthmus_control.audit (at, operator, action, subject, before, after)
        SELECT now() - n * interval '1 minute', 'operator-' || 1 + n % {size.operators},
               (ARRAY['agent.cordon', 'agent.drain', 'token.create', 'connection.approve'])[1 + n % 4],
               'agent/agent-' || n % {size.agents}, '{{"cordoned": false}}', '{{"cordoned": true}}'
        FROM generate_series({size.audit}, 1, -1) AS n
        """,
        f"""
        INSERT INTO isthmus_control.link (cluster_id, state, spec, alias, published_at, observed_at)
        VALUES ('{cluster_id}', 'published', '{json.dumps(asdict(_SPEC))}', 'ingress.alias', now(), now())
        """,
        f"""
        INSERT INTO isthmus_control.connection (id, cluster_id, name, endpoint_id, subscription, state, link_id)
        SELECT 'cn' || lpad(translate(n::text, '0189', 'abcd'), 10, 'e'), '{cluster_id}', 'seeded-' || n,
               '{endpoint}' || n, 's', CASE WHEN n % 10 = 0 THEN 'pending' ELSE 'approved' END, 1000 + n - 1
        FROM generate_series(1, {size.endpoints}) AS n
        """,
        "ANALYZE",
    )
