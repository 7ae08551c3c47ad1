"""Labs for tests: ``new_lab`` hosts any kinds, over TLS, without packets; ``new_az`` is the ``az`` command on one."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import az
from tests.fakes.lab import FakeLab


@pytest.fixture(scope="session")
def authority_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One certificate authority for all labs of a run."""
    return tmp_path_factory.mktemp("authority")


@pytest.fixture
def new_lab(authority_folder: Path) -> Iterator[Callable[..., FakeLab]]:
    """A function that starts a lab with kinds and whatever else ``FakeLab`` takes; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(*kinds: Any, **arguments: Any) -> FakeLab:
            return stack.enter_context(FakeLab(authority_folder, kinds, **arguments))

        yield start


@pytest.fixture
def new_az(tmp_path: Path) -> Callable[[FakeLab], az.Az]:
    """A function that signs the ``az`` command in to a lab (three calls of it, about three seconds)."""

    def sign_in(lab: FakeLab) -> az.Az:
        return az.on(
            tmp_path, arm=lab.url, ca=lab.ca, identity_endpoint=lab.identity_url, identity_header=lab.identity_header
        )

    return sign_in
