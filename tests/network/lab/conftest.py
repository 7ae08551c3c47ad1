"""A lab of its own for each test: its namespaces, and nothing of them left afterwards, whatever happened."""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest

from isthmus.lab.packets import addressing, following, namespaces, requirements
from isthmus.lab.packets.addressing import LabId
from isthmus.lab.packets.fabric import Limits
from isthmus.lab.packets.following import Packets
from network.lab import programs
from network.lab.programs import Program


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what is missing once, instead of failing everywhere."""
    if lacking := requirements.missing():
        for item in items:
            if "network/lab" in str(item.path):
                item.add_marker(pytest.mark.skip(reason="; ".join(lacking)))


@pytest.fixture
def lab() -> Iterator[LabId]:
    """The id of a lab that is removed after the test."""
    lab = addressing.lab_id(f"t{secrets.token_hex(3)}")
    yield lab
    following.remove(lab)
    assert namespaces.of_lab(lab) == []


@pytest.fixture
def limits() -> Limits:
    """What the lab's packets obey; tests that need others have a fixture of their own."""
    return Limits()


@pytest.fixture
async def packets(lab: LabId, limits: Limits) -> AsyncIterator[Packets]:
    """The packets of the lab, not started."""
    packets = Packets(lab, limits)
    yield packets
    await packets.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What ends with the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def serve(lab: LabId, stack: ExitStack) -> Callable[..., Program]:
    """A function that starts an echo server: ``serve(network number, "address:port", ...)``."""

    def start(number: int | str, *bound: str, say: str = "") -> Program:
        return stack.enter_context(programs.server(_namespace(lab, number), *bound, say=say))

    return start


@pytest.fixture
def visit(lab: LabId, stack: ExitStack) -> Callable[..., Program]:
    """A function that starts a client: ``visit(network number)``."""

    def start(number: int | str) -> Program:
        return stack.enter_context(programs.client(_namespace(lab, number)))

    return start


def _namespace(lab: LabId, number: int | str) -> str:
    return addressing.internet(lab) if number == "internet" else addressing.network(lab, int(number))
