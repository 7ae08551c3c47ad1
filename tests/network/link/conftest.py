"""One provider for the whole folder, and two customers who have joined it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from isthmus.lab.packets import requirements
from network.link.customers import Customer
from network.link.provider import Provider


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


@pytest.fixture(scope="package")
def joined_customers(provider: Provider) -> tuple[Customer, Customer]:
    """Two customers with a link each, who have the same addresses."""
    one, other = Customer(provider, "one"), Customer(provider, "other")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Customer.join, (one, other)))
    return one, other


@pytest.fixture(scope="package")
def one(joined_customers: tuple[Customer, Customer]) -> Customer:
    """A customer with a link, which stays."""
    return joined_customers[0]


@pytest.fixture(scope="package")
def other(joined_customers: tuple[Customer, Customer]) -> Customer:
    """Another customer with another link, which stays."""
    return joined_customers[1]
