"""Airflow's own logging configuration, with task logs read through agents: ``[logging] logging_config_class``.

Airflow takes ``REMOTE_TASK_LOG`` from the module that it loads its logging configuration from, whatever
``remote_logging`` says. A provider's scheme for ``remote_base_log_folder`` would be the newer way, but 3.3's default
module ends with an error for every scheme that it does not list itself.
"""

from typing import Any, Final

from airflow.config_templates.airflow_local_settings import DEFAULT_LOGGING_CONFIG

from isthmus.deployment.remotelogs import AgentLogIO

LOGGING_CONFIG: dict[str, Any] = DEFAULT_LOGGING_CONFIG
REMOTE_TASK_LOG: Final = AgentLogIO()
