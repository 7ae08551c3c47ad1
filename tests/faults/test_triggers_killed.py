"""SIGKILL while triggers are handed out or fire, at each moment of a call: each task goes on, and goes on once."""

import itertools
from collections.abc import Iterator

import pytest
from tests.strides import stride

from faults.harness.agents import Agent
from faults.harness.certificates import Authority
from faults.harness.moments import Moment, Moments, Who
from faults.harness.planes import Plane
from faults.harness.proxies import Checkpoint
from faults.test_triggers import Scene

LANE = "mortal"
HANDED_OUT = list(itertools.product(("load", "workloads"), Moment, Who))


@pytest.fixture(scope="module")
def moments(plane: Plane) -> Iterator[Moments]:
    authority = Authority(plane.directory, "triggers-checkpoint")
    checkpoint = Checkpoint(plane.loop, authority, plane.api_port, plane.authority)
    agent = Agent(
        plane,
        LANE,
        slots=4,
        port=checkpoint.port,
        authority=authority,
        settings={"ISTHMUS_AGENT_ROLE": "worker,triggerer", "PYTHONPATH": str(plane.dags)},
    )
    try:
        agent.start()
        yield Moments(agent, checkpoint, "triggerer")
    finally:
        agent.close()
        checkpoint.close()


@pytest.mark.parametrize(("moment", "who"), list(itertools.product(Moment, Who)))
def test_an_event(moments: Moments, moment: Moment, who: Who) -> None:
    scene = Scene(moments.agent.plane, f"{LANE}_gate")
    scene.await_notes("started", seconds=60, evidence=moments.agent.evidence)
    moments.watch(moment, "/triggers/events")
    scene.open_gate()
    moments.strike(moment, who)
    _assert_went_on_once(scene, moments)


@pytest.mark.parametrize(("call", "moment", "who"), HANDED_OUT[:: stride(5)])
def test_a_trigger_that_is_handed_out(moments: Moments, call: str, moment: Moment, who: Who) -> None:
    moments.watch(moment, f"/triggers/{call}$", lambda seen: b'"trigger_ids":[]' not in seen.answer)
    scene = Scene(moments.agent.plane, f"{LANE}_gate")
    scene.open_gate()
    moments.strike(moment, who)
    _assert_went_on_once(scene, moments)


def _assert_went_on_once(scene: Scene, moments: Moments) -> None:
    scene.await_states({"wait": "success"}, moments.agent.evidence, seconds=90)
    assert scene.resumed() == ["1"]
    assert scene.xcom("wait")["gate"] == "open"
    assert "killed" not in [what for what, _ in scene.notes()]
    assert scene.plane.database.rows("SELECT 1 FROM trigger") == []
