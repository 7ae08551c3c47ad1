"""A minute without a network: what runs goes on, nothing is started, everything is reported when the road is back.

The scenarios are in ``cutting`` and began with the first test of the folder.
"""

from collections.abc import Mapping
from concurrent.futures import Future

import pytest

from faults import cutting

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("scenario", cutting.SCENARIOS)
def test_a_task_outlives_a_minute_without_a_network(cuts: Mapping[str, "Future[None]"], scenario: str) -> None:
    cuts[scenario].result(timeout=250)
