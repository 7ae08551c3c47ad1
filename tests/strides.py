"""Which steps a test that kills something at each step takes: some of them in a usual run, all with ``EVERY_STEP=1``.

Every death costs a start of what was killed, seconds each, and there are dozens of such steps.
"""

import os
from typing import Final

EVERY_STEP: Final = os.environ.get("EVERY_STEP", "") not in {"", "0"}


def stride(usual: int) -> int:
    """From one step that is taken to the next: ``usual``, or 1."""
    return 1 if EVERY_STEP else usual
