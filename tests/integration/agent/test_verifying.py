"""An agent verifies its own road: when it is asked to, and on a schedule."""

import ipaddress
import itertools
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.fakes import plane as planes
from tests.fakes.plane import FakePlane
from tests.integration.agent.conftest import Start, healthz

from isthmus.kit import certificates
from isthmus.wire import paths
from isthmus.wire.probes import ProbeOrder, ProbeReport, ProbeStatus
from isthmus.wire.problems import Code

#: The plane is on this machine: what leads elsewhere is found out soon.
FAST = {"probe": 1.0, "follow": 0.2}


def order(**values: Any) -> ProbeOrder:
    return ProbeOrder(order_id=uuid.uuid4(), **values)


def rows(report: ProbeReport) -> dict[str, tuple[str, str]]:
    return {row.check: (row.status.value, row.details) for row in report.rows}


def reported(plane: FakePlane, wanted: ProbeOrder) -> ProbeReport:
    def found() -> list[ProbeReport]:
        return [report for report in plane.reports if report.order_id == wanted.order_id]

    report: ProbeReport = plane.wait_for(found)[0]
    return report


def test_an_agent_reports_what_it_was_asked_for_once(plane: FakePlane, start: Start) -> None:
    agent = start(plane.url, timing=FAST)
    plane.wait_for(lambda: plane.calls_to(paths.HEARTBEATS))
    plane.probes = order()
    report = reported(plane, plane.probes)
    assert report.url == plane.url
    found = rows(report)
    assert {check for check, (status, _) in found.items() if status == "fail"} == set()
    assert found["tcp"][0] == found["ingress"][0] == found["deployment"][0] == found["token"][0] == "pass"
    assert "agent 0 s ago" in found["heartbeat"][1]
    assert found["keep_alive"] == ("pass", "a connection is quiet for 2 s at most")
    probed = len(plane.calls_to(paths.PROBE))
    time.sleep(1.0)  # the order comes with every heartbeat meanwhile
    assert len(plane.calls_to(paths.PROBE)) == probed
    assert len(plane.reports) == 1
    plane.probes = order()
    reported(plane, plane.probes)
    agent.terminate()
    assert agent.wait() == 0


def test_a_report_that_was_not_heard_is_sent_again(plane: FakePlane, start: Start) -> None:
    start(plane.url, timing=FAST)
    plane.wait_for(lambda: plane.calls_to(paths.HEARTBEATS))
    plane.probes = order()
    plane.wait_for(lambda: plane.calls_to(paths.PROBE))
    plane.faults[paths.HEARTBEATS].extend([planes.refusal(Code.DATABASE_UNAVAILABLE)] * 3)
    reported(plane, plane.probes)


def test_what_failed_is_a_warning_of_the_agent(plane: FakePlane, start: Start) -> None:
    port = 21931
    start(plane.url, timing=FAST, health_listen=f"127.0.0.1:{port}")
    plane.wait_for(lambda: plane.calls_to(paths.HEARTBEATS))
    plane.probes = order(endpoint="10.255.255.1", public_allowed=False)
    report = reported(plane, plane.probes)
    assert report.status is ProbeStatus.WARN, "an address is asked for no name"
    plane.faults[paths.PROBE].append(planes.refusal(Code.TOKEN_EXPIRED))
    plane.probes = order()
    assert rows(reported(plane, plane.probes))["token"][0] == "fail"
    plane.wait_for(lambda: "verification_failed" in str(healthz(port)[1].get("warnings")))
    plane.probes = order()
    reported(plane, plane.probes)
    plane.wait_for(lambda: "verification_failed" not in str(healthz(port)[1]["warnings"]))


def test_a_plane_cannot_look_around_in_the_agents_network(plane: FakePlane, start: Start) -> None:
    start(plane.url, timing=FAST)
    plane.wait_for(lambda: plane.calls_to(paths.HEARTBEATS))
    plane.probes = order(public_addresses=("127.0.0.5", "10.0.0.1", "192.168.0.1"))
    assert rows(reported(plane, plane.probes))["public_path"] == ("skip", "no other public address is known")


@pytest.mark.parametrize("seconds", [1.0, -1.0])
def test_a_schedule_is_no_load(plane: FakePlane, start: Start, seconds: float) -> None:
    agent = start(plane.url, verify_every_seconds=seconds)
    assert agent.wait() != 0
    assert "verify_every_seconds" in agent.log.read_text()


def test_on_a_schedule(plane: FakePlane, start: Start) -> None:
    start(plane.url, timing=FAST, verify_every_seconds=10.0)
    plane.wait_for(lambda: plane.reports)
    assert plane.reports[0].order_id is None


def test_over_tls_with_the_agents_own_certificates_and_in_little_memory(tmp_path: Path, start: Start) -> None:
    authority = certificates.make_authority("a test's authority")
    certificate, key = certificates.issue(*authority, ["localhost"])
    (tmp_path / "ca.pem").write_bytes(authority[0])
    (tmp_path / "plane.pem").write_bytes(certificate)
    (tmp_path / "plane.key").write_bytes(key)
    with FakePlane(certificate=tmp_path / "plane.pem", key=tmp_path / "plane.key") as plane:
        agent = start(plane.url, timing=FAST, ca_file=str(tmp_path / "ca.pem"))
        plane.wait_for(lambda: plane.calls_to(paths.HEARTBEATS))
        before = psutil.Process(agent.pid).memory_info().rss / 1e6
        plane.probes = order()
        found = rows(reported(plane, plane.probes))
        assert found["tls"][0] == "pass"
        assert found["token"][0] == "pass"
        assert ipaddress.ip_address(plane.calls_to(paths.PROBE)[0].peer).is_loopback
        after = psutil.Process(agent.pid).memory_info().rss / 1e6
        print(f"resident: {before:.1f} MB before, {after:.1f} MB after")
        assert before < 60
        assert after < 70
        agent.terminate()
        assert agent.wait() == 0


def test_rows_of_a_live_order_travel_before_the_report_is_finished(plane: FakePlane, start: Start) -> None:
    start(plane.url, timing=FAST)
    plane.wait_for(lambda: plane.calls_to(paths.HEARTBEATS))
    plane.faults[paths.PROBE].append(planes.Slow(3.0))
    plane.probes = order(live=True)
    wanted = plane.probes.order_id
    final = plane.wait_for(lambda: [one for one in plane.reports if one.order_id == wanted and one.finished])[0]
    so_far = [one for one in plane.reports if one.order_id == wanted and not one.finished]
    assert so_far, "nothing came while the plane's answer was awaited"
    assert {row.check for row in so_far[0].rows} < {row.check for row in final.rows}
    assert so_far[-1].rows == final.rows[: len(so_far[-1].rows)]
    times = [call.at for call in plane.calls_to(paths.HEARTBEATS) if call.json.get("probe_report")]
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) > 0.9, "bounded by the second"


def test_whoever_does_not_ask_for_rows_in_between_hears_nothing_new(plane: FakePlane, start: Start) -> None:
    """A plane of before knows no unfinished report, and refuses a field that it does not know."""
    start(plane.url, timing=FAST)
    plane.wait_for(lambda: plane.calls_to(paths.HEARTBEATS))
    plane.faults[paths.PROBE].append(planes.Slow(3.0))
    plane.probes = order()
    reported(plane, plane.probes)
    sent = [call.json["probe_report"] for call in plane.calls_to(paths.HEARTBEATS) if call.json.get("probe_report")]
    assert len(sent) == 1
    assert "finished" not in sent[0]
