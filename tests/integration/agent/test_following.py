"""An agent follows the plane's name without being restarted: as when a private zone is linked to its network."""

import os
import shutil
import time
from pathlib import Path

import pytest
from tests.fakes.plane import DEPLOYMENT, FakePlane
from tests.integration.agent.conftest import Start

from isthmus.kit import certificates
from isthmus.wire import paths

NAME = "c1.external.test"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="a hosts file of its own needs root"
)


def test_the_next_heartbeat_goes_where_the_name_leads_now(tmp_path: Path, start: Start) -> None:
    authority = certificates.make_authority("a test's authority")
    certificate, key = certificates.issue(*authority, [NAME])
    pair = {"certificate": tmp_path / "plane.pem", "key": tmp_path / "plane.key"}
    pair["certificate"].write_bytes(certificate)
    pair["key"].write_bytes(key)
    (tmp_path / "ca.pem").write_bytes(authority[0])
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 {NAME}\n")
    entered = ("unshare", "--mount", "sh", "-c", f'mount --bind "{hosts}" /etc/hosts && exec "$@"', "sh")
    slow = {"heartbeat_seconds": 30.0, "claim_wait_seconds": 20.0}
    with (
        FakePlane(**pair, **slow) as public,
        FakePlane(**pair, **slow, address="127.0.0.2", port=public.port) as private,
    ):
        url = f"https://{NAME}:{public.port}/{DEPLOYMENT}"
        agent = start(url, timing={"follow": 1.0}, ca_file=str(tmp_path / "ca.pem"), entered=entered)
        public.wait_for(lambda: public.calls_to(paths.HEARTBEATS) and public.calls_to(paths.CLAIMS))
        assert private.calls == []
        # One deployment, by another path: it knows the agent.
        private.agents = public.agents
        hosts.write_text(f"127.0.0.2 {NAME}\n")
        begun = time.monotonic()
        private.wait_for(lambda: private.calls_to(paths.HEARTBEATS), 10)
        took = time.monotonic() - begun
        print(f"followed in {took:.1f} s, with heartbeats every 30 s and a claim held open")
        assert took < 5
        assert agent.lines("leads elsewhere now")
        assert not private.calls_to(paths.ENROLMENTS), "nothing was lost on the way"
        agent.terminate()
        assert agent.wait(30) == 0
