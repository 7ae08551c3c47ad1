"""What must hold after every fault: no task ran twice, none is lost or stuck, all slots are free again."""

from faults.harness import programs, waits
from faults.harness.agents import Agent
from faults.harness.runs import Run


def assert_all_well(run: Run, agent: Agent | None, *, seconds: float = 60, tries: int | None) -> None:
    """Every task of ``run`` ended well, by Airflow's tables, by ours, and by what the tasks noted themselves.

    ``tries`` is the try in which each task ended; None where the faults hit tasks at random.
    """
    run.await_state("success", seconds=seconds)
    tasks = run.task_states()
    assert {state for state, _ in tasks.values()} == {"success"}, run.evidence()
    if tries is not None:
        run.ledger.assert_nothing_ended_twice()
        assert {number for _, number in tasks.values()} == {tries}, run.evidence()
    run.ledger.assert_nothing_ran_twice()
    assert {entry.task for entry in run.ledger.ends()} == set(tasks), run.evidence()
    waits.until("every workload is settled", lambda: not run.unsettled(), seconds=20, evidence=run.evidence)
    waits.until(
        "the tasks' processes are gone", lambda: not run.ledger.left_behind(), seconds=10, evidence=run.evidence
    )
    if agent is not None:
        agent.await_idle()


def assert_slots_work(agent: Agent) -> None:
    """Every slot takes a task, at the same time: none is occupied by something that is gone."""
    run = Run(agent.plane, agent.lane)
    run.await_starts(agent.slots, seconds=30)
    run.open_gate()
    assert_all_well(run, agent, tries=1, seconds=30)


def assert_left_nothing(agent: Agent) -> None:
    """The agent has ended, and so has everything that it started."""
    waits.until(
        f"nothing of {agent.name} is left",
        lambda: not agent.control.running and not agent.leftovers(),
        seconds=15,
        evidence=lambda: programs.describe(agent.leftovers()),
    )
