import os

import pytest
from bench import measuring
from bench.measuring import Footprint, Process

STAT = "4321 (a (strange) name) S 17 4321 4321 0 -1 4194560 10 20 0 0 250 150 30 20 20 0 1 0 99 1 1 1"


def test_a_process_is_read_whatever_its_name_holds() -> None:
    ticks = measuring.TICKS_PER_SECOND
    process = measuring.parse_stat(STAT)
    assert (process.pid, process.parent_pid) == (4321, 17)
    assert process.cpu_seconds == pytest.approx(400 / ticks)
    assert process.reaped_seconds == pytest.approx(50 / ticks)


def _table(*processes: Process) -> dict[int, Process]:
    return {process.pid: process for process in processes}


TREE = _table(
    Process(1, 0, 100.0, 100.0),
    Process(10, 1, 1.0, 0.5),
    Process(11, 10, 2.0, 0.25),
    Process(12, 11, 4.0, 0.0),
    Process(20, 1, 64.0, 64.0),
)


def test_a_tree_is_everything_below_its_root() -> None:
    assert measuring.descendants(TREE, 10) == [11, 12]
    assert measuring.descendants(TREE, 12) == []


def test_cpu_of_a_tree_counts_the_living_and_the_reaped_once() -> None:
    assert measuring.tree_cpu_seconds(TREE, 10) == pytest.approx(7.75)
    assert measuring.own_cpu_seconds(TREE, 10) == pytest.approx(1.0)


def test_a_tree_that_is_gone_costs_nothing() -> None:
    assert measuring.tree_cpu_seconds(TREE, 99) == 0.0


def test_idle_time_and_waiting_for_disks_are_not_busy() -> None:
    ticks = measuring.TICKS_PER_SECOND
    time = measuring.parse_machine_time("cpu  100 10 50 9999 8888 5 6 7 0 0\ncpu0 1 2 3\n")
    assert time.busy_seconds == pytest.approx(171 / ticks)
    assert time.stolen_seconds == pytest.approx(7 / ticks)


SMAPS = """\
00400000-00452000 r-xp 00000000 08:02 173521 /usr/bin/with space
Size:                328 kB
Rss:                 300 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me dw
00651000-00652000 rw-p 00051000 08:02 173521 /usr/bin/with space
Rss:                  12 kB
Anonymous:             8 kB
01000000-02000000 rw-p 00000000 00:00 0 [heap]
Rss:                 500 kB
Anonymous:           500 kB
"""


def test_only_pages_that_come_from_files_are_file_pages() -> None:
    assert measuring.parse_file_pages(SMAPS) == {
        ("/usr/bin/with space", "00000000"): 300,
        ("/usr/bin/with space", "00051000"): 4,
    }


def test_pages_of_a_file_that_two_processes_map_count_once() -> None:
    library = ("/lib/library", "0")
    one = Footprint(rss=3072, pss=2048, anonymous_share=1024, private=1024, files={library: 1024})
    two = Footprint(rss=2048, pss=1024, anonymous_share=512, private=512, files={library: 512, ("/lib/own", "0"): 512})
    total = measuring.total_memory([one, two])
    assert total.processes == 2
    assert total.resident_mb == pytest.approx((1024 + 512 + 1024 + 512) / 1024)
    assert total.rss_sum_mb == pytest.approx(5.0)
    assert total.private_mb == pytest.approx(1.5)


def test_a_single_process_holds_its_rss() -> None:
    memory = measuring.memory([os.getpid()])
    assert memory.processes == 1
    assert memory.resident_mb == pytest.approx(memory.rss_sum_mb, rel=0.02)


def test_a_process_that_is_gone_is_left_out() -> None:
    assert measuring.memory([2**22 + 1]).processes == 0
