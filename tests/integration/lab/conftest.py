"""Labs for tests: ``new_lab`` hosts any kinds, over TLS, without packets."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.lab import FakeLab


@pytest.fixture
def new_lab(tmp_path: Path) -> Iterator[Callable[..., FakeLab]]:
    """A function that starts a lab with kinds and whatever else ``FakeLab`` takes; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(*kinds: Any, **arguments: Any) -> FakeLab:
            return stack.enter_context(FakeLab(tmp_path / "authority", kinds, **arguments))

        yield start
