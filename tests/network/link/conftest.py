"""One provider for the whole folder; customers and agents of a test end with it."""

import itertools
from collections.abc import Callable, Iterator

import pytest

from isthmus.lab.packets import requirements
from network.link.customers import Customer, NetworkAgent
from network.link.provider import Provider

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what is missing once, instead of failing everywhere."""
    if lacking := requirements.missing():
        for item in items:
            if "network/link" in str(item.path):
                item.add_marker(pytest.mark.skip(reason="; ".join(lacking)))


@pytest.fixture(scope="package")
def provider() -> Iterator[Provider]:
    """A cluster with a deployment behind its ingress, and a published link."""
    with Provider() as provider:
        yield provider


@pytest.fixture
def customer(provider: Provider) -> Callable[..., Customer]:
    """A function that makes a customer with a network of its own."""
    return lambda **options: Customer(provider, f"customer-{next(_numbers)}", **options)


@pytest.fixture
def enlist() -> Iterator[Callable[..., NetworkAgent]]:
    """A function that makes an agent in a customer's network; the agent ends with the test."""
    agents: list[NetworkAgent] = []

    def make(customer: Customer, lane: str, **options: object) -> NetworkAgent:
        agents.append(NetworkAgent(customer, lane, **options))  # type: ignore[arg-type]
        return agents[-1]

    yield make
    for agent in agents:
        agent.close()
