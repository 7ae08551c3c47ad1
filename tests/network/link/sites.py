"""A customer's agent with DAG files of its own: it parses them, runs their tasks and their triggers."""

import json
from typing import Any

from faults.harness import waits
from isthmus.wire import paths
from isthmus.wire.admin import BundlePage, BundleView, TokenCreated, TriggersView
from network.link.customers import Customer, NetworkAgent

#: What the token is for, and what the site has besides.
BUNDLE, FOREIGN = "sales", "finance"
LANE = "sales"
#: Of four sensors one has to wait for room.
CAPACITY, SENSORS = 3, 4

DEFERS = f"""
from datetime import timedelta
from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import DAG

with DAG("orders", schedule=None, is_paused_upon_creation=False, default_args={{"queue": "{LANE}"}}):
    for number in range({SENSORS}):
        TimeDeltaSensor(task_id=f"region_{{number}}", delta=timedelta(hours=1), deferrable=True)
"""
BROKEN = "from airflow.sdk import DAG\nimport no_such_module\n"


class Site(NetworkAgent):
    """All three roles, one bundle that its token is for, and one that it is not for."""

    def __init__(self, customer: Customer, name: str) -> None:
        deployment = customer.provider.deployment
        folder = deployment.directory / f"{name}-dags"
        folder.mkdir()
        for path, text in {"orders.py": DEFERS, "returns.py": BROKEN}.items():
            (folder / path).write_text(text, encoding="utf-8")
            (folder / path).chmod(0o644)
        bundles = [
            {
                "name": bundle,
                "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
                "kwargs": {"path": str(folder), "refresh_interval": 1},
            }
            for bundle in (BUNDLE, FOREIGN)
        ]
        settings = {
            "ISTHMUS_AGENT_ROLE": "worker,dag-processor,triggerer",
            "ISTHMUS_AGENT_TRIGGERS": str(CAPACITY),
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
            "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
        }
        asked = deployment.admin.post(
            paths.ADMIN_TOKENS, json={"name": "site-bodo", "expires_days": 90, "bundles": [f"{BUNDLE}*"]}
        )
        token = TokenCreated.model_validate_json(asked.raise_for_status().content)
        super().__init__(customer, LANE, name=name, slots=SENSORS, token=token.secret, settings=settings)

    def await_parsed(self) -> BundleView:
        """Until all of the bundle's files were gone through."""

        def parsed() -> BundleView | None:
            page = BundlePage.model_validate_json(self._get(paths.ADMIN_BUNDLES))
            found = [one for one in page.bundles if one.name == BUNDLE and one.passed_at is not None and one.dags]
            return found[0] if found and [one.name for one in page.refused] == [FOREIGN] else None

        return waits.until("the site's DAGs are there", parsed, seconds=90, evidence=self.evidence)

    def defer(self) -> TriggersView:
        """Run the DAG, until all room for triggers is taken and something waits."""
        self.plane.operate("trigger", dag_id="orders", run_id="monday", conf={})

        def deferred() -> TriggersView | None:
            seen = TriggersView.model_validate_json(self._get(paths.ADMIN_TRIGGERS))
            return seen if (seen.held, seen.waiting_count) == (CAPACITY, SENSORS - CAPACITY) else None

        return waits.until("its tasks are deferred", deferred, seconds=90, evidence=self.evidence)

    def _get(self, path: str) -> Any:
        return self.plane.admin.get(path).raise_for_status().content
