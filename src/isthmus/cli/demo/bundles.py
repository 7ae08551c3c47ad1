"""The DAG bundle that the plane and the agents have in common, by name; each side has a copy of its own."""

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
