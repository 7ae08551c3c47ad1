"""The DAG processor's hooks are checked by name before anything is parsed: an Airflow that changed says so at start.

And what they make of bundles that cannot be fetched.
"""

from pathlib import Path

from tests.integration.runner.conftest import found_by

#: One process for all: Airflow takes seconds to import. Each change is undone before the next one.
PROGRAM = """
import json, os
from isthmus.runner.__main__ import prepare_environment
prepare_environment(os.environ)
from airflow.dag_processing.manager import DagFileProcessorManager as Loop
from isthmus.runner import compat_dags

def said():
    try:
        compat_dags.check()
    except compat_dags.compat.IncompatibleAirflowError as error:
        return str(error)
    return "fits"

found = {"as it is": said()}
kept = Loop.fetch_callbacks
del Loop.fetch_callbacks
found["a hook is gone"] = said()
Loop.fetch_callbacks = lambda self, session: []
found["a hook wants more"] = said()
Loop.fetch_callbacks = kept
retried = compat_dags.compat.Client.request
compat_dags.compat.Client.request = lambda self: None
found["no retries"] = said()
compat_dags.compat.Client.request = retried
found["as it was"] = said()
print("FOUND" + json.dumps(found))
"""

#: A bundle that fails 0.2 s after it was looked for, beside one that is there, for one and a half seconds and one more
#: after it was mended; and one that takes longer than it may.
FETCHING = """
import json, os, time
from pathlib import Path
from isthmus.runner.__main__ import prepare_environment
prepare_environment(os.environ)
from airflow.dag_processing.bundles.local import LocalDagBundle
from isthmus.runner import compat_dags
from isthmus.runner.dag_processing import processing

class Bundle(LocalDagBundle):
    tried, wrong = 0, False
    def refresh(self):
        self.tried += 1
        if self.wrong:
            time.sleep(0.2)
            raise RuntimeError("no such repository")

class Link:
    begun, told = object(), []
    def tell(self, *, slots_used=0, warnings=()):
        self.told.append([one.summary for one in warnings])

link = Link()
seam = processing.Seam(link)
type(seam).held = frozenset({"good", "bad"})
processor = compat_dags.Processor(desk=seam, open_client=None, bundle_refresh_check_interval=0)
bundles = {name: Bundle(name=name, path=os.environ["AIRFLOW_HOME"], refresh_interval=0) for name in ("good", "bad")}
bundles["bad"].wrong = True
processor.use_bundles(bundles)

def go_on(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        processor._refresh_dag_bundles({})
        time.sleep(0.01)
    return {name: bundle.tried for name, bundle in bundles.items()}

found = {"failing": go_on(1.5)}
bundles["bad"].wrong = False
time.sleep(0.5)
found["mended"] = go_on(1.0)
processing._FETCH_SECONDS = 0.05
with seam.fetching("bad"):
    time.sleep(0.3)
with seam.fetching("good"):
    pass
found["told"] = link.told
print("FOUND" + json.dumps(found))
"""


def test_a_changed_hook_is_named() -> None:
    found = found_by(PROGRAM)
    assert found["as it is"] == found["as it was"] == "fits"
    assert "has no fetch_callbacks" in found["a hook is gone"]
    assert "fetch_callbacks has changed" in found["a hook wants more"]
    assert "retries in another way" in found["no retries"]


def test_a_bundle_that_fails_leaves_time_to_others(tmp_path: Path) -> None:
    found = found_by(FETCHING, AIRFLOW_HOME=str(tmp_path))
    assert found["failing"]["bad"] == 1, "0.2 s, and then nine times as long not"
    assert found["failing"]["good"] > 10
    assert found["mended"]["bad"] > 2, "as soon as it is there it is like any other"
    assert found["told"] == [["bundles cannot be fetched: bad"]]
