"""A real plane whose deployment has the role dag-processor, and agents whose DAG files it never sees."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from faults.harness import waits
from faults.harness.agents import Agent
from faults.harness.planes import Plane

#: The plane's bundle has files of no matter; without a DAG processor nobody looks at them.
SETTINGS = {
    "roles": "worker,dag-processor",
    "allowed_variables": "greeting",
}


class Site:
    """An agent with a folder of DAG files of its own."""

    def __init__(self, plane: Plane, lane: str, folder: Path, **options: Any) -> None:
        self.plane = plane
        self.lane = lane
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.bundle = folder.name
        bundle = {
            "name": self.bundle,
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(folder), "refresh_interval": 1},
        }
        settings = {
            "ISTHMUS_AGENT_ROLE": "worker,dag-processor",
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
            "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "4",
            **options.pop("settings", {}),
        }
        self.agent = Agent(plane, lane, settings=settings, **options)

    def write(self, name: str, text: str) -> Path:
        """A DAG file, whole at once."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        draft.write_text(text, encoding="utf-8")
        draft.chmod(0o644)
        os.replace(draft, path)  # noqa: PTH105
        return path

    def component(self) -> psutil.Process:
        """The DAG processor."""
        return self.agent.component("dag-processor")

    def rows(self, statement: str, *parameters: object) -> list[tuple[object, ...]]:
        """Of Airflow's own tables."""
        return self.plane.database.rows(statement, parameters)

    def until(self, what: str, statement: str, *parameters: object, to_be: object, seconds: float = 60) -> None:
        """Until the rows of a query are these."""
        found: list[object] = []

        def so() -> bool:
            found[:] = self.rows(statement, *parameters)
            return found == to_be

        waits.until(
            what, so, seconds=seconds, evidence=lambda: f"{found}\n{self.agent.evidence()}\n{self.plane.api.tail()}"
        )


#: Seen by every Python of the agent's; of interest in the DAG processor and what it forks.
LISTENER = """
import sys

if "dag-processor" in sys.orig_argv:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def note(text):
        with open({record!r}, "a") as record:
            record.write(text + "\\n")

    note("listening")
    event.listen(Engine, "do_connect", lambda *_: note("a connection"))
    event.listen(Engine, "before_cursor_execute", lambda conn, cursor, statement, *_: note(statement))
"""


def watched_for_queries(folder: Path) -> dict[str, str]:
    """Settings of an agent whose DAG processor writes down every database query. See ``Site.queries``."""
    folder.chmod(0o777)  # the agent's users write there
    (folder / "sitecustomize.py").write_text(LISTENER.format(record=str(folder / "queries")), encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


@pytest.fixture(scope="package")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    empty = tmp_path_factory.mktemp("nothing")
    plane = Plane(empty, settings=SETTINGS)
    try:
        yield plane.start()
    finally:
        plane.close()


@pytest.fixture(scope="package")
def make_site(plane: Plane) -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def make(lane: str, folder: Path | None = None, **options: Any) -> Site:
        folder = folder or plane.directory / "sites" / lane
        sites.append(Site(plane, lane, folder, **options))
        return sites[-1]

    yield make
    for site in sites:
        site.agent.close()


@pytest.fixture(scope="package")
def site(make_site: Callable[..., Site]) -> Site:
    """One agent that most tests share, each with DAG files of its own."""
    made = make_site("etl")
    made.agent.start()
    return made
