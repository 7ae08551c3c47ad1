"""Peerings: ``Microsoft.Network/virtualNetworks/virtualNetworkPeerings``.

A peering is one network's half. Its document holds what its client set, the other network's address space as it was
when the two were last synchronized, and whether it was cut off; whether it is connected follows from the other half.
A half whose other half goes away is Disconnected, and stays so until it is written again, as in Azure; until then the
other network cannot make a new half (RemotePeeringIsDisconnected).
"""

import uuid
from typing import Any, Final

from isthmus.lab import ids
from isthmus.lab.documents import Change, Document, World
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Caller, Json, Style
from isthmus.lab.network import addresses, refusals, shapes, showing
from isthmus.lab.network.refusals import refused

KIND: Final = "Microsoft.Network/virtualNetworks/virtualNetworkPeerings"

#: The query parameter that makes a half take over the other network's address space as it is now.
_SYNC: Final = "syncremoteaddressspace"

SHAPE: Final = shapes.part(
    {
        "allowVirtualNetworkAccess": shapes.Flag(),
        "allowForwardedTraffic": shapes.Flag(),
        "allowGatewayTransit": shapes.Flag(),
        "useRemoteGateways": shapes.Flag(),
        "doNotVerifyRemoteGateways": shapes.Flag(),
        "peerCompleteVnets": shapes.Flag(),
        "enableOnlyIPv6Peering": shapes.Flag(),
        "localSubnetNames": shapes.Many(shapes.Text()),
        "remoteSubnetNames": shapes.Many(shapes.Text()),
        "remoteVirtualNetwork": shapes.Reference("virtualNetworks"),
        "remoteBgpCommunities": shapes.Anything(),
        "remoteAddressSpace": shapes.Derived(),
        "remoteVirtualNetworkAddressSpace": shapes.Derived(),
        "localAddressSpace": shapes.Derived(),
        "localVirtualNetworkAddressSpace": shapes.Derived(),
        "remoteVirtualNetworkEncryption": shapes.Derived(),
        "remoteGateways": shapes.Derived(),
        "routeServiceVips": shapes.Derived(),
        "peeringState": shapes.Derived(),
        "peeringSyncLevel": shapes.Derived(),
        "resourceGuid": shapes.Derived(),
    }
)

_DEFAULTS: Final = {
    "allowVirtualNetworkAccess": True,
    "allowForwardedTraffic": False,
    "allowGatewayTransit": False,
    "useRemoteGateways": False,
    "doNotVerifyRemoteGateways": False,
    "peerCompleteVnets": True,
}

_DISCONNECTED: Final = "Disconnected"


def of(world: World, network: ResourceId) -> list[Document]:
    """The halves of a network, in the order of creation."""
    found = world.all(KIND, subscription=network.subscription, group=network.group)
    return [one for one in found if one.id.outer.key == network.key]


def remote_of(peering: Document) -> ids.Key:
    """The other network."""
    return ids.key(peering.properties["remoteVirtualNetwork"]["id"])


def other_half(world: World, peering: Document) -> Document | None:
    """The other network's half; None if it has none."""
    remote = world.get(remote_of(peering))
    if remote is None:
        return None
    return next((one for one in of(world, remote.id) if remote_of(one) == peering.id.outer.key), None)


def is_cut_off(peering: Document) -> bool:
    """Its other half went away after it was there."""
    return peering.properties.get("peeringState") == _DISCONNECTED


def state_of(world: World, peering: Document) -> str:
    """Initiated, Connected or Disconnected."""
    if is_cut_off(peering):
        return _DISCONNECTED
    other = other_half(world, peering)
    return "Initiated" if other is None or is_cut_off(other) else "Connected"


def put(change: Change, id: ResourceId, given: Json, *, is_synced: bool) -> Document:
    """Write one half; ``given`` has been read by ``SHAPE``."""
    refusals.check_name(id.name)
    before = change.get(id)
    properties = {**_DEFAULTS, **given["properties"]}
    if "remoteVirtualNetwork" not in properties:
        raise shapes.unreadable(
            "MissingJsonReferenceId", "Value for reference id is missing. Path properties.remoteVirtualNetwork."
        )
    remote = refusals.referenced(change, properties["remoteVirtualNetwork"], id)
    local = change.get(id.outer)
    if local is None:
        raise refusals.not_found(str(id.outer), id)
    _check_pair(change, id, local, remote, before)
    old = before.properties if before is not None else {}
    if is_synced or "remoteAddressSpace" not in old:
        properties["remoteAddressSpace"] = {"addressPrefixes": [str(one) for one in addresses.space_of(remote)]}
    else:
        properties["remoteAddressSpace"] = old["remoteAddressSpace"]
    return change.put(id, KIND, {"properties": properties})


def is_unchanged(before: Document | None, given: Json) -> bool:
    """Writing ``given`` would change nothing: a network is often sent back with its peerings."""
    if before is None or is_cut_off(before):
        return False
    kept = {name: value for name, value in before.properties.items() if name != "remoteAddressSpace"}
    return kept == {**_DEFAULTS, **given["properties"]}


def _check_pair(change: Change, id: ResourceId, local: Document, remote: Document, before: Document | None) -> None:
    if remote.key == local.key:
        raise refused(
            "VnetCannotBePeeredWithItself",
            f"Cannot create or update peering {id}. Virtual network {local.id} cannot be peered with itself.",
        )
    if before is not None and remote_of(before) != remote.key:
        raise refused(
            "ChangingRemoteVirtualNetworkNotAllowed",
            f"Peering {id} cannot be updated to reference another remote virtual network. Delete the peering "
            "and create a new one.",
        )
    for one in of(change, local.id):
        if one.key != id.key and remote_of(one) == remote.key:
            raise refused(
                "AnotherPeeringAlreadyReferencesRemoteVnet",
                f"Peering {one.id} already references remote virtual network {remote.id}. Cannot add another peering "
                f"{id} referencing the same remote virtual network.",
            )
    for one in of(change, remote.id):
        if remote_of(one) == local.key and is_cut_off(one) and not (before is not None and is_cut_off(before)):
            raise refused(
                "RemotePeeringIsDisconnected",
                f"Cannot create or update peering {id} because remote peering {one.id} referencing parent virtual "
                f"network {local.id} is in Disconnected state. Update or re-create the remote peering to get "
                "it back to Initiated state. Peering gets Disconnected when remote vnet or remote peering is "
                "deleted and re-created.",
            )
    _check_spaces(change, id, local, remote)


def _check_spaces(world: World, id: ResourceId, local: Document, remote: Document) -> None:
    """Refuse networks whose addresses overlap, with each other or with what the other is peered with already."""
    found = addresses.overlap(addresses.space_of(local), addresses.space_of(remote))
    if found is not None:
        raise refused(
            "VnetAddressSpacesOverlap",
            f"Cannot create or update peering {id}. Virtual networks {local.id} and {remote.id} cannot be "
            f"peered because their address spaces overlap. Overlapping address prefixes: {found[0]}, {found[1]}",
        )
    for peered, fixed in ((local, remote), (remote, local)):
        for one in of(world, peered.id):
            third = world.get(remote_of(one))
            if third is None or third.key == fixed.key:
                continue
            found = addresses.overlap(addresses.space_of(fixed), addresses.space_of(third))
            if found is not None:
                raise refused(
                    "VnetAddressSpaceOverlapsWithAlreadyPeeredVnet",
                    f"Cannot create or update peering {id}. Virtual networks {fixed.id} and {peered.id} cannot "
                    f"be peered because address space of the first virtual network overlaps with address space "
                    f"of third virtual network {third.id} already peered with the second virtual network. "
                    f"Overlapping address prefixes: {found[0]}, {found[1]}",
                )


def check_space(world: World, network: Document) -> None:
    """Refuse an address space that overlaps with that of a network that ``network`` is peered with."""
    for one in of(world, network.id):
        remote = world.get(remote_of(one))
        if remote is not None:
            _check_spaces(world, one.id, network, remote)


def remove(change: Change, peering: Document) -> None:
    """Remove one half; the other one is cut off."""
    other = other_half(change, peering)
    if other is not None:
        change.put(other.id, KIND, {"properties": {**other.properties, "peeringState": _DISCONNECTED}})
    change.remove(peering.id)


class Peerings:
    """The kind of peerings."""

    name = KIND
    style = Style.NETWORK
    is_tracked = False

    def write(self, change: Change, id: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        """PUT: one half; with ``syncRemoteAddressSpace`` it takes over the other's address space."""
        query = {name.lower(): value for name, value in caller.query.items()}
        return put(change, id, shapes.read(SHAPE, body), is_synced=query.get(_SYNC, "").lower() == "true")

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        """PATCH: Azure has none for peerings; what is said is written, the rest stays."""
        given = shapes.read(SHAPE, body)
        kept = shapes.read(SHAPE, document.body)["properties"]
        return put(change, document.id, {"properties": {**kept, **given["properties"]}}, is_synced=False)

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        """DELETE: one half."""
        remove(change, document)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """The half, with what follows from the other one."""
        return shown(world, document)


def shown(world: World, peering: Document) -> dict[str, Any]:
    """A half as Azure shows it."""
    local, remote = world.get(peering.id.outer), world.get(remote_of(peering))
    properties = {
        **peering.properties,
        "resourceGuid": _guid(peering, local, remote),
        "peeringState": state_of(world, peering),
        "peeringSyncLevel": _sync_level(world, peering, local, remote),
        "routeServiceVips": {},
    }
    if remote is not None:
        properties["remoteVirtualNetworkAddressSpace"] = _space(remote)
    else:
        properties["remoteVirtualNetworkAddressSpace"] = peering.properties["remoteAddressSpace"]
    return showing.resource(peering, properties, has_guid=False)


def _space(network: Document) -> dict[str, list[str]]:
    return {"addressPrefixes": [str(one) for one in addresses.space_of(network)]}


def _guid(peering: Document, local: Document | None, remote: Document | None) -> str:
    """Both halves of a recorded peering show one GUID: it is made of the two networks'."""
    if local is None or remote is None:
        return peering.guid
    return str(uuid.UUID(int=uuid.UUID(local.guid).int ^ uuid.UUID(remote.guid).int))


def _sync_level(world: World, peering: Document, local: Document | None, remote: Document | None) -> str:
    """Which half knows the other's present address space."""
    other = other_half(world, peering)
    knows = remote is None or peering.properties["remoteAddressSpace"] == _space(remote)
    is_known = other is not None and local is not None and other.properties["remoteAddressSpace"] == _space(local)
    if knows:
        return "FullyInSync" if is_known else "RemoteNotInSync"
    return "LocalNotInSync" if is_known else "LocalAndRemoteNotInSync"
