"""Submissions changed at random in hostile ways: no file of the server is opened, no code runs, no foreign DAG changes.

The fuzzing runs in a process that has Airflow and the database as the plane has them, under Python's audit hooks, which
hear of each file that is opened and each program that is started, by whatever library.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.apis import Api
from tests.submitting import Processor, result

FUZZ = """
import copy, json, random, sys, time, uuid
given = json.load(sys.stdin)
sys.path.insert(0, given["modules"])
from isthmus.deployment import compat
from isthmus.deployment.dags import compat as models, persisting
from isthmus.wire.dags import Submission
from pydantic import ValidationError
models.prepare()
submitter = persisting.Submitter(uuid.UUID(given["agent_id"]), frozenset([given["token_id"]]))
chance = random.Random(20261123)
PATHS = [given["canary"], "/etc/hostname", "../../etc/hostname", "file://" + given["canary"]]
EVIL = [
    *PATHS, given["foreign"], "os.system", "canary_module.Boom", "", "x" * 5000, "a\\x00b", -1, 2**70, 1e308, True,
    None, [], {}, [[[[]]]], {"__type": "dict", "__var": {}}, {"__type": "canary_module.Boom", "__var": {}},
    {"__type": "airflow_exc_ser", "__var": {"__type": "dict", "__var": {
        "exc_cls_name": "canary_module.Boom", "args": [], "kwargs": {"__type": "dict", "__var": {}}}}},
    {"__type": "base_exc_ser", "__var": {"exc_cls_name": "canary_module.Boom", "args": ["x"], "kwargs": {}}},
    {"__type": "asset", "__var": {"name": "a", "uri": given["canary"], "group": "g", "extra": {}, "watchers": [
        {"name": "w", "trigger": {"classpath": "canary_module.Boom", "kwargs": {}}}]}},
]
KEYS = ["dag_id", "fileloc", "relative_fileloc", "_processor_dags_folder", "timetable", "tags", "tasks", "params",
        "owner_links", "access_control", "deadline", "default_args", "weight_rule", "template_searchpath", "task_group",
        "start_date", "max_active_runs", "dag_display_name", "description", "allowed_run_types", "doc_md"]

def places(value, found):
    if isinstance(value, dict):
        for key in list(value):
            found.append((value, key)); places(value[key], found)
    elif isinstance(value, list):
        for index, one in enumerate(value):
            found.append((value, index)); places(one, found)
    return found

def mutated():
    body = copy.deepcopy(given["result"])
    dag = body["serialized_dags"][0]["data"]["dag"]
    if chance.random() < 0.6:
        dag["dag_id"] = "fuzz_" + str(chance.randrange(10))
    for _ in range(chance.choice([1, 1, 2, 4])):
        if chance.random() < 0.5:
            where, key = chance.choice(places(body, []))
            where[key] = copy.deepcopy(chance.choice(EVIL))
        else:
            dag[chance.choice(KEYS)] = copy.deepcopy(chance.choice(EVIL))
    if chance.random() < 0.3:
        body["import_errors"] = {chance.choice(PATHS): "e"}
    return body

own = [sys.prefix, sys.base_prefix, sys.exec_prefix, given["package"], "/usr/lib", "/usr/share/zoneinfo"]
opened, started, watching = [], [], False
def hear(event, arguments):
    if not watching:
        return
    if event == "open" and isinstance(arguments[0], str) and not any(arguments[0].startswith(one) for one in own):
        opened.append(arguments[0])
    if event in {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"}:
        started.append(event)
sys.addaudithook(hear)

def submit(body, source=None):
    try:
        one = Submission.model_validate({
            "bundle": given["bundle"], "fence": given["fence"], "relative_fileloc": "fuzz.py", "content_hash": "0" * 64,
            "duration_seconds": 0.1, "result": body, "source": source})
    except (ValidationError, RecursionError):
        return "invalid"
    return persisting.take(submitter, one, sources=False).verdict.value

submit(copy.deepcopy(given["result"]))  # imports what it needs
watching = True
verdicts = {}
end = time.monotonic() + given["seconds"]
while time.monotonic() < end:
    said = submit(mutated(), chance.choice([None, *PATHS]))
    verdicts[said] = verdicts.get(said, 0) + 1
open(given["canary"]).close()  # the hook hears it
print(json.dumps({"opened": opened, "started": started, "verdicts": verdicts, "ran": "canary_module" in sys.modules}))
"""


def test_random_submissions(
    api: Api, processor: Processor, parsed: dict[str, Any], api_environment: dict[str, str], tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("the server's secret")
    (tmp_path / "canary_module.py").write_text("class Boom(Exception): pass\n")
    owner = Processor(api.agent(role="dag-processor"), f"{processor.bundle} of another")
    owner.poll()
    foreign = f"foreign_{processor.fence}_{os.getpid()}"
    assert owner.submit("theirs.py", result(parsed, foreign))["verdict"] == "accepted"
    before = owner.rows(f"SELECT * FROM dag WHERE dag_id = '{foreign}'")
    given = {
        "agent_id": processor.agent.agent_id,
        "token_id": processor.agent.token.split("_")[2],
        "bundle": processor.bundle,
        "fence": processor.fence,
        "canary": str(canary),
        "foreign": foreign,
        "modules": str(tmp_path),
        "package": str(Path(__file__).parents[2] / "src"),
        "result": result(parsed, "fuzz_0"),
        "seconds": 5,
    }
    environment = {"PATH": os.environ["PATH"], **api_environment}
    environment["AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL"] = "0"
    ran = subprocess.run(
        [sys.executable, "-c", FUZZ],
        input=json.dumps(given),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said["opened"] == [str(canary)], "only what the script itself opened at the end"
    assert said["started"] == []
    assert said["ran"] is False
    assert sum(said["verdicts"].values()) > 10
    assert {"accepted", "refused"} <= set(said["verdicts"])
    assert owner.rows(f"SELECT * FROM dag WHERE dag_id = '{foreign}'") == before
    foreign_now = owner.rows("SELECT dag_id FROM dag WHERE bundle_name = '{bundle}'")
    assert foreign_now == [(foreign,)]
    sources = processor.rows("SELECT DISTINCT source_code FROM dag_code")
    assert all("server's secret" not in source for (source,) in sources)
    locations = processor.rows("SELECT DISTINCT fileloc FROM dag WHERE bundle_name = '{bundle}'")
    assert set(locations) <= {(f"{processor.bundle}/fuzz.py",)}
