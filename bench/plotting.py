"""The figures of the page as one SVG of small bar charts, the same bytes for the same results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

from bench import reporting

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "isthmus"
mpl.rcParams["svg.fonttype"] = "none"
mpl.rcParams["font.family"] = "sans-serif"

_SHOWN = (
    "dispatch_p50_s",
    "chain_tasks_per_s",
    "throughput_tasks_per_s",
    "worker_cpu_ms_per_task",
    "idle_rss_mb",
    "task_private_mb",
)
_OURS, _THEIRS = "#1f6f8b", "#b8c4c9"


def write(results: Mapping[str, Any], path: Path) -> None:
    """Draw one chart for each main figure; dots are the single runs."""
    executors = results["executors"]
    labels = list(executors)
    figure, charts = pyplot.subplots(2, 3, figsize=(11, 5.2), layout="constrained")
    for key, chart in zip(_SHOWN, charts.flat, strict=True):
        metric = reporting.BY_KEY[key]
        medians = [(executors[label][key] or 0.0) * metric.factor for label in labels]
        chart.barh(labels, medians, color=[_OURS if label == reporting.OURS else _THEIRS for label in labels])
        for row, label in enumerate(labels):
            values = [value * metric.factor for value in executors[label]["runs"][key]]
            chart.plot(values, [row] * len(values), ".", color="#333333", markersize=4)
        if key == "dispatch_p50_s":
            chart.set_xscale("log")
        better = "less" if metric.less_is_better else "more"
        chart.set_title(f"{metric.title} ({metric.unit}; {better} is better)", fontsize=9, loc="left")
        chart.tick_params(labelsize=8)
        chart.invert_yaxis()
        chart.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": "isthmus bench"})
    pyplot.close(figure)
