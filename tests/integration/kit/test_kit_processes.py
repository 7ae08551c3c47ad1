"""The process primitives against real processes, each scenario in an interpreter of its own."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from isthmus.kit import processes
from isthmus.kit.errors import ConfigError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")

#: Starts a daemon that called setsid, ignores SIGTERM, and whose pid is written to the file in argv[1].
DAEMON = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open(sys.argv[1] + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        time.sleep(600)
    os._exit(0)
os.wait()
"""


def run(script: str, *arguments: str, timeout: float = 20) -> str:
    """The output of ``script`` in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kill_below_finds_a_daemon_that_called_setsid(tmp_path: Path) -> None:
    output = run(
        """
        import json, subprocess, sys, time
        from pathlib import Path
        from isthmus.kit import processes
        processes.set_subreaper()
        subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1]], check=True)
        while not Path(sys.argv[1]).exists():
            time.sleep(0.01)
        pid = int(Path(sys.argv[1]).read_text())
        before = processes.is_alive(pid)
        left = processes.kill_below()
        print(json.dumps([before, left, processes.is_alive(pid)]))
        """,
        str(tmp_path / "pid"),
        DAEMON,
    )
    assert json.loads(output) == [True, [], False]


def test_kill_below_spares_what_it_is_told_to(tmp_path: Path) -> None:
    output = run(
        """
        import json, subprocess, sys
        from isthmus.kit import processes
        processes.set_subreaper()
        spared, doomed = (subprocess.Popen(["sleep", "600"]) for _ in range(2))
        left = processes.kill_below(spared=[spared.pid])
        print(json.dumps([left, processes.is_alive(spared.pid), processes.is_alive(doomed.pid)]))
        spared.kill()
        """
    )
    assert json.loads(output) == [[], True, False]


def test_a_forking_crowd_is_ended() -> None:
    """Each process replaces itself as fast as it can; signalling groups is what ends the race."""
    output = run(
        """
        import json, os, subprocess, sys, time
        from isthmus.kit import processes
        processes.set_subreaper()
        # Ends by itself, should this test be killed: nothing else could catch it.
        crowd = ("import os, time\\nend = time.monotonic() + 20\\n"
                 "while time.monotonic() < end:\\n    if os.fork(): os._exit(0)")
        for _ in range(3):
            subprocess.Popen([sys.executable, "-c", crowd], start_new_session=True)
        time.sleep(0.3)
        left = processes.kill_below(timeout_seconds=10)
        time.sleep(0.2)
        print(json.dumps([left, processes.descendants(os.getpid())]))
        """
    )
    assert json.loads(output) == [[], []]


def test_what_a_killed_fork_server_leaves_is_killed_by_its_subreaper(tmp_path: Path) -> None:
    """The control process's view of a fork server that the kernel killed: nothing of it stays."""
    output = run(
        """
        import json, os, subprocess, sys, time
        from pathlib import Path
        from isthmus.kit import processes
        processes.set_subreaper()
        script = ("import subprocess, sys, time\\n"
                  "subprocess.run([sys.executable, '-c', *sys.argv[2:0:-1]]); time.sleep(600)")
        server = subprocess.Popen([sys.executable, "-c", script, sys.argv[1], sys.argv[2]], start_new_session=True)
        while not Path(sys.argv[1]).exists():
            time.sleep(0.01)
        pid = int(Path(sys.argv[1]).read_text())
        server.kill()
        server.wait()
        print(json.dumps([processes.is_alive(pid), processes.kill_below(), processes.is_alive(pid)]))
        """,
        str(tmp_path / "pid"),
        DAEMON,
    )
    assert json.loads(output) == [True, [], False]


def test_kill_tree_takes_the_root_and_leaves_its_siblings(tmp_path: Path) -> None:
    output = run(
        """
        import json, subprocess, sys, time
        from isthmus.kit import processes
        processes.set_subreaper()
        sibling = subprocess.Popen(["sleep", "600"])
        root = subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600"])
        while len(processes.descendants(root.pid)) < 2:
            time.sleep(0.01)
        below = processes.descendants(root.pid)
        left = processes.kill_tree(root.pid)
        print(json.dumps([left, [processes.is_alive(pid) for pid in (root.pid, *below)],
                          processes.is_alive(sibling.pid)]))
        sibling.kill()
        """
    )
    assert json.loads(output) == [[], [False, False, False], True]


def test_kill_of_takes_what_is_below_and_nothing_else() -> None:
    """Whoever names the processes may be lying."""
    script = "import subprocess, sys; subprocess.Popen(['sleep', '600']); print(flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    with (
        subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe) as root,
        subprocess.Popen(["sleep", "600"]) as stranger,
    ):
        try:
            assert root.stdout is not None
            root.stdout.readline()
            (below,) = processes.children(root.pid)
            pidfd = processes.open_pidfd(below)
            named = [below, stranger.pid, root.pid, os.getpid(), 1]
            assert processes.kill_of(named, below=root.pid) == [below]
            assert processes.wait_pidfd(pidfd, 10)
            os.close(pidfd)
            assert stranger.poll() is None
            assert root.poll() is None
        finally:
            for process in (stranger, root):
                process.kill()


@as_root
def test_may_signal() -> None:
    script = "from isthmus.kit import processes; import sys; print(processes.may_signal(int(sys.argv[1])))"

    def asked(user: int, pid: int) -> str:
        command = [sys.executable, "-c", script, str(pid)]
        return subprocess.run(command, user=user, capture_output=True, text=True, check=True).stdout.strip()

    with subprocess.Popen(["sleep", "600"], user=4001) as process:
        assert asked(4001, process.pid) == "True"
        assert asked(4002, process.pid) == "False"
        assert processes.may_signal(process.pid)
        process.kill()
    assert asked(4002, process.pid) == "True", "it is gone"


def test_die_with_parent(tmp_path: Path) -> None:
    output = run(
        """
        import os, signal, subprocess, sys, time
        from isthmus.kit import processes
        read, write = os.pipe()
        middle = os.fork()
        if middle == 0:
            parent = os.getpid()
            if os.fork() == 0:
                processes.die_with_parent(parent)
                os.write(write, str(os.getpid()).encode())
                time.sleep(600)
            time.sleep(600)
        processes.set_subreaper()
        pid = int(os.read(read, 100))
        pidfd = processes.open_pidfd(pid)
        os.kill(middle, signal.SIGKILL)
        print(processes.wait_pidfd(pidfd, 5))
        """
    )
    assert output.strip() == "True"


def test_wait_pidfd_times_out_on_a_living_process() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        pidfd = processes.open_pidfd(process.pid)
        try:
            started = time.monotonic()
            assert not processes.wait_pidfd(pidfd, 0.05)
            assert time.monotonic() - started < 5
            process.kill()
            assert processes.wait_pidfd(pidfd, 5)
        finally:
            os.close(pidfd)


def test_a_zombie_is_not_alive() -> None:
    with subprocess.Popen(["true"]) as process:
        pidfd = processes.open_pidfd(process.pid)
        assert processes.wait_pidfd(pidfd, 5)
        os.close(pidfd)
        assert not processes.is_alive(process.pid)
        assert process.pid in processes.children(os.getpid())


def test_raise_oom_score_is_relative_and_bounded() -> None:
    script = """
        from pathlib import Path
        from isthmus.kit import processes
        path = Path("/proc/self/oom_score_adj")
        before = int(path.read_text())
        processes.raise_oom_score(100)
        once = int(path.read_text()) - before
        processes.raise_oom_score(5000)
        print(once, path.read_text().strip())
        """
    assert run(script).split() == ["100", "1000"]


@as_root
def test_raise_oom_score_works_for_a_user_who_hides_its_memory() -> None:
    """``/proc/self`` belongs to root then."""
    script = """
        import ctypes
        from pathlib import Path
        from isthmus.kit import processes
        processes.drop_privileges(processes.find_user("4001"))
        processes.set_dumpable(False)
        before = int(Path("/proc/self/oom_score_adj").read_text())
        processes.raise_oom_score(100)
        after = int(Path("/proc/self/oom_score_adj").read_text())
        print(after - before, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
        """
    assert run(script).split() == ["100", "0"]


def test_spawn_gives_exactly_the_environment_and_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_TOKEN", "secret")
    script = "import json, os; print(json.dumps([dict(os.environ), os.getsid(0) == os.getpid()]))"
    process = processes.spawn(
        [sys.executable, "-I", "-c", script], environment={"A": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, _ = process.communicate(timeout=10)
    environment, leads_session = json.loads(output)
    environment.pop("LC_CTYPE", None)  # set by Python itself (PEP 538)
    assert environment == {"A": "1"}
    assert leads_session


def test_spawn_names_what_cannot_be_started() -> None:
    with pytest.raises(processes.ProcessError, match="no-such-program") as caught:
        processes.spawn(["/no-such-program"], environment={})
    assert caught.value.code == "spawn_refused"


@as_root
def test_dropped_privileges_keep_what_is_needed_to_start_and_kill_another_user() -> None:
    """As the control process does: root becomes 4001, which may still start and kill processes of 4002."""
    output = run(
        """
        import json, os, subprocess, sys
        from isthmus.kit import processes
        from isthmus.kit.processes import Capability
        processes.drop_privileges(
            processes.find_user("4001"), keep=[Capability.SETUID, Capability.SETGID, Capability.KILL])
        child = processes.spawn(["sleep", "600"], environment={}, user=processes.find_user("4002"))
        status = open(f"/proc/{child.pid}/status").read()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        child.kill()
        try:
            open("/etc/shadow").close()
            readable = True
        except PermissionError:
            readable = False
        try:
            os.setuid(0)  # CAP_SETUID is what it is: kept until spawn, gone after exec
            back = True
        except PermissionError:
            back = False
        print(json.dumps({
            "uid": fields["Uid"].split(), "gid": fields["Gid"].split(), "groups": fields["Groups"].split(),
            "permitted": fields["CapPrm"].strip(), "ambient": fields["CapAmb"].strip(),
            "killed": child.wait(), "shadow": readable, "user": child.args,
        }))
        """
    )
    seen = json.loads(output)
    assert seen["uid"] == ["4002"] * 4
    assert seen["gid"] == ["4002"] * 4
    assert seen["groups"] == ["4002"]
    assert int(seen["permitted"], 16) == 0
    assert int(seen["ambient"], 16) == 0
    assert seen["killed"] == -signal.SIGKILL
    assert seen["shadow"] is False


@as_root
def test_dropped_privileges_are_gone_when_nothing_is_kept() -> None:
    output = run(
        """
        import os
        from isthmus.kit import processes
        from isthmus.kit.processes import Capability
        processes.drop_privileges(processes.find_user("4001"))
        assert os.getresuid() == (4001, 4001, 4001), os.getresuid()
        print([processes.has_capability(capability) for capability in Capability])
        """
    )
    assert output.strip() == "[False, False, False]"


@as_root
def test_an_undumpable_process_hides_its_environment_from_its_user() -> None:
    output = run(
        """
        import os, subprocess, sys, time
        from isthmus.kit import processes
        child = ("import sys, time; from isthmus.kit import processes\\n"
                 "if sys.argv[1] == 'no': processes.set_dumpable(False)\\n"
                 "print('up', flush=True); time.sleep(600)")
        user = processes.find_user("4001")
        environment = {"SECRET": "x", "PYTHONPATH": os.pathsep.join(sys.path)}
        for dumpable in ("yes", "no"):
            process = processes.spawn([sys.executable, "-c", child, dumpable], environment=environment, user=user,
                                      stdout=subprocess.PIPE)
            process.stdout.readline()
            reader = processes.spawn(["grep", "-c", "SECRET", f"/proc/{process.pid}/environ"], environment={},
                                     user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            print(reader.wait())
            process.kill(); process.wait(); process.stdout.close()
        """
    )
    assert output.split() == ["0", "2"]


def test_find_user_takes_numbers_without_an_entry() -> None:
    user = processes.find_user("54321:54322")
    assert (user.uid, user.gid, user.groups) == (54321, 54322, (54322,))
    assert user.environment() == {"USER": "54321", "LOGNAME": "54321", "HOME": "/"}


def test_find_user_knows_names() -> None:
    user = processes.find_user("root")
    assert (user.uid, user.gid, user.home) == (0, 0, "/root")


def test_find_user_refuses_unknown_names() -> None:
    with pytest.raises(ConfigError) as caught:
        processes.find_user("no-such-user-here")
    assert caught.value.code == "user_unknown"


def test_children_of_a_process_that_is_gone_are_none() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert processes.children(process.pid) == []
    assert not processes.is_alive(process.pid)
