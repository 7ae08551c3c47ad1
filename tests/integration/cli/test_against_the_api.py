"""The same commands against a real Remote Execution API on a real database: both ends of the contract.

Once straight to its admin API, and once through a control plane that asks it: whatever works here works there.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import httpx
import pytest
from tests.apis import Api
from tests.fakes.control_plane import SCENE_CLUSTER, in_a_thread

from isthmus.cli import main
from isthmus.link.clouds import ProviderCloud

#: There is no link, so nobody asks.
NO_CLOUD = cast("ProviderCloud", None)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=["admin", "control"])
def road(
    request: pytest.FixtureRequest, api: Api, tmp_path: Path, new_database: Callable[[], str]
) -> Iterator[dict[str, str]]:
    """Variables that lead to the deployment."""
    url = f"http://127.0.0.1:{api.admin_port}"
    if request.param == "admin":
        yield {"ISTHMUS_ADMIN_URL": url, "ISTHMUS_ADMIN_TOKEN_FILE": str(api.admin_token_file)}
        return
    tokens, cluster = tmp_path / "tokens", SCENE_CLUSTER["cluster_id"]
    tokens.mkdir()
    (tokens / "dtest234").symlink_to(tokens / "data")
    (tokens / "data").write_bytes(api.admin_token_file.read_bytes())
    with in_a_thread(new_database(), NO_CLOUD, admin_tokens=tokens) as (control, token):
        (tmp_path / "ann").write_text(token)
        registered = {"servers": ["https://localhost"], "admin_url": url, "admin_token_reference": "dtest234"}
        with httpx.Client(base_url=f"{control}/control/v1", headers={"Authorization": f"Bearer {token}"}) as http:
            assert http.post("/clusters", json=SCENE_CLUSTER).status_code == 201
            assert http.put(f"/clusters/{cluster}/deployments/dtest234", json=registered).status_code == 200
        yield {"ISTHMUS_CONTROL_URL": control, "ISTHMUS_CONTROL_TOKEN_FILE": str(tmp_path / "ann")}


@pytest.fixture
def run(road: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    for name, value in road.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str) -> tuple[int, str, str]:
        code = main.run(words)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_a_token_lives_and_ends(run: Run) -> None:
    code, secret, _ = run("token", "create", "cli-site", "--quiet", "--queue", "cli-queue")
    assert code == 0
    token_id = secret.split("_")[2]
    listed = {one["token_id"]: one for one in json.loads(run("token", "list", "--json")[1])["tokens"]}
    assert listed[token_id]["queues"] == ["cli-queue"]
    code, successor, _ = run("token", "rotate", token_id, "--overlap-hours", "1", "--quiet")
    assert code == 0
    assert successor != secret
    assert "is revoked" in run("token", "revoke", token_id)[1]
    assert run("token", "revoke", "aaaaaaaaaaaa")[0] == 4
    assert run("token", "revoke", "not-a-token-id")[0] == 2


def test_an_agent_and_its_workload_are_seen_and_steered(api: Api, run: Run) -> None:
    agent = api.agent()
    (workload_id,) = api.queue(agent)
    ending = workload_id[-12:]
    code, out, _ = run("agents", "list")
    assert code == 0
    assert agent.name in out
    assert run("agents", "show", agent.name)[0] == 0
    assert "no new work" in run("agents", "cordon", agent.name)[1]
    assert json.loads(run("agents", "show", agent.name, "--json")[1])["cordoned"] is True
    assert run("agents", "uncordon", agent.agent_id)[0] == 0
    listed = json.loads(run("workloads", "list", "--queue", agent.queue, "--json")[1])["workloads"]
    assert [one["workload_id"] for one in listed] == [workload_id]
    assert "queued" in run("workloads", "show", ending)[1]
    assert "cancelled" in run("workloads", "cancel", ending)[1]
    lease = agent.claim(wait=0)
    assert lease == []
    code, _, err = run("agents", "remove", agent.name)
    assert (code, "agent_busy" in err) == (1, True)
    assert run("agents", "remove", agent.name, "--force")[0] == 0
    assert run("agents", "show", agent.name)[0] == 4


def test_a_running_workload_is_asked_to_stop(api: Api, run: Run) -> None:
    agent = api.agent()
    (workload_id,) = api.queue(agent)
    lease = agent.run(workload_id)
    assert "was asked to stop" in run("workloads", "cancel", workload_id)[1]
    assert run("workloads", "list", "--agent", agent.name, "--state", "running")[0] == 0
    agent.settle(lease, "failed")
    assert "cancelled" in run("workloads", "show", workload_id)[1]
    assert run("agents", "drain", agent.name)[0] == 0


def test_the_allow_list_is_put_in_force(api: Api, run: Run) -> None:
    try:
        assert run("deployment", "allow", "add", "192.0.2.0/24", "127.0.0.0/8", "::1")[0] == 0
        assert "192.0.2.0/24" in run("deployment", "allow", "list")[1]
        code, out, _ = run("deployment", "allow", "remove", "192.0.2.0/24", "--dry-run", "--json")
        change = json.loads(out)["change"]
        assert (code, change["dry_run"], change["ranges_after"]) == (0, True, ["127.0.0.0/8", "::1/128"])
        assert "192.0.2.0/24" in run("deployment", "allow", "list")[1]
        assert run("deployment", "allow", "remove", "192.0.2.0/24")[0] == 0
        assert "127.0.0.0/8" in run("deployment", "show")[1]
    finally:
        assert run("deployment", "allow", "clear")[0] == 0
    assert json.loads(run("deployment", "show", "--json")[1])["allowed_ranges"] == []


def test_many_workloads_are_read_page_by_page(api: Api, run: Run) -> None:
    agent = api.agent()
    ids = api.queue(agent, 450)
    listed = json.loads(run("workloads", "list", "--queue", agent.queue, "--limit", "1000", "--json")[1])
    assert {one["workload_id"] for one in listed["workloads"]} == set(ids)
    assert listed["next_before"] is None
    listed = json.loads(run("workloads", "list", "--queue", agent.queue, "--limit", "201", "--json")[1])
    assert len(listed["workloads"]) == 201
    assert listed["next_before"] is not None
    api.execute(f"DELETE FROM isthmus_workload WHERE queue = '{agent.queue}'")
