from typing import Any

import pytest
from bench import reporting


def _round(scale: float = 1.0, noise: float = 0.0) -> dict[str, Any]:
    common = {"worker_cpu_ms_per_task": 100.0 * scale, "plane_cpu_ms_per_task": 80.0, "foreign_cpu_percent": noise}
    return {
        "chain": {"dispatch_p50_s": 0.03 * scale, "dispatch_p95_s": 0.05, "chain_tasks_per_s": 3.0 / scale, **common},
        "fan": {"throughput_tasks_per_s": 9.0 / scale, **common},
        "fresh": {"idle_rss_mb": 150.0 * scale},
        "idle": {
            "idle_rss_mb": 160.0,
            "control_process_rss_mb": 40.0,
            "scheduler_idle_cpu_percent": 2.0 * scale,
            "worker_idle_cpu_percent": 0.5,
            "foreign_cpu_percent": noise,
        },
        "sleepers": {"task_private_mb": 40.0, "growth_per_task_mb": 35.0},
    }


def _results(**executors: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "ended": "2026-01-02T03:04:05+00:00",
        "quick": False,
        "plan": {"chain": "chain_20", "fan": "fan_200", "rounds": 3},
        "machine": {
            "cores": 2,
            "processor": "a processor",
            "memory_gib": 24.0,
            "kernel": "6.1",
            "python": "3.11.2",
            "user": "root",
            "versions": {"apache-airflow": "3.3.2"},
        },
        "executors": {label: reporting.summarise(rounds) for label, rounds in executors.items()},
    }


def test_a_figure_is_the_median_of_its_runs() -> None:
    summary = reporting.summarise([_round(1.0), _round(5.0), _round(2.0)])
    assert summary["worker_cpu_ms_per_task"] == pytest.approx(200.0)
    assert summary["runs"]["worker_cpu_ms_per_task"] == pytest.approx([100.0, 500.0, 200.0])
    assert len(summary["rounds"]) == 3


def test_the_results_have_the_figures_that_are_promised() -> None:
    promised = {
        "dispatch_p50_s",
        "dispatch_p95_s",
        "throughput_tasks_per_s",
        "worker_cpu_ms_per_task",
        "idle_rss_mb",
        "task_private_mb",
    }
    summary = reporting.summarise([_round()])
    assert promised <= summary.keys()
    assert promised <= summary["runs"].keys()


def test_an_executor_without_a_control_process_has_no_figure_for_it() -> None:
    one = _round()
    one["idle"]["control_process_rss_mb"] = None
    summary = reporting.summarise([one])
    assert summary["control_process_rss_mb"] is None
    assert summary["runs"]["control_process_rss_mb"] == []


def _met(results: dict[str, Any]) -> dict[str, bool | None]:
    return {target.text: target.met for target in reporting.targets(results)}


def test_promises_hold_where_the_figures_say_so() -> None:
    results = _results(RemoteExecutor=[_round()], CeleryExecutor=[_round(4.0)], EdgeExecutor=[_round(100.0)])
    assert all(_met(results).values())


def test_promises_break_where_the_figures_say_so() -> None:
    results = _results(RemoteExecutor=[_round(4.0)], CeleryExecutor=[_round(1.0)], EdgeExecutor=[_round(1.0)])
    met = _met(results)
    assert not met["a task starts as soon as under CeleryExecutor"]
    assert not met["8 slots do 1.5 times CeleryExecutor's tasks"]
    assert not met["an idle scheduler needs at most 1.5 times the CPU"]
    assert met["so is a running task's private memory"]


def test_what_was_not_measured_is_neither_met_nor_broken() -> None:
    met = _met(_results(CeleryExecutor=[_round()]))
    assert set(met.values()) == {None}


def test_heartbeats_are_held_against_the_other_endpoint() -> None:
    results = _results(RemoteExecutor=[_round()])
    results["heartbeats"] = {
        "isthmus": {"per_second": 1500.0, "api_cpu_ms_each": 0.5, "p50_ms": 9.0, "p99_ms": 20.0},
        "edge3": {"per_second": 140.0, "api_cpu_ms_each": 7.0, "p50_ms": 100.0, "p99_ms": 900.0},
    }
    assert _met(results)["heartbeats on one process, against edge3's endpoint"] is True
    results["heartbeats"]["isthmus"]["per_second"] = 1300.0
    assert _met(results)["heartbeats on one process, against edge3's endpoint"] is False


def test_the_page_shows_figures_ratios_and_promises() -> None:
    page = reporting.page(_results(RemoteExecutor=[_round()], CeleryExecutor=[_round(2.0)]))
    assert "| queued to started, p50 | 30 ms | 60 ms |" in page
    assert "| worker CPU per task (more is worse) | 2.00 |" in page
    assert "| mapped tasks (more is better) | 0.50 |" in page
    assert "**no**" not in page.split("8 slots do")[1].split("\n")[0]


def test_a_noisy_machine_is_said_on_the_page() -> None:
    quiet = reporting.page(_results(RemoteExecutor=[_round(noise=3.0)]))
    noisy = reporting.page(_results(RemoteExecutor=[_round(noise=44.0)]))
    assert "do not trust" not in quiet
    assert "up to 44 % of a core" in noisy


def test_a_noisy_run_decides_no_promise() -> None:
    page = reporting.page(_results(RemoteExecutor=[_round()], CeleryExecutor=[_round(4.0, noise=44.0)]))
    promise = page.split("| a task starts as soon as under CeleryExecutor |")[1].split("\n")[0]
    assert promise.endswith("| undecided (noisy; yes) |")


def test_noise_beside_the_api_process_counts_as_well() -> None:
    results = _results(RemoteExecutor=[_round()])
    results["heartbeats"] = {"edge3": {"cpu_percent": {"api": 90.0, "others": 25.0}}}
    assert reporting.worst_noise(results) == 25.0
