"""What a task that changed its user (``run_as_user``) does first under sudo, before Airflow's own line of Python.

It belongs to another user, whom the task user may not kill. So that it does not outlive its agent, it dies with the
sudo above it, which the fork server may kill. Executed as that other user, by the runner's Python.
"""

import os

from isthmus.kit import processes


def tie() -> None:
    """Have the calling process killed when the sudo that started it is gone."""
    processes.die_with_parent(os.getppid())
