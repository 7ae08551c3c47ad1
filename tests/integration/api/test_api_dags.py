"""DAG processing: what an agent brings is in Airflow's tables, and only what is its own."""

import concurrent.futures
import gzip
import json
import time
import uuid
from typing import Any

import psutil
import pytest
from tests.apis import Api, answered, problem, until
from tests.submitting import Processor, content_hash, result

Parsed = dict[str, Any]


def dag_id() -> str:
    return f"dag_{uuid.uuid4().hex[:12]}"


def test_what_is_submitted_is_in_airflows_tables(processor: Processor, parsed: Parsed) -> None:
    one, two = dag_id(), dag_id()
    body = result(parsed, one, two) | {
        "warnings": [
            {"dag_id": one, "warning_type": "non-existent pool", "message": "no pool"},
            {"dag_id": "somebody_elses", "warning_type": "non-existent pool", "message": "forged"},
        ],
    }
    body["serialized_dags"][1]["data"]["dag"]["tags"] = ["a", "b"]
    said = answered(processor.send(processor.submission("sub/etl.py", body, version="4f2c"), compressed=True))
    assert [(file["verdict"], file["code"]) for file in said["files"]] == [("accepted", "")]
    rows = processor.rows(
        "SELECT dag_id, fileloc, relative_fileloc, bundle_version, is_stale FROM dag "
        "WHERE bundle_name = '{bundle}' ORDER BY dag_id"
    )
    location = f"{processor.bundle}/sub/etl.py"
    assert rows == [(each, location, "sub/etl.py", "4f2c", False) for each in sorted([one, two])]
    assert processor.rows(f"SELECT name FROM dag_tag WHERE dag_id = '{two}' ORDER BY 1") == [("a",), ("b",)]
    assert processor.rows(f"SELECT count(*) FROM serialized_dag WHERE dag_id = '{one}'") == [(1,)]
    ((data,),) = processor.rows(f"SELECT data FROM serialized_dag WHERE dag_id = '{one}'")
    assert "/opt/agent" not in json.dumps(data)
    ((source, fileloc),) = processor.rows(f"SELECT source_code, fileloc FROM dag_code WHERE dag_id = '{one}'")
    assert "stays in the network" in source
    assert fileloc == location
    assert processor.rows(f"SELECT message FROM dag_warning WHERE dag_id = '{one}'") == [("no pool",)]
    assert processor.rows("SELECT count(*) FROM dag_warning WHERE message = 'forged'") == [(0,)]
    assert processor.rows("SELECT active FROM dag_bundle WHERE name = '{bundle}'") == [(True,)]


def test_a_change_is_written_as_soon_as_airflow_writes_one(processor: Processor, parsed: Parsed) -> None:
    """Airflow would drop a change within half a minute of the last: here nothing is accepted that was not written."""
    one = dag_id()
    assert processor.submit("a.py", result(parsed, one))["verdict"] == "accepted"
    changed = result(parsed, one, description="changed")
    early = processor.submit("a.py", changed)
    assert early["verdict"] == "later"
    assert 0 < early["retry_seconds"] <= 30
    processor.rows(f"UPDATE serialized_dag SET last_updated = now() - interval '1 hour' WHERE dag_id = '{one}'")
    assert processor.submit("a.py", changed)["verdict"] == "accepted"
    ((data,),) = processor.rows(f"SELECT data FROM serialized_dag WHERE dag_id = '{one}'")
    assert data["dag"]["description"] == "changed"


def test_a_new_version_is_written_as_soon_as_airflow_writes_one(processor: Processor, parsed: Parsed) -> None:
    """Airflow would drop it from the DAG's version, and new runs would be of one commit and their links of another."""
    one = dag_id()
    body = result(parsed, one)
    assert processor.submit("a.py", body, version="v1")["verdict"] == "accepted"
    assert processor.submit("a.py", body, version="v2")["verdict"] == "later"
    processor.rows(f"UPDATE serialized_dag SET last_updated = now() - interval '1 hour' WHERE dag_id = '{one}'")
    assert processor.submit("a.py", body, version="v2")["verdict"] == "accepted"
    assert processor.rows(f"SELECT bundle_version FROM dag_version WHERE dag_id = '{one}'") == [("v2",)]


def test_a_file_that_has_moved_has_its_dags_at_the_version(processor: Processor, parsed: Parsed) -> None:
    """At once and without a submission; what has not moved, and whatever other bundles have, stays as it is."""
    moved, still, elsewhere = dag_id(), dag_id(), dag_id()
    other = processor.sibling()
    other.bundle = f"{processor.bundle}-other"
    other.poll()
    for path, one in (("a.py", moved), ("b.py", still)):
        assert processor.submit(path, result(parsed, one), version="v1")["verdict"] == "accepted"
    assert other.submit("a.py", result(parsed, elsewhere), version="v1")["verdict"] == "accepted"
    files = [("a.py", content_hash(result(parsed, moved))), ("b.py", content_hash(result(parsed, still)))]
    assert processor.observe(files, version="v2", moved=["a.py", "unheard-of.py"])["held"] is True

    def versions(table: str) -> dict[str, str]:
        names = f"('{moved}', '{still}', '{elsewhere}')"
        return dict(processor.rows(f"SELECT dag_id, bundle_version FROM {table} WHERE dag_id IN {names}"))

    assert versions("dag") == versions("dag_version") == {moved: "v2", still: "v1", elsewhere: "v1"}


def test_a_dag_that_left_its_file_is_stale(processor: Processor, parsed: Parsed) -> None:
    one, two = dag_id(), dag_id()
    processor.submit("a.py", result(parsed, one, two))
    processor.submit("a.py", result(parsed, two))
    stale = dict(processor.rows("SELECT dag_id, is_stale FROM dag WHERE bundle_name = '{bundle}'"))
    assert stale == {one: True, two: False}


def test_import_errors_come_and_go(processor: Processor, parsed: Parsed) -> None:
    one = dag_id()
    processor.submit("a.py", result(parsed, one))
    broken = result(parsed) | {"import_errors": {"a.py": "SyntaxError: here", "/etc/passwd": "elsewhere"}}
    assert processor.submit("a.py", broken)["verdict"] == "accepted"
    errors = "SELECT filename, stacktrace FROM import_error WHERE bundle_name = '{bundle}'"
    ((filename, text),) = processor.rows(errors)
    assert filename == "a.py"
    assert "SyntaxError: here" in text
    assert processor.rows(f"SELECT is_stale, has_import_errors FROM dag WHERE dag_id = '{one}'") == [(True, True)]
    processor.rows(f"UPDATE serialized_dag SET last_updated = now() - interval '1 hour' WHERE dag_id = '{one}'")
    assert processor.submit("a.py", result(parsed, one))["verdict"] == "accepted"
    assert processor.rows(errors) == []
    assert processor.rows(f"SELECT is_stale, has_import_errors FROM dag WHERE dag_id = '{one}'") == [(False, False)]


def test_the_servers_disk_is_not_read(processor: Processor, parsed: Parsed) -> None:
    one = dag_id()
    body = result(parsed, one, fileloc="/etc/hostname", relative_fileloc="../../etc/hostname")
    assert processor.submit("a.py", body, source="what the agent says it is")["verdict"] == "accepted"
    ((source, fileloc),) = processor.rows(f"SELECT source_code, fileloc FROM dag_code WHERE dag_id = '{one}'")
    assert fileloc == f"{processor.bundle}/a.py"
    assert source.startswith("# The source of this DAG stays")
    for path in ("/etc/hostname", "../a.py", "a/../../b.py", "a//b.py", ".", "a/./b.py", "a\x00.py", "a\\b.py"):
        assert problem(processor.send(processor.submission(path, body))) == "request_invalid", path


def test_a_dag_of_another_bundle_is_not_taken(api: Api, processor: Processor, parsed: Parsed) -> None:
    one = dag_id()
    processor.submit("a.py", result(parsed, one))
    stranger = Processor(api.agent(role="dag-processor"), f"{processor.bundle} of a stranger")
    stranger.poll()
    said = stranger.submit("b.py", result(parsed, one, description="taken"))
    assert (said["verdict"], said["code"]) == ("refused", "dag_foreign")
    assert processor.rows(f"SELECT bundle_name, is_stale FROM dag WHERE dag_id = '{one}'") == [
        (processor.bundle, False)
    ]
    ((text,),) = stranger.rows("SELECT stacktrace FROM import_error WHERE bundle_name = '{bundle}'")
    assert one in text
    assert processor.bundle not in text.replace(stranger.bundle, "")
    # Stale or not, it is not the stranger's.
    processor.rows(f"UPDATE dag SET is_stale = true WHERE dag_id = '{one}'")
    assert stranger.submit("b.py", result(parsed, one))["code"] == "dag_foreign"


def test_a_bundle_belongs_to_the_token_that_brought_it(api: Api, processor: Processor, parsed: Parsed) -> None:
    stranger = Processor(api.agent(role="dag-processor"), processor.bundle)
    (said,) = stranger.poll()
    assert (said["accepted"], said["assigned"], said["code"]) == (False, False, "bundle_foreign")
    for fence in (1, processor.fence):
        stranger.fence = max(fence, 1)
        assert stranger.submit("a.py", result(parsed, dag_id()))["verdict"] == "stale"
    assert stranger.observe([])["held"] is False
    assert stranger.observe([], whole=True)["held"] is False
    assert stranger.claim() == []
    # Whoever comes after a dead token may go on.
    token_id = processor.agent.token.split("_")[2]
    api.admin().post(f"/admin/v1/tokens/{token_id}/revoke").raise_for_status()
    assert stranger.poll()[0]["assigned"]


def test_a_token_brings_the_bundles_that_it_is_for(api: Api, processor: Processor) -> None:
    prefix = processor.bundle.replace(" ", "_")
    token = api.token(name="site-c", roles=["dag-processor"], bundles=[f"{prefix}_sales_*", "hr"])
    assert token["bundles"] == sorted([f"{prefix}_sales_*", "hr"])
    one = Processor(api.agent(token=token["secret"], role="dag-processor"), f"{prefix}_sales_eu")
    foreign = f"{prefix}_finance"

    def refused() -> list[dict[str, Any]]:
        with api.admin() as operator:
            page = answered(operator.get("admin/v1/bundles", params={"limit": 500}))
        assert foreign not in [bundle["name"] for bundle in page["bundles"]], "it was not registered"
        return [each for each in page["refused"] if each["name"] == foreign]

    mine, other = one.poll(one.bundle, foreign)
    assert (mine["accepted"], mine["assigned"]) == (True, True)
    assert (other["accepted"], other["assigned"], other["code"]) == (False, False, "bundle_scope")
    assert "'site-c' is for the bundles" in other["detail"]
    assert "--bundle" in other["detail"]
    (shown,) = refused()
    assert (shown["agent_name"], shown["token_name"]) == (one.agent.name, "site-c")
    assert (shown["code"], shown["detail"]) == ("bundle_scope", other["detail"])
    assert refused() == [shown], "asking again changes nothing"
    one.poll(one.bundle, foreign)
    assert refused() == [shown]
    # Its successor is as limited.
    made = api.admin().post(f"/admin/v1/tokens/{token['token_id']}/rotate", json={}).json()
    assert made["token"]["bundles"] == token["bundles"]
    heir = Processor(api.agent(token=made["secret"], role="dag-processor"), one.bundle)
    assert [said["code"] for said in heir.poll(heir.bundle, foreign)] == ["", "bundle_scope"]
    assert len(refused()) == 2
    # It goes with its reason: nobody names it any more.
    one.poll(one.bundle)
    heir.poll(heir.bundle)
    assert refused() == []


@pytest.mark.parametrize("pattern", ["", "a/b", "[a-z]*", "a,b", "a\nb", "x" * 251])
def test_a_pattern_that_no_bundle_has_is_refused(api: Api, pattern: str) -> None:
    answer = api.admin().post("/admin/v1/tokens", json={"name": "x", "bundles": [pattern]})
    assert problem(answer) == "request_invalid"


def test_a_worker_processes_no_dags(api: Api) -> None:
    agent = api.agent()
    answer = agent.post("dag-processing/bundles", bundles=[{"name": "b"}])
    assert problem(answer) == "token_scope"


def test_a_pass_over_what_is_known_costs_a_digest(processor: Processor, parsed: Parsed) -> None:
    bodies = {f"f{number}.py": result(parsed, dag_id()) for number in range(3)}
    files = [(path, content_hash(body)) for path, body in bodies.items()]
    assert processor.observe(files) == {"bundle": processor.bundle, "held": True, "known": False, "wanted": []}
    said = processor.observe(files, whole=True)
    assert (said["known"], said["wanted"]) == (False, sorted(bodies))
    for path, body in bodies.items():
        processor.submit(path, body)
    processor.rows("UPDATE dag SET last_parsed_time = now() - interval '1 day' WHERE bundle_name = '{bundle}'")
    assert processor.observe(files)["known"] is True
    recent = (
        "SELECT count(*) FROM dag WHERE bundle_name = '{bundle}' AND last_parsed_time > now() - interval '1 minute'"
    )
    assert processor.rows(recent) == [(3,)]
    # What somebody deletes in Airflow comes back, as it does under Airflow's own DAG processor.
    gone = bodies["f1.py"]["serialized_dags"][0]["data"]["dag"]["dag_id"]
    processor.rows(f"DELETE FROM dag WHERE dag_id = '{gone}'")
    assert processor.observe(files)["wanted"] == ["f1.py"]
    assert processor.submit("f1.py", bodies["f1.py"])["verdict"] == "accepted"
    assert processor.observe(files)["wanted"] == []


def test_what_is_gone_becomes_stale(processor: Processor, parsed: Parsed) -> None:
    kept, gone, zipped = dag_id(), dag_id(), dag_id()
    bodies = {
        "kept.py": result(parsed, kept),
        "gone.py": result(parsed, gone),
        "p.zip": result(parsed, zipped, relative_fileloc="p.zip/inside.py"),
        "bad.py": result(parsed) | {"import_errors": {"bad.py": "no"}},
    }
    for path, body in bodies.items():
        assert processor.submit(path, body)["verdict"] == "accepted"
    assert processor.rows(f"SELECT relative_fileloc FROM dag WHERE dag_id = '{zipped}'") == [("p.zip/inside.py",)]
    left = [(path, content_hash(bodies[path])) for path in ("kept.py", "p.zip")]
    assert processor.observe(left)["known"] is False
    assert processor.observe(left, whole=True)["known"] is True
    stale = dict(processor.rows("SELECT dag_id, is_stale FROM dag WHERE bundle_name = '{bundle}'"))
    assert stale == {kept: False, gone: True, zipped: False}
    assert processor.rows("SELECT * FROM import_error WHERE bundle_name = '{bundle}'") == []
    assert processor.observe(left)["known"] is True


def test_a_bundle_has_one_parser_and_is_handed_on(processor: Processor, parsed: Parsed) -> None:
    other, fence = processor.sibling(), processor.fence
    (said,) = other.poll()
    assert (said["assigned"], said["holder"]) == (False, processor.agent.name)
    other.fence = fence
    assert other.submit("a.py", result(parsed, dag_id()))["verdict"] == "stale"
    processor.agent.beat(phase="left")
    until(lambda: other.poll()[0]["assigned"], seconds=5)
    assert other.fence > fence
    one = dag_id()
    late = processor.submit("a.py", result(parsed, one))
    assert late["verdict"] == "stale"
    assert processor.rows(f"SELECT count(*) FROM dag WHERE dag_id = '{one}'") == [(0,)]
    assert other.submit("a.py", result(parsed, one))["verdict"] == "accepted"


def test_a_lost_agents_bundle_is_handed_on(processor: Processor) -> None:
    other = processor.sibling()
    other.poll()
    lost = processor.agent.agent_id
    processor.rows(f"UPDATE isthmus_agent SET last_heartbeat_at = now() - interval '1 hour' WHERE id = '{lost}'")
    assert other.poll()[0]["assigned"]


def test_bundles_are_spread(processor: Processor) -> None:
    names = [processor.bundle, *(f"{processor.bundle}.{number}" for number in range(3))]
    assert all(one["assigned"] for one in processor.poll(*names))
    other = processor.sibling()
    for _ in range(4):
        processor.agent.beat()
        processor.poll(*names)
        other.agent.beat()
        held = [one["assigned"] for one in other.poll(*names)]
    assert sum(held) == 2
    assert sum(one["assigned"] for one in processor.poll(*names)) == 2


def test_an_unregistered_class_is_an_import_error_that_says_what_is_missing(
    processor: Processor, parsed: Parsed
) -> None:
    one = dag_id()
    body = result(parsed, one, timetable={"__type": "acme.timetables.Fiscal", "__var": {}})
    said = processor.submit("a.py", body)
    assert (said["verdict"], said["code"]) == ("refused", "class_unknown")
    ((text,),) = processor.rows("SELECT stacktrace FROM import_error WHERE bundle_name = '{bundle}'")
    assert "acme.timetables.Fiscal" in text
    assert "Install the plugin" in text
    # It is known, and asked for again when a while has passed: somebody may have installed it.
    files = [("a.py", content_hash(body))]
    assert processor.observe(files) == {"bundle": processor.bundle, "held": True, "known": True, "wanted": []}
    processor.rows("UPDATE isthmus_dag_file SET submitted_at = now() - interval '1 hour' WHERE bundle = '{bundle}'")
    assert processor.observe(files)["wanted"] == ["a.py"]


def test_bombs_are_bounded(processor: Processor, parsed: Parsed) -> None:
    bomb = gzip.compress(b" " * (64 * 1024 * 1024))
    path = "agent/v1/dag-processing/submissions"
    begun = time.monotonic()
    answer = processor.agent.client.post(path, content=bomb, headers={"Content-Encoding": "gzip"})
    assert problem(answer) == "body_too_large"
    answer = processor.agent.client.post(path, content=b"[" * 100_000 + b"]" * 100_000)
    assert problem(answer) in {"request_invalid", "body_malformed"}
    for encoding in ("br", "gzip"):
        answer = processor.agent.client.post(path, content=b"{}", headers={"Content-Encoding": encoding})
        assert (answer.status_code, problem(answer)) == (415, "encoding_unsupported")
    assert problem(processor.agent.client.post("agent/v1/heartbeats", content=bomb[:1000])) != "internal"
    said = processor.submit("tags.py", result(parsed, dag_id(), tags=[f"t{number}" for number in range(100_000)]))
    assert (said["verdict"], said["code"]) == ("refused", "too_large")
    nested: dict[str, Any] = {}
    for _ in range(150):
        nested = {"__type": "dict", "__var": nested}
    said = processor.submit("deep.py", result(parsed, dag_id(), params=nested))
    assert said["verdict"] in {"refused", "accepted"}
    for name, value in (("nul.py", {"description": "a\x00b"}), ("id.py", {"dag_id": "x" * 300})):
        body = result(parsed, dag_id())
        body["serialized_dags"][0]["data"]["dag"] |= value
        assert processor.submit(name, body)["code"] == "result_invalid", name
    assert (
        processor.submit("ok.py", result(parsed, dag_id(), description="a \\u0000 is written"))["verdict"] == "accepted"
    )
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("template", "kept"),
    [
        ("https://git.example.org/{version}/{subdir}", True),
        ("javascript:alert(1)", False),
        ("https://git.example.org/{version:>99999999}", False),
        ("https://git.example.org/{version.__class__}", False),
        ("https://git.example.org/{unknown}", False),
        ("https://git.example.org/{version", False),
    ],
)
def test_only_a_harmless_template_is_signed(processor: Processor, template: str, kept: bool) -> None:
    processor.poll(version="4f2c", view_url_template=template, template_params={"subdir": "dags"})
    ((signed, version),) = processor.rows(
        "SELECT signed_url_template IS NOT NULL, version FROM dag_bundle WHERE name = '{bundle}'"
    )
    assert (signed, version) == (kept, "4f2c")


def callback(processor: Processor, weight: int = 1) -> str:
    one = str(uuid.uuid4())
    request = {
        "filepath": "a.py",
        "bundle_name": processor.bundle,
        "bundle_version": None,
        "msg": "it failed",
        "dag_id": "d",
        "run_id": "r",
        "is_failure_callback": True,
        "type": "DagCallbackRequest",
    }
    data = {"__type": "dict", "__var": {"req_class": "DagCallbackRequest", "req_data": json.dumps(request)}}
    processor.rows(
        "INSERT INTO callback (id, type, fetch_method, data, bundle_name, priority_weight, created_at) VALUES "
        f"('{one}', 'dag_processor', 'dag_attribute', '{json.dumps(data).replace('{', '{{').replace('}', '}}')}', "
        f"'{{bundle}}', {weight}, now())"
    )
    return one


def test_a_callback_outlives_its_claimer_and_is_acknowledged_once(processor: Processor) -> None:
    light, heavy = callback(processor), callback(processor, weight=9)
    claims = processor.claim()
    assert [one["claim_id"] for one in claims] == [heavy, light]
    assert (claims[0]["kind"], claims[0]["request"]["msg"]) == ("callback", "it failed")
    assert processor.claim() == [], "handed out"
    other = processor.sibling()
    processor.agent.beat(phase="left")
    until(lambda: other.poll()[0]["assigned"], seconds=5)
    again = other.claim()
    assert {one["claim_id"] for one in again} == {light, heavy}
    assert all(one["fence"] == 2 for one in again)
    assert processor.settle(*claims) == {"settled": 0, "lost": [heavy, light]}, "its lease went on"
    assert processor.rows("SELECT count(*) FROM callback WHERE bundle_name = '{bundle}'") == [(2,)]
    assert other.settle(*again) == {"settled": 2, "lost": []}
    assert other.settle(*again)["settled"] == 0
    assert processor.rows("SELECT count(*) FROM callback WHERE bundle_name = '{bundle}'") == [(0,)]
    assert other.claim() == []


def test_a_callback_that_kills_agents_is_given_up(processor: Processor) -> None:
    one = callback(processor)
    for _ in range(5):
        (claim,) = processor.claim()
        processor.settle(claim, released=True)
    assert processor.claim() == []
    assert processor.rows(f"SELECT count(*) FROM callback WHERE id = '{one}'") == [(0,)]


def test_a_file_is_parsed_first_when_somebody_asks(processor: Processor) -> None:
    request = uuid.uuid4().hex
    processor.rows(
        "INSERT INTO dag_priority_parsing_request (id, bundle_name, relative_fileloc) "
        f"VALUES ('{request}', '{{bundle}}', 'sub/a.py')"
    )
    (claim,) = processor.claim()
    assert (claim["kind"], claim["relative_fileloc"], claim["request"]) == ("parse", "sub/a.py", None)
    assert processor.settle(claim) == {"settled": 1, "lost": []}
    assert processor.claim() == []
    assert processor.rows("SELECT * FROM dag_priority_parsing_request WHERE bundle_name = '{bundle}'") == []


def test_unchanged_dags_cost_the_plane_little(processor: Processor, parsed: Parsed) -> None:
    """A thousand unchanged DAGs: less than a millisecond of the plane's CPU each, of the database's time as well."""
    one = dag_id()
    processor.submit("f.py", result(parsed, one))
    numbers = "generate_series(1, 999) AS n"
    processor.rows(
        "INSERT INTO dag SELECT (jsonb_populate_record(NULL::dag, to_jsonb(d) || jsonb_build_object('dag_id', "
        f"'{one}_' || n, 'relative_fileloc', 'f' || n || '.py'))).* FROM dag AS d, {numbers} WHERE d.dag_id = '{one}'"
    )
    processor.rows(
        "INSERT INTO isthmus_dag_file (bundle, relative_fileloc, content_hash, dag_ids) "
        "SELECT '{bundle}', 'f' || n || '.py', encode(sha256(n::text::bytea), 'hex'), "
        f"jsonb_build_array('{one}_' || n) FROM {numbers}"
    )
    files = processor.rows("SELECT relative_fileloc, content_hash FROM isthmus_dag_file WHERE bundle = '{bundle}'")
    process = psutil.Process(processor.api.process.pid)
    processor.observe(files)
    before, begun, passes = process.cpu_times(), time.monotonic(), 10
    for _ in range(passes):
        assert processor.observe(files)["known"] is True
    after, elapsed = process.cpu_times(), time.monotonic() - begun
    cpu = (after.user + after.system) - (before.user + before.system)
    print(f"{cpu / passes:.4f} s of CPU and {elapsed / passes:.4f} s in all for a pass over 1,000 unchanged DAGs")
    assert cpu / passes / len(files) < 0.001
    assert elapsed / passes / len(files) < 0.001
    recent = (
        "SELECT count(*) FROM dag WHERE bundle_name = '{bundle}' AND last_parsed_time > now() - interval '1 minute'"
    )
    assert processor.rows(recent) == [(1000,)]


def test_changed_dags_do_not_block_others(processor: Processor, parsed: Parsed) -> None:
    """While many files are taken in, heartbeats are answered: the event loop does not do the work."""
    many = [processor.submission(f"f{number}.py", result(parsed, dag_id())) for number in range(40)]
    process = psutil.Process(processor.api.process.pid)
    other = processor.api.agent()
    before, slowest = process.cpu_times(), 0.0
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sending = pool.submit(processor.send, *many, compressed=True)
        while not sending.done():
            begun = time.monotonic()
            other.beat()
            slowest = max(slowest, time.monotonic() - begun)
    after = process.cpu_times()
    cpu = (after.user + after.system) - (before.user + before.system)
    print(f"{1000 * cpu / len(many):.1f} ms of CPU for a new DAG; the slowest heartbeat took {1000 * slowest:.0f} ms")
    assert {one["verdict"] for one in answered(sending.result())["files"]} == {"accepted"}
    assert slowest < 1


def test_operators_see_bundles(processor: Processor, parsed: Parsed) -> None:
    processor.submit("a.py", result(parsed, dag_id(), dag_id()))
    processor.submit("b.py", result(parsed) | {"import_errors": {"b.py": "no"}})
    refused = result(parsed, dag_id(), timetable={"__type": "acme.Fiscal", "__var": {}})
    processor.submit("c.py", refused)
    other = processor.sibling()
    other.poll()
    page = processor.api.admin().get("/admin/v1/bundles").json()["bundles"]
    (one,) = [one for one in page if one["name"] == processor.bundle]
    assert (one["files"], one["dags"], one["import_errors"], one["refused"]) == (3, 2, 2, 1)
    assert one["refused_file"] == "c.py"
    assert "acme.Fiscal" in one["refused_detail"]
    assert one["agent_name"] == processor.agent.name
    assert set(one["agents"]) == {processor.agent.name, other.agent.name}
    assert one["passed_at"] is None
    processor.observe([])
    (one,) = [
        one
        for one in processor.api.admin().get("/admin/v1/bundles").json()["bundles"]
        if one["name"] == processor.bundle
    ]
    assert one["passed_at"] is not None


def test_operators_page_through_bundles(api: Api, processor: Processor) -> None:
    """Those of other tests are there as well: each is on one page, and what nobody parses comes first."""
    processor.rows(
        "UPDATE isthmus_bundle SET lease_expires_at = now() + "
        "CASE WHEN name = '{bundle}' THEN interval '1 hour' ELSE interval '-1 hour' END"
    )
    found: list[dict[str, Any]] = []
    start: int | None = 0
    while start is not None:
        page = answered(api.admin().get("/admin/v1/bundles", params={"start": start, "limit": 2}))
        found += page["bundles"]
        start = page["next_start"]
        assert 0 < len(page["bundles"]) <= 2
    names = [one["name"] for one in found]
    assert len(set(names)) == len(names)
    assert [one["name"] for one in found if one["agent_name"] is not None] == names[-1:] == [processor.bundle]
    assert problem(api.admin().get("/admin/v1/bundles", params={"limit": 501})) == "request_invalid"
