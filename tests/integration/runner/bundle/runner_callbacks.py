"""Callbacks that a workload can name."""

import os
from pathlib import Path

from airflow.sdk import Connection, Variable


def tell(text, **_):
    (Path(os.environ["RUNNER_TEST_OUT"]) / "callback").write_text(text)


def fail(**_):
    raise RuntimeError("on purpose")


def read_secrets(**_):
    (Path(os.environ["RUNNER_TEST_OUT"]) / "secrets").write_text(
        f"{Connection.get('warehouse').password} {Variable.get('greeting')}"
    )
