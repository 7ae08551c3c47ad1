"""The commands that ask the admin API, against one over real HTTP: output, JSON, exit codes."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.fakes import admin_api

from isthmus.cli import main, verifications
from isthmus.wire import admin, problems
from isthmus.wire.probes import ProbeReport, ProbeStatus

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def api() -> Iterator[admin_api.FakeAdminApi]:
    with admin_api.serving() as api:
        yield api


@pytest.fixture
def run(
    api: admin_api.FakeAdminApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    token_file = tmp_path / "admin-token"
    token_file.write_text(admin_api.TOKEN + "\n")
    monkeypatch.setenv("ISTHMUS_ADMIN_URL", api.url)
    monkeypatch.setenv("ISTHMUS_ADMIN_TOKEN_FILE", str(token_file))
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str) -> tuple[int, str, str]:
        code = main.run(words)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_every_list_is_read_to_its_end(api: admin_api.FakeAdminApi, run: Run) -> None:
    for number in range(1, 6):
        api.agents[admin_api.agent(number).agent_id] = admin_api.agent(number)
        api.workloads[admin_api.workload(number).workload_id] = admin_api.workload(number)
    code, out, _ = run("agents", "list", "--json")
    assert code == 0
    assert [one.name for one in admin.AgentPage.model_validate_json(out).agents] == [f"agent-{n}" for n in range(1, 6)]
    code, out, _ = run("workloads", "list", "--json")
    assert len(admin.WorkloadPage.model_validate_json(out).workloads) == 5
    code, out, err = run("workloads", "list", "--limit", "3")
    assert len(out.splitlines()) == 4
    assert "There are more" in err


def test_agents_are_listed_by_health_and_by_a_part_of_their_name(api: admin_api.FakeAdminApi, run: Run) -> None:
    for number in range(1, 4):
        health = admin.AgentHealth.UNHEALTHY if number == 2 else admin.AgentHealth.HEALTHY
        api.agents[admin_api.agent(number).agent_id] = admin_api.agent(number, health=health)
    _, unhealthy, _ = run("agents", "list", "--health", "unhealthy")
    assert ("agent-2" in unhealthy, "agent-1" in unhealthy) == (True, False)
    _, third, _ = run("agents", "list", "--find", "NT-3")
    assert ("agent-3" in third, "agent-1" in third) == (True, False)
    code, _, err = run("agents", "list", "--health", "sick")
    assert (code, "unhealthy" in err) == (2, True)


def test_tables_fit_eighty_columns_and_keep_every_word(api: admin_api.FakeAdminApi, run: Run) -> None:
    api.agents[admin_api.agent(1).agent_id] = admin_api.agent(1)
    api.workloads[admin_api.workload(1).workload_id] = admin_api.workload(1)
    api.tokens["abcdefghijkl"] = admin_api.token("abcdefghijkl", last_used_address="192.0.2.7")
    for words in (("agents", "list"), ("workloads", "list"), ("token", "list")):
        code, out, _ = run(*words)
        assert code == 0
        assert max(map(len, out.splitlines())) <= 80, out
        assert "…" not in out
    assert "abcdefghijkl" in out


def test_queues_are_listed_with_what_to_do_about_those_that_nobody_serves(
    api: admin_api.FakeAdminApi, run: Run
) -> None:
    code, out, err = run("queues", "list")
    assert (code, out) == (0, "")
    assert "No queue has work" in err
    api.queues = [
        admin_api.queue("gpu", queued=3, oldest_queued_seconds=41.0, agents=(), agents_count=0, slots=0),
        admin_api.queue("default", running=2, slots_used=2, agents_count=25),
    ]
    code, out, err = run("queues", "list")
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [["gpu", "3", "41"], ["default", "0", "-"]]
    assert "nobody" in out
    assert "oslo-1, and 24 more" in out
    assert "start an agent with --queues gpu" in err
    code, out, _ = run("queues", "list", "--json")
    assert admin.QueuePage.model_validate_json(out).queues == tuple(api.queues)


def test_an_agent_is_found_by_name_and_by_id(api: admin_api.FakeAdminApi, run: Run) -> None:
    agent = admin_api.agent(3, warnings=(admin_api.warning("the clock is 40 s behind"),))
    api.agents[agent.agent_id] = agent
    for given in (agent.name, str(agent.agent_id)):
        code, out, _ = run("agents", "show", given)
        assert code == 0
        assert "the clock is 40 s behind (run an NTP client)" in out
        assert "healthy" in out


@pytest.mark.parametrize(("verb", "shown"), [("cordon", "cordoned"), ("drain", "draining"), ("uncordon", "healthy")])
def test_agents_are_steered(api: admin_api.FakeAdminApi, run: Run, verb: str, shown: str) -> None:
    agent = admin_api.agent(1, cordoned=verb == "uncordon")
    api.agents[agent.agent_id] = agent
    code, out, _ = run("agents", verb, "agent-1")
    assert code == 0
    assert out.startswith("Agent agent-1 ")
    assert shown in run("agents", "list")[1]


def test_a_healthy_agent_is_removed_by_force_alone(api: admin_api.FakeAdminApi, run: Run) -> None:
    api.agents[admin_api.agent(1).agent_id] = admin_api.agent(1)
    code, _, err = run("agents", "remove", "agent-1")
    assert (code, "agent_busy" in err) == (1, True)
    assert run("agents", "remove", "agent-1", "--force")[0] == 0
    assert not api.agents


def test_the_secret_is_shown_once_and_alone_when_asked(api: admin_api.FakeAdminApi, run: Run) -> None:
    code, out, err = run("token", "create", "site-oslo", "--quiet", "--queue", "gpu", "--role", "worker")
    assert (code, out, err) == (0, "isthmus_dtest234_newtokenidaa_s3cret\n", "")
    assert api.requests[-1][3] == {
        "name": "site-oslo",
        "expires_days": 365,
        "roles": ["worker"],
        "queues": ["gpu"],
        "links": [],
        "bundles": [],
    }
    assert "s3cret" not in run("token", "list")[1]
    code, out, _ = run("token", "create", "other", "--never-expires", "--json")
    assert admin.TokenCreated.model_validate_json(out).token.expires_at is None
    assert run("token", "rotate", "newtokenidaa", "-q")[1] == "isthmus_dtest234_successoridaa_s3\n"
    assert "is revoked" in run("token", "revoke", "newtokenidaa")[1]


def test_a_secret_goes_into_a_new_file_that_only_its_owner_reads(
    api: admin_api.FakeAdminApi, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "agent-token"
    code, out, _ = run("token", "create", "site-oslo", "--output", str(path))
    assert code == 0
    assert "s3cret" not in out
    assert path.read_text().strip() == "isthmus_dtest234_newtokenidaa_s3cret"
    assert path.stat().st_mode & 0o777 == 0o600
    before = len(api.requests)
    assert run("token", "create", "site-oslo", "--output", str(path))[0] == 2
    assert len(api.requests) == before, "no token is made whose secret has nowhere to go"


def test_a_workload_is_named_by_the_end_of_its_id(api: admin_api.FakeAdminApi, run: Run) -> None:
    for number in range(1, 4):
        api.workloads[admin_api.workload(number).workload_id] = admin_api.workload(
            number, state=admin.WorkloadState.QUEUED
        )
    code, out, _ = run("workloads", "show", "000000000003")
    assert code == 0
    assert "river_levels.summarise[3]" in out
    assert run("workloads", "show", "ffffffffffff")[0] == 4
    assert run("workloads", "show", "0000", "--json")[0] == 4, "no id ends in 0000"
    code, out, _ = run("workloads", "cancel", "000000000002")
    assert "is cancelled" in out
    code, out, _ = run("workloads", "list", "--state", "queued", "--json")
    assert len(json.loads(out)["workloads"]) == 3


def test_the_allow_list_is_changed_range_by_range(api: admin_api.FakeAdminApi, run: Run) -> None:
    assert "every address" in run("deployment", "allow", "list")[2]
    assert run("deployment", "allow", "add", "192.0.2.0/24", "2001:db8::7")[0] == 0
    assert api.ranges == ("192.0.2.0/24", "2001:db8::7/128")
    assert run("deployment", "allow", "remove", "192.0.2.0/24")[1] == "2001:db8::7/128\n"
    code, _, err = run("deployment", "allow", "remove", "2001:db8::7")
    assert (code, "clear" in err) == (2, True), "the last range is not removed by accident"
    assert run("deployment", "allow", "remove", "198.51.100.0/24")[0] == 4
    assert run("deployment", "allow", "add", "192.0.2.1/24")[0] == 2, "host bits are a mistake, not a range"
    assert run("deployment", "allow", "set", "198.51.100.0/24")[0] == 0
    code, out, _ = run("deployment", "allow", "remove", "198.51.100.0/24", "--dry-run")
    assert code == 2
    code, out, _ = run("deployment", "allow", "add", "192.0.2.0/24", "--dry-run")
    assert (code, "cut off  agent-1" in out, "(dry run)" in out) == (0, True, True)
    assert api.ranges == ("198.51.100.0/24",), "a dry run changes nothing"
    assert run("deployment", "allow", "clear")[0] == 0
    assert api.ranges == ()


def test_show_tells_how_the_deployment_is(api: admin_api.FakeAdminApi, run: Run) -> None:
    for number in (1, 2):
        api.agents[admin_api.agent(number).agent_id] = admin_api.agent(number)
    code, out, _ = run("deployment", "show")
    assert code == 0
    assert "2 healthy, 0 unhealthy" in out
    assert admin.DeploymentView.model_validate_json(run("deployment", "show", "--json")[1]).workloads_queued == 3


def test_refusals_say_what_and_what_to_do(api: admin_api.FakeAdminApi, run: Run, tmp_path: Path) -> None:
    code, out, err = run("token", "revoke", "nosuchtoken")
    assert (code, out) == (4, "")
    assert err.splitlines() == [
        "error: No agent token has this id (token_not_found)",
        "hint: List the tokens with: isthmus token list.",
    ]
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    code, _, err = run("token", "list", "--admin-token-file", str(wrong))
    assert (code, "admin_token_invalid" in err) == (1, True)
    api.instead["/admin/v1/tokens"] = (503, "application/problem+json", _problem("database_unavailable"))
    assert run("token", "list")[0] == 3


def _problem(code: str) -> bytes:
    return problems.problem(problems.Code(code)).model_dump_json().encode()


@pytest.mark.parametrize(
    "answer",
    [
        (200, "text/html", b"<h1>Sign in to the guest network</h1>"),
        (502, "text/html", b"<h1>Bad gateway</h1>"),
        (404, "text/plain", b"404 page not found\n"),
        (403, "application/problem+json", b"{}"),
    ],
)
def test_an_answer_that_is_not_ours_is_said_to_be_so(
    api: admin_api.FakeAdminApi, run: Run, answer: tuple[int, str, bytes]
) -> None:
    api.instead["/admin/v1/tokens"] = answer
    code, _, err = run("token", "list")
    assert code == 3
    assert "not an Isthmus admin API" in err


def test_nobody_there_is_exit_code_three(run: Run) -> None:
    code, _, err = run("agents", "list", "--admin-url", "http://127.0.0.1:1")
    assert code == 3
    assert "does not answer" in err
    assert "hint:" in err


def test_usage_and_configuration_are_exit_code_two(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run("agents", "list", "--admin-url", "not a url")[0] == 2
    assert run("agents", "list", "--no-such-option")[0] == 2
    assert run("no-such-command")[0] == 2
    assert run("token", "create", "x", "--expires-days", "3651")[0] == 2
    assert run("token", "create", "")[0] == 2
    code, _, err = run("token", "list", "--admin-token-file", str(tmp_path / "missing"))
    assert (code, "hint: Name the file" in err) == (2, True)
    monkeypatch.delenv("ISTHMUS_ADMIN_URL")
    code, _, err = run("token", "list")
    assert (code, "--admin-url is not set" in err) == (2, True)


def test_proxies_of_the_environment_are_left_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert run("deployment", "show")[0] == 0


def test_a_token_is_bound_to_links(api: admin_api.FakeAdminApi, run: Run) -> None:
    assert run("token", "create", "oslo", "-q", "--link", "268435747", "--link", "7")[0] == 0
    assert api.requests[-1][3]["links"] == [268435747, 7]
    api.tokens["abcdefghijkl"] = admin_api.token("abcdefghijkl", links=(268435747,))
    assert "link 268435747" in run("token", "list")[1]
    assert run("token", "create", "oslo", "--link", "4294967296")[0] == 2
    assert run("token", "create", "oslo", "--link", "x")[0] == 2


def test_the_path_of_an_agent_is_shown(api: admin_api.FakeAdminApi, run: Run) -> None:
    api.agents[admin_api.agent(1).agent_id] = admin_api.agent(
        1, path="link", link_id=268435747, address="10.20.0.5", path_since=admin_api.NOW
    )
    api.agents[admin_api.agent(2).agent_id] = admin_api.agent(2)
    _, out, _ = run("agents", "list")
    assert "link 268435747" in " ".join(out.split()) or "268435747" in out
    assert "public" in out
    assert max(map(len, out.splitlines())) <= 80, out
    assert "link 268435747, from 10.20.0.5, since" in run("agents", "show", "agent-1")[1]


REPORT = ProbeReport.model_validate(
    {
        "order_id": admin_api.ORDER,
        "url": "https://x/dtest234",
        "started_at": admin_api.NOW,
        "status": "fail",
        "rows": [
            {"check": "address", "target": "x", "status": "pass", "details": "10.1.0.4 is private"},
            {"check": "tcp", "target": "10.1.0.4:443", "status": "fail", "details": "no answer", "remedy": "Approve."},
        ],
    }
)


def test_an_agent_is_asked_to_verify(api: admin_api.FakeAdminApi, run: Run) -> None:
    api.agents[admin_api.agent(1).agent_id] = admin_api.agent(1)
    code, out, _ = run("agents", "verify", "agent-1", "--endpoint", "10.1.0.4", "--public-address", "203.0.113.80")
    assert (code, "next heartbeat" in out) == (0, True)
    assert api.requests[-1][3] == {
        "endpoint": "10.1.0.4",
        "public_addresses": ["203.0.113.80"],
        "public_allowed": False,
        "connection": None,
        "ordered_by": "",
    }
    assert "no report yet" in run("agents", "show", "agent-1")[1]
    api.report = REPORT
    code, out, _ = run("agents", "verify", "agent-1", "--wait")
    assert code == 1, "something failed"
    assert "FAIL  tcp          10.1.0.4:443: no answer" in out
    assert "Approve." in out
    assert "fail: tcp: no answer" in run("agents", "show", "agent-1")[1]
    api.report = REPORT.model_copy(update={"status": ProbeStatus.PASS, "rows": REPORT.rows[:1]})
    assert run("agents", "verify", "agent-1", "--wait", "--json")[0] == 0
    api.verified_as = {"state": "unanswered", "reason": "The agent left.", "hint": "Start it again."}
    code, _, err = run("agents", "verify", "agent-1", "--wait")
    assert code == 3
    assert "The agent left." in err
    assert "Start it again." in err
    assert run("agents", "verify", "agent-1", "--endpoint", "x")[0] == 2


def test_rows_are_printed_as_they_come_and_once(
    api: admin_api.FakeAdminApi, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.agents[admin_api.agent(1).agent_id] = admin_api.agent(1)
    api.report = REPORT.model_copy(update={"rows": REPORT.rows[:1], "finished": False})

    def finish(_: float) -> None:
        api.verifications[admin_api.ORDER] = admin_api.verification(admin_api.agent(1), admin.ProbesRequest(), REPORT)

    monkeypatch.setattr(verifications, "time", SimpleNamespace(sleep=finish, monotonic=time.monotonic))
    code, out, _ = run("agents", "verify", "agent-1", "--wait")
    assert code == 1
    assert (out.count("10.1.0.4 is private"), out.count("no answer")) == (1, 1)


def test_the_history_of_verifications(api: admin_api.FakeAdminApi, run: Run) -> None:
    assert "agents verify AGENT" in run("agents", "verifications")[2]
    api.agents[admin_api.agent(1).agent_id] = admin_api.agent(1)
    api.report = REPORT
    run("agents", "verify", "agent-1")
    out = run("agents", "verifications", "agent-1")[1]
    assert "admin token" in out
    assert "tcp: no" in out
    assert run("agents", "verifications", "agent-2")[1] == ""
    code, out, _ = run("agents", "verification", str(admin_api.ORDER))
    assert code == 1
    assert "Approve." in out
    assert json.loads(run("agents", "verification", str(admin_api.ORDER), "--json")[1])["agent_name"] == "agent-1"
    assert run("agents", "verification", str(uuid.uuid4()))[0] != 0


def test_the_end_of_an_agents_log(api: admin_api.FakeAdminApi, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    api.agents[admin_api.agent(1).agent_id] = admin_api.agent(1)
    assert run("agents", "log", "agent-1")[1] == "started\nenrolled\n"
    assert json.loads(run("agents", "log", "agent-1", "--json")[1])["ordered_by"] == "admin token"
    monkeypatch.setattr(verifications, "_LOG_SECONDS", 0.6)
    api.log = None
    code, out, err = run("agents", "log", "agent-1")
    assert (code, out) == (3, "")
    assert "has not sent its log: it is healthy" in err


def test_restricting_shows_first_who_is_cut_off(api: admin_api.FakeAdminApi, run: Run) -> None:
    code, out, _ = run("deployment", "restrict", "--to", "10.20.0.0/16", "--dry-run")
    assert (code, api.ranges) == (0, ())
    lines = [line.split() for line in out.splitlines()]
    assert lines[1][:5] == ["cut", "off", "agent-1", "healthy", "public"]
    assert lines[2][:5] == ["stays", "agent-2", "healthy", "link", "268435747"]
    assert "dry run" in out
    assert run("deployment", "restrict", "--to", "10.20.0.0/16")[0] == 0
    assert api.ranges == ("10.20.0.0/16",)
    code, out, err = run("deployment", "unrestrict")
    assert (code, "10.20.0.0/16" in err, api.ranges) == (0, True, ())
    assert run("deployment", "restrict")[0] == 2
    assert run("deployment", "restrict", "--to", "10.20.0.1/16")[0] == 2


def test_a_restriction_that_does_not_come_about_is_a_failure(api: admin_api.FakeAdminApi, run: Run) -> None:
    api.restriction = admin.RestrictionOutcome.REFUSED
    code, _, err = run("deployment", "restrict", "--to", "10.20.0.0/16")
    assert (code, "agents_cut_off" in err) == (1, True)
    assert run("deployment", "restrict", "--to", "10.20.0.0/16", "--dry-run")[0] == 1
    assert run("deployment", "restrict", "--to", "10.20.0.0/16", "--force")[0] == 0
    api.restriction = admin.RestrictionOutcome.WIDENED
    code, out, _ = run("deployment", "restrict", "--to", "10.20.0.0/16", "--json")
    assert (code, admin.RestrictionView.model_validate_json(out).outcome) == (1, "widened")


def test_force_reaches_the_allow_list(api: admin_api.FakeAdminApi, run: Run) -> None:
    run("deployment", "allow", "set", "198.51.100.0/24", "--force")
    assert api.requests[-1][3] == {"ranges": ["198.51.100.0/24"], "force": True, "dry_run": False}


def test_bundles_are_listed_with_what_to_do_about_those_that_nobody_parses(
    api: admin_api.FakeAdminApi, run: Run
) -> None:
    code, out, err = run("bundles", "list")
    assert (code, out) == (0, "")
    assert "No agent has brought a bundle" in err
    api.bundles = [
        admin_api.bundle("orphan", agent_name=None),
        admin_api.bundle("sales", refused_file="etl/big.py", refused_detail="has 3000 DAGs"),
        admin_api.bundle("third"),
    ]
    code, out, err = run("bundles", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["orphan", "sales", "third"], "more than one page"
    assert "Refused of sales: etl/big.py: has 3000 DAGs" in err
    assert max(map(len, out.splitlines())) <= 80, out
    assert "nobody" in out
    assert "Nobody parses orphan" in err
    api.refused_bundles = [admin_api.refused_bundle("finance")]
    assert "edge-3.dag-processor may not bring finance (bundle_scope)" in run("bundles", "list")[2]
    code, out, _ = run("bundles", "list", "--json")
    assert admin.BundlePage.model_validate_json(out).bundles == tuple(api.bundles)


def test_a_token_is_for_some_bundles(api: admin_api.FakeAdminApi, run: Run) -> None:
    code, out, _ = run("token", "create", "site-c", "--bundle", "sales_*", "--bundle", "hr")
    assert (code, api.requests[-1][3]["bundles"]) == (0, ["sales_*", "hr"])
    assert "sales_*, hr" in out
    assert "bundle sales_*" in run("token", "list")[1]
    code, _, err = run("token", "create", "site-c", "--bundle", "a/b")
    assert (code, "request_invalid" in err) == (2, True)


def test_triggers_are_listed_with_what_to_do_about_those_that_nobody_runs(
    api: admin_api.FakeAdminApi, run: Run
) -> None:
    code, out, err = run("triggers", "list")
    assert (code, out) == (0, "")
    assert "No agent runs triggers" in err
    api.triggerers = [
        admin_api.triggerer("edge-1.triggerer", held=1000),
        admin_api.triggerer("edge-2.triggerer", takes=False),
        admin_api.triggerer("edge-3.triggerer", held=1000, queues=("etl",)),
    ]
    api.waiting_triggers = [
        admin_api.waiting_triggers(3),
        admin_api.waiting_triggers(1, kind="asset", queue=None, bundles=(), triggerers=2),
    ]
    api.held_centrally = 4
    code, out, err = run("triggers", "list")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80, out
    words = [line.split() for line in out.splitlines()]
    assert [(line[0], line[1], line[2]) for line in words if line and line[0].startswith("edge-")] == [
        ("edge-1.triggerer", "1000/1000", "full"),
        ("edge-2.triggerer", "250/1000", "no"),
        ("edge-3.triggerer", "1000/1000", "full"),
    ]
    assert ["3", "task", "gpu", "sales", "41", "s", "nobody"] in words
    assert "Nobody runs triggers of queue gpu, bundle sales" in err
    assert "All triggerers are full" in err
    assert "holds 4" in err
    code, out, _ = run("triggers", "list", "--json")
    seen = admin.TriggersView.model_validate_json(out)
    assert (seen.triggerers, seen.waiting_count) == (tuple(api.triggerers), 4)
