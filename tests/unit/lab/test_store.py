"""The store in memory: worlds that do not change, changes that are whole, numbers that stay."""

import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from isthmus.lab import ids
from isthmus.lab.documents import ProvisioningState
from isthmus.lab.ids import ResourceId
from isthmus.lab.store import Draft, Snapshot, Store

KIND = "Microsoft.Network/things"
GROUP = ResourceId("S", "G")


def thing(name: str, group: ResourceId = GROUP) -> ResourceId:
    return ResourceId(group.subscription, group.group, "Microsoft.Network", ("things",), (name,))


def put(store: Store, name: str, body: Mapping[str, Any] | None = None) -> None:
    draft = store.draft()
    draft.put(thing(name), KIND, body or {})
    store.commit(draft)


def test_a_snapshot_does_not_change() -> None:
    store = Store.in_memory()
    before = store.world
    body = {"tags": {"a": "b"}}
    draft = store.draft()
    document = draft.put(thing("a"), KIND, body)
    body["tags"]["a"] = "changed later"
    assert store.world.get(thing("a")) is None
    after = store.commit(draft)
    assert before.get(thing("a")) is None
    assert list(before.all(KIND)) == []
    assert after.get(thing("A")) == document
    assert document.body == {"tags": {"a": "b"}}


def test_what_is_replaced_keeps_its_number_guid_and_spelling() -> None:
    store = Store.in_memory()
    put(store, "Spelled")
    draft = store.draft()
    first = draft.get(thing("spelled"))
    second = draft.put(thing("SPELLED"), KIND.upper(), {"x": 1})
    assert first is not None
    assert (second.id, second.kind, second.number, second.guid) == (first.id, first.kind, first.number, first.guid)
    assert second.etag != first.etag


def test_numbers_are_the_lowest_free() -> None:
    store = Store.in_memory()
    for name in "abc":
        put(store, name)
    draft = store.draft()
    draft.remove(thing("b"))
    assert draft.put(thing("d"), KIND, {}).number == 2
    assert draft.put(thing("e"), KIND, {}).number == 4
    assert draft.put(thing("x"), "Microsoft.Network/others", {}).number == 1


def test_lists_have_an_order() -> None:
    store = Store.in_memory()
    for name in ("b", "C", "a"):
        put(store, name)
    put(store, "b", {"replaced": True})
    assert [one.id.name for one in store.world.all(KIND)] == ["b", "C", "a"]
    assert [one.id.name for one in store.world.children(GROUP, KIND.lower())] == ["a", "b", "C"]
    assert list(store.world.all(KIND, subscription="other")) == []
    assert len(list(store.world.all(KIND, subscription="s", group="g"))) == 3


def test_only_the_world_that_a_change_began_with_takes_it() -> None:
    store = Store.in_memory()
    early = store.draft()
    early.note("topic", "key", 1)
    put(store, "a")
    with pytest.raises(AssertionError):
        store.commit(early)


def test_states_and_notes() -> None:
    store = Store.in_memory()
    put(store, "a")
    draft = store.draft()
    etag = store.world.get(thing("a")).etag  # type: ignore[union-attr]
    draft.mark(thing("a").key, ProvisioningState.FAILED)
    draft.mark(thing("b").key, ProvisioningState.FAILED)
    draft.note("names", "one", ["203.0.113.1"])
    draft.note("names", "two", None)
    world = store.commit(draft)
    marked = world.get(thing("a"))
    assert marked is not None
    assert (marked.state, marked.etag) == (ProvisioningState.FAILED, etag)
    assert world.notes("names") == {"one": ["203.0.113.1"]}
    assert world.notes("nothing") == {}
    assert store.draft().is_empty


class Model(RuleBasedStateMachine):
    """Whatever is put and removed: the tables agree with each other and with a plain dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store.in_memory()
        self.expected: dict[str, int] = {}

    @rule(names=st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef")), max_size=6), keep=st.booleans())
    def change(self, names: list[tuple[bool, str]], keep: bool) -> None:
        draft = self.store.draft()
        expected = dict(self.expected)
        for is_put, name in names:
            if is_put:
                expected[name] = draft.put(thing(name), KIND, {"number": random.random()}).number
            else:
                draft.remove(thing(name))
                expected.pop(name, None)
        if keep:
            self.store.commit(draft)
            self.expected = expected

    @invariant()
    def tables_agree(self) -> None:
        world = self.store.world
        found = {one.id.name: one.number for one in world.all(KIND)}
        assert found == self.expected
        assert {one.id.name for one in world.children(GROUP, KIND)} == set(found)
        assert {one.id.name for one in world.everything()} == set(found)
        assert len(set(found.values())) == len(found)
        assert all(world.get(thing(name)) is not None for name in found)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=50, stateful_step_count=15, deadline=None)


def test_ids_in_any_spelling() -> None:
    world: Snapshot | Draft = Store.in_memory().draft()
    assert isinstance(world, Draft)
    world.put(thing("A"), KIND, {})
    assert world.get(ids.key("subscriptions/s/resourcegroups/g/providers/microsoft.network/THINGS/a/")) is not None
