"""The one program that the benchmarks need and Python's package index does not have: redis, Celery's broker.

Everything from Python is in ``.bench/venv``, which ``bench/Makefile`` makes from ``requirements/bench.txt``. It is not
``.venv``, because the other executors' providers register plugins and configuration with any Airflow that can import
them, and so the demo and the tests would run beside them.
"""

import os
import shutil
import subprocess


class InstallError(RuntimeError):
    """Something that the benchmarks need is missing and could not be installed."""


def ensure_redis() -> str:
    """The path of ``redis-server``, from Debian's package unless there is one already. Raises InstallError."""
    found = shutil.which("redis-server")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing Debian's redis-server for Celery", flush=True)
        command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "redis-server"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        # A machine that was never updated has no package lists: get them and try once more.
        for update in (False, True):
            if update:
                subprocess.run(["apt-get", "update", "--quiet"], env=environment, check=False, capture_output=True)
            if subprocess.run(command, env=environment, check=False, capture_output=True).returncode == 0:
                break
        found = shutil.which("redis-server")
    if found is None:
        raise InstallError("CeleryExecutor needs redis: install the package redis-server, or leave Celery out")
    return found
