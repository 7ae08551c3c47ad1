"""``python -m bench``: run the benchmarks, and leave nothing running.

This outer process is a subreaper: whatever the benchmark started and did not end, however it died, becomes its
child and is killed. The benchmark in turn dies with this process.
"""

import os
import signal
import subprocess
import sys

from bench import places
from isthmus.kit import processes


def main() -> int:
    """Run ``bench.commands`` with these arguments; returns its exit code."""
    processes.set_subreaper()
    me = os.getpid()
    inner = subprocess.Popen(
        [sys.executable, "-m", "bench.commands", *sys.argv[1:]],
        cwd=places.ROOT,
        start_new_session=True,  # Ctrl-C reaches it once, through this process
        preexec_fn=lambda: processes.die_with_parent(me, signal.SIGTERM),  # noqa: PLW1509 - one thread
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: inner.terminate())
    try:
        return inner.wait()
    finally:
        left = processes.kill_below(timeout_seconds=20.0)
        if left:
            print(f"bench: could not end {left}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
