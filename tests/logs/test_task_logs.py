"""Task logs in Airflow's UI: through Airflow's own API server, from real agents."""

import json
import os
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tests.logs.conftest import Airflow, Talk, until_said

from faults.harness import waits
from faults.harness.agents import Agent
from faults.harness.planes import Plane
from isthmus.deployment import logreads
from isthmus.wire.admin import AgentHealth
from isthmus.wire.logs import MAX_CHUNK_BYTES

Start = Callable[..., Talk]
MIB = 1024 * 1024


def test_a_line_is_shown_within_two_seconds_of_being_written(airflow: Airflow, agent: Agent, talk: Start) -> None:
    run = talk()
    waits.until("both tasks run", run.running, seconds=60)
    until_said(airflow, run, "number 1 try 1")
    seconds = []
    for number in range(3):
        run.say(f"word {number}")
        seconds.append(until_said(airflow, run, f"word {number}"))
    print(f"live lines after {[round(one, 2) for one in seconds]} s")
    assert max(seconds) < 2
    assert "number 2 try 1" in airflow.log(run, 1)
    assert "number 1" not in airflow.log(run, 1), "each mapped task has its own log"
    shown = airflow.log(run, kind="application/json")
    assert "word 2" in shown
    assert agent.name in shown
    run.end()
    finished = airflow.log(run)
    assert finished.count("word 1") == 1
    assert all(json.loads(line) for line in finished.splitlines())


def test_each_try_has_its_log(airflow: Airflow, agent: Agent, talk: Start) -> None:
    run = talk(fails=True)
    run.end()
    assert run.state() == "success"
    first, second = airflow.log(run, try_number=1), airflow.log(run, try_number=2)
    assert "number 1 try 1" in first
    assert "the first try fails" in first
    assert "number 1 try 2" in second
    assert "try 1" not in second


def test_the_log_comes_from_the_store_when_its_file_is_gone(airflow: Airflow, agent: Agent, talk: Start) -> None:
    run = talk()
    run.say("kept for later")
    run.end()
    run.file(agent).unlink()
    shown = airflow.log(run)
    assert "kept for later" in shown
    assert "store of talking" in shown


def test_a_killed_task_leaves_what_it_wrote(airflow: Airflow, agent: Agent, talk: Start) -> None:
    run = talk()
    waits.until("both tasks run", run.running, seconds=60)
    run.say("the last words")
    until_said(airflow, run, "the last words")
    words = json.loads(next(line for line in airflow.log(run).splitlines() if "number 1 try 1" in line))
    os.kill(int(words["event"].rpartition(" ")[2]), 9)
    run.end()
    assert "the last words" in airflow.log(run)


def test_a_planted_link_gives_nothing_away(airflow: Airflow, agent: Agent, talk: Start) -> None:
    run = talk()
    run.end()
    file = run.file(agent)
    stored = agent.plane.directory / "store" / file.relative_to(agent.directory / "logs")
    stored.unlink()
    file.unlink()
    file.symlink_to(agent.token_file)
    shown = airflow.log(run)
    assert agent.token not in shown
    assert "does not give" in shown
    file.unlink()
    os.link(agent.token_file, file)
    shown = airflow.log(run)
    assert agent.token not in shown
    assert "does not give" in shown


def test_what_a_trigger_wrote_is_shown_between_what_the_task_wrote(
    plane: Plane, airflow: Airflow, agent: Agent
) -> None:
    triggerer = Agent(plane, "oslo", name="watch", settings={"ISTHMUS_AGENT_ROLE": "triggerer"})
    triggerer.start(ready=False)  # as ``watch.triggerer``, which the harness does not look for
    try:
        waits.until("the triggerer is ready", triggerer.ready, seconds=60, evidence=triggerer.control.tail)
        plane.operate("trigger", dag_id="pausing", run_id="deferred", conf={})
        state = "SELECT state FROM dag_run WHERE run_id = 'deferred'"
        waits.until(
            "the run ends",
            lambda: plane.database.rows(state)[0][0] in {"success", "failed"},
            seconds=60,
            evidence=lambda: triggerer.control.tail(20),
        )
        url = "/api/v2/dags/pausing/dagRuns/deferred/taskInstances/pause/logs/1"
        answer = airflow.client.get(url, headers={"Accept": "application/x-ndjson"}, timeout=60)
    finally:
        triggerer.close()
    assert plane.database.rows(state) == [("success",)]
    shown = [json.loads(line)["event"] for line in answer.text.splitlines()]
    places = [shown.index(line) for line in ("before the pause", "trigger starting", "after the pause")]
    assert places == sorted(places), shown
    assert any("From agent watch" in line for line in shown), "and it says whose lines these are"


class Peak:
    """The most memory that some processes had more than at the beginning, in bytes."""

    def __init__(self, processes: dict[str, list[psutil.Process]]) -> None:
        self._processes = processes
        self._before = {name: self._now(name) for name in processes}
        self.more = dict.fromkeys(processes, 0)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            for name in self._processes:
                self.more[name] = max(self.more[name], self._now(name) - self._before[name])

    def _now(self, name: str) -> int:
        total = 0
        for process in self._processes[name]:
            with suppress(psutil.NoSuchProcess):
                memory = process.memory_full_info()
                total += memory.uss
        return total


def below(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def backends(plane: Plane) -> list[psutil.Process]:
    found = []
    for row in plane.database.rows("SELECT pid FROM pg_stat_activity"):
        with suppress(psutil.NoSuchProcess):  # the autovacuum of a moment
            found.append(psutil.Process(int(row[0])))
    return found


def lengthen(file: Path, size: int) -> int:
    """Add lines that are about a fifth of their length when they are deflated; how many bytes there are."""
    line = {"timestamp": "2026-01-01T00:00:00Z", "level": "info"}
    with file.open("a") as log:
        while log.tell() < size:
            for text in textwrap.wrap(os.urandom(64 * 1024).hex(), 100):
                log.write(json.dumps({**line, "event": text + "x" * 300}) + "\n")
        return log.tell()


class Rests(threading.Thread):
    """The most chunks of logs that were in the database at a time, and how large their table became, in bytes."""

    def __init__(self, plane: Plane) -> None:
        super().__init__(daemon=True)
        self._plane = plane
        self._done = threading.Event()
        self.chunks = self.size = 0

    def __enter__(self) -> "Rests":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        while not self._done.wait(0.05):
            self._plane_says()

    def _plane_says(self) -> None:
        query = "SELECT count(*), pg_total_relation_size('isthmus_log_chunk') FROM isthmus_log_chunk"
        ((chunks, size),) = self._plane.database.rows(query)
        self.chunks, self.size = max(self.chunks, chunks), max(self.size, size)


def test_a_long_log_opens_in_little_memory(plane: Plane, airflow: Airflow, agent: Agent, talk: Start) -> None:
    run = talk()
    run.end()
    airflow.log(run)  # what is imported by the first one is not the log
    size = lengthen(run.file(agent), 100 * MIB)
    processes = {
        "api server": below(plane.airflow.pid),
        "remote execution API": below(plane.api.pid),
        "agent": [psutil.Process(agent.control.pid)],
        "database": backends(plane),
    }
    began = time.monotonic()
    received = 0
    asked = airflow.client.stream("GET", run.url(0, 1), headers={"Accept": "application/x-ndjson"}, timeout=300)
    with Rests(plane) as rests, Peak(processes) as peak, asked as answer:
        for part in answer.iter_bytes():
            received += len(part)
    seconds = time.monotonic() - began
    print(
        f"{size / MIB:.0f} MiB in {seconds:.1f} s; more memory:",
        {n: f"{b / MIB:.1f} MiB" for n, b in peak.more.items()},
    )
    assert received > 0.95 * size, "Airflow writes the same lines a little shorter"
    assert all(more < 64 * MIB for more in peak.more.values()), peak.more
    print(f"at most {rests.chunks} chunks in the database, in a table of {rests.size / MIB:.1f} MiB")
    assert 0 < rests.chunks <= logreads.WINDOW + 1
    assert plane.database.rows("SELECT count(*) FROM isthmus_log_chunk") == [(0,)]


def test_an_agent_is_killed_while_its_log_is_read_and_another_has_it(
    plane: Plane, airflow: Airflow, agent: Agent, talk: Start, second_api: int
) -> None:
    stored, long = talk(), talk()
    stored.say("from far away")
    stored.end()
    stored.file(agent).unlink()
    long.end()
    size = lengthen(long.file(agent), 30 * MIB)
    killed_after_chunks(plane, airflow, agent, long, 20)
    waits.until("the plane knows", lambda: not is_healthy(agent), seconds=20)
    shown = airflow.log(stored)
    assert f"Agent {agent.name} has this log and is offline" in shown
    assert "Bring the agent back" in shown
    shared = {"AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(agent.directory / "logs")}
    store = {name: agent.control.environment[name] for name in agent.control.environment if name in _STORE}
    other = Agent(plane, "oslo", name="bergen", port=second_api, users=agent.users, settings=store | shared)
    other.start()
    try:
        shown = airflow.log(long)
        assert len(shown) > 0.9 * size, "from the folder that both see"
        assert "has stopped sending" not in shown
        shown = airflow.log(stored)
        assert "from far away" in shown
        assert "store of talking" in shown
        assert "bergen" in shown
        run = talk()
        waits.until("both tasks run", run.running, seconds=60)
        run.say("through the other one")
        until_said(airflow, run, "through the other one")
        run.end()
    finally:
        other.close()


def killed_after_chunks(plane: Plane, airflow: Airflow, agent: Agent, run: Talk, chunks: int) -> None:
    """Kill the agent while somebody reads the log; asserts that what came is shown, and a word why there is no more."""
    shown: list[str] = []
    reading = threading.Thread(target=lambda: shown.extend(airflow.log(run).splitlines()), daemon=True)
    reading.start()
    sent = "SELECT coalesce(max(sent), 0) FROM isthmus_log_read WHERE source = 'file'"
    waits.until("some of it is on its way", lambda: plane.database.rows(sent)[0][0] >= chunks, seconds=20)
    agent.kill()
    killed = time.monotonic()
    reading.join(40)
    assert not reading.is_alive(), "nobody hangs"
    print(f"the reader was told {time.monotonic() - killed:.1f} s after the agent was killed")
    assert any("number 1 try 1" in line for line in shown), "what came before is shown"
    assert sum(map(len, shown)) > 0.9 * (chunks - 1) * MAX_CHUNK_BYTES
    assert f"Agent {agent.name} has stopped sending this log; open it again." in shown[-1]


def is_healthy(agent: Agent) -> bool:
    view = agent.view()
    return view is not None and view.health is AgentHealth.HEALTHY


_STORE = {
    "AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS",
    "PYTHONPATH",
    "STORE",
    "ISTHMUS_AGENT_ROLE",
}


@pytest.fixture(autouse=True)
def _nothing_rests(plane: Plane) -> "object":
    yield
    waits.until(
        "no read is left",
        lambda: plane.database.rows("SELECT count(*) FROM isthmus_log_read") == [(0,)],
        seconds=10,
    )
