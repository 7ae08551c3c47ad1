"""Which DAGs are compared: all that come with Airflow and its providers, but for those that need something outside.

Two runs of one DAG differ in what it draws at random and in the time. So LocalExecutor runs everything twice, and
only what is the same in both of its runs is asked of the agents; nothing has to be listed here for that.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

#: DAGs that are not run, and why. Their names are patterns of ``fnmatch``.
LEFT_OUT: Final[Mapping[str, str]] = {
    "example_kubernetes_executor": "asks for Kubernetes",
    "example_local_kubernetes_executor": "asks for Kubernetes",
    "tutorial_objectstorage": "reads a bucket in the internet",
    "*virtualenv*": "installs packages from the internet",
    "example_branch_operator": "installs packages from the internet",
    "example_branch_python_operator_decorator": "installs packages from the internet",
    "example_python_operator": "installs packages from the internet",
    "example_python_decorator": "installs packages from the internet",
    "example_sensors": "defers a sensor for an hour",
    "example_retry_policy": "calls a host in the internet, five times with long pauses",
    "example_dag_decorator": "calls a host in the internet",
    "example_analytics*": "reads tables of a database that is not there",
}

#: Why a DAG may differ, for the page.
WHY: Final[Mapping[str, str]] = {
    "example_asset_state_store_consumer": "reads what another DAG writes at the same time",
    "example_custom_weight": "its plugin is not installed in the plane",
    "example_workday_timetable": "its plugin is not installed in the plane",
}

#: A Wednesday: ``example_bash_decorator`` sleeps for an hour on weekends.
LOGICAL_DATE: Final = datetime(2026, 11, 18, 12, 30, tzinfo=UTC)

#: What people would have done by hand before, as the DAGs' own comments say.
FILES: Final = (Path("/tmp/temporary_file_for_testing"),)

#: What people answer to a human-in-the-loop operator, by task; the first option for all others.
ANSWERS: Final[Mapping[str, dict[str, Any]]] = {
    "wait_for_input": {"chosen_options": ["OK"], "params_input": {"information": "from parity"}},
    "valid_input_and_options": {"chosen_options": ["Approve"]},
}
