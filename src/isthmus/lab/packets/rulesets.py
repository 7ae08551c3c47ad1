"""One nftables table as data: its text, its difference to another one, and how to tell that it is still there. Pure.

A ruleset carries its fingerprint as the name of an empty chain, which changes in the same transaction as everything
else. So a table that is found says itself whose it is, and its ``Shape`` (how many rules and elements) tells whether
somebody emptied parts of it by hand. Syntax: nft 1.0.6.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import Any, Final

TABLE: Final = "ip lab"
_FINGERPRINT: Final = "is-"


@dataclass(frozen=True)
class Chain:
    """``hook`` is ``type filter hook forward priority 0; policy drop``, empty for a chain that others jump to."""

    rules: tuple[str, ...]
    hook: str = ""


@dataclass(frozen=True)
class Elements:
    """A map, or with ``values`` None a set. ``type`` is nft's, of keys and values (``type mark : verdict``)."""

    type: str
    elements: Mapping[str, str | None]

    @property
    def word(self) -> str:
        """What nft calls it."""
        return "map" if " : " in self.type else "set"


@dataclass(frozen=True, slots=True)
class Tally:
    """What a counter says."""

    packets: int = 0
    bytes: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.packets + other.packets, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a table looks like from afar: rules by chain, elements by set, and its counters' names."""

    chains: frozenset[tuple[str, int]] = frozenset()
    sets: frozenset[tuple[str, int]] = frozenset()
    counters: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Found:
    """A table that is there."""

    shape: Shape
    tallies: Mapping[str, Tally]


@dataclass(frozen=True)
class Ruleset:
    """A table. ``timeouts`` are bodies of ct timeout objects by name."""

    chains: Mapping[str, Chain]
    sets: Mapping[str, Elements] = field(default_factory=dict)
    counters: frozenset[str] = frozenset()
    timeouts: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """The name of the chain that stands for all of it."""
        return _FINGERPRINT + hashlib.sha256("\n".join(self._lines({})).encode()).hexdigest()[:16]

    @cached_property
    def shape(self) -> Shape:
        """What it looks like when it is there."""
        chains = {(name, len(chain.rules)) for name, chain in self.chains.items()}
        return Shape(
            frozenset(chains | {(self.fingerprint, 0)}),
            frozenset((name, len(one.elements)) for name, one in self.sets.items()),
            self.counters,
        )

    def whole(self, tallies: Mapping[str, Tally]) -> str:
        """The transaction that puts it in the place of whatever is there, with counters that go on from ``tallies``."""
        lines = (f"table {TABLE}", f"delete table {TABLE}", f"table {TABLE} {{", *self._lines(tallies))
        return "\n".join((*lines, f"chain {self.fingerprint} {{", "}", "}", ""))

    def change_from(self, before: "Ruleset") -> str:
        """The transaction that makes ``before`` this one; empty if there is nothing to do."""
        if self.fingerprint == before.fingerprint:
            return ""
        if not self._is_near(before):
            return self.whole({})
        added, removed = _chains_changed(before, self)
        lines = [f"add counter {TABLE} {name}" for name in sorted(self.counters - before.counters)]
        lines += added
        lines += _elements_changed(before.sets, self.sets)
        lines += removed
        lines += [f"delete counter {TABLE} {name}" for name in sorted(before.counters - self.counters)]
        lines += [f"delete chain {TABLE} {before.fingerprint}", f"add chain {TABLE} {self.fingerprint}"]
        return "\n".join((*lines, ""))

    def keeps_tallies_from(self, before: "Ruleset") -> bool:
        """Whether ``change_from`` leaves counters alone."""
        return self._is_near(before)

    def _is_near(self, before: "Ruleset") -> bool:
        """Whether sets are the same but for their elements, and base chains but for their rules."""
        return (
            self.timeouts == before.timeouts
            and {name: one.type for name, one in self.sets.items()}
            == {name: one.type for name, one in before.sets.items()}
            and {name: one.hook for name, one in self.chains.items() if one.hook}
            == {name: one.hook for name, one in before.chains.items() if one.hook}
        )

    def _lines(self, tallies: Mapping[str, Tally]) -> Iterator[str]:
        """The table's text. Sorted: two that are equal have one fingerprint, whatever order they were made in."""
        for name, body in sorted(self.timeouts.items()):
            yield f"ct timeout {name} {{ {body}; }}"
        for name in sorted(self.counters):
            tally = tallies.get(name, Tally())
            yield f"counter {name} {{ packets {tally.packets} bytes {tally.bytes} }}"
        # Chains before the sets whose verdicts name them.
        chains = sorted(self.chains.items(), key=itemgetter(0))
        for name, chain in chains:
            yield f"chain {name} {{"
            if chain.hook:
                yield f"{chain.hook};"
            yield "}"
        for name, one in sorted(self.sets.items(), key=itemgetter(0)):
            yield f"{one.word} {name} {{"
            yield one.type
            if one.elements:
                yield f"elements = {{ {', '.join(_written(one.elements))} }}"
            yield "}"
        for name, chain in chains:
            if chain.rules:
                yield f"chain {name} {{"
                yield from chain.rules
                yield "}"


def found(listing: Iterable[Mapping[str, Any]]) -> Found | None:
    """Our table in what ``nft --json list ruleset`` says; None if it is not there."""
    family, table = TABLE.split()
    rules: dict[str, int] = {}
    sets: dict[str, int] = {}
    counted: dict[str, Tally] = {}
    is_there = False
    for entry in listing:
        for word, body in entry.items():
            if body.get("family") != family or table not in {body.get("table"), body.get("name")}:
                continue
            match word:
                case "table":
                    is_there = True
                case "chain":
                    rules.setdefault(body["name"], 0)
                case "rule":
                    rules[body["chain"]] = rules.get(body["chain"], 0) + 1
                case "map" | "set":
                    sets[body["name"]] = len(body.get("elem", ()))
                case "counter":
                    counted[body["name"]] = Tally(body["packets"], body["bytes"])
    if not is_there:
        return None
    return Found(Shape(frozenset(rules.items()), frozenset(sets.items()), frozenset(counted)), counted)


def tallies(listing: Iterable[Mapping[str, Any]]) -> dict[str, Tally]:
    """What the counters in ``nft --json list counters`` say, by name."""
    return {
        body["name"]: Tally(body["packets"], body["bytes"])
        for entry in listing
        for word, body in entry.items()
        if word == "counter"
    }


def _written(elements: Mapping[str, str | None]) -> Iterator[str]:
    return (key if value is None else f"{key} : {value}" for key, value in sorted(elements.items(), key=itemgetter(0)))


def _chains_changed(before: Ruleset, after: Ruleset) -> tuple[list[str], list[str]]:
    added = [f"add chain {TABLE} {name}" for name in after.chains if name not in before.chains]
    for name, chain in after.chains.items():
        old = before.chains.get(name)
        if old == chain:
            continue
        if old is not None:
            added.append(f"flush chain {TABLE} {name}")
        added += [f"add rule {TABLE} {name} {rule}" for rule in chain.rules]
    gone = [name for name in before.chains if name not in after.chains]
    removed = [f"flush chain {TABLE} {name}" for name in gone] + [f"delete chain {TABLE} {name}" for name in gone]
    return added, removed


def _elements_changed(before: Mapping[str, Elements], after: Mapping[str, Elements]) -> Iterator[str]:
    for name, one in after.items():
        old = before[name].elements
        gone = [key for key, value in old.items() if key not in one.elements or one.elements[key] != value]
        new = {key: value for key, value in one.elements.items() if key not in old or old[key] != value}
        if gone:
            yield f"delete element {TABLE} {name} {{ {', '.join(gone)} }}"
        if new:
            yield f"add element {TABLE} {name} {{ {', '.join(_written(new))} }}"
