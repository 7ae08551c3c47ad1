"""From the numbers of all rounds to ``bench/results.json``, ``docs/benchmarks.md`` and its plot.

Each figure of the page is the median of its runs, and the runs are in the results beside it. The page is made from the
results alone, so it can be written again without measuring.
"""

import datetime
import importlib.metadata
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import comparing

OURS = "RemoteExecutor"
CELERY = "CeleryExecutor"
EDGE = "EdgeExecutor"

#: Above this share of a core taken by other programs a run says more about them.
NOISY_PERCENT = 10.0


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure: its key in the results, where a round has it, and how readers see it."""

    key: str
    place: tuple[str, str]
    title: str
    unit: str
    digits: int
    less_is_better: bool = True
    #: Multiplied for readers, as seconds to milliseconds.
    factor: float = 1.0

    def show(self, value: float | None) -> str:
        """The figure with its unit."""
        return "–" if value is None else f"{value * self.factor:,.{self.digits}f} {self.unit}"


METRICS = (
    Metric("dispatch_p50_s", ("chain", "dispatch_p50_s"), "queued to started, p50", "ms", 0, factor=1000),
    Metric("dispatch_p95_s", ("chain", "dispatch_p95_s"), "queued to started, p95", "ms", 0, factor=1000),
    Metric("chain_tasks_per_s", ("chain", "chain_tasks_per_s"), "tasks in a row", "/s", 2, less_is_better=False),
    Metric("throughput_tasks_per_s", ("fan", "throughput_tasks_per_s"), "mapped tasks", "/s", 2, less_is_better=False),
    Metric("worker_cpu_ms_per_task", ("fan", "worker_cpu_ms_per_task"), "worker CPU per task", "ms", 0),
    Metric("chain_worker_cpu_ms_per_task", ("chain", "worker_cpu_ms_per_task"), "the same in a chain", "ms", 0),
    Metric("plane_cpu_ms_per_task", ("fan", "plane_cpu_ms_per_task"), "plane CPU per task", "ms", 0),
    Metric("idle_rss_mb", ("fresh", "idle_rss_mb"), "idle worker side, fresh", "MB", 0),
    Metric("idle_rss_after_mb", ("idle", "idle_rss_mb"), "idle worker side, after the runs", "MB", 0),
    Metric("control_process_rss_mb", ("idle", "control_process_rss_mb"), "of it the control process", "MB", 0),
    Metric("task_private_mb", ("sleepers", "task_private_mb"), "private memory per task", "MB", 0),
    Metric("growth_per_task_mb", ("sleepers", "growth_per_task_mb"), "growth per running task", "MB", 0),
    Metric("scheduler_idle_cpu_percent", ("idle", "scheduler_idle_cpu_percent"), "idle scheduler, of one core", "%", 2),
    Metric("worker_idle_cpu_percent", ("idle", "worker_idle_cpu_percent"), "idle worker side, of one core", "%", 2),
)
BY_KEY = {metric.key: metric for metric in METRICS}


def summarise(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One executor's medians, the runs behind each, and the rounds as they were."""
    summary: dict[str, Any] = {}
    runs: dict[str, list[float]] = {}
    for metric in METRICS:
        part, name = metric.place
        values = [one[part][name] for one in rounds if one[part].get(name) is not None]
        summary[metric.key] = statistics.median(values) if values else None
        runs[metric.key] = values
    noise = [one[part]["foreign_cpu_percent"] for one in rounds for part in ("chain", "fan")]
    noise.extend(one["idle"]["foreign_cpu_percent"] for one in rounds)
    return {**summary, "foreign_cpu_percent_max": max(noise), "runs": runs, "rounds": list(rounds)}


@dataclass(frozen=True, slots=True)
class Target:
    """One promise: what was measured, the limit, and whether it holds (None: not measured)."""

    text: str
    measured: str
    limit: str
    met: bool | None


def _compare(executors: Mapping[str, Any], key: str, other: str, factor: float, text: str) -> Target:
    """Ours against another's figure: at most ``factor`` times it, or at least where more is better."""
    metric = BY_KEY[key]
    ours, theirs = (executors.get(label, {}).get(key) for label in (OURS, other))
    if ours is None or theirs is None:
        return Target(text, metric.show(ours), "–", None)
    limit = theirs * factor
    met = ours <= limit if metric.less_is_better else ours >= limit
    return Target(text, metric.show(ours), ("≤ " if metric.less_is_better else "≥ ") + metric.show(limit), met)


def _at_most(executors: Mapping[str, Any], key: str, limit: float, text: str) -> Target:
    metric = BY_KEY[key]
    ours = executors.get(OURS, {}).get(key)
    return Target(text, metric.show(ours), f"≤ {metric.show(limit)}", None if ours is None else ours <= limit)


def targets(results: Mapping[str, Any]) -> list[Target]:
    """Every promise of the project about speed and size, held against these results."""
    executors = results["executors"]
    found = [
        _compare(executors, "dispatch_p50_s", CELERY, 1.0, "a task starts as soon as under CeleryExecutor"),
        _compare(executors, "dispatch_p50_s", EDGE, 1 / 50, "… and 50 times sooner than under EdgeExecutor"),
        _compare(executors, "chain_tasks_per_s", CELERY, 3.0, "a chain runs at 3 times CeleryExecutor's rate"),
        _compare(
            executors, "scheduler_idle_cpu_percent", CELERY, 1.5, "an idle scheduler needs at most 1.5 times the CPU"
        ),
        _compare(executors, "throughput_tasks_per_s", CELERY, 1.5, "8 slots do 1.5 times CeleryExecutor's tasks"),
        _compare(executors, "throughput_tasks_per_s", EDGE, 4.0, "… and 4 times EdgeExecutor's"),
        _compare(executors, "worker_cpu_ms_per_task", CELERY, 1.0, "a task costs the worker less CPU than Celery's"),
        _at_most(executors, "control_process_rss_mb", 60, "an idle agent's control process is small"),
        _at_most(executors, "task_private_mb", 50, "so is a running task's private memory"),
    ]
    heartbeats, load = results.get("heartbeats"), results.get("load")
    if heartbeats:
        ratio = heartbeats["isthmus"]["per_second"] / heartbeats["edge3"]["per_second"]
        found.append(
            Target("heartbeats on one process, against edge3's endpoint", f"{ratio:.1f} ×", "≥ 10 ×", ratio >= 10)
        )
    if load:
        p50 = load["dispatch_p50_s"]
        text = f"one API process on one core, {load['agents']:,} idle agents: commit to claimed, p50"
        found.append(Target(text, f"{p50 * 1000:.1f} ms", "≤ 100 ms", p50 <= 0.1))
    return found


# --- the results ---


@dataclass
class Results:
    """What a benchmark has measured so far."""

    plan: comparing.Plan
    quick: bool
    began: str
    rounds: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def begin(cls, plan: comparing.Plan, *, quick: bool) -> "Results":
        """An empty set of results."""
        return cls(plan, quick, _now())

    def keep(self, label: str, numbers: dict[str, Any]) -> None:
        """Add one executor's numbers of one round."""
        self.rounds.setdefault(label, []).append(numbers)

    def finish(self) -> dict[str, Any]:
        """Everything, with the medians."""
        return {
            "began": self.began,
            "ended": _now(),
            "quick": self.quick,
            "plan": {"chain": self.plan.chain, "fan": self.plan.fan, "rounds": self.plan.rounds},
            "machine": machine_facts(),
            "executors": {
                label: summarise(self.rounds[label]) for label in self.plan.executors if label in self.rounds
            },
            **self.extras,
        }


def machine_facts() -> dict[str, Any]:
    """Where the figures come from."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    memory = Path("/proc/meminfo").read_text().split()[1]
    names = ("apache-airflow", "apache-airflow-providers-celery", "celery", "apache-airflow-providers-edge3", "isthmus")
    return {
        "cores": os.cpu_count(),
        "processor": model,
        "memory_gib": round(int(memory) / 1024**2, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "user": "root" if os.geteuid() == 0 else "not root",
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


# --- the page ---


def page(results: Mapping[str, Any]) -> str:
    """``docs/benchmarks.md``."""
    executors = results["executors"]
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    plan = results["plan"]
    worst = worst_noise(results)
    noisy = worst > NOISY_PERCENT
    parts = [
        "# Benchmarks",
        "",
        (
            "Written by `make bench` from [`bench/results.json`](../bench/results.json); how it is measured is in "
            "[`bench/README.md`](../bench/README.md). Read the ratios: the absolute figures are this machine's."
        ),
        "",
        f"{results['ended'][:10]}, {machine['cores']} × {machine['processor']}, {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, Python {machine['python']}, as {machine['user']}; {versions}. "
        f"Medians of {plan['rounds']} round(s) of `{plan['chain']}` and `{plan['fan']}`"
        + (" (a quick run: longer ones say more)." if results["quick"] else "."),
        *_noise(worst),
        "",
        "![The same figures as bars](benchmarks.svg)",
        "",
        *_figures(executors),
        "",
        *_ratios(executors),
        "",
        *_stages(executors),
        "## Promises",
        "",
        "| what | measured | limit | met |",
        "|---|---|---|---|",
        *(
            f"| {target.text} | {target.measured} | {target.limit} | {_verdict(target.met, noisy=noisy)} |"
            for target in targets(results)
        ),
        "",
        *_load(results),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _verdict(met: bool | None, *, noisy: bool) -> str:
    """A noisy run proves nothing, either way."""
    if met is None:
        return "not measured"
    if noisy:
        return f"undecided (noisy; {'yes' if met else 'no'})"
    return "yes" if met else "**no**"


def worst_noise(results: Mapping[str, Any]) -> float:
    """The largest share of a core that other programs took during any of the measurements, in percent."""
    shares = [one["foreign_cpu_percent_max"] for one in results["executors"].values()]
    heartbeats, load = results.get("heartbeats") or {}, results.get("load") or {}
    shares += [heartbeats[name]["cpu_percent"]["others"] for name in ("edge3", "isthmus") if name in heartbeats]
    shares += [load[part]["others"] for part in ("idle_cpu_percent", "dispatching_cpu_percent") if part in load]
    return max(shares, default=0.0)


def _noise(worst: float) -> list[str]:
    if worst <= NOISY_PERCENT:
        return []
    return ["", f"**Other programs took up to {worst:.0f} % of a core meanwhile: do not trust these figures.**"]


def _figures(executors: Mapping[str, Any]) -> list[str]:
    labels = list(executors)
    rows = ["| | " + " | ".join(labels) + " |", "|---" * (len(labels) + 1) + "|"]
    for metric in METRICS:
        cells = [metric.show(executors[label][metric.key]) for label in labels]
        if any(executors[label][metric.key] is not None for label in labels):
            rows.append(f"| {metric.title} | " + " | ".join(cells) + " |")
    noise = " | ".join(f"{executors[label]['foreign_cpu_percent_max']:.0f} %" for label in labels)
    rows.append(f"| CPU that other programs took at worst, of one core | {noise} |")
    return rows


def _ratios(executors: Mapping[str, Any]) -> list[str]:
    others = [label for label in executors if label != OURS]
    if OURS not in executors or not others:
        return []
    rows = [
        f"Each other executor's figure as a multiple of {OURS}'s:",
        "",
        "| | " + " | ".join(others) + " |",
        "|---" * (len(others) + 1) + "|",
    ]
    for metric in METRICS:
        ours = executors[OURS][metric.key]
        if not ours or all(executors[label][metric.key] is None for label in others):
            continue
        cells = [
            "–" if executors[label][metric.key] is None else f"{executors[label][metric.key] / ours:.2f}"
            for label in others
        ]
        better = "more is worse" if metric.less_is_better else "more is better"
        rows.append(f"| {metric.title} ({better}) | " + " | ".join(cells) + " |")
    return rows


def _stages(executors: Mapping[str, Any]) -> list[str]:
    """Where the time of one task of a chain goes."""
    rounds = executors.get(OURS, {}).get("rounds", [])
    stages = [one["chain"]["stages_ms"] for one in rounds if one["chain"].get("stages_ms")]
    if not stages:
        return []
    medians = {name: statistics.median(one[name] for one in stages) for name in stages[0]}
    next_queued = 1000 * statistics.median(one["chain"]["next_queued_p50_s"] for one in rounds)
    return [
        f"Where the time of one task in a row goes under {OURS}, in ms: "
        + ", ".join(f"{name.replace('_', ' ')} {value:.0f}" for name, value in medians.items())
        + f"; ended to the next one queued {next_queued:.0f}.",
        "",
    ]


def _load(results: Mapping[str, Any]) -> list[str]:
    """What one API process carries."""
    heartbeats, load = results.get("heartbeats"), results.get("load")
    if not heartbeats and not load:
        return []
    lines = ["## One API process on one core", ""]
    if heartbeats:
        lines += [
            f"Heartbeats over {heartbeats['connections']} connections that do not pause, edge3's without TLS:",
            "",
            "| | a second | API CPU each | p50 | p99 | failures |",
            "|---|---|---|---|---|---|",
        ]
        for name in ("edge3", "isthmus"):
            if one := heartbeats.get(name):
                lines.append(
                    f"| {name} | {one['per_second']:,.0f} | {one['api_cpu_ms_each']:.2f} ms | {one['p50_ms']:.1f} ms | "
                    f"{one['p99_ms']:.1f} ms | {sum(one['failures'].values())} |"
                )
        lines.append("")
    if load:
        own, shared = load["own_queue"], load["shared_queue"]
        rates = ", ".join(f"{rate:.0f} {kind}s" for kind, rate in load["idle_requests_per_s"].items() if rate >= 1)
        each = f"a claim held open and a heartbeat every 10 s ({rates} a second)"
        idle = f"{load['idle_cpu_percent']['api']:.0f} % of its core and {load['api_rss_mb']:.0f} MB"
        per_agent = f"{load['api_rss_kb_per_agent']:.0f} KB for each agent"
        lines += [
            f"{load['agents']:,} simulated agents over HTTPS, each with {each}: idle, it takes {idle} ({per_agent}).",
            "",
            "| commit to claimed | workloads | p50 | p95 | p99 | never |",
            "|---|---|---|---|---|---|",
        ]
        for name, one in ((f"one agent's own queue, {own['rate_per_s']:g}/s", own), ("a queue of all agents", shared)):
            lines.append(
                f"| {name} | {one['workloads']:,} | {1000 * one['p50_s']:.1f} ms | {1000 * one['p95_s']:.1f} ms | "
                f"{1000 * one['p99_s']:.1f} ms | {one['never_claimed']} |"
            )
        if load["failures"]:
            lines += ["", f"Failed requests: {sum(load['failures'].values()):,}."]
    return lines
