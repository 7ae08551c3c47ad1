"""Templates: the language, and the plan that comes of one."""

import contextlib
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.lab.arm import leniency
from isthmus.lab.errors import ArmError
from isthmus.lab.ids import ResourceId
from isthmus.lab.resources import expressions, templates
from isthmus.lab.resources.expressions import ExpressionError
from isthmus.lab.resources.functions import PURE
from isthmus.lab.resources.templates import Plan, Surroundings

GROUP = ResourceId("S", "G")
AROUND = Surroundings(
    group={"name": "G", "location": "westeurope"},
    subscription={"subscriptionId": "S", "tenantId": "T"},
    deployment={"name": "d"},
)


def value(text: str) -> Any:
    return expressions.resolve(text, PURE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("[[not an expression]", "[not an expression]"),
        ("['it''s']", "it's"),
        ("[concat('a', 1, true(), 'b')]", "a1Trueb"),
        ("[concat(createArray(1), createArray(2))]", [1, 2]),
        ("[ toLower ( 'ABC' ) ]", "abc"),
        ("[createObject('a', createArray(1, 2)).A[1]]", 2),
        ("[if(equals('A', 'a'), 'yes', nothing())]", "yes"),
        ("[if(and(true(), not(true())), nothing(), 'no')]", "no"),
        ("[format('{0}-{1}-{0}', 'x', 2)]", "x-2-x"),
        ("[join(split('a,b;c', createArray(',', ';')), '+')]", "a+b+c"),
        ("[add(div(-7, 2), mod(-7, 2))]", -4),
        ("[substring('abcdef', 1, 3)]", "bcd"),
        ("[length(uniqueString('a', 'b'))]", 13),
        ("[equals(uniqueString('a'), uniqueString('a'))]", True),
        ("[coalesce(null(), 'x')]", "x"),
        ("[union(createArray(1, 2), createArray(2, 3))]", [1, 2, 3]),
        ("[contains(createObject('Key', 1), 'key')]", True),
        ("[json('{\"a\": [1]}').a[0]]", 1),
        ("[base64ToString(base64('x'))]", "x"),
        ("[empty('')]", True),
        ("[first('abc')]", "a"),
        ("[take(skip(range(0, 10), 2), 3)]", [2, 3, 4]),
        ("[padLeft('7', 3, '0')]", "007"),
        ("[indexOf('abc', 'C')]", 2),
    ],
)
def test_values(text: str, expected: object) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "[concat(]",
        "[concat('a' 'b')]",
        "[concat('a')x]",
        "['a]",
        "[nothing()]",
        "[substring('abc', 2, 5)]",
        "[int('x')]",
        "[int('" + "9" * 5000 + "')]",
        "[createArray(1)[1]]",
        "[createObject('a', 1).b]",
        "[if('x', 1, 2)]",
        "[div(1, 0)]",
        "[toLower()]",
        "[concat(" * 200 + ")" * 200 + "]",
        "[mul(9000000000000000, 9000000000000000)]",
        "[range(0, 10000000)]",
    ],
)
def test_expressions_that_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        value(text)


@given(st.text(alphabet="concat('),. [1]x\"-", max_size=60))
def test_no_text_is_more_than_refused(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        value(f"[{text}]")


def resource(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": f"Microsoft.Network/{kind}", "name": name, "apiVersion": "2024-05-01", **more}


def planned(template: dict[str, Any], **parameters: Any) -> Plan:
    given = {name: {"value": value} for name, value in parameters.items()}
    return templates.plan({"template": template, "parameters": given}, GROUP, AROUND)


def names(plan: Plan) -> list[str]:
    return [one.id.name for one in plan.resources]


def refusal(template: dict[str, Any], **parameters: Any) -> str:
    with pytest.raises(ArmError) as refused:
        planned(template, **parameters)
    assert (refused.value.status, refused.value.code) == (400, "InvalidTemplate")
    return refused.value.refusal.message


def test_resources_come_after_what_they_need() -> None:
    plan = planned(
        {
            "resources": [
                resource("loadBalancers", "lb", dependsOn=["Microsoft.Network/publicIpAddresses/ip"]),
                resource("publicIPAddresses", "ip", dependsOn=["net"]),
                resource("virtualNetworks", "net"),
                resource("things", "t", properties={"x": "[reference('lb').id]"}),
                resource("virtualNetworks/subnets", "net/s"),
            ]
        }
    )
    assert names(plan) == ["net", "ip", "s", "lb", "t"]
    assert [key.rpartition("/")[2] for key in plan.resources[-1].after] == ["lb"]


def test_children_may_be_written_inside() -> None:
    plan = planned(
        {
            "resources": [
                resource(
                    "virtualNetworks", "net", resources=[{"type": "subnets", "name": "s", "apiVersion": "2024-05-01"}]
                )
            ]
        }
    )
    assert [str(one.id) for one in plan.resources][1].endswith("/virtualNetworks/net/subnets/s")


def test_what_is_not_wanted_is_left_out() -> None:
    plan = planned(
        {
            "parameters": {"wanted": {"type": "bool", "defaultValue": False}},
            "resources": [
                resource("virtualNetworks", "net", condition="[parameters('wanted')]"),
                resource("things", "t", dependsOn=["net"]),
            ],
        }
    )
    assert names(plan) == ["t"]


def test_ids_of_resources() -> None:
    plan = planned(
        {
            "variables": {
                "here": "[resourceId('Microsoft.Network/virtualNetworks/subnets', 'net', 's')]",
                "group": "[resourceId('other', 'Microsoft.Network/virtualNetworks', 'net')]",
                "both": "[resourceId('sub', 'other', 'Microsoft.Network/virtualNetworks', 'net')]",
            },
            "resources": [],
        }
    )
    variables = plan.functions["variables"]
    assert variables(["here"]) == (
        "/subscriptions/S/resourceGroups/G/providers/Microsoft.Network/virtualNetworks/net/subnets/s"
    )
    assert variables(["group"]).startswith("/subscriptions/S/resourceGroups/other/")
    assert variables(["BOTH"]).startswith("/subscriptions/sub/resourceGroups/other/")


def test_parameters() -> None:
    template: dict[str, Any] = {
        "parameters": {
            "name": {"type": "string", "allowedValues": ["a", "b"]},
            "secret": {"type": "secureString", "defaultValue": "[concat(parameters('name'), '!')]"},
        },
        "resources": [resource("things", "[parameters('secret')]")],
    }
    plan = planned(template, NAME="a")
    assert plan.parameters == {"name": {"type": "String", "value": "a"}, "secret": {"type": "SecureString"}}
    assert names(plan) == ["a!"]
    assert "'name' is not provided" in refusal(template)
    assert "not part of the allowed value(s): 'a,b'" in refusal(template, name="c")
    assert "Expected 'String'" in refusal(template, name=1)
    assert "'other' in the parameters file are not valid" in refusal(template, name="a", other=1)


def test_templates_that_make_no_sense() -> None:
    assert "Circular dependency detected" in refusal(
        {"resources": [resource("a", "x", dependsOn=["y"]), resource("a", "y", dependsOn=["x"])]}
    )
    assert "is not defined in the template" in refusal({"resources": [resource("a", "x", dependsOn=["y"])]})
    assert "incorrect segment lengths" in refusal({"resources": [resource("a/b", "x")]})
    assert "defined multiple times" in refusal({"resources": [resource("a", "x"), resource("a", "X")]})
    assert "'copy' is not supported" in refusal({"resources": [resource("a", "x", copy={})]})
    assert "refers to itself" in refusal(
        {
            "variables": {"a": "[variables('b')]", "b": "[variables('a')]"},
            "resources": [resource("a", "[variables('a')]")],
        }
    )


def test_nothing_grows_without_bounds() -> None:
    """Variables that double each other, as arrays, texts and trees."""
    for double in ("concat({0}, {0})", "createArray({0}, {0})", "replace({0}, 'x', {0})", "format('{{0}}{{0}}', {0})"):
        variables = {"v0": "xx" if "createArray" not in double else "[createArray('x')]"}
        for number in range(1, 60):
            variables[f"v{number}"] = f"[{double.format(f'variables(_v{number - 1}_)')}]".replace("_", "'")
        began = time.process_time()
        refusal({"variables": variables, "resources": [resource("a", "[string(variables('v59'))]")]})
        assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1, // x\n "b": "//"}', {"a": 1, "b": "//"}),
        ('{a: [1, 2,], /* "b": 2, */ c_d : "x",}', {"a": [1, 2], "c_d": "x"}),
        ('{"a": "two\nlines"}', {"a": "two\nlines"}),
        ('{"a": "\\"b: /*"}', {"a": '"b: /*'}),
    ],
)
def test_json_as_people_write_it(text: str, expected: object) -> None:
    assert leniency.parse(text) == expected


@given(st.text(alphabet='{}[]":,/*\\ab1\n ', max_size=80))
def test_no_json_is_more_than_refused(text: str) -> None:
    with contextlib.suppress(ValueError, RecursionError):
        leniency.parse(text)


@pytest.mark.parametrize("piece", ['"\\"', "/*x", "//", "a", "a ", ",", ", ", '"', "{a:"])
def test_long_texts_are_read_once(piece: str) -> None:
    began = time.process_time()
    with contextlib.suppress(ValueError, RecursionError):
        leniency.parse(piece * 200_000)
    assert time.process_time() - began < 3
