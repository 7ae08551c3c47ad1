"""``docs/parity.md``: which DAGs do the same on agents, and why one does not."""

from collections.abc import Sequence
from typing import Final

from bench.parity import catalogue
from bench.parity.differing import Verdict

_HEAD: Final = """\
# The same as under LocalExecutor

`make parity` wrote this page on {day}, with Airflow {airflow}. It runs the DAGs that come with Airflow and the
standard provider three times under LocalExecutor, with Airflow's own DAG processor and triggerer, and once on an
agent that has all roles, while the plane has no DAG files. Compared are the final states of runs and task instances,
the number of tries, all XComs and the lines that tasks log, as Airflow's REST API shows them. What LocalExecutor itself
does not do alike three times (random choices, the order of things) is not asked of the agent.

{same} of {all} DAGs are the same.

| DAG | run | task instances | XComs | log lines | |
|---|---|---|---|---|---|
"""


def render(verdicts: Sequence[Verdict], *, day: str, airflow: str) -> str:
    """The page."""
    lines = [
        _HEAD.format(day=day, airflow=airflow, same=sum(one.passes for one in verdicts), all=len(verdicts)).rstrip("\n")
    ]
    for one in verdicts:
        said = "same" if one.passes else "; ".join(one.differences).replace("|", "\\|")
        if not one.passes and one.dag_id in catalogue.WHY:
            said = f"{catalogue.WHY[one.dag_id]}: {said}"
        lines.append(f"| `{one.dag_id}` | {one.state} | {one.tasks} | {one.xcoms} | {one.lines} | {said} |")
    lines += ["", "## Left out", "", "These need something outside, which neither side has here.", ""]
    lines += ["| DAG | |", "|---|---|"]
    lines += [f"| `{pattern}` | {why} |" for pattern, why in catalogue.LEFT_OUT.items()]
    return "\n".join(lines) + "\n"
