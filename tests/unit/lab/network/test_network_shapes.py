"""How request bodies read."""

from typing import Any

import pytest

from isthmus.lab.errors import ArmError
from isthmus.lab.network import shapes

THING = shapes.resource(
    {
        "enableIt": shapes.Flag(),
        "count": shapes.Number(),
        "mode": shapes.Choice("Static", "Dynamic"),
        "subnet": shapes.Reference("virtualNetworks/subnets"),
        "parts": shapes.Many(shapes.part({"text": shapes.Text(), "made": shapes.Derived()})),
    }
)
SUBNET = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/x"


def read(**properties: Any) -> dict[str, Any]:
    found = shapes.read(THING, {"location": "westeurope", "properties": properties})
    properties_read: dict[str, Any] = found["properties"]
    return properties_read


def test_members_are_spelled_as_azure_spells_them() -> None:
    assert read(ENABLEIT=True, Mode="static") == {"enableIt": True, "mode": "Static"}


def test_what_clients_send_back_is_left_out() -> None:
    body = {"id": "x", "name": "x", "etag": "x", "type": "x", "properties": {"provisioningState": "Failed"}}
    assert shapes.read(THING, body) == {"properties": {}}
    assert read(parts=[{"name": "a", "etag": "e", "properties": {"made": 1, "text": "t"}}]) == {
        "parts": [{"name": "a", "properties": {"text": "t"}}]
    }


def test_null_is_nothing_and_unknown_members_stay() -> None:
    assert read(mode=None, parts=[None], somethingNew={"a": [1, None]}) == {
        "parts": [],
        "somethingNew": {"a": [1, None]},
    }


def test_lenient_values() -> None:
    assert read(enableIt="True", count="12", parts=[{"properties": {"text": 5}}]) == {
        "enableIt": True,
        "count": 12,
        "parts": [{"properties": {"text": "5"}}],
    }


def test_references_keep_the_id_alone() -> None:
    assert read(subnet={"ID": SUBNET, "properties": {"addressPrefix": "10.0.0.0/8"}}) == {"subnet": {"id": SUBNET}}


@pytest.mark.parametrize(
    ("properties", "code", "says"),
    [
        ({"enableIt": "perhaps"}, "InvalidJson", "Path 'properties.enableIt'"),
        ({"enableIt": {}}, "InvalidJson", "System.Boolean"),
        ({"count": 1.5}, "InvalidJson", "System.Int32"),
        ({"count": 2**40}, "InvalidJson", "System.Int32"),
        ({"count": True}, "InvalidJson", "System.Int32"),
        ({"mode": "Sometimes"}, "InvalidJson", '"Sometimes"'),
        ({"parts": {}}, "InvalidJson", "Path 'properties.parts'"),
        ({"parts": [{"properties": []}]}, "InvalidJson", "properties.parts[0].properties"),
        ({"parts": [{"properties": {"text": []}}]}, "InvalidJson", "System.String"),
        ({"subnet": {}}, "MissingJsonReferenceId", "Path properties.subnet"),
        ({"subnet": {"id": "/subscriptions/s/what"}}, "InvalidJsonReferenceFormat", "Path properties.subnet"),
        (
            {"subnet": {"id": SUBNET.rpartition("/subnets")[0]}},
            "InvalidJsonReferenceWrongType",
            "virtualNetworks/subnets",
        ),
    ],
)
def test_what_does_not_read(properties: dict[str, Any], code: str, says: str) -> None:
    with pytest.raises(ArmError) as caught:
        read(**properties)
    assert (caught.value.status, caught.value.code) == (400, "InvalidRequestFormat")
    [detail] = caught.value.refusal.details
    assert detail.code == code
    assert says in detail.message


def test_a_reference_that_is_no_id_is_refused_by_the_resource_manager() -> None:
    with pytest.raises(ArmError) as caught:
        read(subnet={"id": "x"})
    assert caught.value.code == "LinkedInvalidPropertyId"
    assert "'properties.subnet.id'" in str(caught.value)
