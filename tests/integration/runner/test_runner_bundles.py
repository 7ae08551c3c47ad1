"""Where bundles are checked out, which of their classes are imported once, and when old versions are removed."""

import json
from pathlib import Path

from tests.integration.runner.conftest import found_by

GIT = "airflow.providers.git.bundles.git.GitDagBundle"
LOCAL = "airflow.dag_processing.bundles.local.LocalDagBundle"

PROGRAM = """
import json, os
from isthmus.runner.__main__ import prepare_environment
prepare_environment(os.environ)
from isthmus.runner import compat
compat.check()
compat.keep_bundles_at_home()
compat.remove_stale_versions("sea", os.environ["VERSION"] or None)
base = compat.bundles
found = {
    "modules": compat.bundle_modules(),
    "storage": str(base.get_bundle_storage_root_path()),
    "tracking": str(base.get_bundle_tracking_dir("sea")),
}
print("FOUND" + json.dumps(found))
"""


def run(home: Path, **environment: str) -> dict[str, object]:
    bundles = [{"name": str(number), "classpath": one, "kwargs": {}} for number, one in enumerate((GIT, LOCAL, GIT))]
    bundles.append({"name": "own", "classpath": "our.bundles.Bundle", "kwargs": {}})
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        "AIRFLOW__DAG_PROCESSOR__STALE_BUNDLE_CLEANUP_MIN_VERSIONS": "1",
        "VERSION": "c2",
        **environment,
    }
    return found_by(PROGRAM, **settings)


def check_out(storage: Path, *versions: tuple[str, str]) -> Path:
    """(version, when it was last used) of the bundle ``sea``; returns the folder of all."""
    for version, used in versions:
        (storage / "sea" / "versions" / version).mkdir(parents=True)
        tracked = storage / "_tracking" / "sea" / version
        tracked.parent.mkdir(parents=True, exist_ok=True)
        tracked.write_text(used)
    return storage / "sea" / "versions"


def test_bundles_are_kept_at_home_and_old_versions_go(tmp_path: Path) -> None:
    storage = tmp_path / "dag_bundles"
    folder = check_out(
        storage, ("c0", "2026-01-01T00:00:00Z"), ("c1", "2026-01-02T00:00:00Z"), ("c2", "2026-01-03T00:00:00Z")
    )
    found = run(tmp_path)
    assert found["modules"] == ["airflow.providers.git.bundles.git", "airflow.dag_processing.bundles.local"]
    assert found["storage"] == str(storage)
    assert found["tracking"] == str(storage / "_tracking" / "sea")
    assert {one.name for one in folder.iterdir()} == {"c2"}
    check_out(storage, ("b9", "2025-01-01T00:00:00Z"))
    run(tmp_path)
    assert {one.name for one in folder.iterdir()} == {"b9", "c2"}, "not before the interval is over"


def test_a_place_in_airflows_configuration_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "airflow.cfg").write_text(f"[dag_processor]\ndag_bundle_storage_path = {tmp_path}/elsewhere\n")
    folder = check_out(tmp_path / "elsewhere", ("c0", "2026-01-01T00:00:00Z"), ("c1", "2026-01-02T00:00:00Z"))
    found = run(tmp_path, VERSION="")
    assert found["storage"] == f"{tmp_path}/elsewhere"
    assert {one.name for one in folder.iterdir()} == {"c0", "c1"}, "a bundle without versions leaves them alone"
