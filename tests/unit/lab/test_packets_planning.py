"""From pictures to machines and from machines to steps, without a machine."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.kit.errors import ConfigError
from isthmus.lab.ids import Key
from isthmus.lab.packets import addressing, planning, proxy_protocol, rulesets
from isthmus.lab.packets.fabric import Limits
from isthmus.lab.packets.machines import Machine
from isthmus.lab.packets.planning import Stage
from isthmus.lab.packets.rulesets import Chain, Elements, Found, Ruleset, Tally
from isthmus.lab.picture import Endpoint, Frontend, Network, Peering, Picture, Protocol, Rule, Service

LAB = addressing.lab_id("unit")


def network(number: int, **more: object) -> Network:
    return Network(
        Key(f"/networks/{number}"),
        f"n{number}",
        number,
        (IPv4Network("10.0.0.0/24"),),
        IPv4Address("10.0.0.4"),
        **more,  # type: ignore[arg-type]
    )


def service(number: int, of: Network, *, proxy: bool = False) -> Service:
    rule = Rule(Protocol.TCP, 80, 8080, (IPv4Address("10.0.0.4"),))
    frontend = Frontend(IPv4Address("10.0.0.6"), False, (rule,))
    return Service(Key(f"/services/{number}"), number, of.key, (IPv4Address("10.0.0.5"),), frontend, proxy)


def endpoint(number: int, of: Network, to: Service | None, *, approved: bool = True) -> Endpoint:
    key = None if to is None else to.key
    return Endpoint(
        Key(f"/endpoints/{number}"), number, of.key, IPv4Address("10.0.0.16") + number, key, approved, number
    )


def simple(*, approved: bool = True) -> Picture:
    customer, provider = network(1), network(2)
    its = service(1, provider)
    return Picture((customer, provider), (), (its,), (endpoint(1, customer, its, approved=approved),))


def plan(picture: Picture) -> Machine:
    return planning.plan(LAB, picture, Limits())


def table(machine: Machine, namespace: str) -> Ruleset:
    ruleset = machine.namespaces[namespace].ruleset
    assert isinstance(ruleset, Ruleset)
    return ruleset


def test_nothing_is_to_be_done_for_the_same_picture() -> None:
    assert planning.steps(plan(simple()), plan(simple())) == []


def test_an_approval_is_one_transaction_in_the_fabric() -> None:
    (step,) = planning.steps(plan(simple(approved=False)), plan(simple()))
    assert (step.stage, step.namespace, step.commands) == (Stage.TABLES, addressing.fabric(LAB), ())
    mark = f"0x{addressing.endpoint_mark(1, Key('/endpoints/1')):08x}"
    assert f"add element ip lab roads {{ {mark} : goto e" in step.table
    assert 'add element ip lab open { "n1" . 10.0.0.17 }' in step.table
    assert "flush" not in step.table
    assert "delete table" not in step.table


def test_a_revocation_takes_the_road_away_and_leaves_the_counters() -> None:
    (step,) = planning.steps(plan(simple()), plan(simple(approved=False)))
    assert "delete element ip lab roads" in step.table
    assert "counter" not in step.table


def test_an_endpoint_without_a_service_keeps_its_address() -> None:
    picture = simple()
    machine = plan(replace(picture, services=(), endpoints=(replace(picture.endpoints[0], service=None),)))
    fabric = table(machine, addressing.fabric(LAB))
    assert len(fabric.sets["doors"].elements) == 1
    assert not fabric.sets["roads"].elements
    assert not machine.open_marks


def test_names_are_made_of_numbers_and_no_interface_is_the_hosts() -> None:
    machine = plan(replace(simple(), peerings=(Peering(7, Key("/networks/1"), Key("/networks/2")),)))
    assert set(machine.namespaces) == {f"isthmus-lab-unit-{name}" for name in ("fabric", "internet", "n1", "n2")}
    for cable in machine.cables:
        assert {cable.one.namespace, cable.other.namespace} <= set(machine.namespaces)
        assert len(cable.one.interface) <= 15
    (peering,) = (cable for cable in machine.cables if cable.one.interface == "p7")
    assert peering.one.namespace != peering.other.namespace


def test_addresses_that_lead_elsewhere_are_not_local() -> None:
    picture = simple()
    customer = replace(picture.networks[0], addresses=tuple(IPv4Address("10.0.0.16") + one for one in range(3)))
    frontend = Frontend(IPv4Address("10.0.0.18"), False, ())
    machine = plan(replace(picture, networks=(replace(customer, frontends=(frontend,)), picture.networks[1])))
    local = {str(one.address) for one in machine.namespaces[addressing.network(LAB, 1)].addresses if one.device == "lo"}
    assert local == {"168.63.129.16", "10.0.0.4", "10.0.0.16"}


def test_marks_of_endpoints_with_the_same_number_differ() -> None:
    one, other = (addressing.endpoint_mark(5, Key(f"/endpoints/{name}")) for name in "ab")
    assert one != other
    assert one < addressing.PUBLIC > other


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError):
        addressing.side(0x8000)
    with pytest.raises(ConfigError):
        addressing.lab_id("Not a lab")


def test_a_found_table_is_kept_if_it_looks_right_and_replaced_with_its_counters_if_not() -> None:
    wanted = plan(simple())
    name = addressing.fabric(LAB)
    ruleset = table(wanted, name)
    counter = min(ruleset.counters)

    def found(shape: rulesets.Shape) -> Machine:
        there = replace(wanted.namespaces[name], ruleset=Found(shape, {counter: Tally(3, 400)}))
        return replace(wanted, namespaces={**wanted.namespaces, name: there})

    assert planning.steps(found(ruleset.shape), wanted) == []
    flushed = replace(ruleset.shape, chains=frozenset((chain, 0) for chain, _ in ruleset.shape.chains))
    (step,) = planning.steps(found(flushed), wanted)
    assert step.table.startswith("table ip lab\ndelete table ip lab\n")
    assert f"counter {counter} {{ packets 3 bytes 400 }}" in step.table
    assert step.repairs == (f"wrote the nftables table of {name} again",)


def test_a_missing_namespace_is_made_with_all_that_belongs_to_it() -> None:
    wanted = plan(simple())
    lost = addressing.network(LAB, 2)
    rest = {name: one for name, one in wanted.namespaces.items() if name != lost}
    cables = frozenset(one for one in wanted.cables if lost not in {one.one.namespace, one.other.namespace})
    steps = planning.steps(replace(wanted, namespaces=rest, cables=cables), wanted)
    assert [step.stage for step in steps] == sorted(step.stage for step in steps)
    assert steps[0].commands == (f"netns add {lost}",)
    assert [words for step in steps for words in step.repairs] == [f"made the namespace {lost}, which was missing"]


def test_changes_of_a_table_are_told_from_new_tables() -> None:
    one = Ruleset({"a": Chain(("accept",))}, {"s": Elements("type ipv4_addr", {"10.0.0.1": None})})
    more = replace(one, sets={"s": Elements("type ipv4_addr", {"10.0.0.2": None})})
    assert one.change_from(one) == ""
    assert "delete element ip lab s { 10.0.0.1 }\nadd element ip lab s { 10.0.0.2 }" in more.change_from(one)
    chains = replace(one, chains={"b": Chain(("drop",))})
    assert chains.change_from(one).index("add chain ip lab b") < chains.change_from(one).index("delete chain ip lab a")
    other = replace(one, sets={"s": Elements("type mark", {})})
    assert "delete table" in other.change_from(one)


def test_the_header_of_the_reference() -> None:
    # Azure's layout: 10.10.0.4:54321 to 10.10.0.5:443 with LINKID 0x10000123.
    said = proxy_protocol.header((IPv4Address("10.10.0.4"), 54321), (IPv4Address("10.10.0.5"), 443), 0x10000123)
    assert said == bytes.fromhex(
        "0d0a0d0a000d0a515549540a 21110014 0a0a0004 0a0a0005 d431 01bb ee000501 23010010".replace(" ", "")
    )


# --- any picture to any other -----------------------------------------------------------------------------------------


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    """Small worlds that share numbers and keys, so that parts come, go and change between two of them."""
    numbers = sorted(draw(st.sets(st.integers(1, 5), min_size=1)))
    networks = tuple(
        network(number, outbound_address=draw(st.sampled_from([None, IPv4Address("203.0.113.130")])))
        for number in numbers
    )
    services = tuple(
        service(number, draw(st.sampled_from(networks)), proxy=draw(st.booleans()))
        for number in draw(st.sets(st.integers(1, 3)))
    )
    endpoints = tuple(
        endpoint(
            number,
            draw(st.sampled_from(networks)),
            draw(st.sampled_from((None, *services))),
            approved=draw(st.booleans()),
        )
        for number in draw(st.sets(st.integers(1, 4)))
    )
    pairs = [(one.key, other.key) for one in networks for other in networks if one.number < other.number]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=3)) if pairs else []
    return Picture(networks, tuple(Peering(place, *pair) for place, pair in enumerate(chosen)), services, endpoints)


@settings(max_examples=60, deadline=None)
@given(pictures(), pictures())
def test_steps_touch_only_what_differs(before: Picture, after: Picture) -> None:
    one, other = plan(before), plan(after)
    assert planning.steps(other, other) == []
    touched = {step.namespace for step in planning.steps(one, other)}
    for name in one.namespaces.keys() & other.namespaces.keys():
        cables = [
            {cable for cable in machine.cables if name in {cable.one.namespace, cable.other.namespace}}
            for machine in (one, other)
        ]
        if cables[0] == cables[1]:
            assert (name in touched) == (one.namespaces[name] != other.namespaces[name])
    # Everything that is named in a verdict exists.
    for machine in (one, other):
        for its in machine.namespaces.values():
            if isinstance(its.ruleset, Ruleset):
                _assert_whole(its.ruleset)


def _assert_whole(ruleset: Ruleset) -> None:
    verdicts = [str(value) for one in ruleset.sets.values() for value in one.elements.values() if value]
    verdicts += [rule for chain in ruleset.chains.values() for rule in chain.rules]
    for text in verdicts:
        words = text.replace(",", " ").split()
        for word, chain in pairwise(words):
            if word in {"goto", "jump"}:
                assert chain in ruleset.chains
