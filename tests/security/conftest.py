"""A plane for the hostile DAG, with Airflow's own API server beside it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.harness.planes import Plane


@pytest.fixture(scope="package")
def plane() -> Iterator[Plane]:
    plane = Plane(Path(__file__).parent / "dags")
    try:
        plane.start()
        plane.start_airflow()
        yield plane
    finally:
        plane.close()
