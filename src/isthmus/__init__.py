"""Isthmus: remote execution for Apache Airflow 3 over a private link.

The layers, top to bottom, are declared in ``pyproject.toml`` and checked by import-linter:
``cli > control | deployment | agent | runner | lab > link > probe > wire > kit``.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("isthmus")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"
