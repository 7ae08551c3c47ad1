"""The journal: nothing that was answered is lost, whatever ends the process or fills the disk."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from isthmus.kit.errors import PermanentError
from isthmus.lab import store as stores
from isthmus.lab.documents import ProvisioningState
from isthmus.lab.errors import ArmError
from isthmus.lab.ids import ResourceId
from isthmus.lab.store import Store

KIND = "Microsoft.Network/things"


def thing(name: str) -> ResourceId:
    return ResourceId("S", "G", "Microsoft.Network", ("things",), (name,))


def put(store: Store, name: str, size: int = 10) -> None:
    draft = store.draft()
    draft.put(thing(name), KIND, {"text": "x" * size})
    store.commit(draft)


def names(store: Store) -> list[str]:
    return [document.id.name for document in store.world.all(KIND)]


def test_everything_is_there_again(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    for name in ("a", "B", "c"):
        put(store, name)
    draft = store.draft()
    draft.remove(thing("a"))
    draft.mark(thing("c").key, ProvisioningState.FAILED)
    draft.note("names", "one", {"é": [1, None]})
    before = store.commit(draft)
    store.close()
    again = Store.open(tmp_path)
    assert list(again.world.everything()) == list(before.everything())
    assert again.world.notes("names") == {"one": {"é": [1, None]}}
    put(again, "d")
    assert [document.number for document in again.world.all(KIND)] == [2, 3, 1]
    again.close()


def test_a_home_is_opened_once(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    with pytest.raises(PermanentError, match="another lab has it open"):
        Store.open(tmp_path)
    store.close()
    Store.open(tmp_path).close()


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_an_interrupted_line_was_never_answered(tmp_path: Path, cut: int) -> None:
    store = Store.open(tmp_path)
    put(store, "a")
    put(store, "b")
    store.close()
    journal = tmp_path / "journal"
    os.truncate(journal, journal.stat().st_size - cut)
    store = Store.open(tmp_path)
    assert names(store) == ["a"]
    put(store, "c")
    store.close()
    store = Store.open(tmp_path)
    assert names(store) == ["a", "c"]
    store.close()


def test_a_damaged_line_is_not_passed_over(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    put(store, "a")
    put(store, "b")
    store.close()
    journal = tmp_path / "journal"
    content = bytearray(journal.read_bytes())
    content[5] = 0
    journal.write_bytes(content)
    with pytest.raises(PermanentError, match=r"line 1 of .* is damaged"):
        Store.open(tmp_path)
    journal.write_bytes(b"[1, 2]\n")
    with pytest.raises(PermanentError, match="is damaged"):
        Store.open(tmp_path)


def test_the_journal_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_SLACK_LINES", 20)
    store = Store.open(tmp_path)
    draft = store.draft()
    draft.note("names", "one", 1)
    store.commit(draft)
    for number in range(100):
        put(store, f"n{number % 3}")
    before = list(store.world.everything())
    assert len((tmp_path / "journal").read_text().splitlines()) < 40
    assert not (tmp_path / "journal.new").exists()
    store.close()
    store = Store.open(tmp_path)
    assert list(store.world.everything()) == before
    assert store.world.notes("names") == {"one": 1}
    store.close()


def run(code: str, *arguments: str) -> "subprocess.Popen[str]":
    program = textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)


#: Writes until it cannot. A file that may not grow fails as a full disk does: in the middle of a write.
FULL = """
    import resource, sys
    from pathlib import Path
    from isthmus.lab.errors import ArmError
    from isthmus.lab.ids import ResourceId
    from isthmus.lab.store import Store
    store = Store.open(Path(sys.argv[1]))
    kept = 0
    def put(number, size):
        draft = store.draft()
        draft.put(ResourceId("S", "G", "Microsoft.Network", ("things",), (f"n{number}",)), "Microsoft.Network/things",
                  {"text": "x" * size})
        store.commit(draft)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    try:
        while True:
            put(kept, 1000)
            kept += 1
    except ArmError as error:
        assert error.status == 507, error
    size = Path(sys.argv[1], "journal").stat().st_size
    before = list(store.world.everything())
    for number in range(5):
        try:
            put(1000 + number, 5000)
            raise SystemExit("a write beyond the limit was kept")
        except ArmError:
            pass
    assert list(store.world.everything()) == before
    assert Path(sys.argv[1], "journal").stat().st_size == size
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    put(kept, 1000)
    print(kept + 1)
"""


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    process = run(FULL, str(tmp_path))
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    store = Store.open(tmp_path)
    assert names(store) == [f"n{number}" for number in range(int(said))]
    store.close()


#: Writes as fast as it can and says each name once it is kept.
BUSY = """
    import sys
    from pathlib import Path
    from isthmus.lab import store as stores
    from isthmus.lab.ids import ResourceId
    stores._SLACK_LINES = 10
    store = stores.Store.open(Path(sys.argv[1]))
    number = len(list(store.world.everything()))
    while True:
        draft = store.draft()
        id = ResourceId("S", "G", "Microsoft.Network", ("things",), (f"n{number}",))
        draft.put(id, "Microsoft.Network/things", {})
        for other in range(3):
            draft.note("noise", f"k{other}", number)
        store.commit(draft)
        print(number, flush=True)
        number += 1
"""


def test_a_killed_process_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    chance = random.Random(7)
    kept = 0
    for _ in range(6):
        process = run(BUSY, str(tmp_path))
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 40)):
            kept = int(process.stdout.readline()) + 1
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
        process.wait(timeout=10)
        process.stdout.close()
        kept = int(rest[-1]) + 1 if rest else kept
        store = Store.open(tmp_path)
        found = names(store)
        # What was written and not said may be there too.
        assert found[:kept] == [f"n{number}" for number in range(kept)]
        assert len(found) <= kept + 1
        store.close()


def test_thousands_are_read_fast(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    draft = store.draft()
    for number in range(3000):
        draft.put(thing(f"n{number}"), KIND, {"number": number})
    store.commit(draft)
    began = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    for _ in range(20):
        assert len(list(store.world.children(ResourceId("S", "G"), KIND))) == 3000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_utime - began) / 20 < 0.05
    store.close()
    lines = (tmp_path / "journal").read_text().splitlines()
    assert len(json.loads(lines[0])["put"]) == 3000


def test_a_folder_that_cannot_be_written_is_an_error_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PermanentError, match="cannot be opened"):
        Store.open(tmp_path / "file")


def test_a_refusal_to_keep_is_answered_with_507() -> None:
    assert stores._not_kept("No space left on device").status == 507
    assert isinstance(stores._not_kept("x"), ArmError)
