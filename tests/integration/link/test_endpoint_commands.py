"""``isthmus endpoint`` as people run it: real processes, on a lab in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from tests import az
from tests.fakes.control_plane import in_a_thread
from tests.fakes.link_scene import HERE, HOST, SIBLING, Scene, network_body
from tests.strides import stride

from isthmus.cli import main
from isthmus.lab import running
from isthmus.link.clouds import ProviderCloud
from network.lab.served import ServedLab

SECONDS = 60


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedLab]:
    home = tmp_path_factory.mktemp("endpoint-lab") / "home"
    with ServedLab(home, "--without-packets") as lab:
        yield lab.start()


@pytest.fixture(scope="module")
def stage(served: ServedLab) -> Scene:
    assert served._http is not None
    return Scene(served._http, served.served.provider_subscription, served.served.customer_subscription).build()


@pytest.fixture
def scene(stage: Scene) -> Iterator[Scene]:
    """The stage without anything of a link, before and after."""
    yield stage
    for zone in (str(HOST), HOST.zone):
        path = stage.zone_path(zone)
        if stage.exists(path):
            for link in stage.get(f"{path}/virtualNetworkLinks")["value"]:
                stage.delete(link["id"])
            stage.delete(path)
    for kind, subscription in (("privateEndpoints", stage.customer), ("privateLinkServices", stage.provider)):
        for one in stage.get(stage.path(subscription, kind))["value"]:
            stage.delete(one["id"])


class Cli:
    """Runs the program with the lab's environment."""

    def __init__(self, lab: ServedLab, **more: str) -> None:
        self.environment = {
            "PATH": os.environ["PATH"],
            "ISTHMUS_AZURE_ARM_ENDPOINT": lab.served.arm,
            "ISTHMUS_AZURE_POLL_SECONDS": "0.05",
            **running.environment(lab.served),
            **more,
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "isthmus.cli.main", "endpoint", *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *words: str, code: int = 0) -> str:
        process = self.start(*words)
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == code, (out, err)
        self.err = err
        return out

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))


@pytest.fixture
def cli(served: ServedLab) -> Cli:
    return Cli(served)


PLACE = ("-g", "rg")


def asked(alias: str, *more: str) -> tuple[str, ...]:
    return (*PLACE, "--vnet", "net", "--subnet", "agents", "--alias", alias, "--host", str(HOST), *more)


def test_the_whole_way(cli: Cli, scene: Scene) -> None:
    alias = scene.publish()
    plan = cli.json("plan", *asked(alias))
    assert [one["kind"] for one in plan["steps"]] == [
        "create_endpoint",
        "create_zone",
        "put_record",
        "await_approval",
        "link_network",
    ]
    assert not scene.exists(scene.endpoint_id)
    made = cli.json("create", *asked(alias, "--no-wait", "--message", "the water board"))
    assert (made["outcome"], made["endpoint"]["state"], made["endpoint"]["address"]) == (
        "awaiting_approval",
        "pending",
        "10.1.0.4",
    )
    said = scene.get(scene.endpoint_id)["properties"]["manualPrivateLinkServiceConnections"][0]["properties"]
    assert said["requestMessage"] == "the water board"
    assert "approval_pending" in _err(cli, 3, "create", *PLACE, "--wait-seconds", "0.2", "--look-seconds", "0.1")

    # From here on the endpoint is known by its name; approval comes while somebody waits for it.
    waiting = cli.start("create", *PLACE, "--look-seconds", "0.1")
    watching = cli.start("watch", *PLACE, "--until", "approved", "--look-seconds", "0.1", "--json")
    assert waiting.stderr is not None
    assert watching.stdout is not None
    assert "Wait until the provider approves" in waiting.stderr.readline()
    first = watching.stdout.readline()
    scene.decide("Approved", "welcome")
    out, err = waiting.communicate(timeout=SECONDS)
    assert waiting.returncode == 0, err
    assert "1. Wait until the provider approves" in out
    assert f"{HOST} leads to the endpoint now." in err
    assert (scene.record(), scene.linked()) == (["10.1.0.4"], {"net"})
    changes = [json.loads(line) for line in (first, *watching.communicate(timeout=SECONDS)[0].splitlines())]
    assert [one["state"] for one in changes] == ["pending", "approved"]

    assert "Nothing to do" in cli("apply", *PLACE)
    shown = cli.json("show", *PLACE)
    assert (shown["endpoint"]["reason"], shown["zone"]["addresses"]) == ("welcome", ["10.1.0.4"])
    assert [one["host"] for one in cli.json("list")] == [str(HOST)]
    assert str(HOST)[:12] in cli("list")

    scene.put(scene.network_id("second"), network_body("10.2", "agents"))
    cli("apply", *PLACE, "--network", "second")
    assert scene.linked() == {"net", "second"}

    cli("delete", *PLACE)
    assert not scene.exists(scene.endpoint_id)
    assert not scene.exists(scene.zone_path())
    assert "endpoint_not_found" in _err(cli, 4, "show", *PLACE)
    assert "No endpoints" in _err(cli, 0, "list")


def _err(cli: Cli, code: int, *words: str) -> str:
    cli(*words, code=code)
    return cli.err


def test_a_rejection_is_told_and_lived_through(cli: Cli, scene: Scene) -> None:
    alias = scene.publish()
    cli("create", *asked(alias, "--no-wait"))
    watching = cli.start("watch", *PLACE, "--until", "approved", "--look-seconds", "0.1")
    time.sleep(2)
    scene.decide("Rejected", "not you")
    out, err = watching.communicate(timeout=SECONDS)
    assert watching.returncode == 1
    assert "rejected" in out.splitlines()[-1]
    assert "not you" in out
    assert "--recreate" in err
    told = _err(cli, 1, "create", *PLACE)
    assert "(connection_rejected)" in told
    assert "not you" in told
    again = cli.json("create", *PLACE, "--recreate", "--no-wait")
    assert again["outcome"] == "awaiting_approval"


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (("--alias", "x"), 2, "alias_malformed"),
        (("--host", "example.com"), 2, "host_malformed"),
        (("--subnet", "no"), 4, "subnet_not_found"),
        (("--vnet", "no"), 4, "network_not_found"),
        (("-g", "no"), 4, "network_not_found"),
        (("--network", "no"), 4, "network_not_found"),
        (("--static-address", "1.2.3"), 2, "address_malformed"),
        (("--message", "x" * 141), 2, "message_too_long"),
        (("--arm-endpoint", "http://127.0.0.1:1"), 2, "arm_endpoint_malformed"),
        (("--ca-file", "/nowhere"), 2, "ca_file_not_found"),
        (("--subscription", "00000000-0000-0000-0000-000000000000"), 4, "subscription_not_found"),
        (
            ("--alias", f"ingress.{'0' * 8}-0000-0000-0000-{'0' * 12}.westeurope.azure.privatelinkservice"),
            1,
            "alias_not_visible",
        ),
    ],
)
def test_what_is_wrong_is_named(cli: Cli, scene: Scene, words: tuple[str, ...], code: int, what: str) -> None:
    cli("plan", *asked(scene.publish()), *words, code=code)
    assert f"({what})" in cli.err
    assert "hint: " in cli.err


def test_nobody_is_signed_in(served: ServedLab, scene: Scene, tmp_path: Path) -> None:
    stranger = Cli(served, HOME=str(tmp_path), IDENTITY_HEADER="wrong")
    stranger("list", code=1)
    assert "(sign_in_failed)" in stranger.err
    assert stranger.err.count("\n") == 2


def test_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [one for one in sys.modules if one.partition(".")[0] == "azure"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "isthmus.link.drivers.azure.driver", raising=False)
    monkeypatch.setitem(sys.modules, "azure", None)
    assert main.run(["endpoint", "list"]) == 2
    assert "isthmus[azure]" in capsys.readouterr().err


STEPS = 4


@pytest.mark.parametrize("after", range(0, 2 * STEPS, stride(3)))
def test_killed_anywhere_and_run_again(cli: Cli, scene: Scene, after: int) -> None:
    """SIGKILL when the n-th line of progress appears: as a step begins, and as it has ended."""
    alias = scene.publish(autoApproval={"subscriptions": [scene.customer]})
    process = cli.start("create", *asked(alias))
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if len(lines) == after + 1:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate(timeout=SECONDS)
    assert process.returncode == -signal.SIGKILL
    assert lines[-1].startswith("begin: " if after % 2 == 0 else "done: ")
    assert cli.json("create", *asked(alias))["outcome"] == "done"
    assert (scene.record(), scene.linked()) == (["10.1.0.4"], {"net"})
    assert cli.json("plan", *PLACE)["steps"] == []


@pytest.mark.parametrize("after", range(1, 2 * STEPS, stride(4)))
def test_killed_while_deleting_and_run_again(cli: Cli, scene: Scene, after: int) -> None:
    cli("create", *asked(scene.publish(autoApproval={"subscriptions": [scene.customer]})))
    process = cli.start("delete", *PLACE)
    assert process.stderr is not None
    for _ in range(after + 1):
        process.stderr.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=SECONDS)
    if scene.exists(scene.endpoint_id):
        cli("delete", *PLACE)
    assert not scene.exists(scene.endpoint_id)
    assert not scene.exists(scene.zone_path())


@pytest.mark.parametrize("more", [(), ("--zone-scope", "domain", "--static-address", "10.1.0.77")])
def test_the_exported_script_reaches_the_same_state(
    cli: Cli, served: ServedLab, scene: Scene, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """With the real az; the first run waits for the approval, and the second has nothing to do."""
    scene.put(scene.network_id("second"), network_body("10.2", "agents"))
    words = asked(scene.publish(), "--network", "second", "--message", 'it\'s "us" $HOME', *more)
    script = tmp_path / "endpoint.sh"
    script.write_text(cli("export", *words, "--format", "az"))
    lab = served.served
    signed = az.on(
        tmp_path,
        arm=lab.arm,
        ca=Path(lab.authorities),
        identity_endpoint=lab.identity_endpoint,
        identity_header=lab.identity_header,
    )
    environment = {
        "PATH": f"{az.PROGRAM.parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "AZURE_CONFIG_DIR": str(tmp_path / "azure"),
        "LOOK_SECONDS": "1",
        **az.QUIET,
        **signed.environment,
    }
    approving = threading.Thread(target=_approve_when_it_comes, args=(scene,))
    approving.start()
    first = subprocess.run(["sh", script], env=environment, capture_output=True, text=True, timeout=180, check=False)
    approving.join()
    assert first.returncode == 0, first.stdout + first.stderr
    assert "linking network second" in first.stdout
    # The reconciler agrees that all is there, and may take over: the tags are ours.
    plan = cli.json("plan", *words)
    assert (plan["steps"], plan["blocks"]) == ([], [])
    said = scene.get(scene.endpoint_id)["properties"]["manualPrivateLinkServiceConnections"][0]["properties"]
    assert said["requestMessage"] == 'it\'s "us" $HOME'
    again = subprocess.run(["sh", script], env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert again.returncode == 0, again.stderr
    assert "creating" not in again.stdout
    cli("delete", *PLACE)
    zone = HOST.zone if "domain" in more else str(HOST)
    assert not scene.exists(scene.zone_path(zone))
    assert not scene.exists(scene.endpoint_id)


def _approve_when_it_comes(scene: Scene) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if scene.get(scene.service_id)["properties"]["privateEndpointConnections"]:
            time.sleep(1)
            scene.decide("Approved")
            return
        time.sleep(0.2)


def test_a_wide_zone_that_would_hide_another_cluster_is_warned_of(
    served: ServedLab, scene: Scene, new_database: Callable[[], str], tmp_path: Path
) -> None:
    words = (*asked(scene.publish()), "--zone-scope", "domain")

    def warned(cli: Cli, *more: str) -> list[str]:
        found = cli.json("plan", *words, *more)["warnings"]
        return [one["sentence"] for one in found if one["code"] == "zone_hides_cluster"]

    assert warned(Cli(served)) == [], "nobody has said that there is another one"
    (said,) = warned(Cli(served), "--sibling", str(SIBLING))
    assert str(SIBLING) in said
    with in_a_thread(new_database(), cast("ProviderCloud", None)) as (url, token):
        (tmp_path / "ann").write_text(token)
        with httpx.Client(base_url=f"{url}/control/v1", headers={"Authorization": f"Bearer {token}"}) as http:
            for number, host in enumerate((HOST, SIBLING)):
                cluster = {"cluster_id": host.cluster_id, "cidr": f"10.{number}.0.0/16", "region": HERE}
                assert http.post("/clusters", json={**cluster, "domain": host.domain}).status_code == 201
        known = {"ISTHMUS_CONTROL_URL": url, "ISTHMUS_CONTROL_TOKEN_FILE": str(tmp_path / "ann")}
        (said,) = warned(Cli(served, **known))
        assert str(SIBLING) in said
    away = Cli(served, **known)
    assert warned(away) == []
    assert "is not known: the control plane at" in away.err
