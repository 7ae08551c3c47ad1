"""What names answer: a network's linked zones, and the public resolver's names, as dnsmasq's configuration. Pure.

Source of the rules: Azure Private DNS. The most specific linked zone that a name lies in answers for it; in a zone
that does not fall back, a name without a record does not exist; a wildcard stands for names without one of their own;
everything else is asked of the public resolver.

dnsmasq 2.90 answers a CNAME's address only if it knows the target, and knows wildcards of addresses alone. So targets
in other linked zones and public ones are written down beside the CNAME, and a wildcard CNAME becomes its target's
addresses.
"""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from isthmus.lab import picture

Names = Mapping[str, tuple[IPv4Address | IPv6Address, ...]]

_APEX: Final = "@"
_WILDCARD: Final = "*"
#: A TXT record's strings, RFC 1035, section 3.3.
_STRING_BYTES: Final = 255
#: Azure's SOA record says 10 seconds for what does not exist; public names are changed by hand and looked at soon
#: after.
_PUBLIC_TTL_SECONDS: Final = 10
_DEFAULT_TTL_SECONDS: Final = 3600
_CHAIN_LENGTH: Final = 8
#: dnsmasq reads no longer lines, and starts with none that it cannot read: what does not fit is not answered.
_LINE_BYTES: Final = 1025


def public(names: Names) -> str:
    """The public resolver's configuration: it knows these names and no others."""
    lines = ["local=/#/", f"local-ttl={_PUBLIC_TTL_SECONDS}"]
    for name, addresses in sorted(names.items()):
        lines += [f"host-record={name.lower().rstrip('.')},{address}" for address in addresses]
    return _text(lines)


def private(zones: Sequence[picture.Zone], public_names: Names, upstream: str) -> str:
    """The configuration of a network's resolver. ``upstream`` is where dnsmasq asks what it does not know."""
    return _text([f"server={upstream}", *_Zones(zones, public_names).lines()])


def _text(lines: Sequence[str]) -> str:
    fitting = [line for line in lines if len(line) < _LINE_BYTES and "\0" not in line]
    return "\n".join(("no-resolv", "no-hosts", "no-poll", "cache-size=0", *fitting, ""))


class _Zones:
    """The zones that one network is linked to."""

    def __init__(self, zones: Sequence[picture.Zone], public_names: Names) -> None:
        self._zones = sorted(zones, key=lambda zone: zone.name)
        self._public = {name.lower().rstrip("."): addresses for name, addresses in public_names.items()}
        self._records: dict[str, list[picture.Record]] = {}
        for zone in self._zones:
            for record in zone.records:
                name = _full(record.name, zone.name)
                if self._zone_of(name.removeprefix(f"{_WILDCARD}.")) is zone:
                    self._records.setdefault(name, []).append(record)

    def lines(self) -> Iterator[str]:
        """Without the first and the last words."""
        yield f"local-ttl={self._common_ttl()}"
        for zone in self._zones:
            name = zone.name.lower()
            yield f"server=/{name}/#" if zone.falls_back else f"local=/{name}/"
        known: set[str] = set()
        for name, records in self._records.items():
            if name.startswith(f"{_WILDCARD}."):
                yield from self._wildcard(name, records)
                continue
            if self._falls_back(name) and not any(other.endswith(f".{name}") for other in self._all_names()):
                # What it has no record of is not asked elsewhere: only a name that is missing is.
                yield f"local=/{name}/"
            for record in records:
                if record.type != "CNAME":
                    yield from _written(name, record)
                elif not self._goes_in_circles(name):
                    yield from _written(name, record)
                    known |= self._targets(record.values[0])
        for name in sorted(known):
            for address in self._public.get(name, ()):
                yield f"host-record={name},{address},{_PUBLIC_TTL_SECONDS}"

    def _all_names(self) -> Iterator[str]:
        yield from self._records
        yield from (zone.name.lower() for zone in self._zones)

    def _zone_of(self, name: str) -> picture.Zone | None:
        fitting = [zone for zone in self._zones if _lies_in(name, zone.name.lower())]
        return max(fitting, key=lambda zone: len(zone.name), default=None)

    def _falls_back(self, name: str) -> bool:
        zone = self._zone_of(name)
        return zone is not None and zone.falls_back

    def _goes_in_circles(self, name: str) -> bool:
        """Whether following aliases from ``name`` comes by a name twice, which dnsmasq refuses to begin with."""
        seen: set[str] = set()
        while name not in seen:
            seen.add(name)
            aliases = [one.values[0] for one in self._records.get(name, ()) if one.type == "CNAME"]
            if not aliases:
                return False
            name = aliases[0].lower().rstrip(".")
        return True

    def _targets(self, name: str) -> set[str]:
        """Public names at the end of a chain of CNAMEs; dnsmasq itself follows the rest."""
        name = name.lower().rstrip(".")
        for _ in range(_CHAIN_LENGTH):
            zone = self._zone_of(name)
            if name in self._records:
                following = [one.values[0] for one in self._records[name] if one.type == "CNAME"]
                if not following:
                    return set()
                name = following[0].lower().rstrip(".")
            elif zone is None or zone.falls_back:
                return {name}
            else:
                return set()
        return set()

    def _addresses(self, name: str) -> tuple[str, ...]:
        name = name.lower().rstrip(".")
        records = self._records.get(name, ())
        found = tuple(value for one in records if one.type in {"A", "AAAA"} for value in one.values)
        if found:
            return found
        return tuple(str(address) for target in self._targets(name) for address in self._public.get(target, ()))

    def _wildcard(self, name: str, records: Sequence[picture.Record]) -> Iterator[str]:
        addresses: list[str] = []
        for record in records:
            match record.type:
                case "A" | "AAAA":
                    addresses += record.values
                case "CNAME":
                    addresses += self._addresses(record.values[0])
        if addresses:
            yield f"local=/{name}/"
        yield from (f"address=/{name}/{address}" for address in addresses)

    def _common_ttl(self) -> int:
        """dnsmasq has one for everything but addresses and CNAMEs."""
        ttls = [
            record.ttl_seconds
            for name, records in self._records.items()
            for record in records
            if name.startswith(_WILDCARD) or record.type not in {"A", "AAAA", "CNAME"}
        ]
        return min(ttls, default=_DEFAULT_TTL_SECONDS)


def _full(name: str, zone: str) -> str:
    return (zone if name == _APEX else f"{name}.{zone}").lower()


def _lies_in(name: str, zone: str) -> bool:
    return name == zone or name.endswith(f".{zone}")


def _written(name: str, record: picture.Record) -> Iterator[str]:
    match record.type:
        case "A" | "AAAA":
            yield from (f"host-record={name},{value},{record.ttl_seconds}" for value in record.values)
        case "CNAME":
            yield f"cname={name},{record.values[0].rstrip('.')},{record.ttl_seconds}"
        case "MX":
            for value in record.values:
                preference, _, exchange = value.partition(" ")
                yield f"mx-host={name},{exchange.rstrip('.')},{preference}"
        case "SRV":
            for value in record.values:
                priority, weight, port, target = value.split(" ")
                yield f"srv-host={name},{target.rstrip('.')},{port},{priority},{weight}"
        case "PTR":
            yield from (f"ptr-record={name},{value.rstrip('.')}" for value in record.values)
        case "TXT":
            yield from (f"txt-record={name},{','.join(_strings(value))}" for value in record.values)


def _strings(text: str) -> Iterator[str]:
    """``text`` as strings of a TXT record, in dnsmasq's quotes."""
    raw = text.encode()
    for place in range(0, max(len(raw), 1), _STRING_BYTES):
        # Latin-1 keeps bytes apart; the configuration is written in it.
        yield '"' + raw[place : place + _STRING_BYTES].decode("latin-1").translate(_QUOTED) + '"'


_QUOTED: Final = str.maketrans({'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
