"""Work from claim to settlement, with a real control process, a real fork server process and real HTTP."""

import time
from pathlib import Path

import psutil
from tests.fakes import plane as planes
from tests.integration.agent.conftest import Start

from isthmus.wire import paths
from isthmus.wire.workloads import Outcome, SettleVerdict


def test_workloads_run_and_are_settled(plane: planes.FakePlane, start: Start) -> None:
    start(plane.url)
    good = [plane.put({"exit": 0}) for _ in range(6)]
    bad = plane.put({"exit": 3})
    plane.wait_for(lambda: len(plane.settled) == 7)
    assert {plane.settled[one].outcome for one in good} == {Outcome.SUCCEEDED}
    assert (plane.settled[bad].outcome, plane.settled[bad].exit_code) == (Outcome.FAILED, 3)
    assert set(plane.verdicts) == {SettleVerdict.SETTLED}
    enrolment = plane.calls_to(paths.ENROLMENTS)[0].json
    assert enrolment["versions"]["airflow"] == "3.3.2"
    assert enrolment["queues"] == ["default"]


def test_nothing_is_launched_before_the_plane_confirms(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url)
    plane.wait_for(lambda: plane.calls_to(paths.CLAIMS))
    plane.faults[paths.STARTS].append(planes.Slow(1.0))
    plane.put({"exit": 0})
    plane.wait_for(lambda: plane.calls_to(paths.STARTS))
    time.sleep(0.5)
    assert not agent.orders("launch")
    plane.wait_for(lambda: plane.settled)
    assert len(agent.orders("launch")) == 1


def test_a_refused_start_is_dropped_and_frees_its_slot(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url, slots=1)
    plane.wait_for(lambda: plane.calls_to(paths.CLAIMS))
    plane.faults[paths.STARTS].append(planes.Slow(0.5))
    refused = plane.put({"exit": 0})
    plane.wait_for(lambda: plane.calls_to(paths.STARTS))
    plane.leases.clear()  # the lease ends while the start is on its way
    other = plane.put({"exit": 0})
    plane.wait_for(lambda: other in plane.settled)
    assert [order["workload_id"] for order in agent.orders("launch")] == [str(other)]
    assert refused not in plane.settled


def test_slots_bound_what_runs_at_once(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url, slots=2)
    for _ in range(5):
        plane.put({"sleep": 60})
    plane.wait_for(lambda: len(agent.orders("launch")) == 2)
    time.sleep(0.5)
    assert len(agent.orders("launch")) == 2
    assert len(plane.queue) == 3
    claims = [call.json["free_slots"] for call in plane.calls_to(paths.CLAIMS)]
    assert max(claims) == 2
    plane.wait_for(lambda: plane.calls_to(paths.HEARTBEATS)[-1].json["slots_used"] == 2)
    held = plane.calls_to(paths.HEARTBEATS)[-1].json["leases"]
    assert [lease["started"] for lease in held] == [True, True]


def test_a_lost_claim_is_repeated_under_its_id(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url)
    plane.wait_for(lambda: plane.calls_to(paths.CLAIMS))
    plane.faults[paths.CLAIMS].append(planes.Lost())
    first = plane.put({"exit": 0})  # ends the open claim well
    plane.wait_for(lambda: first in plane.settled)
    lost = [plane.put({"exit": 0}) for _ in range(2)]
    plane.wait_for(lambda: all(one in plane.settled for one in lost))
    repeated = [call.json for call in plane.calls_to(paths.CLAIMS) if call.json["repeated"]]
    assert repeated
    ids = [call.json["claim_id"] for call in plane.calls_to(paths.CLAIMS) if not call.json["repeated"]]
    assert repeated[0]["claim_id"] in ids
    assert len(agent.orders("launch")) == 3


def test_a_lost_start_is_asked_for_again_and_launches_once(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url)
    plane.faults[paths.STARTS].append(planes.Lost())
    one = plane.put({"exit": 0})
    plane.wait_for(lambda: one in plane.settled)
    assert len(plane.calls_to(paths.STARTS)) == 2
    assert len(agent.orders("launch")) == 1


def test_a_lost_settlement_is_sent_again(plane: planes.FakePlane, start: Start) -> None:
    start(plane.url)
    plane.faults[paths.SETTLEMENTS].append(planes.Lost())
    plane.put({"exit": 0})
    plane.wait_for(lambda: len(plane.verdicts) == 2)
    assert plane.verdicts == [SettleVerdict.SETTLED, SettleVerdict.DUPLICATE]


def test_what_ends_while_a_settlement_is_in_flight_goes_together(plane: planes.FakePlane, start: Start) -> None:
    start(plane.url, slots=8)
    plane.faults[paths.SETTLEMENTS].append(planes.Slow(1.5))
    for _ in range(8):
        plane.put({"exit": 0})
    plane.wait_for(lambda: len(plane.settled) == 8)
    assert len(plane.calls_to(paths.SETTLEMENTS)) <= 3


def test_cancel_kills_the_tree_and_settles_as_failed(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url)
    one = plane.put({"sleep": 600, "detached": True})
    plane.wait_for(lambda: agent.orders("launch"))
    plane.wait_for(lambda: len([p for p in agent.descendants() if p.name() == "sleep"]) == 2)
    plane.cancel.append(one)
    plane.wait_for(lambda: one in plane.settled)
    assert plane.settled[one].outcome is Outcome.FAILED
    assert "cancelled" in plane.settled[one].detail
    assert not [process for process in agent.descendants() if process.name() == "sleep"]
    assert len(agent.orders("kill")) == 1  # however often the command comes


def test_a_lease_that_the_plane_gave_up_is_killed(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url)
    one = plane.put({"sleep": 600})
    plane.wait_for(lambda: agent.orders("launch"))
    del plane.leases[one]
    plane.lost.append(one)
    plane.wait_for(lambda: plane.verdicts)
    assert plane.verdicts == [SettleVerdict.STALE]
    plane.wait_for(lambda: not [p for p in agent.descendants() if p.name() == "sleep"])


def test_a_cordoned_agent_claims_nothing_until_it_is_uncordoned(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url)
    plane.wait_for(lambda: plane.calls_to(paths.CLAIMS))
    plane.cordoned = True
    plane.wait_for(lambda: agent.lines("cordoned"))
    time.sleep(0.3)
    before = len(plane.calls_to(paths.CLAIMS))
    one = plane.put({"exit": 0})
    time.sleep(1.0)
    assert len(plane.calls_to(paths.CLAIMS)) == before
    plane.cordoned = False
    plane.wait_for(lambda: one in plane.settled)


def test_a_killed_fork_server_fails_its_workloads_and_comes_back(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url)
    one = plane.put({"sleep": 600, "detached": True})
    plane.wait_for(lambda: agent.orders("launch"))
    plane.wait_for(lambda: len([p for p in agent.descendants() if p.name() == "sleep"]) == 2)
    sleepers = [process for process in agent.descendants() if process.name() == "sleep"]
    psutil.Process(agent.orders("launch")[0]["pid"]).kill()
    plane.wait_for(lambda: one in plane.settled)
    # Nothing ran on when the plane was told.
    assert not [process for process in sleepers if process.is_running() and process.status() != "zombie"]
    assert plane.settled[one].outcome is Outcome.FAILED
    assert "SIGKILL" in plane.settled[one].detail
    two = plane.put({"exit": 0})
    plane.wait_for(lambda: two in plane.settled)
    assert plane.settled[two].outcome is Outcome.SUCCEEDED


def test_an_agent_whose_fork_server_cannot_start_enrols_and_says_so(plane: planes.FakePlane, start: Start) -> None:
    start(
        plane.url, environment={"ISTHMUS_AGENT_TOKEN": planes.TOKEN, "FAKE_FAIL": "1"}, timing={"runner_patience": 0.5}
    )
    plane.put({"exit": 0})
    plane.wait_for(lambda: plane.calls_to(paths.HEARTBEATS))
    assert plane.calls_to(paths.ENROLMENTS)[0].json["versions"]["airflow"] is None
    time.sleep(0.5)
    assert not plane.calls_to(paths.CLAIMS)


def test_the_fork_server_gets_a_clean_environment(plane: planes.FakePlane, start: Start, tmp_path: Path) -> None:
    agent = start(
        plane.url,
        environment={
            "ISTHMUS_AGENT_TOKEN": planes.TOKEN,
            "ISTHMUS_AGENT_LOG_LEVEL": "info",
            "AIRFLOW_CONN_X": "http://x",
        },
    )
    plane.put({"sleep": 600})
    plane.wait_for(lambda: agent.orders("launch"))
    runner = psutil.Process(agent.orders("launch")[0]["pid"])
    environment = runner.environ()
    assert not [name for name in environment if name.startswith("ISTHMUS_")]
    assert environment["AIRFLOW_CONN_X"] == "http://x"
    assert environment["FAKE_RECORD"] == str(agent.record)
    for process in [runner, *runner.children(recursive=True)]:
        assert planes.TOKEN not in str(process.environ()) + str(process.cmdline())


def test_the_token_is_not_in_the_control_process_environment(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url)
    plane.wait_for(lambda: plane.calls_to(paths.ENROLMENTS))
    assert plane.calls_to(paths.ENROLMENTS)[0].headers["authorization"] == f"Bearer {planes.TOKEN}"
    for file in ("environ", "cmdline"):
        assert planes.TOKEN.encode() not in Path(f"/proc/{agent.pid}/{file}").read_bytes()
    assert planes.TOKEN not in agent.log.read_text(encoding="utf-8")


def test_an_idle_control_process_stays_below_60_mb(plane: planes.FakePlane, start: Start) -> None:
    agent = start(plane.url, health_listen="127.0.0.1:0")
    for _ in range(20):
        plane.put({"exit": 0})
    plane.wait_for(lambda: len(plane.settled) == 20)
    time.sleep(0.5)
    rss = psutil.Process(agent.pid).memory_info().rss / 1e6
    assert rss < 60, f"{rss:.1f} MB"
