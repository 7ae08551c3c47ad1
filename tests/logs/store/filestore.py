"""Remote logging as users configure it (``logging_config_class``), with a directory for a store."""

import os
import shutil
from pathlib import Path

from airflow.config_templates.airflow_local_settings import DEFAULT_LOGGING_CONFIG as LOGGING_CONFIG  # noqa: F401
from airflow.sdk.configuration import conf


class FileStore:
    processors = ()

    def upload(self, path, ti=None):  # type: ignore[no-untyped-def]
        source = Path(conf.get("logging", "base_log_folder")) / path
        target = Path(os.environ["STORE"]) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)

    def read(self, relative_path, ti):  # type: ignore[no-untyped-def]
        found = Path(os.environ["STORE"]) / relative_path
        if not found.exists():
            return [], None
        return [f"store of {ti.dag_id}: {found}"], [found.read_text()]


REMOTE_TASK_LOG = FileStore()
