"""``python -m bench.parity``: run everything on both sides and write ``docs/parity.md``."""

import argparse
import contextlib
import importlib.metadata
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Final

from bench import components, places, services, stacks
from bench.parity import catalogue, differing, page, running
from bench.parity.outcomes import RunOutcome
from bench.parity.sides import LocalSide, RemoteSide, Side
from isthmus.kit import processes

PAGE: Final = places.ROOT / "docs" / "parity.md"
_RUNS_SECONDS: Final = 300.0
#: LocalExecutor's own rounds: a choice among four that is made at random is the same in three once in sixteen times.
_LOCAL_ROUNDS: Final = 3


def main() -> int:
    """0 when everything is the same, 1 when something is not, 130 when it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m bench.parity", description=__doc__)
    parser.add_argument("dags", nargs="*", help="only these")
    arguments = parser.parse_args()
    processes.set_subreaper()
    signal.signal(signal.SIGTERM, _interrupt)
    places.HOMES.mkdir(parents=True, exist_ok=True)
    try:
        verdicts = _compare(arguments.dags)
    except KeyboardInterrupt:
        return 130
    except components.ComponentError as error:
        print(f"parity: {error}", file=sys.stderr)
        return 1
    for one in verdicts:
        print(f"{'same ' if one.passes else 'OTHER'} {one.dag_id}: {one.state}", *one.differences, sep="\n      ")
    if not arguments.dags:
        version = importlib.metadata.version("apache-airflow-core")
        day = datetime.now(UTC).date().isoformat()
        PAGE.write_text(page.render(verdicts, day=day, airflow=version))
    return 0 if all(one.passes for one in verdicts) else 1


def _compare(wanted: list[str]) -> list[differing.Verdict]:
    database = services.Database()
    try:
        print("migrating", flush=True)
        database.migrate(stacks.migration_environment(database))
        (local, *again), _ = _run(LocalSide(database), wanted, _LOCAL_ROUNDS, database)
        (remote,), wrong = _run(RemoteSide(database), wanted, 1, database)
    finally:
        database.stop()
    return [
        differing.compare(
            dag_id,
            (local[dag_id], *(one[dag_id] for one in again)),
            remote.get(dag_id) or _not_there(wrong.get(dag_id)),
        )
        for dag_id in local
    ]


def _run(
    side: Side, wanted: list[str], rounds: int, database: services.Database
) -> tuple[list[dict[str, RunOutcome]], dict[str, str]]:
    """One side, from start to stop; the outcomes of each round, and import errors."""
    side.create()
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: side.stop(spared={database.pid}))
        print(f"starting {side.label}", flush=True)
        side.start()
        dags = [one for one in running.dag_ids(side) if not wanted or one in wanted]
        print(f"{side.label}: {len(dags)} DAGs", flush=True)
        named = f"parity-{time.time():.0f}"  # a new one each time: the logs of an older run stay where they are
        days = [catalogue.LOGICAL_DATE + timedelta(days=number) for number in range(rounds)]
        rounds_of_runs = [
            running.run_all(side, dags, f"{named}-{number}", day, timeout_seconds=_RUNS_SECONDS)
            for number, day in enumerate(days)
        ]
        return rounds_of_runs, running.import_errors(side)


def _not_there(why: str | None) -> RunOutcome:
    return RunOutcome(f"not there ({why})" if why else "not there")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
