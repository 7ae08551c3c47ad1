"""Callbacks that a workload can name."""

import os
from pathlib import Path


def tell(text, **_):
    (Path(os.environ["RUNNER_TEST_OUT"]) / "callback").write_text(text)


def fail(**_):
    raise RuntimeError("on purpose")
