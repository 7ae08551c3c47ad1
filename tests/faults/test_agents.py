"""An agent, or a part of it, dies; or what it says to the plane is lost, late, or said twice."""

import json
import time
from collections.abc import Callable
from uuid import uuid4

from faults.harness import endings, waits
from faults.harness.agents import Agent
from faults.harness.planes import Plane
from faults.harness.proxies import Checkpoint
from faults.harness.runs import Run
from isthmus.wire import paths
from isthmus.wire.admin import WorkloadState
from isthmus.wire.problems import Code
from isthmus.wire.workloads import (
    ClaimResponse,
    SettleResponse,
    SettleVerdict,
    StartResponse,
    StartVerdict,
)

Enlist = Callable[..., Agent]


def test_an_idle_agent_is_killed(enlist: Enlist) -> None:
    agent = enlist("idle").start()
    agent.kill()
    endings.assert_left_nothing(agent)
    agent.start_again()
    endings.assert_slots_work(agent)


def test_an_agent_is_killed_between_claim_and_start(plane: Plane, enlist: Enlist, checkpoint: Checkpoint) -> None:
    agent = enlist("before-start", port=checkpoint.port, authority=checkpoint.authority).start()
    checkpoint.hold(paths.STARTS)
    run = Run(plane, agent.lane)
    checkpoint.await_held()
    run.await_active(WorkloadState.LEASED, agent.slots)
    agent.kill()
    endings.assert_left_nothing(agent)
    assert not run.ledger.starts()

    checkpoint.hold_no_more()
    agent.start_again()
    run.await_starts(agent.slots)
    # Only now does the plane hear what the killed process had asked.
    late = list(checkpoint.held)
    checkpoint.release()
    waits.until("the late requests are answered", lambda: all(seen.status for seen in late), seconds=10)
    for seen in late:
        assert seen.status == 409, seen.answer
        assert json.loads(seen.answer)["code"] == Code.AGENT_REPLACED
    run.open_gate()
    endings.assert_all_well(run, agent, tries=1)
    assert {work.fence for work in run.works()} == {2}, "each was leased twice, and seen once"
    endings.assert_slots_work(agent)


def test_an_agent_is_killed_while_tasks_run(plane: Plane, enlist: Enlist) -> None:
    agent = enlist("running").start()
    run = Run(plane, agent.lane)
    run.await_starts(agent.slots)
    agent.kill()
    endings.assert_left_nothing(agent)
    assert not run.ledger.left_behind(), "the tasks die with their agent"

    agent.start_again()
    enrolled = time.monotonic()
    run.await_starts(2 * agent.slots, seconds=30)
    assert time.monotonic() - enrolled < 10, "the retry waits for no lease"
    first = [work for work in run.works() if work.try_number == 1]
    assert {work.state for work in first} == {WorkloadState.LOST}, run.evidence()
    run.open_gate()
    endings.assert_all_well(run, agent, tries=2)
    endings.assert_slots_work(agent)


def test_the_fork_server_is_killed_while_tasks_run(plane: Plane, enlist: Enlist) -> None:
    agent = enlist("fork-server").start()
    run = Run(plane, agent.lane)
    run.await_starts(agent.slots)
    control, fork_server = agent.control.pid, agent.fork_server()
    fork_server.kill()
    waits.until("the tasks die with the fork server", lambda: not run.ledger.left_behind(), seconds=10)

    run.await_starts(2 * agent.slots, seconds=60)
    first = [work for work in run.works() if work.try_number == 1]
    assert {work.state for work in first} == {WorkloadState.FAILED}, run.evidence()
    assert all("fork server" in work.detail for work in first), first
    assert agent.control.pid == control
    assert agent.control.running
    assert agent.fork_server().pid != fork_server.pid
    run.open_gate()
    endings.assert_all_well(run, agent, tries=2)
    endings.assert_slots_work(agent)


def test_the_answer_to_a_claim_is_lost(plane: Plane, enlist: Enlist, checkpoint: Checkpoint) -> None:
    agent = enlist("lost-claim", port=checkpoint.port, authority=checkpoint.authority).start()
    checkpoint.drop_answer(paths.CLAIMS, lambda seen: bool(ClaimResponse.model_validate_json(seen.answer).workloads))
    run = Run(plane, agent.lane)
    run.await_starts(agent.slots)
    (lost,) = checkpoint.dropped()
    claimed = json.loads(lost.body)
    later = checkpoint.seen[checkpoint.seen.index(lost) + 1 :]
    after = [json.loads(seen.body) for seen in later if paths.CLAIMS in seen.path]
    assert after[0]["claim_id"] == claimed["claim_id"], "the agent asks for the same claim again"
    assert after[0]["repeated"] is True
    run.open_gate()
    endings.assert_all_well(run, agent, tries=1)
    assert {work.fence for work in run.works()} == {1}, "no lease had to end for it"
    endings.assert_slots_work(agent)


def test_reports_that_come_twice_or_too_late_change_nothing(plane: Plane, enlist: Enlist) -> None:
    agent = enlist("fence").start()
    busy = Run(plane, agent.lane)
    busy.await_starts(agent.slots)  # the agent has no slot left, so the next claim is ours
    run = Run(plane, agent.lane)
    impostor = agent.impostor()
    try:
        claim = impostor.post(
            paths.CLAIMS, claim_id=str(uuid4()), free_slots=agent.slots, wait_seconds=10, repeated=False
        )
        workloads = ClaimResponse.model_validate_json(claim.content).workloads
        assert len(workloads) == agent.slots, claim.text
        leases = [{"workload_id": str(each.workload_id), "fence": each.fence} for each in workloads]

        def settle(outcome: str) -> set[SettleVerdict]:
            answer = impostor.post(paths.SETTLEMENTS, settlements=[{**each, "outcome": outcome} for each in leases])
            return {each.verdict for each in SettleResponse.model_validate_json(answer.content).verdicts}

        assert settle("released") == {SettleVerdict.SETTLED}
        assert settle("released") <= {SettleVerdict.DUPLICATE, SettleVerdict.STALE}

        busy.open_gate()
        run.await_starts(agent.slots)
        assert {work.fence for work in run.works()} == {2}
        # The fences that we hold are old ones now. Whatever we report under them is refused.
        for outcome in ("succeeded", "failed", "released"):
            assert settle(outcome) == {SettleVerdict.STALE}
        start = impostor.post(paths.STARTS, leases=leases)
        verdicts = StartResponse.model_validate_json(start.content).verdicts
        assert {each.verdict for each in verdicts} == {StartVerdict.REFUSED}
        # The plane takes heartbeats in at once, and looks at their leases once a second.
        waits.until("the old leases are called lost", lambda: impostor.lost(leases) == leases, seconds=10)
        waits.stays("the tasks run on", lambda: len(run.ledger.alive()) == agent.slots, seconds=3)
        assert {work.state for work in run.works()} == {WorkloadState.RUNNING}, run.evidence()

        run.open_gate()
        endings.assert_all_well(busy, None, tries=1)
        endings.assert_all_well(run, agent, tries=1)
        leases = [{"workload_id": work.workload_id, "fence": work.fence} for work in run.works()]
        for outcome in ("succeeded", "failed"):
            assert settle(outcome) == {SettleVerdict.DUPLICATE}
        assert {work.state for work in run.works()} == {WorkloadState.SUCCEEDED}
    finally:
        impostor.close()
    endings.assert_all_well(run, agent, tries=1)
    endings.assert_slots_work(agent)
