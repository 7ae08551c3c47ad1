"""SIGKILL while DAGs are told of, at each moment of a call: no update is lost, and what comes twice does no harm.

The agent reaches the plane through a checkpoint, which holds a request before the plane has it, or loses the answer
after the plane has done it; in that moment the component, the whole agent or the plane's API dies.
"""

import itertools
from collections.abc import Callable, Iterator

import pytest
from tests.integration.dags.conftest import Site
from tests.integration.dags.test_dag_processing import DAG, FAILS, STALE

from faults.harness.certificates import Authority
from faults.harness.moments import Moment, Moments, Who
from faults.harness.planes import Plane
from faults.harness.proxies import Checkpoint

VERSIONS = "SELECT count(*) FROM dag_version WHERE dag_id = %s"

_numbers = itertools.count()


class Guarded(Moments):
    """A site behind a checkpoint."""

    def __init__(self, site: Site, checkpoint: Checkpoint) -> None:
        super().__init__(site.agent, checkpoint, "dag-processor")
        self.site = site


@pytest.fixture(scope="module")
def guarded(plane: Plane, make_site: Callable[..., Site]) -> Iterator[Guarded]:
    authority = Authority(plane.directory, "checkpoint")
    checkpoint = Checkpoint(plane.loop, authority, plane.api_port, plane.authority)
    site = make_site("killed", port=checkpoint.port, authority=authority)
    site.agent.start()
    site.write("first.py", DAG.format(dag_id="first", description=""))
    site.until("the DAG is there", STALE, "first", to_be=[(False,)])
    yield Guarded(site, checkpoint)
    checkpoint.close()


@pytest.mark.parametrize("who", Who)
@pytest.mark.parametrize("moment", Moment)
def test_a_submission(guarded: Guarded, moment: Moment, who: Who) -> None:
    site, dag_id = guarded.site, f"submitted_{next(_numbers)}"
    guarded.watch(moment, "/dag-processing/submissions")
    site.write(f"{dag_id}.py", DAG.format(dag_id=dag_id, description=""))
    guarded.strike(moment, who)
    site.until("the DAG is there", STALE, dag_id, to_be=[(False,)], seconds=90)
    assert site.rows(VERSIONS, dag_id) == [(1,)]
    assert site.rows(STALE, "first") == [(False,)]


@pytest.mark.parametrize("moment", Moment)
def test_what_is_gone(guarded: Guarded, moment: Moment) -> None:
    """The observation after a pass is how the plane learns that a file was deleted."""
    site, dag_id = guarded.site, f"gone_{next(_numbers)}"
    path = site.write(f"{dag_id}.py", DAG.format(dag_id=dag_id, description=""))
    site.until("the DAG is there", STALE, dag_id, to_be=[(False,)])
    guarded.watch(moment, "/dag-processing/observations")
    path.unlink()
    guarded.strike(moment, Who.COMPONENT)
    site.until("the DAG is stale", STALE, dag_id, to_be=[(True,)], seconds=90)
    assert site.rows(STALE, "first") == [(False,)]


@pytest.mark.parametrize(
    ("path", "moment", "who"),
    [
        ("claims", Moment.AFTER, Who.COMPONENT),
        ("claims", Moment.AFTER, Who.AGENT),
        ("settlements", Moment.BEFORE, Who.AGENT),
        ("settlements", Moment.BEFORE, Who.API),
        ("settlements", Moment.AFTER, Who.COMPONENT),
    ],
)
def test_a_callback(guarded: Guarded, path: str, moment: Moment, who: Who) -> None:
    """Handed out and never heard of, or done and never told: it runs, once or once more, and is over then."""
    site, dag_id = guarded.site, f"calls_{next(_numbers)}"
    told = site.agent.directory / "logs" / dag_id
    site.write(f"{dag_id}.py", FAILS.format(told=told, seconds=0, dag_id=dag_id).replace('"etl"', '"killed"'))
    site.until("the DAG is there", STALE, dag_id, to_be=[(False,)])
    guarded.watch(moment, f"/dag-processing/{path}", lambda seen: path == "settlements" or b'"callback"' in seen.answer)
    site.plane.operate("trigger", dag_id=dag_id, run_id="bound-to", conf={})
    guarded.strike(moment, who)
    site.rows("UPDATE isthmus_dag_claim SET lease_expires_at = now() RETURNING 1")  # a minute passes
    site.until("the callback is settled", "SELECT 1 FROM callback WHERE bundle_name = 'killed'", to_be=[], seconds=90)
    runs = told.read_text().splitlines()
    assert runs in (["begun", "ended bound-to"], ["begun", "ended bound-to"] * 2)
    assert len(runs) == 2 or path == "settlements", "what was never begun runs once"
