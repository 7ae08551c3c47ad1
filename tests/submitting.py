"""DAG processing over the wire, as an agent with the role dag-processor does it; parsed by Airflow's own code.

``parsed`` runs Airflow's serialization in a process of its own, once for a run of pytest; tests put their own ids and
paths into what came out.
"""

import copy
import gzip
import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from tests.apis import Agent, Api, answered

from isthmus.wire import dags

_NUMBERS = itertools.count()

PARSE = """
import datetime, json
from airflow.sdk import DAG, Asset
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.serialization.serialized_objects import DagSerialization
with DAG("template", schedule="@daily", start_date=datetime.datetime(2026, 1, 1), tags=["one"]) as dag:
    EmptyOperator(task_id="a") >> EmptyOperator(task_id="b", outlets=[Asset("made")])
dag.fileloc = "/opt/agent/dags/template.py"
dag.relative_fileloc = "template.py"
print(json.dumps(DagSerialization.to_dict(dag)))
"""


@pytest.fixture(scope="session")
def parsed(api_environment: dict[str, str]) -> dict[str, Any]:
    """A serialized DAG, as Airflow made it."""
    env = {"PATH": os.environ["PATH"], **api_environment}
    out = subprocess.run([sys.executable, "-c", PARSE], env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def result(parsed: dict[str, Any], *dag_ids: str, **values: Any) -> dict[str, Any]:
    """A ``DagFileParsingResult`` with DAGs of these ids; ``values`` go into each DAG."""
    serialized = []
    for dag_id in dag_ids:
        data = copy.deepcopy(parsed)
        data["dag"] |= {"dag_id": dag_id, **values}
        serialized.append({"data": data, "last_loaded": None})
    return {
        "fileloc": "/opt/agent/dags/template.py",
        "serialized_dags": serialized,
        "warnings": [],
        "import_errors": {},
        "type": "DagFileParsingResult",
    }


@dataclass
class Processor:
    """An agent that parses DAGs, with one bundle that only its token has."""

    agent: Agent
    bundle: str
    fence: int = 0

    @property
    def api(self) -> Api:
        return self.agent.api

    def poll(self, *names: str, **values: Any) -> list[dict[str, Any]]:
        offered = [{"name": name, **values} for name in names or (self.bundle,)]
        said: list[dict[str, Any]] = answered(self.agent.post("dag-processing/bundles", bundles=offered))["bundles"]
        for one in said:
            if one["name"] == self.bundle:
                self.fence = one["fence"]
        return said

    def submission(self, path: str, body: dict[str, Any], **values: Any) -> dict[str, Any]:
        return {
            "bundle": self.bundle,
            "fence": self.fence,
            "relative_fileloc": path,
            "content_hash": content_hash(body),
            "duration_seconds": 0.5,
            "result": body,
            **values,
        }

    def send(self, *submissions: dict[str, Any], compressed: bool = False) -> httpx.Response:
        if not compressed:
            return self.agent.post("dag-processing/submissions", submissions=list(submissions))
        body = json.dumps(self.agent.body(submissions=list(submissions))).encode()
        return self.agent.client.post(
            "agent/v1/dag-processing/submissions",
            content=gzip.compress(body),
            headers={"Content-Encoding": "gzip", "Content-Type": "application/json"},
        )

    def submit(self, path: str, body: dict[str, Any], **values: Any) -> dict[str, Any]:
        (said,) = answered(self.send(self.submission(path, body, **values)))["files"]
        found: dict[str, Any] = said
        return found

    def observe(self, files: Iterable[tuple[str, str]], *, whole: bool = False, **values: Any) -> dict[str, Any]:
        """Report a pass: (path, content hash) of all files."""
        files = list(files)
        one: dict[str, Any] = {
            "bundle": self.bundle,
            "fence": self.fence,
            "count": len(files),
            "digest": dags.digest(files),
            **values,
        }
        if whole:
            one["files"] = [{"relative_fileloc": path, "content_hash": known} for path, known in files]
        (said,) = answered(self.agent.post("dag-processing/observations", observations=[one]))["bundles"]
        found: dict[str, Any] = said
        return found

    def claim(self) -> list[dict[str, Any]]:
        held = [{"name": self.bundle, "fence": self.fence}]
        claims: list[dict[str, Any]] = answered(self.agent.post("dag-processing/claims", bundles=held))["claims"]
        return claims

    def settle(self, *claims: dict[str, Any], **values: Any) -> dict[str, Any]:
        references = [{"claim_id": one["claim_id"], "fence": one["fence"], **values} for one in claims]
        return answered(self.agent.post("dag-processing/settlements", claims=references))

    def sibling(self) -> "Processor":
        """Another agent with the same token and bundle."""
        agent = self.api.agent(token=self.agent.token, role="dag-processor")
        return Processor(agent, self.bundle)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        return self.api.execute(statement.format(bundle=self.bundle))


def content_hash(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


@pytest.fixture
def processor(api: Api) -> Processor:
    """An agent that holds a new bundle."""
    made = Processor(api.agent(role="dag-processor"), f"bundle {next(_NUMBERS)}")
    (said,) = made.poll()
    assert said["assigned"], said
    return made
