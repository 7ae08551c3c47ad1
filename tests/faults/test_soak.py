"""Fifty tasks through a storm: two agents, and every few seconds something dies. Seeded, so that it can be repeated."""

import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from faults.harness import endings
from faults.harness.agents import Agent
from faults.harness.planes import Plane
from faults.harness.proxies import Road
from faults.harness.runs import Run

TASKS = 50
STORM_SECONDS = 40


@pytest.mark.timeout(240)
def test_fifty_tasks_outlive_a_storm(plane: Plane, enlist: Callable[..., Agent]) -> None:
    seed = int(os.environ.get("FAULTS_SEED", "20261"))
    fortune = random.Random(seed)
    road = Road(plane.loop, plane.api_port)
    here, there = enlist("soak", slots=4, name="soak-here"), enlist("soak", slots=4, name="soak-there", port=road.port)
    here.start()
    there.start()
    storm = Storm(plane, [here, there], road, fortune)
    run = Run(plane, "soak", seconds=7, gated=False)
    run.await_starts(1)
    deadline = time.monotonic() + STORM_SECONDS
    try:
        while time.monotonic() < deadline and run.state() == "running":
            storm.strike()
            time.sleep(fortune.uniform(1, 3))
        storm.settle()
        endings.assert_all_well(run, None, tries=None, seconds=90)
        endings.assert_all_well(run, here, tries=None)
        endings.assert_all_well(run, there, tries=None)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, {storm.struck}: {error}") from error
    finally:
        road.close()
    assert len(run.ledger.ends()) >= TASKS
    assert len(set(storm.struck)) >= 5, "the run was over too soon"


class Storm:
    """Faults in a random order, each at least once before any comes again."""

    def __init__(self, plane: Plane, agents: list[Agent], road: Road, fortune: random.Random) -> None:
        self.struck: list[str] = []
        self._plane = plane
        self._agents = agents
        self._road = road
        self._fortune = fortune
        self._faults: list[Callable[[], None]] = []

    def strike(self) -> None:
        if not self._faults:
            self._faults = [
                self.kill_an_agent,
                self.kill_a_fork_server,
                self.cut_the_road,
                self.stop_the_api,
                self.kill_the_api,
                self.kill_the_scheduler,
                self.restart_the_database,
            ]
            self._fortune.shuffle(self._faults)
        fault = self._faults.pop()
        self.struck.append(fault.__name__)
        fault()

    def settle(self) -> None:
        """The storm is over, and service managers have started what had ended."""
        self._road.resume()
        self._plane.recover()

    def kill_an_agent(self) -> None:
        agent = self._fortune.choice(self._agents)
        agent.kill()
        agent.control.start()

    def kill_a_fork_server(self) -> None:
        agent = self._fortune.choice(self._agents)
        for child in agent.control.children()[:1]:
            child.kill()

    def cut_the_road(self) -> None:
        self._road.cut()
        time.sleep(3)
        self._road.resume()

    def stop_the_api(self) -> None:
        self._restart_api(signal.SIGTERM)

    def kill_the_api(self) -> None:
        self._restart_api(signal.SIGKILL)

    def _restart_api(self, number: signal.Signals) -> None:
        api = self._plane.api
        api.send(number)
        api.wait(30)
        time.sleep(1)
        api.start()

    def kill_the_scheduler(self) -> None:
        with self._plane.without_scheduler():
            time.sleep(1)

    def restart_the_database(self) -> None:
        self._plane.database.stop()
        time.sleep(1)
        self._plane.database.start()
