"""Logs that an agent shipped to the plane, read when the agent and its disk are gone."""

import json
import shutil
from collections.abc import Callable, Iterator

import pytest
from tests.logs.conftest import Airflow, Talk

from faults.harness import waits
from faults.harness.agents import Agent
from faults.harness.planes import Plane

Start = Callable[..., Talk]

#: Some dozens of parts, so that the agent is in the middle of them for a while.
LINES, WORDS = 3000, "x" * 1200


@pytest.fixture
def shipper(plane: Plane) -> Iterator[Agent]:
    """An agent that ships."""
    agent = Agent(plane, "oslo", name="tromso", slots=4, settings={"ISTHMUS_AGENT_SHIP_LOGS": "True"})
    yield agent.start()
    agent.close()


def shipped(plane: Plane, *, complete: bool) -> list[int]:
    """How much is here of the logs that are complete, or of those that are not."""
    statement = "SELECT size FROM isthmus_shipped_log WHERE complete = %s AND size > 0"
    return [size for (size,) in plane.database.rows(statement, (complete,))]


def test_a_shipped_log_outlives_its_agent_and_arrives_once(
    plane: Plane, airflow: Airflow, shipper: Agent, talk: Start
) -> None:
    run = talk()
    waits.until("both tasks run", run.running, seconds=60, evidence=shipper.evidence)
    run.say("\n".join(f"line {number}. {WORDS}" for number in range(LINES)))
    run.gate.touch()
    waits.until("it is shipping", lambda: shipped(plane, complete=False), seconds=60, evidence=shipper.evidence)
    shipper.kill()
    (part,) = shipped(plane, complete=False)
    sizes = sorted(run.file(shipper, number).stat().st_size for number in (0, 1))
    assert 0 < part < sizes[0], "killed in the middle"
    shipper.start_again()
    waits.until(
        "all is shipped", lambda: sorted(shipped(plane, complete=True)) == sizes, seconds=30, evidence=shipper.evidence
    )
    markers = shipper.state_directory / "unshipped-logs"
    waits.until("nothing is left to ship", lambda: not list(markers.iterdir()), seconds=5)

    shipper.close()
    shutil.rmtree(shipper.directory / "logs")
    for number in (0, 1):
        shown = [json.loads(line)["event"] for line in airflow.log(run, number).splitlines()]
        said = [line.split(".")[0] for line in shown if line.endswith(WORDS)]
        assert said == [f"line {one}" for one in range(LINES)]
        assert any(f"number {number + 1} try 1" in line for line in shown)
        assert not any("copy ends here" in line for line in shown), "it is whole"
    sources = json.loads(airflow.log(run, kind="application/json"))["content"]
    assert "From the copy that agent tromso shipped" in json.dumps(sources[:5])
