"""What an agent may ask of Airflow's Execution API for itself, where no workload of its is concerned.

A DAG processor needs connections and variables while it parses, and its callbacks look at runs and XComs of their DAG;
the allow lists of the deployment hold for it as they do for tasks. Each role has its areas (the first part of the path)
and methods, and nothing that is not in the table is served: Airflow's own API lets every token read everything.
"""

from collections.abc import Mapping
from typing import Final

from isthmus.wire.names import Role

#: How long a component's token is good: an agent that was removed loses it within minutes.
COMPONENT_TOKEN_SECONDS: Final = 600.0

_READ: Final = frozenset({"GET"})
_CHANGE: Final = frozenset({"GET", "PUT", "DELETE"})

#: By role: the areas that are open to an agent of it, and the methods.
COMPONENT_AREAS: Final[Mapping[Role, Mapping[str, frozenset[str]]]] = {
    # What DAG files and callbacks can ask of Airflow's DAG processor. ``dags.admitting`` looks closer.
    Role.DAG_PROCESSOR: {
        "connections": _READ,
        "dag-runs": _READ,
        "health": _READ,
        "task-instances": _READ,
        "variables": _CHANGE,
        "xcoms": frozenset({"GET", "HEAD"}),
    },
    # What the code of a trigger can ask of Airflow's triggerer. ``triggers.admitting`` looks closer at some of it.
    Role.TRIGGERER: {
        "connections": _READ,
        "dag-runs": _READ,
        "health": _READ,
        "hitlDetails": frozenset({"GET", "PATCH"}),
        "store": _CHANGE,
        "task-instances": _READ,
        "variables": _CHANGE,
        "xcoms": frozenset({"GET", "HEAD", "POST", "DELETE"}),
    },
}


def may(role: Role, method: str, area: str) -> bool:
    """Whether an agent with ``role`` may send ``method`` to ``area``."""
    return method in COMPONENT_AREAS.get(role, {}).get(area, frozenset())
