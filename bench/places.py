"""Where things are: the checkout, the scratch folder ``.bench`` (ignored by git), and what is written for readers."""

import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
DAGS: Final = ROOT / "bench" / "dags"

SCRATCH: Final = ROOT / ".bench"
#: What this runs in has all that it starts: ``.bench/venv`` with the other executors, or ``.venv``.
VENV: Final = Path(sys.prefix)
LOGS: Final = SCRATCH / "logs"
HOMES: Final = SCRATCH / "homes"
POSTGRES: Final = SCRATCH / "postgresql"

RESULTS: Final = ROOT / "bench" / "results.json"
PAGE: Final = ROOT / "docs" / "benchmarks.md"
PLOT: Final = ROOT / "docs" / "benchmarks.svg"
