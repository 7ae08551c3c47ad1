"""What Airflow knows as its remote task logs where its logging configuration is ``isthmus.deployment.loggingconfig``.

Airflow asks ``AgentLogIO`` for the log of a task instance in any state, in its API server alone; tasks never do: theirs
is whatever the agent's own configuration names. Airflow loads this module while it configures its logging: nothing of
Airflow, and no database driver, is imported here.
"""

import importlib
from collections.abc import Generator
from os import PathLike
from typing import Any


class AgentLogIO:
    """Airflow's ``RemoteLogStreamIO``, through agents. See ``airflow.logging.remote``."""

    #: Nothing is done to lines when they are written.
    processors: tuple[Any, ...] = ()

    def upload(self, path: PathLike[str] | str, ti: Any = None) -> None:
        """Nothing: the plane keeps no task logs. What its own processes write stays where they write it."""

    def stream(self, relative_path: str, ti: Any) -> tuple[list[str], list[Generator[str, None, None]]]:
        """Where the log was looked for, and its lines as they come. Never without a word, never an exception."""
        found: tuple[list[str], list[Generator[str, None, None]]]
        found = importlib.import_module("isthmus.deployment.tasklogs").stream(relative_path, ti)
        return found

    def read(self, relative_path: str, ti: Any) -> tuple[list[str], list[str] | None]:
        """The same for callers that cannot stream."""
        sources, streams = self.stream(relative_path, ti)
        return sources, ["\n".join(lines) for lines in streams]
