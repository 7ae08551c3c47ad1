"""A primary agent dies, and the one that stands by for its group takes over, and stands back."""

from collections.abc import Callable

from faults.harness import endings, waits
from faults.harness.agents import Agent
from faults.harness.planes import Plane
from faults.harness.runs import Run

Enlist = Callable[..., Agent]
LANE = "standby"


def agents_of_a_run(plane: Plane, agent: Agent) -> set[str | None]:
    run = Run(plane, LANE, gated=False, seconds=0)
    endings.assert_all_well(run, agent, tries=1)
    return {work.agent_id for work in run.works()}


def await_standby(agent: Agent, *, active: bool) -> None:
    def moved() -> bool:
        view = agent.view()
        return view is not None and view.standby is not None and view.standby.active is active

    waits.until(f"{agent.name} {'takes over' if active else 'stands back'}", moved, seconds=60, evidence=agent.evidence)


def test_a_standby_agent_takes_over_and_stands_back(plane: Plane, enlist: Enlist) -> None:
    first = enlist(LANE, name="standby-first", settings={"ISTHMUS_AGENT_GROUP": "first"}).start()
    terms = {"ISTHMUS_AGENT_STANDBY_FOR": "first", "ISTHMUS_AGENT_STANDBY_SECONDS": "1"}
    second = enlist(LANE, name="standby-second", settings=terms).start()
    ids = [str(view.agent_id) for one in (first, second) if (view := one.view()) is not None]
    assert agents_of_a_run(plane, first) == {ids[0]}

    first.kill()
    await_standby(second, active=True)
    assert agents_of_a_run(plane, second) == {ids[1]}

    first.start_again()
    await_standby(second, active=False)
    assert agents_of_a_run(plane, first) == {ids[0]}
