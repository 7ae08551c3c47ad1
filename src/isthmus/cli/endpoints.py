"""``isthmus endpoint``: the customer's side of a private link, with the customer's own Azure credentials.

The composition root of ``isthmus.link`` with the Azure driver. What an endpoint that is there already knows (its alias,
subnet, host and zone) does not have to be said again. Plans and answers go to standard output, progress beside it.
"""

import asyncio
import contextlib
import functools
import inspect
import json
import logging
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from isthmus.cli import flags as flagging
from isthmus.cli import printing
from isthmus.cli.asking import AuthorityOption, ControlPlane, TokenFileOption, UrlOption
from isthmus.kit.clocks import SystemClock
from isthmus.kit.errors import ConfigError, IsthmusError, NotFoundError, RefusedError, TemporaryError
from isthmus.link import exporting, joining, names, reconciling, states, steps
from isthmus.link.clouds import CustomerCloud
from isthmus.link.drivers.azure import config as azure
from isthmus.link.endpoints import ENDPOINT_NAME, CustomerStatus, EndpointSpec, EndpointStatus, ZoneScope
from isthmus.link.errors import BlockedError, NotPermittedError, NotThereError
from isthmus.link.planning import Permissions, Plan
from isthmus.link.reconciling import Began, End, Event, Outcome, Patience, Retrying, Took
from isthmus.link.states import ConnectionState
from isthmus.link.steps import CustomerStep
from isthmus.link.traffic import LAST_HOUR, Traffic

app = typer.Typer(
    add_completion=False,
    help="Private endpoints in your own network: create, show, list, delete, plan, apply, watch, export.",
)

#: Azure's limit for the message of a request.
_MAX_MESSAGE: Final = 140
#: How long bytes are waited for: they are an aside.
_MEASURE_SECONDS: Final = 10.0

Url = Annotated[str | None, typer.Option("--url", help="A deployment's URL, in place of --host.")]
Host = Annotated[
    str | None, typer.Option("--host", metavar="HOST", help="The cluster's host: CLUSTER-ID.external.DOMAIN.")
]
AliasOption = Annotated[str | None, typer.Option("--alias", help="The link service's alias, as the provider shows it.")]
Vnet = Annotated[
    str | None, typer.Option("--vnet", metavar="NAME|ID", help="The virtual network that the endpoint is for.")
]
Subnet = Annotated[str | None, typer.Option("--subnet", metavar="NAME|ID", help="The subnet for its address.")]
Group = Annotated[
    str | None,
    typer.Option("--resource-group", "-g", metavar="NAME", help="The endpoint's resource group; else the network's."),
]
Name = Annotated[str, typer.Option("--name", "-n", help="The endpoint's name.")]
Subscription = Annotated[
    str | None,
    typer.Option(
        "--subscription",
        envvar="AZURE_SUBSCRIPTION_ID",
        metavar="ID",
        help="The endpoint's subscription; else the one that has the network or the endpoint.",
    ),
]
Networks = Annotated[
    list[str] | None,
    typer.Option("--network", metavar="NAME|ID", help="A further network to link with the zone; may repeat."),
]
Scope = Annotated[
    ZoneScope | None,
    typer.Option("--zone-scope", help="A zone of the cluster alone (the default), or of all its domain's hosts."),
]
ZoneGroup = Annotated[
    str | None,
    typer.Option("--zone-resource-group", metavar="NAME", help="The zone's resource group; else the endpoint's."),
]
StaticAddress = Annotated[
    str | None,
    typer.Option("--static-address", metavar="ADDRESS", help="An address of the subnet; else Azure's choice."),
]
Message = Annotated[str | None, typer.Option("--message", help="What the provider reads beside the request.")]
NoRegister = Annotated[
    bool, typer.Option("--no-register", help="Do not register the subscription for Microsoft.Network.")
]
Recreate = Annotated[
    bool, typer.Option("--recreate", help="Where only a new endpoint helps, delete ours and create it again.")
]
MoveNetworks = Annotated[
    bool,
    typer.Option("--move-networks", help="Take networks over from the zone of another endpoint of the same cluster."),
]
Siblings = Annotated[
    list[str] | None,
    typer.Option(
        "--sibling",
        metavar="HOST",
        help="The host of another cluster of the provider's, to be warned if a zone of the domain would hide it; may "
        "repeat. With --control-url all of them are known.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LookSeconds = Annotated[
    float, typer.Option("--look-seconds", min=0.05, max=3600, help="Seconds between two looks while waiting.")
]


@dataclass(frozen=True, slots=True)
class Asked:
    """What was said of an endpoint, before Azure is asked for the rest."""

    host: str | None = None
    url: str | None = None
    alias: str | None = None
    vnet: str | None = None
    subnet: str | None = None
    resource_group: str | None = None
    name: str = ENDPOINT_NAME
    subscription: str | None = None
    network: list[str] | None = None
    zone_scope: ZoneScope | None = None
    zone_resource_group: str | None = None
    static_address: str | None = None
    message: str | None = None
    sibling: list[str] | None = None
    control_url: str | None = None
    control_token_file: Path | None = None
    control_ca_file: Path | None = None


_PLACE: Final[dict[str, tuple[Any, Any]]] = {
    "resource_group": (Group, None),
    "name": (Name, ENDPOINT_NAME),
    "subscription": (Subscription, None),
}
_ASKED: Final[dict[str, tuple[Any, Any]]] = {
    "alias": (AliasOption, None),
    "vnet": (Vnet, None),
    "subnet": (Subnet, None),
    "host": (Host, None),
    "url": (Url, None),
    **_PLACE,
    "network": (Networks, None),
    "zone_scope": (Scope, None),
    "zone_resource_group": (ZoneGroup, None),
    "static_address": (StaticAddress, None),
    "message": (Message, None),
}
_PLANNED: Final[dict[str, tuple[Any, Any]]] = {
    **_ASKED,
    "sibling": (Siblings, None),
    "control_url": (UrlOption, None),
    "control_token_file": (TokenFileOption, None),
    "control_ca_file": (AuthorityOption, None),
}


def _asking(options: dict[str, tuple[Any, Any]]) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Give a command ``options`` and those of Azure, and call it with what was ``asked`` and a ``cloud``."""

    def decorate(command: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(**given: Any) -> None:
            config = azure.load({name: given.pop(name) for name in azure.FLAGS}, os.environ)
            said: dict[str, Any] = {name: given.pop(name) for name in options}
            asked = Asked(**said)
            asyncio.run(_with_cloud(config, functools.partial(command, asked, **given)))

        own = list(inspect.signature(command).parameters.values())[2:]
        wrapped.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [*_parameters(options), *own, *flagging.options(azure.AzureConfig)]
        )
        return wrapped

    return decorate


def _parameters(options: dict[str, tuple[Any, Any]]) -> Iterator[inspect.Parameter]:
    for name, (annotation, default) in options.items():
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def find(name: str, resource_group: str, subscription: str | None = None) -> EndpointStatus:
    """An endpoint as Azure has it now, settings of Azure from the environment. Raises IsthmusError."""
    found: list[EndpointStatus] = []

    async def look(cloud: CustomerCloud) -> None:
        asked = Asked(name=name, resource_group=resource_group, subscription=subscription)
        there = await cloud.find_endpoint(await _endpoint_id(cloud, asked))
        if there is None:
            raise NotThereError("endpoint", name, hint="List them with: isthmus endpoint list.")
        found.append(there)

    asyncio.run(_with_cloud(azure.load(dict.fromkeys(azure.FLAGS), os.environ), look))
    return found[0]


async def _with_cloud(config: azure.AzureConfig, command: Callable[[CustomerCloud], Coroutine[Any, Any, None]]) -> None:
    from isthmus.link.drivers.azure.driver import AzureCloud  # noqa: PLC0415 - an extra

    logging.getLogger("azure").setLevel(logging.CRITICAL)  # what it tells is in our errors
    async with AzureCloud(config) as cloud:
        await command(cloud)


# --- the commands --------------------------------------------------------------------------------------------------


@app.command("create")
@_asking(_PLANNED)
async def create(
    asked: Asked,
    cloud: CustomerCloud,
    *,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for the provider's approval.")] = False,
    wait_seconds: Annotated[
        float | None, typer.Option("--wait-seconds", min=0, help="Wait no longer than that for approval.")
    ] = None,
    no_register: NoRegister = False,
    recreate: Recreate = False,
    move_networks: MoveNetworks = False,
    look_seconds: LookSeconds = 2.0,
    as_json: AsJson = False,
) -> None:
    """Plan, create what is missing, wait for the provider's approval, and link the networks."""
    spec = await _spec(cloud, asked)
    allowed = await _allowed(asked, spec, no_register=no_register, recreate=recreate, move_networks=move_networks)
    patience = Patience(approval_seconds=0.0 if no_wait else wait_seconds, look_seconds=look_seconds)
    end = await _bring_about(cloud, spec, allowed, patience, as_json=as_json)
    if end is End.AWAITING_APPROVAL and not no_wait:
        raise TemporaryError(
            f"The provider has not approved the connection within {wait_seconds:.0f} seconds",
            code="approval_pending",
            hint="Once it has, run the same command again.",
        )


@app.command("apply")
@_asking(_PLANNED)
async def apply(
    asked: Asked,
    cloud: CustomerCloud,
    *,
    no_register: NoRegister = False,
    recreate: Recreate = False,
    move_networks: MoveNetworks = False,
    as_json: AsJson = False,
) -> None:
    """Do what can be done now, without waiting: for schedules, and to go on after an approval."""
    spec = await _spec(cloud, asked)
    allowed = await _allowed(asked, spec, no_register=no_register, recreate=recreate, move_networks=move_networks)
    await _bring_about(cloud, spec, allowed, Patience(approval_seconds=0.0), as_json=as_json)


@app.command("plan")
@_asking(_PLANNED)
async def plan(
    asked: Asked,
    cloud: CustomerCloud,
    *,
    no_register: NoRegister = False,
    recreate: Recreate = False,
    move_networks: MoveNetworks = False,
    as_json: AsJson = False,
) -> None:
    """Print what create would do, and do nothing. Exit code 1 if something is in the way."""
    spec = await _spec(cloud, asked)
    allowed = await _allowed(asked, spec, no_register=no_register, recreate=recreate, move_networks=move_networks)
    side = joining.Joining(cloud, spec, allowed)
    made = side.plan(await side.observe())
    if as_json:
        printing.say(json.dumps(_plan_json(made), indent=2))
    else:
        _print_plan(made)
    if made.blocks:
        raise BlockedError(made.blocks)


@app.command("show")
@_asking(_PLACE)
async def show(asked: Asked, cloud: CustomerCloud, *, as_json: AsJson = False) -> None:
    """The endpoint, its connection's state, the names that lead to it, and its bytes in the last hour."""
    spec = await _known(cloud, asked)
    status, measured = await cloud.observe_endpoint(spec), await _measured(cloud, spec.endpoint_id)
    if as_json:
        printing.say(json.dumps({**_status_json(spec, status), "traffic": _traffic_json(measured)}, indent=2))
        return
    _print_status(spec, status, measured)
    if isinstance(measured, IsthmusError):
        printing.note(f"Traffic is not shown: {measured.summary}\n{measured.hint}".rstrip())
    if status.endpoint is not None and (hint := _next(status.endpoint.state)):
        printing.note(hint)


@app.command("list")
@_asking({"subscription": _PLACE["subscription"]})
async def list_endpoints(asked: Asked, cloud: CustomerCloud, *, as_json: AsJson = False) -> None:
    """The endpoints that Isthmus made, of one subscription or of all that you see."""
    subscriptions = (asked.subscription,) if asked.subscription else await cloud.list_subscriptions()
    found = [one for subscription in subscriptions for one in await cloud.list_endpoints(subscription)]
    if as_json:
        printing.say(json.dumps([_endpoint_json(one) for one in found], indent=2))
        return
    printing.table(
        ("ENDPOINT", "RESOURCE GROUP", "HOST", "ADDRESS", "STATE"),
        (
            (
                names.parse_id(one.endpoint_id).name,
                names.parse_id(one.endpoint_id).group,
                one.host or one.owner,
                str(one.address or printing.NOTHING),
                one.state.value,
            )
            for one in found
        ),
        empty="No endpoints. Make one with: isthmus endpoint create",
    )


@app.command("delete")
@_asking({**_PLACE, "zone_scope": _ASKED["zone_scope"], "zone_resource_group": _ASKED["zone_resource_group"]})
async def delete(asked: Asked, cloud: CustomerCloud, *, as_json: AsJson = False) -> None:
    """Unlink the networks, delete record, zone and endpoint: what is ours, and nothing else."""
    spec = await _known(cloud, asked)
    outcome = await reconciling.reconcile(joining.Leaving(cloud, spec), SystemClock(), Patience(), _Teller(as_json))
    _conclude(spec, outcome, as_json=as_json, done="Nothing of ours is left.")


@app.command("watch")
@_asking(_PLACE)
async def watch(
    asked: Asked,
    cloud: CustomerCloud,
    *,
    until: Annotated[
        ConnectionState | None,
        typer.Option("--until", help="End with 0 in this state, and with 1 in another that is final."),
    ] = None,
    look_seconds: LookSeconds = 5.0,
    as_json: AsJson = False,
) -> None:
    """One line now and for each change of the endpoint's state, until Ctrl-C."""
    endpoint_id = await _endpoint_id(cloud, asked)
    async for found in joining.watch(cloud, endpoint_id, SystemClock(), look_seconds):
        _print_change(found, as_json=as_json)
        if until is None:
            continue
        if found is not None and found.state is until:
            return
        if found is None or states.is_final(found.state):
            state = "gone" if found is None else found.state
            raise RefusedError(
                f"The connection is {state}, and will not become {until}",
                code=f"connection_{state}",
                hint=_next(ConnectionState.DISCONNECTED if found is None else found.state),
            )


@app.command("export")
@_asking(_ASKED)
async def export(
    asked: Asked,
    cloud: CustomerCloud,
    *,
    form: Annotated[exporting.Format, typer.Option("--format", help="A script of az commands, or Terraform.")],
) -> None:
    """Print the same as somebody else's script: for a network where you may not act yourself."""
    printing.say(exporting.export(await _spec(cloud, asked), form).rstrip("\n"))


# --- from what was said to a spec ----------------------------------------------------------------------------------


async def _spec(cloud: CustomerCloud, asked: Asked) -> EndpointSpec:
    """What is wanted: what was said, and for the rest what the endpoint that is there says."""
    endpoint_id = await _endpoint_id(cloud, asked)
    there = await cloud.find_endpoint(endpoint_id)
    where = names.parse_id(endpoint_id)
    host = _host(asked, there)
    subnet_id = _subnet_id(asked, there, where)
    network = await cloud.find_network(names.network_of(subnet_id))
    subnet = names.parse_id(subnet_id).name
    if subnet.lower() not in {one.lower() for one in network.subnets}:
        listed = printing.words(network.subnets, "none")
        raise NotThereError("subnet", subnet, hint=f"Network {names.parse_id(network.network_id).name} has: {listed}.")
    further = [_id_of(one, names.NETWORK, where) for one in asked.network or ()]
    for one in further:
        await cloud.find_network(one)
    alias = asked.alias or (there.alias if there else None)
    if alias is None:
        raise _unsaid("the link service", "--alias", "The provider shows it: isthmus link show.")
    scope, zone_group = _zone_of(asked, there, host, where)
    message = asked.message if asked.message is not None else f"Isthmus agents for {host}"
    if len(message) > _MAX_MESSAGE:
        raise ConfigError(
            f"the message has {len(message)} characters",
            code="message_too_long",
            hint=f"Azure takes up to {_MAX_MESSAGE}.",
        )
    return EndpointSpec(
        endpoint_id=endpoint_id,
        alias=str(names.parse_alias(alias)),
        location=network.location,
        subnet_id=subnet_id,
        host=host,
        networks=tuple({names.key(one): one for one in (network.network_id, *further)}.values()),
        zone_group=zone_group,
        zone_scope=scope,
        message=message,
        address=_address(asked.static_address),
    )


async def _known(cloud: CustomerCloud, asked: Asked) -> EndpointSpec:
    """The spec of an endpoint that is there, by what it remembers of itself."""
    endpoint_id = await _endpoint_id(cloud, asked)
    there = await cloud.find_endpoint(endpoint_id)
    where = names.parse_id(endpoint_id)
    if there is None:
        raise NotThereError("endpoint", where.name, hint="List them with: isthmus endpoint list.")
    if not there.host:
        raise RefusedError(
            f"Endpoint {where.name} was not made by Isthmus",
            code="endpoint_not_ours",
            hint="Look at it with: az network private-endpoint show.",
        )
    host = names.parse_host(there.host)
    scope, zone_group = _zone_of(asked, there, host, where)
    return EndpointSpec(
        endpoint_id=there.endpoint_id,
        alias=there.alias,
        location=there.location,
        subnet_id=there.subnet_id,
        host=host,
        networks=(names.network_of(there.subnet_id),),
        zone_group=zone_group,
        zone_scope=scope,
    )


async def _allowed(
    asked: Asked, spec: EndpointSpec, *, no_register: bool, recreate: bool, move_networks: bool
) -> Permissions:
    return Permissions(
        may_register=not no_register,
        may_recreate=recreate,
        may_move=move_networks,
        siblings=await _siblings(asked, spec),
    )


async def _siblings(asked: Asked, spec: EndpointSpec) -> tuple[names.ClusterHost, ...]:
    """The provider's other clusters, as far as they are said, or known to a control plane; a cluster's own zone hides
    none of them.
    """
    said = tuple(names.parse_host(one) for one in asked.sibling or ())
    if asked.control_url is None or spec.zone_scope is not ZoneScope.DOMAIN:
        return said
    try:
        known = await asyncio.to_thread(_clusters, asked)
    except IsthmusError as error:
        printing.note(f"Whether another cluster would be hidden is not known: {error.summary}")
        return said
    return (*said, *(names.parse_host(one) for one in known))


def _clusters(asked: Asked) -> list[str]:
    """The hosts of all clusters. Raises IsthmusError."""
    with contextlib.closing(ControlPlane(asked.control_url, asked.control_token_file, asked.control_ca_file)) as plane:
        return [one.host for one in plane.clusters()]


async def _endpoint_id(cloud: CustomerCloud, asked: Asked) -> str:
    named = next((names.parse_id(one) for one in (asked.vnet, asked.subnet) if one and names.is_id(one)), None)
    group = asked.resource_group or (named.group if named else None)
    if group is None:
        raise _unsaid("the resource group", "--resource-group", "The endpoint's; the network is looked for there too.")
    subscription = asked.subscription or (named.subscription if named else None)
    if subscription is None:
        subscription = await _subscription(cloud, asked, group)
    return str(names.ResourceId(subscription, group, names.ENDPOINT, (asked.name,)))


async def _subscription(cloud: CustomerCloud, asked: Asked, group: str) -> str:
    """The one subscription that has the endpoint, or its network."""
    seen = await cloud.list_subscriptions()
    if len(seen) == 1:
        return seen[0]
    found = [one for one in seen if await _is_there(cloud, one, asked, group)]
    if len(found) == 1:
        return found[0]
    if found:
        hint = f"{len(found)} of those that you see have the endpoint or its network in resource group {group}."
        raise _unsaid("the subscription", "--subscription", hint)
    kind, name = ("network", asked.vnet) if asked.vnet is not None else ("endpoint", asked.name)
    raise NotThereError(
        kind,
        f"{name} in a resource group {group}",
        hint=f"It was looked for in {len(seen)} subscriptions. List endpoints with: isthmus endpoint list.",
    )


async def _is_there(cloud: CustomerCloud, subscription: str, asked: Asked, group: str) -> bool:
    with suppress(NotFoundError, NotPermittedError):
        if await cloud.find_endpoint(str(names.ResourceId(subscription, group, names.ENDPOINT, (asked.name,)))):
            return True
    with suppress(NotFoundError, NotPermittedError):
        if asked.vnet is not None:
            await cloud.find_network(str(names.ResourceId(subscription, group, names.NETWORK, (asked.vnet,))))
            return True
    return False


def _host(asked: Asked, there: EndpointStatus | None) -> names.ClusterHost:
    said = asked.host or asked.url or (there.host if there else None)
    if not said:
        raise _unsaid("the cluster's host", "--host or --url", "It is in the URL of every deployment of the cluster.")
    return names.parse_host(said)


def _subnet_id(asked: Asked, there: EndpointStatus | None, where: names.ResourceId) -> str:
    if asked.subnet is not None and names.is_id(asked.subnet):
        return str(names.parse_id(asked.subnet, names.SUBNET))
    if asked.vnet is not None and asked.subnet is not None:
        return str(names.parse_id(_id_of(asked.vnet, names.NETWORK, where)).child("subnets", asked.subnet))
    if there is not None and asked.vnet is None and asked.subnet is None:
        return there.subnet_id
    raise _unsaid("the network and its subnet", "--vnet and --subnet", "Names in the resource group, or ids.")


def _zone_of(
    asked: Asked, there: EndpointStatus | None, host: names.ClusterHost, where: names.ResourceId
) -> tuple[ZoneScope, str]:
    known = names.parse_id(there.zone_id) if there is not None and there.zone_id else None
    remembered = ZoneScope.DOMAIN if known is not None and known.name == host.zone else ZoneScope.CLUSTER
    return asked.zone_scope or remembered, asked.zone_resource_group or (known.group if known else where.group)


def _id_of(said: str, kind: str, where: names.ResourceId) -> str:
    """A resource's id, from itself or from its name beside the endpoint."""
    if names.is_id(said):
        return str(names.parse_id(said, kind))
    return str(names.ResourceId(where.subscription, where.group, kind, (said,)))


def _address(said: str | None) -> IPv4Address | None:
    try:
        return None if said is None else IPv4Address(said)
    except AddressValueError:
        raise ConfigError(
            f"{said!r} is not an IPv4 address", code="address_malformed", hint="As in: --static-address 10.1.0.20"
        ) from None


def _unsaid(what: str, option: str, hint: str) -> ConfigError:
    return ConfigError(f"{what} is not known: say {option}", code="option_missing", hint=hint)


# --- doing and telling ---------------------------------------------------------------------------------------------


async def _bring_about(
    cloud: CustomerCloud, spec: EndpointSpec, allowed: Permissions, patience: Patience, *, as_json: bool
) -> End:
    side = joining.Joining(cloud, spec, allowed)
    outcome = await reconciling.reconcile(side, SystemClock(), patience, _Teller(as_json))
    _conclude(spec, outcome, as_json=as_json, done=f"{spec.host} leads to the endpoint now.")
    return outcome.end


class _Teller:
    """Tells what happens: the first plan as the answer, the rest beside it."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._has_planned = False

    def __call__(self, event: Event) -> None:
        match event:
            case reconciling.Planned():
                if not self._has_planned and not self._as_json:
                    _print_plan(event.plan)
                self._has_planned = True
            case Began():
                printing.note(f"begin: {event.step.sentence}")
            case Took():
                printing.note(f"done: {event.step.sentence} ({printing.duration(event.seconds)})")
            case Retrying():
                printing.note(f"trying again in {printing.duration(event.seconds)}: {event.error}")


def _conclude(spec: EndpointSpec, outcome: Outcome[CustomerStatus, CustomerStep], *, as_json: bool, done: str) -> None:
    if as_json:
        answer = {"outcome": outcome.end.value, **_status_json(spec, outcome.status), "plan": _plan_json(outcome.plan)}
        printing.say(json.dumps(answer, indent=2))
    if outcome.end is End.BLOCKED:
        raise BlockedError(outcome.plan.blocks)
    if as_json:
        return
    if outcome.status.endpoint is not None:
        _print_status(spec, outcome.status)
    if outcome.end is End.AWAITING_APPROVAL:
        printing.note("The provider has not approved the connection yet. Once it has, run the same command again.")
    else:
        printing.note(done)


def _print_plan(made: Plan[Any]) -> None:
    if made.is_done:
        printing.say("Nothing to do: all is as it was asked for.")
    for number, step in enumerate(made.steps, start=1):
        printing.say(f"{number:2}. {step.sentence}")
    for warning in made.warnings:
        printing.say(f"warning: {warning.sentence} ({warning.code})")


def _plan_json(made: Plan[Any]) -> dict[str, Any]:
    return {
        "steps": [{"kind": steps.kind_of(one), "sentence": one.sentence} for one in made.steps],
        "warnings": [{"code": one.code, "sentence": one.sentence} for one in made.warnings],
        "blocks": [{"code": one.code, "sentence": one.sentence, "hint": one.hint} for one in made.blocks],
    }


def _endpoint_json(endpoint: EndpointStatus) -> dict[str, Any]:
    return {
        "id": endpoint.endpoint_id,
        "alias": endpoint.alias,
        "location": endpoint.location,
        "subnet_id": endpoint.subnet_id,
        "address": str(endpoint.address) if endpoint.address else None,
        "state": endpoint.state,
        "reason": endpoint.reason,
        "cluster_id": endpoint.owner or None,
        "host": endpoint.host or None,
    }


def _status_json(spec: EndpointSpec, status: CustomerStatus) -> dict[str, Any]:
    zone = status.zone
    return {
        "endpoint": _endpoint_json(status.endpoint) if status.endpoint else None,
        "zone": {
            "id": zone.zone_id,
            "record": spec.record_name,
            "addresses": [str(one) for one in (zone.record.addresses if zone.record else ())],
            "networks": [one.network_id for one in zone.links],
        }
        if zone
        else None,
    }


async def _measured(cloud: CustomerCloud, endpoint_id: str) -> Traffic | IsthmusError:
    """What went through the endpoint, or why that is not known: nothing else depends on it."""
    try:
        async with asyncio.timeout(_MEASURE_SECONDS):
            return await cloud.measure_endpoint(endpoint_id, LAST_HOUR)
    except IsthmusError as error:
        return error
    except TimeoutError:
        hint = "Azure's own state: https://status.azure.com"
        return TemporaryError("Azure Monitor does not answer", code="metrics_unavailable", hint=hint)


def _traffic_json(measured: Traffic | IsthmusError) -> dict[str, Any]:
    if isinstance(measured, IsthmusError):
        return {"problem": {"code": measured.code, "sentence": measured.summary, "hint": measured.hint}}
    return {
        "span_seconds": int(measured.span.total_seconds()),
        "bytes_in": measured.bytes_in,
        "bytes_out": measured.bytes_out,
    }


def _traffic(measured: Traffic | IsthmusError | None) -> str:
    match measured:
        case Traffic(_, None, None):
            return "none measured in the last hour (Azure is a few minutes behind)"
        case Traffic():
            came, went = printing.size(measured.bytes_in or 0), printing.size(measured.bytes_out or 0)
            return f"{came} from the provider, {went} to it in the last hour"
        case _:
            return ""


def _print_status(spec: EndpointSpec, status: CustomerStatus, measured: Traffic | IsthmusError | None = None) -> None:
    endpoint, zone = status.endpoint, status.zone
    record = zone.record if zone else None
    printing.facts(
        (
            ("endpoint", endpoint.endpoint_id if endpoint else ""),
            ("address", str(endpoint.address or "") if endpoint else ""),
            ("state", endpoint.state.value if endpoint else ""),
            (_words_are(endpoint.state) if endpoint else "", endpoint.reason if endpoint else ""),
            ("alias", endpoint.alias if endpoint else ""),
            ("host", str(spec.host)),
            ("zone", spec.zone_name if zone else ""),
            ("record", f"{spec.record_name} {printing.words(map(str, record.addresses))}" if record else ""),
            (
                "networks",
                printing.words((names.parse_id(one.network_id).name for one in zone.links), "") if zone else "",
            ),
            ("traffic", _traffic(measured)),
        )
    )


def _words_are(state: ConnectionState) -> str:
    """What the words beside a connection's state are: until somebody decides, what we have said ourselves."""
    return "message" if state is ConnectionState.PENDING else "reason"


def _next(state: ConnectionState) -> str:
    """What to do about an endpoint in a state, if anything."""
    if state is ConnectionState.PENDING:
        return "The provider has to approve the connection; then: isthmus endpoint apply"
    return "Create the endpoint again: isthmus endpoint create --recreate" if states.is_final(state) else ""


def _print_change(found: EndpointStatus | None, *, as_json: bool) -> None:
    now = datetime.now(UTC)
    if as_json:
        body = _endpoint_json(found) if found is not None else {"state": "gone"}
        printing.say(json.dumps({"at": now.isoformat(), **body}), now=True)
    elif found is None:
        printing.say(f"{now:%H:%M:%S}  gone", now=True)
    else:
        reason = f": {_words_are(found.state)} {found.reason!r}" if found.reason else ""
        printing.say(f"{now:%H:%M:%S}  {found.state}  {found.address or printing.NOTHING}{reason}", now=True)
