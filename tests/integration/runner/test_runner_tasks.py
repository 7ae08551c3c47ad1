"""What the fork server runs: tasks good and bad, callbacks, connection tests, and what they can see."""

import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from tests.fakes import control as controls
from tests.fakes.execution_api import Answer
from tests.integration.runner.conftest import BUNDLE, Runner, wait_until

from isthmus.wire import frames
from isthmus.wire.names import Kind

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="supervisors hide their memory from everybody but root")


def test_ready_tells_versions(runner: Runner) -> None:
    _, ready = runner.control.wait_for(frames.Ready)
    assert ready.pid == runner.control.process.pid
    assert ready.airflow.startswith("3.3.")
    assert ready.task_sdk.startswith("1.3.")
    assert ready.python.startswith("3.")


def test_a_task_succeeds(runner: Runner) -> None:
    exited, ti = runner.run("noop", token="gateway-token-of-this-test")
    assert (exited.exit_code, exited.detail) == (0, "")
    assert runner.states(ti) == ["success"]
    assert {call.headers["authorization"] for call in runner.api.calls} == {"Bearer gateway-token-of-this-test"}
    assert any(line["event"] == "Done. Returned value was: None" for line in runner.task_log(ti))


def test_a_short_task_makes_three_requests(runner: Runner) -> None:
    """run, rendered fields, state: the heartbeat that Airflow adds at once would be a fourth."""
    _, ti = runner.run("noop")
    paths = [call.path.removeprefix(f"/task-instances/{ti}/") for call in runner.api.calls]
    assert paths == ["run", "rtif", "state"]


def test_no_task_loads_plugins_where_ours_alone_is_installed(runner: Runner) -> None:
    """The fork server did it for all of them, since ours has nothing for a task."""
    runner.run("plugins")
    assert json.loads(runner.wait_for_file("plugins")) == {"names": ["isthmus"], "inherited": True}


def test_our_plugin_costs_a_task_process_one_small_module() -> None:
    """Airflow imports it wherever it loads plugins; an agent has no web framework and no database driver."""
    program = """
import json, sys, time
import airflow.sdk.execution_time.task_runner
before, started = set(sys.modules), time.perf_counter()
import isthmus.deployment.plugin
print(json.dumps([sorted(set(sys.modules) - before), time.perf_counter() - started]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules, seconds = json.loads(done.stdout.splitlines()[-1])
    assert set(modules) <= {"isthmus", "isthmus.deployment", "isthmus.deployment.plugin"}
    assert seconds < 0.1


def test_a_result_is_rendered_and_pushed(runner: Runner) -> None:
    _, ti = runner.run("answer")
    (push,) = runner.api.matching("POST /xcoms/")
    assert push.json == {"day": "2026-01-01"}
    assert runner.states(ti) == ["success"]


def test_a_failure_is_reported_by_the_task_itself(runner: Runner) -> None:
    exited, ti = runner.run("fail")
    assert exited.exit_code == 0
    assert runner.states(ti) == ["failed"]
    assert any("on purpose" in str(line) for line in runner.task_log(ti))


def test_a_crash_is_reported_by_the_supervisor(runner: Runner) -> None:
    exited, ti = runner.run("exit_three")
    assert (exited.exit_code, exited.detail) == (3, "the task's process exited with 3")
    assert runner.states(ti) == ["failed"]


def test_a_kill_from_elsewhere_is_reported_by_the_supervisor(runner: Runner) -> None:
    exited, ti = runner.run("kill_itself")
    assert exited.exit_code == -9
    assert "SIGKILL" in exited.detail
    assert runner.states(ti) == ["failed"]


def test_a_start_that_the_plane_refuses(runner: Runner) -> None:
    refusal = {"detail": {"reason": "invalid_state", "message": "not queued", "previous_state": "success"}}
    runner.api.answer("PATCH .*/run", lambda call: Answer(409, refusal))
    exited, ti = runner.run("noop")
    assert exited.exit_code == 1
    assert exited.detail
    assert runner.states(ti) == []


def test_a_flood_on_standard_output(runner: Runner) -> None:
    exited, ti = runner.run("flood", timeout=60)
    assert exited.exit_code == 0
    lines = [line for line in runner.task_log(ti) if line.get("logger") == "task.stdout"]
    assert len(lines) == 20_000
    assert runner.states(ti) == ["success"]


def test_a_payload_of_another_airflow(runner: Runner) -> None:
    exited = runner.run_payload(Kind.TASK, {"type": "ExecuteTask", "ti": {"id": "not-a-uuid"}})
    assert exited.exit_code == 1
    assert "payload_unreadable" in exited.detail


def test_a_task_that_names_an_executor_of_the_plane(runner: Runner) -> None:
    _, ti = runner.run("elsewhere")
    assert runner.states(ti) == ["success"]


def test_no_exit_waits_for_the_heartbeat_interval(runner: Runner) -> None:
    """Airflow's supervisor alone stalls 5 s on most of these (``pidfds``)."""
    delays = []
    for _ in range(30):
        workload, ti = runner.launch("noop")
        at, _ = runner.control.wait_for(frames.Exited, workload)
        delays.append(at - runner.api.wait_for(f"PATCH /task-instances/{ti}/state").at)
    assert statistics.median(delays) < 0.5
    assert max(delays) < 2.0


def test_what_a_task_can_see(runner: Runner) -> None:
    """No database, no secret of Airflow's, nothing of the rehearsal, and only its own descriptors."""
    runner.run("report")
    report = json.loads(runner.wait_for_file("report"))
    environment = report["environment"]
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("airflow-db-not-allowed")
    assert not [name for name in environment if "FERNET" in name or "JWT" in name or name.startswith("ISTHMUS")]
    assert "isthmus_rehearsal" not in str(environment)
    assert report["modules"] == []
    assert not [path for path in report["sys_path"] if "rehearsal" in path]
    assert report["parent"] == runner.control.process.pid
    assert report["leads_group"]
    assert report["oom_score_adj"] == min(1000, report["parents_oom_score_adj"] + 500)
    targets = report["fds"]
    # Requests, standard output and error, logs.
    assert len({target for target in targets if target.startswith("socket:")}) == 4, targets
    assert not [target for target in targets if "pidfd" in target or "eventpoll" in target], targets


def test_supervisors_take_one_task_after_another(runner: Runner) -> None:
    pids = []
    for _ in range(8):
        workload, _ = runner.launch("noop")
        runner.exited(workload)
        pids.append(runner.supervisor(workload))
    assert len(set(pids)) == 1
    before = open_files(pids[0])
    for _ in range(5):
        runner.run("noop")
    # What one task leaves open for a moment may be counted; what each leaves for good may not.
    wait_until(lambda: open_files(pids[0]) < before + 5, 5)


def open_files(pid: int) -> int:
    """How many descriptors a process has, as far as we may look. What ended just now may be closed in a moment."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir())) if os.geteuid() == 0 else 0


def test_a_dag_file_is_read_anew_for_each_task(runner: Runner) -> None:
    source = (BUNDLE / "runner_dags.py").read_text()
    extra = BUNDLE / "runner_dags_edited.py"
    try:
        for word in ("first", "second"):
            extra.write_text(
                "import os\nfrom pathlib import Path\nfrom airflow.sdk import DAG, task\n"
                "with DAG('edited', schedule=None):\n    @task\n    def say():\n"
                f"        (Path(os.environ['RUNNER_TEST_OUT']) / 'said').write_text({word!r})\n    say()\n"
            )
            _, payload = controls.task_payload("edited", "say", file=extra.name)
            assert runner.run_payload(Kind.TASK, payload).exit_code == 0
            assert runner.wait_for_file("said") == word
    finally:
        extra.unlink()
    assert (BUNDLE / "runner_dags.py").read_text() == source


def test_heartbeats_go_on_while_a_task_runs(runner: Runner) -> None:
    workload, ti = runner.launch("nap")
    runner.api.wait_for(f"PUT /task-instances/{ti}/heartbeat", timeout=20)
    gone = {"detail": {"reason": "not_running", "message": "set to failed", "current_state": "failed"}}
    runner.api.answer("PUT .*/heartbeat", lambda call: Answer(409, gone))
    exited = runner.exited(workload, timeout=30)
    assert exited.exit_code != 0
    assert runner.states(ti) == []  # the server ended it: nothing to report


def test_a_callback(runner: Runner) -> None:
    exited = runner.run_payload(Kind.CALLBACK, controls.callback_payload("runner_callbacks.tell", text="hello"))
    assert (exited.exit_code, exited.detail) == (0, "")
    assert runner.wait_for_file("callback") == "hello"


def test_a_callback_that_fails(runner: Runner) -> None:
    exited = runner.run_payload(Kind.CALLBACK, controls.callback_payload("runner_callbacks.fail"))
    assert exited.exit_code == 1
    assert "exited with code 1" in exited.detail


def test_a_connection_test(runner: Runner, tmp_path: Path) -> None:
    result = runner.run_connection_test(
        {"conn_id": "files", "conn_type": "fs", "extra": json.dumps({"path": str(tmp_path)})}
    )
    assert result["state"] == "success", result


@as_root
def test_memory_of_a_running_task(runner: Runner) -> None:
    """The target is 50 MiB that supervisor and task share with nobody."""
    workload, _ = runner.launch("nap")
    wait_until(lambda: list(runner.out.glob("nap-*")))
    private = 0
    for pid in (runner.supervisor(workload), *naps(runner)):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Dirty:", "Private_Clean:")):
                private += int(line.split()[1])
    runner.control.send(frames.Kill(workload_id=workload, grace_seconds=0))
    runner.exited(workload)
    assert private <= 50 * 1024


def naps(runner: Runner) -> list[int]:
    """The pids of the napping tasks."""
    return [int(path.name.removeprefix("nap-")) for path in runner.out.glob("nap-*")]


@as_root
def test_a_gateway_token_is_in_its_supervisors_memory_alone(runner: Runner) -> None:
    """A task may search its own memory, which it inherits from the fork server."""
    # More than there are supervisors ready, and all at once: some are forked while the token of others is waiting.
    letters = "abcdef"
    runner.control.process.send_signal(signal.SIGSTOP)
    workloads = [runner.launch("nap", token="token-that-must-stay-" + letter * 20)[0] for letter in letters]
    runner.control.process.send_signal(signal.SIGCONT)
    wait_until(lambda: len(naps(runner)) == len(letters))
    try:
        for pid in (*naps(runner), runner.control.process.pid):
            assert not read_memory(pid).count(b"token-that-must-stay-")
        for letter, workload in zip(letters.encode(), workloads, strict=True):
            memory = read_memory(runner.supervisor(workload))
            assert memory.count(b"token-that-must-stay-" + bytes([letter]) * 20)
            assert not [other for other in letters.encode() if other != letter and bytes([other]) * 20 in memory]
    finally:
        for workload in workloads:
            runner.control.send(frames.Kill(workload_id=workload, grace_seconds=0))
            runner.exited(workload)


@as_root
def test_a_token_that_has_half_arrived_is_in_no_task(runner: Runner) -> None:
    """What waits for its end in the fork server must not be in a task that is forked meanwhile."""
    secret = "token-that-must-stay-out-of-tasks"
    _, payload = controls.task_payload("runner", "nap", file="runner_dags.py")
    late = frames.Launch(
        workload_id=uuid4(), kind=Kind.TASK, payload=payload, gateway_socket="/nowhere", gateway_token=secret
    )
    encoded = frames.encode(late)
    half = encoded.index(secret.encode()) + len(secret)
    runner.control.process.send_signal(signal.SIGSTOP)
    early, _ = runner.launch("nap")
    runner.control.socket.sendall(encoded[:half])
    runner.control.process.send_signal(signal.SIGCONT)
    wait_until(lambda: len(naps(runner)) == 1)
    try:
        assert secret.encode() not in read_memory(*naps(runner))
    finally:
        runner.control.socket.sendall(encoded[half:])
        for workload in (early, late.workload_id):
            runner.control.send(frames.Kill(workload_id=workload, grace_seconds=0))
            runner.exited(workload)


def read_memory(pid: int) -> bytes:
    found = bytearray()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            fields = line.split()
            if not fields[1].startswith("rw") or fields[-1].startswith(("[v", "/dev")):
                continue
            start, end = (int(one, 16) for one in fields[0].split("-"))
            memory.seek(start)
            try:
                found += memory.read(end - start)
            except OSError:
                continue
    return bytes(found)
