"""What a user does with Airflow, in one warm process: serialize the DAGs, trigger runs.

Run as a program with the plane's environment, because Airflow's configuration is global and the tests' own process
stays free of it. Each line on standard input is a JSON object with an ``act``; each is answered by one line.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from airflow.api.common.trigger_dag import trigger_dag
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.models import Variable
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType


def serialize() -> None:
    bundles = DagBundlesManager()
    with create_session() as session:
        bundles.sync_bundles_to_db(session=session)
        session.commit()
        for bundle in bundles.get_all_dag_bundles():
            bundle.initialize()
            bag = BundleDagBag(bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
            if bag.import_errors:
                raise RuntimeError(f"the DAGs do not import: {bag.import_errors}")
            sync_bag_to_db(bag, bundle.name, bundle_version=None, session=session)


def trigger(dag_id: str, run_id: str, conf: dict[str, Any]) -> None:
    trigger_dag(dag_id, triggered_by=DagRunTriggeredByType.TEST, run_id=run_id, conf=conf)


def set_variable(key: str, value: str) -> None:
    Variable.set(key, value)


ACTS: dict[str, Callable[..., None]] = {"serialize": serialize, "trigger": trigger, "set_variable": set_variable}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever Airflow prints goes to the log
    for line in sys.stdin:
        request = json.loads(line)
        try:
            ACTS[request.pop("act")](**request)
            answer: dict[str, str | None] = {"failed": None}
        except Exception as error:  # the test tells it
            answer = {"failed": repr(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
