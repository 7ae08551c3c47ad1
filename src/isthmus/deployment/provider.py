"""What Airflow learns about Isthmus from its entry point: the executor, the tables' manager, the settings.

Airflow calls ``get_provider_info`` in every process that discovers providers, tasks included: nothing of Airflow, no
database driver and no web framework is imported here. The settings are documented once, in ``config``.
"""

from typing import Any, Final

from isthmus.deployment import config

EXECUTOR: Final = "isthmus.deployment.executor.RemoteExecutor"
DATABASE_MANAGER: Final = "isthmus.deployment.schema.IsthmusDBManager"
#: For ``[logging] logging_config_class``: task logs of all states are read through agents.
LOGGING_CONFIG: Final = "isthmus.deployment.loggingconfig.LOGGING_CONFIG"

#: May hold a password: Airflow hides these, and reads them from ..._CMD and ..._SECRET as well.
_SENSITIVE: Final = frozenset({"notify_url"})


def get_provider_info() -> dict[str, Any]:
    """The provider's metadata, in the form of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "isthmus",
        "name": "Isthmus",
        "description": "Remote execution: tasks run on agents in the customer's network, which only connect out.",
        "executors": [EXECUTOR],
        "db-managers": [DATABASE_MANAGER],
        "config": {
            config.SECTION: {
                "description": "A deployment of Isthmus: its executor and its Remote Execution API.",
                "options": {option.name: _described(option) for option in config.OPTIONS},
            }
        },
    }


def _described(option: config.Option) -> dict[str, Any]:
    return {
        "description": option.description,
        "version_added": option.version_added,
        "type": option.type,
        "example": option.example,
        "default": option.default,
        **({"sensitive": True} if option.name in _SENSITIVE else {}),
    }
