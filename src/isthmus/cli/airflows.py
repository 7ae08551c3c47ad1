"""The little of Airflow's REST API that the composition and the demo need, over HTTP like any other client.

Only for an Airflow that we run ourselves on loopback, where ``SimpleAuthManager`` gives a token to whoever asks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import httpx

from isthmus.kit.errors import IsthmusError, NotFoundError, TemporaryError, UnreachableError

_TIMEOUT_SECONDS: Final = 20.0
#: Airflow's own maximum is higher; the demo's runs have a dozen tasks.
_PAGE: Final = 100


class AirflowError(TemporaryError):
    """Airflow answered, but not with what was asked for."""


@dataclass(frozen=True, slots=True)
class TaskInstance:
    """One task instance at its latest try."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    state: str | None
    hostname: str
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None


class Airflow:
    """One Airflow API server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=url, timeout=_TIMEOUT_SECONDS, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def health(self) -> Mapping[str, Any] | None:
        """``/api/v2/monitor/health``; None while there is no answer."""
        try:
            answer = self._client.get("/api/v2/monitor/health", timeout=5.0)
            return answer.json() if answer.is_success else None
        except (httpx.TransportError, ValueError):
            return None

    def beats(self, component: str, since: datetime) -> bool:
        """Whether ``component`` (scheduler, dag_processor, triggerer) has sent a heartbeat later than ``since``."""
        about = (self.health() or {}).get(component) or {}
        moment = _moment(about.get(f"latest_{component}_heartbeat"))
        return moment is not None and moment > since and about.get("status") == "healthy"

    def knows(self, dag_id: str) -> bool:
        """Whether the DAG was parsed and can be run."""
        try:
            return not self._ask("GET", f"/api/v2/dags/{dag_id}")["is_stale"]
        except NotFoundError:
            return False

    def import_errors(self) -> list[str]:
        """What is wrong with DAG files."""
        answer = self._ask("GET", "/api/v2/importErrors")
        return [f"{one['filename']}: {one['stack_trace']}" for one in answer["import_errors"]]

    def trigger(self, dag_id: str, run_id: str) -> None:
        """Start a run now."""
        self._ask("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"dag_run_id": run_id, "logical_date": None})

    def run_state(self, dag_id: str, run_id: str) -> str:
        """The state of a run."""
        return str(self._ask("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """The task instances of a run, mapped ones included."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit={_PAGE}"
        return [
            TaskInstance(
                dag_id=one["dag_id"],
                run_id=one["dag_run_id"],
                task_id=one["task_id"],
                map_index=one["map_index"],
                try_number=one["try_number"],
                state=one["state"],
                hostname=one["hostname"] or "",
                queued_at=_moment(one["queued_when"]),
                started_at=_moment(one["start_date"]),
                ended_at=_moment(one["end_date"]),
            )
            for one in self._ask("GET", path)["task_instances"]
        ]

    def log(self, task: TaskInstance) -> list[str]:
        """What a task instance has logged at its latest try: the text of each line."""
        run = f"/api/v2/dags/{task.dag_id}/dagRuns/{task.run_id}"
        path = f"{run}/taskInstances/{task.task_id}/logs/{task.try_number}?map_index={task.map_index}&full_content=true"
        content = self._ask("GET", path)["content"]
        return [str(one.get("event", "")) if isinstance(one, dict) else str(one) for one in content]

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer's JSON. Raises UnreachableError, NotFoundError, AirflowError."""
        try:
            if "Authorization" not in self._client.headers:
                token = self._client.get("/auth/token")
                if not token.is_success:
                    raise self._surprise(token)
                self._client.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
            answer = self._client.request(method, path, json=body, headers={"Accept": "application/json"})
        except httpx.TransportError as error:
            raise UnreachableError(
                f"Airflow at {self.url} does not answer: {error or type(error).__name__}", code="airflow_unreachable"
            ) from None
        if not answer.is_success:
            raise self._surprise(answer)
        found: dict[str, Any] = answer.json()
        return found

    def _surprise(self, answer: httpx.Response) -> IsthmusError:
        asked = f"{answer.request.method} {answer.request.url.path}"
        if answer.status_code == httpx.codes.NOT_FOUND:
            return NotFoundError(f"Airflow has nothing at {asked}", code="airflow_not_found")
        return AirflowError(
            f"Airflow answered {asked} with status {answer.status_code}",
            code="airflow_refused",
            hint=answer.text[:500],
        )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
