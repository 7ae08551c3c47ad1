"""The whole Remote Execution API with its database behind PgBouncer in transaction mode, and notifications past it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests import poolers
from tests.apis import Agent, Api, serving

pytestmark = [pytest.mark.usefixtures("seeded"), poolers.NEEDED]

NOW = "2026-02-03T00:00:00Z"


@pytest.fixture(scope="module")
def pooled_api(
    api_database: str,
    airflow_environment: Callable[[str], dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Api]:
    """A process of its own on the database of the others."""
    with (
        poolers.pooled(api_database) as url,
        serving(
            tmp_path_factory.mktemp("pooled"), api_database, airflow_environment(url), NOTIFY_URL=api_database
        ) as running,
    ):
        yield running


def test_many_agents_at_once(pooled_api: Api) -> None:
    agents = [pooled_api.agent() for _ in range(8)]

    def work(agent: Agent) -> None:
        for _ in range(4):
            (workload_id,) = pooled_api.queue(agent)
            agent.run(workload_id)
            agent.beat()

    with ThreadPoolExecutor() as pool:
        list(pool.map(work, agents))
    health = pooled_api.admin().get("/healthz").json()
    assert "notifications_missing" not in {one["code"] for one in health["warnings"]}


def test_a_task_runs(pooled_api: Api, queued_task: tuple[str, str]) -> None:
    ti_id, run_id = queued_task
    agent = pooled_api.agent()
    (workload_id,) = pooled_api.queue(agent, subject_id=ti_id)
    lease = agent.run(workload_id)
    running = agent.task(lease).patch(
        f"task-instances/{ti_id}/run",
        json={"state": "running", "hostname": "h", "unixname": "u", "pid": 7, "start_date": NOW},
    )
    task = agent.task(lease, running.headers["Refreshed-API-Token"])
    stored = task.post(f"xcoms/seeded/{run_id}/one/return_value", json="1")
    assert stored.status_code == 201, stored.text
    assert task.get(f"xcoms/seeded/{run_id}/one/return_value").json()["value"] in {1, "1"}
    assert task.patch(f"task-instances/{ti_id}/state", json={"state": "success", "end_date": NOW}).status_code == 204
