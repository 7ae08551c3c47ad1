"""An agent that is to ship logs to a plane that keeps none, and one that is not to."""

from tests.fakes.plane import FakePlane
from tests.integration.agent.conftest import Start

from isthmus.wire import paths


def test_it_says_that_logs_are_not_shipped(plane: FakePlane, start: Start) -> None:
    agent = start(plane.url, ship_logs=True)

    def warned() -> list[str]:
        warnings = [one for call in plane.calls_to(paths.HEARTBEATS) for one in call.json["warnings"]]
        return [one["hint"] for one in warnings if one["code"] == "logs_not_shipped"]

    assert "[isthmus] ship_logs" in plane.wait_for(warned)[0]
    workload_id = plane.put({"log_path": "a/b.log"})
    plane.wait_for(lambda: workload_id in plane.settled)
    assert list((agent.folder / "state" / "unshipped-logs").iterdir()) == []
    assert plane.calls_to(paths.LOG_SHIPMENTS) == []
