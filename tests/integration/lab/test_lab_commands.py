"""``isthmus lab`` without packets: a real process, a real resource manager, and nothing left of it."""

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from isthmus.lab import running

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    # Deep enough that a socket's path does not fit into its address.
    return tmp_path / ("deep" * 20) / "home"


@pytest.fixture
def run(home: Path) -> Iterator[Run]:
    """Runs ``isthmus lab`` for that home, and ends what it started."""

    def call(*words: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "isthmus.cli.main", "lab", *words],
            env={"PATH": os.environ["PATH"], "HOME": "/nowhere", "ISTHMUS_LAB_HOME": str(home), **more},
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done

    yield call
    running.stop(home)


def environment(run: Run) -> dict[str, str]:
    found: dict[str, str] = json.loads(run("env", "--json").stdout)
    return found


def get(env: dict[str, str], path: str) -> httpx.Response:
    tls = ssl.create_default_context(cafile=env["SSL_CERT_FILE"])
    asked = httpx.get(
        env["IDENTITY_ENDPOINT"],
        params={"api-version": "2019-08-01", "resource": env["ISTHMUS_LAB_ARM"]},
        headers={"X-IDENTITY-HEADER": env["IDENTITY_HEADER"]},
    )
    token = asked.json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{env['ISTHMUS_LAB_ARM']}{path}", headers=headers, verify=tls)


def signed_in(env: dict[str, str]) -> int:
    """The status of a token for a client that has no managed identity, as Terraform asks for one."""
    form = {
        "grant_type": "client_credentials",
        "client_id": env["ISTHMUS_LAB_CLIENT_ID"],
        "client_secret": env["IDENTITY_HEADER"],
        "scope": f"{env['ISTHMUS_LAB_ARM']}/.default",
    }
    tls = ssl.create_default_context(cafile=env["SSL_CERT_FILE"])
    url = f"{env['ISTHMUS_LAB_ARM']}/{env['ISTHMUS_LAB_TENANT']}/oauth2/v2.0/token"
    return httpx.post(url, data=form, verify=tls).status_code


def test_up_serves_until_down_and_leaves_nothing(run: Run, home: Path) -> None:
    started = run("up", "--without-packets")
    again = run("up", "--without-packets")
    env = environment(run)
    served = running.serving(home)

    assert "answers at https://127.0.0.1:" in started.stderr
    assert "was already served" in again.stderr
    assert (started.stdout, again.stdout) == ("", "")
    assert env["ISTHMUS_LAB_ARM"].startswith("https://127.0.0.1:")
    subscriptions = get(env, "/subscriptions?api-version=2022-12-01").json()["value"]
    assert {one["subscriptionId"] for one in subscriptions} == {
        env["ISTHMUS_LAB_PROVIDER_SUBSCRIPTION"],
        env["ISTHMUS_LAB_CUSTOMER_SUBSCRIPTION"],
    }
    assert {one["tenantId"] for one in subscriptions} == {env["ISTHMUS_LAB_TENANT"]}
    assert signed_in(env) == 200

    run("down")
    assert not home.exists()
    assert running.began(served.pid) != served.began
    assert "There was nothing to remove" in run("down").stderr


def test_env_can_be_evaluated_by_a_shell(run: Run, home: Path) -> None:
    run("up", "--without-packets")
    lines = run("env").stdout
    said = subprocess.run(
        ["sh", "-c", f'{lines}\necho "$ISTHMUS_LAB_ARM"; echo "$REQUESTS_CA_BUNDLE"'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert said == [running.serving(home).arm, str(home / "authorities.pem")]


def test_the_bundle_holds_other_authorities_too(run: Run, home: Path) -> None:
    run("up", "--without-packets")
    own = (home / "tls" / "ca.crt").read_text()
    bundle = (home / "authorities.pem").read_text()
    assert own in bundle
    assert bundle.count("BEGIN CERTIFICATE") > 20


def test_a_lab_that_is_kept_is_the_same_when_it_comes_back(run: Run, home: Path) -> None:
    run("up", "--without-packets")
    before = environment(run)
    run("public-dns", "set", "www.example.com", "203.0.113.9")
    run("down", "--keep")
    assert run("status", check=False).returncode == 3
    run("up", "--without-packets")

    assert environment(run) == before
    assert json.loads(run("public-dns", "list", "--json").stdout) == {"www.example.com": ["203.0.113.9"]}


def test_down_after_a_crash(run: Run, home: Path) -> None:
    run("up", "--without-packets")
    os.kill(running.serving(home).pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while running.read(home).is_alive and time.monotonic() < deadline:  # type: ignore[union-attr]
        time.sleep(0.01)

    status = run("status", check=False)
    assert (status.returncode, "isthmus lab up" in status.stderr) == (3, True)
    run("down")
    assert not home.exists()


def test_up_after_a_crash_takes_over(run: Run, home: Path) -> None:
    run("up", "--without-packets")
    before = environment(run)
    os.kill(running.serving(home).pid, signal.SIGKILL)
    run("up", "--without-packets")
    assert environment(run) == before


def test_a_pid_that_came_again_is_not_ended(run: Run, home: Path) -> None:
    run("up", "--without-packets")
    run("down", "--keep")
    other = subprocess.Popen(["sleep", "60"])
    try:
        home.mkdir(exist_ok=True, parents=True)
        running.write(home, running.Served(other.pid, 1, running.Phase.SERVING))
        run("down")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_sigterm_ends_and_keeps(run: Run, home: Path) -> None:
    command = [sys.executable, "-m", "isthmus.cli.main", "lab", "serve", "--without-packets", "--home", str(home)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        served = running.read(home)
        if served is not None and served.phase is running.Phase.SERVING:
            break
        time.sleep(0.02)
    second = run("serve", "--without-packets", check=False)
    process.terminate()
    _, log = process.communicate(timeout=20)

    assert process.returncode == 0
    assert "the lab has ended" in log
    assert (home / "state" / "journal").exists()
    assert second.returncode == 1
    assert "hint: " in second.stderr


def test_status_in_words_and_for_programs(run: Run) -> None:
    run("up", "--without-packets")
    assert "the resource manager alone" in run("status").stdout
    told: dict[str, Any] = json.loads(run("status", "--json").stdout)
    assert (told["lab"]["packets"], told["networks"], told["endpoints"], told["health"]) == (False, [], [], [])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("public-dns", "unset", "absent.example.com"), 4, "does not know absent.example.com"),
        (("public-dns", "set", "www.example.com", "1.2.3"), 2, "1.2.3"),
        (("public-dns", "set", "not a name", "1.2.3.4"), 2, "not a domain name"),
        (("exec", "net", "--", "true"), 1, "this lab has no packets"),
        (("up", "--port", "70000"), 2, "port"),
        (("up", "--colour", "red"), 2, "--colour"),
    ],
)
def test_what_goes_wrong_says_what_to_do(run: Run, words: tuple[str, ...], code: int, said: str) -> None:
    run("up", "--without-packets")
    done = run(*words, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "hint: " in done.stderr


def test_a_port_that_is_taken_is_refused(run: Run, tmp_path: Path) -> None:
    run("up", "--without-packets")
    port = environment(run)["ISTHMUS_LAB_ARM"].rpartition(":")[2]
    done = run("up", "--without-packets", "--port", port, "--home", str(tmp_path / "other"), check=False)
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root to become somebody else")
def test_without_root_it_says_what_it_needs() -> None:
    done = subprocess.run(
        [
            "setpriv",
            "--reuid=61184",
            "--regid=61184",
            "--clear-groups",
            sys.executable,
            "-m",
            "isthmus.cli.main",
            "lab",
            "serve",
            "--home",
            "/nowhere/lab",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 2, done.stderr
    assert "root is needed" in done.stderr
    assert "--without-packets" in done.stderr
