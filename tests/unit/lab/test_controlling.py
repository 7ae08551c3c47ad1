"""Which network a name means."""

import pytest

from isthmus.kit.errors import ConfigError, NotFoundError
from isthmus.lab.controlling import find

SUBSCRIPTION = "/subscriptions/11111111-1111-1111-1111-111111111111"


def network(group: str, name: str) -> str:
    return f"{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.Network/virtualNetworks/{name}"


NETWORKS = {network("a", "hub"): "n1", network("b", "hub"): "n2", network("a", "spoke"): "n3"}


def test_a_name_is_found_in_any_case() -> None:
    assert find(NETWORKS, "SPOKE") == network("a", "spoke")


def test_an_id_is_found_in_any_case() -> None:
    assert find(NETWORKS, network("B", "Hub").upper()) == network("b", "hub")


def test_a_name_that_means_several_names_their_ids() -> None:
    with pytest.raises(ConfigError) as error:
        find(NETWORKS, "hub")
    assert network("a", "hub") in error.value.hint
    assert network("b", "hub") in error.value.hint


def test_a_name_that_means_nothing_says_what_there_is() -> None:
    with pytest.raises(NotFoundError) as error:
        find(NETWORKS, "nowhere")
    assert "hub, hub, spoke" in error.value.hint
