"""``isthmus verify`` against a real Remote Execution API on loopback: each thing that is wrong is named, alone."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.apis import DEPLOYMENT_ID, Api, until

from isthmus.cli import main

Run = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


@pytest.fixture
def run(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)

    def run(secret: str = "", *words: str, deployment: str = DEPLOYMENT_ID) -> tuple[int, dict[str, dict[str, Any]]]:
        given = ["--url", f"https://localhost:{api.port}/{deployment}", "--ca-file", str(api.authority)]
        if secret:
            token = tmp_path / "token"
            token.write_text(secret + "\n")
            given += ["--token-file", str(token)]
        code = main.run(["verify", *given, *words, "--json"])
        report = json.loads(capsys.readouterr().out)
        return code, {row["check"]: row for row in report["rows"]}

    return run


@pytest.fixture
def open_again(api: Api) -> Iterator[None]:
    yield
    api.allow()


def failed(rows: dict[str, dict[str, Any]]) -> list[str]:
    return [check for check, row in rows.items() if row["status"] == "fail"]


def test_all_is_well(api: Api, run: Run) -> None:
    token = api.token()["secret"]
    agent = api.agent(token=token)
    agent.beat()
    code, rows = run(token)
    assert (code, failed(rows)) == (0, [])
    assert rows["tls"]["details"].startswith("TLSv1.")
    assert rows["ingress"]["details"] == "404 page not found"
    assert rows["deployment"]["details"].startswith(f"{DEPLOYMENT_ID}, Isthmus ")
    assert "over the public path" in rows["source"]["details"]
    assert agent.name in rows["heartbeat"]["details"]
    assert rows["public_path"]["status"] == "skip"


def test_without_a_token_what_needs_none_is_looked_at(run: Run) -> None:
    code, rows = run()
    assert code == 0
    assert (rows["source"]["status"], rows["token"]["status"], rows["heartbeat"]["status"]) == ("pass", "skip", "skip")


def test_another_deployment(api: Api, run: Run) -> None:
    code, rows = run(api.token()["secret"], deployment="dother33")
    assert (code, failed(rows)) == (1, ["deployment"])


def test_tokens(api: Api, run: Run) -> None:
    expired, revoked, bound = api.token(), api.token(), api.token(links=[7])
    api.execute(f"UPDATE isthmus_token SET expires_at = now() - interval '1 day' WHERE id = '{expired['token_id']}'")
    api.execute("SELECT pg_notify('isthmus_access', '')")
    api.admin().post(f"/admin/v1/tokens/{revoked['token_id']}/revoke")
    until(lambda: "token_expired" in run(expired["secret"])[1]["token"]["details"])
    for token, code in (
        (expired["secret"], "token_expired"),
        (revoked["secret"], "token_revoked"),
        (bound["secret"], "token_wrong_link"),
        (api.token()["secret"].replace(DEPLOYMENT_ID, "dother33"), "token_wrong_deployment"),
        (api.token()["secret"][:-5] + "xxxxx", "token_invalid"),
    ):
        ended, rows = run(token)
        assert (ended, failed(rows)) == (1, ["token"])
        assert code in rows["token"]["details"]
        assert rows["token"]["remedy"]
        assert (rows["clock"]["status"], rows["heartbeat"]["status"]) == ("skip", "skip")


def test_an_agent_that_has_stopped(api: Api, run: Run) -> None:
    token = api.token()["secret"]
    agent = api.agent(token=token)
    agent.beat(phase="left")
    until(lambda: failed(run(token)[1]) == ["heartbeat"])
    assert agent.name in run(token)[1]["heartbeat"]["details"]


@pytest.mark.usefixtures("open_again")
def test_an_address_that_is_not_allowed(api: Api, run: Run) -> None:
    token = api.token()["secret"]
    api.allow("198.51.100.0/24")
    code, rows = run(token)
    assert (code, failed(rows), rows["token"]["status"]) == (1, ["source"], "skip")


@pytest.mark.usefixtures("open_again")
def test_a_public_path_that_is_open_although_the_deployment_is_restricted(api: Api, run: Run) -> None:
    token = api.token()["secret"]
    api.agent(token=token).beat()
    code, rows = run(token, "--public-address", "127.0.0.8")
    assert (code, rows["public_path"]["status"]) == (0, "warn")
    assert run(token, "--public-address", "127.0.0.8", "--public-allowed")[1]["public_path"]["status"] == "pass"
    api.allow("127.0.0.0/8", "::1/128")
    code, rows = run(token, "--public-address", "127.0.0.8", "--public-allowed")
    assert (code, failed(rows)) == (1, ["public_path"])


def test_a_certificate_of_an_unknown_authority(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["verify", "--url", f"https://localhost:{api.port}/{DEPLOYMENT_ID}"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "FAIL tls" in out
    assert "--ca-file" in out
    assert "SKIP token" in out


def test_wrong_usage(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"https://localhost:{api.port}/{DEPLOYMENT_ID}"
    for words in (
        [],
        ["--url", "ftp://x"],
        ["--url", url, "--endpoint", "here"],
        ["--url", url, "--public-address", "x"],
        ["--url", url, "--public-resolver", "x"],
        ["--url", url, "--token-file", str(tmp_path / "none")],
        ["--url", url, "--ca-file", str(tmp_path / "none")],
        ["--url", url, "--timeout-seconds", "0"],
    ):
        assert main.run(["verify", *words]) == 2, words
        assert "hint:" in capsys.readouterr().err
