"""One plane for the whole folder; each scenario has a lane of its own: a queue, a DAG, an agent.

Scenarios that mostly wait (``cutting``) run beside the others, in threads that begin with the first test.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from faults import cutting
from faults.harness.agents import Agent
from faults.harness.certificates import Authority
from faults.harness.planes import Plane
from faults.harness.proxies import Checkpoint


@pytest.fixture(scope="package")
def plane() -> Iterator[Plane]:
    plane = Plane(settings={"roles": "worker, triggerer"})
    try:
        yield plane.start()
    finally:
        plane.close()


@pytest.fixture(scope="package", autouse=True)
def cuts(plane: Plane, request: pytest.FixtureRequest) -> Iterator[Mapping[str, "Future[None]"]]:
    """The scenarios of ``cutting`` that this run of pytest selected, running."""
    selected = [item.name for item in request.session.items if item.path.name == "test_cuts.py"]
    with ThreadPoolExecutor(max_workers=len(cutting.SCENARIOS), thread_name_prefix="cut") as pool:
        yield {
            name: pool.submit(scenario, plane)
            for name, scenario in cutting.SCENARIOS.items()
            if any(name in test for test in selected)
        }


@pytest.fixture
def enlist(plane: Plane) -> Iterator[Callable[..., Agent]]:
    """A function that makes an agent for a lane; the agent ends with the test."""
    agents: list[Agent] = []

    def make(lane: str, **options: object) -> Agent:
        agents.append(Agent(plane, lane, **options))  # type: ignore[arg-type]
        return agents[-1]

    yield make
    for agent in agents:
        agent.close()


@pytest.fixture
def checkpoint(plane: Plane) -> Iterator[Checkpoint]:
    """A proxy that sees every request of an agent, under the test's own certificate authority."""
    checkpoint = Checkpoint(plane.loop, Authority(plane.directory, "checkpoint"), plane.api_port, plane.authority)
    yield checkpoint
    checkpoint.close()
