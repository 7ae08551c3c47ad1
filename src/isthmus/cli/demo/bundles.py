"""The DAG bundle of the agents. Each has a copy of its own; the plane has none."""

import json
from pathlib import Path
from typing import Final

NAME: Final = "examples"


def setting(folder: Path) -> str:
    """Airflow's ``[dag_processor] dag_bundle_config_list`` with that bundle alone, in ``folder``."""
    bundle = {
        "name": NAME,
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(folder)},
    }
    return json.dumps([bundle])
