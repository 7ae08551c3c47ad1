"""``isthmus version``."""

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Annotated

import typer

import isthmus

app = typer.Typer(add_completion=False)


@app.command()
def version(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the version of Isthmus, and of Airflow where it is installed."""
    versions: dict[str, str | None] = {"isthmus": isthmus.__version__, "python": platform.python_version()}
    for key, package in (("airflow", "apache-airflow-core"), ("task_sdk", "apache-airflow-task-sdk")):
        try:
            versions[key] = installed(package)
        except PackageNotFoundError:
            versions[key] = None
    if as_json:
        sys.stdout.write(json.dumps(versions, indent=2) + "\n")
        return
    for key, value in versions.items():
        sys.stdout.write(f"{key:9}{value or 'not installed'}\n")
