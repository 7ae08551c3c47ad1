"""Azure, by Microsoft's asynchronous SDK: the port of ``link.clouds``, for both sides.

Each method is one question or one step. Writes wait for their operation, since what failed is told there alone, and no
longer than ``operation_seconds``. The SDK's own retries are off: who calls decides what is worth a second try.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from types import TracebackType
from typing import Any, Final, Self, TypeVar, assert_never

from azure.core import MatchConditions
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.core.polling import AsyncLROPoller
from azure.identity.aio import DefaultAzureCredential
from azure.mgmt.monitor.aio import MonitorManagementClient
from azure.mgmt.network.aio import NetworkManagementClient
from azure.mgmt.network.models import (
    CheckPrivateLinkServiceVisibilityRequest,
    PrivateEndpoint,
    PrivateEndpointConnection,
    PrivateLinkService,
    Subnet,
)
from azure.mgmt.privatedns.aio import PrivateDnsManagementClient
from azure.mgmt.privatedns.models import PrivateZone, RecordSet, VirtualNetworkLink
from azure.mgmt.resource.resources.aio import ResourceManagementClient
from azure.mgmt.resource.subscriptions.aio import SubscriptionClient

from isthmus.kit.errors import InternalError
from isthmus.link import names, reconciling, steps
from isthmus.link.drivers.azure import bodies, errors, metrics
from isthmus.link.drivers.azure.config import AzureConfig
from isthmus.link.endpoints import CustomerStatus, EndpointSpec, EndpointStatus, ForeignZone, Network, ZoneStatus
from isthmus.link.errors import NotPermittedError, NotThereError, StuckOperationError
from isthmus.link.services import Connection, ProviderStatus, ServiceSpec, ServiceStatus
from isthmus.link.states import Decision
from isthmus.link.steps import CustomerStep, ProviderStep
from isthmus.link.traffic import ServiceTraffic, Traffic

A = TypeVar("A")

_NAMESPACE: Final = "Microsoft.Network"


@dataclass(frozen=True, slots=True)
class _Clients:
    """The SDK's clients for one subscription."""

    network: NetworkManagementClient
    dns: PrivateDnsManagementClient
    resources: ResourceManagementClient
    monitor: MonitorManagementClient


class AzureCloud:
    """Azure. Use it with ``async with``; without ``credential`` it takes the SDK's default chain."""

    def __init__(self, config: AzureConfig, credential: AsyncTokenCredential | None = None) -> None:
        self._config = config
        self._stack = AsyncExitStack()
        self._credential: AsyncTokenCredential
        if credential is None:
            self._credential = own = default_credential(config)
            self._stack.push_async_callback(own.close)
        else:
            self._credential = credential
        self._clients: dict[str, _Clients] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    # --- the customer's side

    async def observe_endpoint(self, spec: EndpointSpec) -> CustomerStatus:
        """All that a plan for an endpoint begins with: about seven reads."""
        endpoint = await self.find_endpoint(spec.endpoint_id)
        return CustomerStatus(
            is_registered=await self._is_registered(spec.subscription),
            is_visible=await self._is_visible(spec) if endpoint is None else None,
            endpoint=endpoint,
            zone=await self._find_zone(spec),
            foreign_zones=tuple([one async for one in self._foreign_zones(spec)]),
        )

    async def find_endpoint(self, endpoint_id: str) -> EndpointStatus | None:
        """One endpoint. Raises NotThereError for a resource group that is not there."""
        where = names.parse_id(endpoint_id, names.ENDPOINT)
        operations = self._for(where.subscription).network.private_endpoints
        body = await self._found("look at the endpoint", operations.get(where.group, where.name))
        return None if body is None else await self._with_address(body)

    async def list_endpoints(self, subscription: str) -> tuple[EndpointStatus, ...]:
        """The endpoints of a subscription that have our tag."""
        listed = self._for(subscription).network.private_endpoints.list_by_subscription()
        found = [one async for one in self._listed("list endpoints", listed)]
        return tuple([await self._with_address(one) for one in found if bodies.owner_of(one)])

    async def find_network(self, network_id: str) -> Network:
        """A virtual network. Raises NotThereError."""
        where = names.parse_id(network_id, names.NETWORK)
        operations = self._for(where.subscription).network.virtual_networks
        body = await self._found("look at the network", operations.get(where.group, where.name))
        if body is None:
            raise errors.not_there(network_id)
        subnets = tuple(str(one.get("name")) for one in bodies.properties_of(body).get("subnets") or ())
        return Network(str(body["id"]), str(body["location"]), subnets)

    async def list_subscriptions(self) -> tuple[str, ...]:
        """The ids of the subscriptions that the credential sees."""
        async with SubscriptionClient(self._credential, **self._options()) as client:
            found = [one async for one in self._listed("list subscriptions", client.subscriptions.list())]
        return tuple(str(one["subscriptionId"]) for one in found)

    async def measure_endpoint(self, endpoint_id: str, span: timedelta) -> Traffic:
        """What went through an endpoint in the last ``span``."""
        answer = await self._measured(endpoint_id, span, (metrics.ENDPOINT_IN, metrics.ENDPOINT_OUT), ("Total",))
        return Traffic(span, metrics.total(answer, metrics.ENDPOINT_IN), metrics.total(answer, metrics.ENDPOINT_OUT))

    async def apply_customer(self, step: CustomerStep) -> None:
        """Take a step of the customer's."""
        match step:
            case steps.RegisterProvider():
                await self._register(step.subscription)
            case steps.CreateEndpoint():
                await self._create_endpoint(step.spec)
            case steps.DeleteEndpoint():
                where = names.parse_id(step.endpoint_id)
                operations = self._for(where.subscription).network.private_endpoints
                await self._finished("delete the endpoint", lambda: operations.begin_delete(where.group, where.name))
            case steps.CreateZone():
                await self._create_zone(step)
            case steps.PutRecord():
                await self._put_record(step)
            case steps.LinkNetwork():
                await self._link_network(step)
            case steps.UnlinkNetwork():
                where = names.parse_id(step.link_id)
                links = self._for(where.subscription).dns.virtual_network_links
                await self._finished("unlink the network", lambda: links.begin_delete(where.group, *where.names))
            case steps.DeleteRecord():
                await self._delete_record(step)
            case steps.DeleteZone():
                where = names.parse_id(step.zone_id)
                zones = self._for(where.subscription).dns.private_zones
                await self._finished("delete the zone", lambda: zones.begin_delete(where.group, where.name))
            case steps.AwaitCloud() | steps.AwaitApproval():
                raise InternalError(f"a wait is no change: {step.sentence}", code="wait_applied")
            case _:
                assert_never(step)

    async def _create_endpoint(self, spec: EndpointSpec) -> None:
        where = names.parse_id(spec.endpoint_id)
        body = PrivateEndpoint(bodies.endpoint(spec))
        operations = self._for(where.subscription).network.private_endpoints
        await self._finished(
            f"create endpoint {where.name}",
            lambda: operations.begin_create_or_update(where.group, where.name, body),
        )

    async def _create_zone(self, step: steps.CreateZone) -> None:
        where = names.parse_id(step.zone_id)
        zones = self._for(where.subscription).dns.private_zones
        await self._finished(
            f"create zone {where.name}",
            lambda: zones.begin_create_or_update(
                where.group,
                where.name,
                PrivateZone(bodies.zone(step.cluster_id)),
                match_condition=MatchConditions.IfMissing,
            ),
        )

    async def _put_record(self, step: steps.PutRecord) -> None:
        if step.address is None:
            raise InternalError("a record needs an address", code="record_without_address")
        where = names.parse_id(step.zone_id)
        condition: dict[str, Any] = {"match_condition": MatchConditions.IfMissing}
        if step.etag:
            condition = {"etag": step.etag, "match_condition": MatchConditions.IfNotModified}
        body = RecordSet(bodies.record(step.address, step.ttl_seconds, step.cluster_id))
        records = self._for(where.subscription).dns.record_sets
        await self._done(
            f"put record {step.record} in zone {where.name}",
            records.create_or_update(where.group, where.name, "A", step.record, body, **condition),
        )

    async def _delete_record(self, step: steps.DeleteRecord) -> None:
        where = names.parse_id(step.zone_id)
        records = self._for(where.subscription).dns.record_sets
        await self._done(
            f"delete record {step.record} of zone {where.name}",
            records.delete(
                where.group,
                where.name,
                "A",
                step.record,
                etag=step.etag,
                match_condition=MatchConditions.IfNotModified,
            ),
        )

    async def _link_network(self, step: steps.LinkNetwork) -> None:
        where, network = names.parse_id(step.zone_id), names.parse_id(step.network_id)
        links = self._for(where.subscription).dns.virtual_network_links
        body = VirtualNetworkLink(bodies.network_link(step.network_id, step.cluster_id))
        await self._finished(
            f"link network {network.name} with zone {where.name}",
            lambda: links.begin_create_or_update(where.group, where.name, names.link_name(step.network_id), body),
        )

    async def _is_visible(self, spec: EndpointSpec) -> bool | None:
        """Whether the subscription may see the alias; None if it may not even ask, or gets no answer."""
        services = self._for(spec.subscription).network.private_link_services
        body = CheckPrivateLinkServiceVisibilityRequest({"privateLinkServiceAlias": spec.alias})
        try:
            answer = await self._finished(
                "check whether the alias is visible",
                lambda: services.begin_check_private_link_service_visibility(spec.location, body),
                seconds=self._config.call_seconds,
            )
        except (NotPermittedError, StuckOperationError):
            return None
        return bool(answer.get("visible")) if answer is not None else None

    async def _with_address(self, body: bodies.Json) -> EndpointStatus:
        addresses = await self._addresses(body)
        return bodies.read_endpoint(body, addresses[0] if addresses else None)

    async def _find_zone(self, spec: EndpointSpec) -> ZoneStatus | None:
        where = names.parse_id(spec.zone_id)
        dns = self._for(where.subscription).dns
        body = await self._found("look at the zone", dns.private_zones.get(where.group, where.name))
        if body is None:
            return None
        record, others = None, []
        async for one in self._listed("list records", dns.record_sets.list(where.group, where.name)):
            name, kind = str(one["name"]), bodies.record_kind(one)
            if kind == "A" and name.lower() == spec.record_name:
                record = bodies.read_record(one)
            elif kind != "SOA":
                others.append(name)
        links = self._listed("list network links", dns.virtual_network_links.list(where.group, where.name))
        return ZoneStatus(
            zone_id=str(body["id"]),
            owner=bodies.owner_of(body),
            record=record,
            links=tuple([bodies.read_network_link(one) async for one in links]),
            other_records=tuple(others),
            is_settled=bodies.is_settled(body),
        )

    async def _foreign_zones(self, spec: EndpointSpec) -> AsyncIterator[ForeignZone]:
        """Zones of the host and of its domain, but ours, that the networks are linked with, where we may look."""
        wanted = {str(spec.host), spec.host.zone}
        networks = {names.key(one) for one in spec.networks}
        subscriptions = {names.parse_id(one).subscription.lower(): one for one in (spec.endpoint_id, *spec.networks)}
        for one in subscriptions.values():
            dns = self._for(names.parse_id(one).subscription).dns
            try:
                zones = [zone async for zone in self._listed("list zones", dns.private_zones.list())]
                for zone in zones:
                    zone_id = str(zone["id"])
                    if str(zone["name"]).lower() not in wanted or names.are_same(zone_id, spec.zone_id):
                        continue
                    where = names.parse_id(zone_id)
                    links = dns.virtual_network_links.list(where.group, where.name)
                    async for link in self._listed("list network links", links):
                        read = bodies.read_network_link(link)
                        if names.key(read.network_id) in networks:
                            yield ForeignZone(zone_id, read.network_id, read.link_id, read.owner)
            except (NotPermittedError, NotThereError):
                continue  # what cannot be seen is found out by linking

    # --- the provider's side

    async def observe_service(self, spec: ServiceSpec) -> ProviderStatus:
        """All that a plan for a link service begins with. Raises NotThereError for a subnet that is not there."""
        where = names.parse_id(spec.nat_subnet_id, names.SUBNET)
        subnets = self._for(where.subscription).network.subnets
        subnet = await self._found("look at the subnet", subnets.get(where.group, *where.names))
        if subnet is None:
            raise errors.not_there(spec.nat_subnet_id)
        policies = str(bodies.properties_of(subnet).get("privateLinkServiceNetworkPolicies", "Enabled"))
        return ProviderStatus(
            is_registered=await self._is_registered(names.parse_id(spec.service_id).subscription),
            has_subnet_policies=policies.lower() != "disabled",
            service=await self.find_service(spec.service_id),
        )

    async def find_service(self, service_id: str) -> ServiceStatus | None:
        """One link service with its connections and NAT addresses."""
        where = names.parse_id(service_id, names.SERVICE)
        services = self._for(where.subscription).network.private_link_services
        body = await self._found("look at the link service", services.get(where.group, where.name))
        return None if body is None else bodies.read_service(body, await self._addresses(body))

    async def measure_service(self, service_id: str, span: timedelta) -> ServiceTraffic:
        """What went through a link service in the last ``span``: two questions, since bytes have no dimension."""
        carried = await self._measured(service_id, span, (metrics.SERVICE_IN, metrics.SERVICE_OUT), ("Total",))
        ports = await self._measured(service_id, span, (metrics.PORTS,), ("Average", "Maximum"), by=metrics.ADDRESS)
        traffic = Traffic(span, metrics.total(carried, metrics.SERVICE_IN), metrics.total(carried, metrics.SERVICE_OUT))
        return ServiceTraffic(traffic, metrics.ports(ports))

    async def apply_provider(self, step: ProviderStep) -> None:
        """Take a step of the provider's."""
        match step:
            case steps.RegisterProvider():
                await self._register(step.subscription)
            case steps.DisableSubnetPolicies():
                await self._disable_policies(step.subnet_id)
            case steps.CreateService():
                await self._put_service(step.spec, bodies.service(step.spec))
            case steps.ChangeService():
                await self._change_service(step.spec)
            case steps.RemoveConnection():
                await self._remove_connection(step.service_id, step.name)
            case steps.DeleteService():
                where = names.parse_id(step.service_id)
                services = self._for(where.subscription).network.private_link_services
                await self._finished("delete the link service", lambda: services.begin_delete(where.group, where.name))
            case steps.AwaitCloud():
                raise InternalError(f"a wait is no change: {step.sentence}", code="wait_applied")
            case _:
                assert_never(step)

    async def decide(self, service_id: str, connection: str, decision: Decision, reason: str) -> Connection | None:
        """Approve, reject, expire or remove a connection by its name in the list."""
        if decision is Decision.REMOVE:
            await self._remove_connection(service_id, connection)
            return None
        where = names.parse_id(service_id)
        services = self._for(where.subscription).network.private_link_services
        body = PrivateEndpointConnection(bodies.decision(decision, reason))
        answer = await self._done(
            f"{decision} the connection",
            services.update_private_endpoint_connection(where.group, where.name, connection, body),
        )
        return bodies.read_connection(_json(answer))

    async def _remove_connection(self, service_id: str, connection: str) -> None:
        where = names.parse_id(service_id)
        services = self._for(where.subscription).network.private_link_services
        await self._finished(
            "remove the connection",
            lambda: services.begin_delete_private_endpoint_connection(where.group, where.name, connection),
        )

    async def _disable_policies(self, subnet_id: str) -> None:
        where = names.parse_id(subnet_id)
        subnets = self._for(where.subscription).network.subnets
        body = await self._found("look at the subnet", subnets.get(where.group, *where.names))
        if body is None:
            raise errors.not_there(subnet_id)
        properties = {**bodies.properties_of(body), "privateLinkServiceNetworkPolicies": "Disabled"}
        changed = Subnet({**body, "properties": properties})
        await self._finished(
            f"disable the policies of subnet {where.name}",
            lambda: subnets.begin_create_or_update(where.group, where.parent.name, where.name, changed),
        )

    async def _change_service(self, spec: ServiceSpec) -> None:
        where = names.parse_id(spec.service_id)
        services = self._for(where.subscription).network.private_link_services
        body = await self._found("look at the link service", services.get(where.group, where.name))
        if body is None:
            raise errors.not_there(spec.service_id)
        await self._put_service(spec, bodies.changed_service(spec, body))

    async def _put_service(self, spec: ServiceSpec, body: bodies.Body) -> None:
        where = names.parse_id(spec.service_id)
        services = self._for(where.subscription).network.private_link_services
        await self._finished(
            f"write link service {where.name}",
            lambda: services.begin_create_or_update(where.group, where.name, PrivateLinkService(body)),
        )

    # --- both sides

    async def _is_registered(self, subscription: str) -> bool:
        """Whether Microsoft.Network may be used; taken for granted where that cannot be seen."""
        providers = self._for(subscription).resources.providers
        try:
            body = await self._found("look at the registration", providers.get(_NAMESPACE))
        except NotPermittedError:
            return True
        return body is not None and str(body.get("registrationState", "")).lower() == "registered"

    async def _register(self, subscription: str) -> None:
        providers = self._for(subscription).resources.providers
        what = f"register subscription {subscription} for {_NAMESPACE}"
        await self._done(what, providers.register(_NAMESPACE))
        try:
            async with asyncio.timeout(self._config.operation_seconds):
                while True:
                    if await self._is_registered(subscription):
                        return
                    await asyncio.sleep(self._config.poll_seconds)
        except TimeoutError:
            raise reconciling.stuck(what, self._config.operation_seconds) from None

    async def _addresses(self, body: bodies.Json) -> tuple[IPv4Address, ...]:
        interface = bodies.interface_of(body)
        if interface is None:
            return ()
        where = names.parse_id(interface)
        interfaces = self._for(where.subscription).network.network_interfaces
        found = await self._found("look at the network interface", interfaces.get(where.group, where.name))
        return () if found is None else bodies.addresses_of(found)

    async def _measured(
        self, resource_id: str, span: timedelta, names_of: Sequence[str], aggregations: Sequence[str], *, by: str = ""
    ) -> bodies.Body:
        """Azure Monitor's minutes of a resource's metrics; ``by`` is a dimension that takes them apart."""
        end = datetime.now(UTC)
        monitor = self._for(names.parse_id(resource_id).subscription).monitor
        call = monitor.metrics.list(
            resource_id,
            timespan=metrics.timespan(end - span, end),
            interval="PT1M",
            metricnames=",".join(names_of),
            aggregation=",".join(aggregations),
            filter=f"{by} eq '*'" if by else None,
        )
        return _json(await self._done("read metrics", call))

    # --- calls

    async def _found(self, doing: str, call: Awaitable[Any]) -> bodies.Body | None:
        """What a read answers; None for a resource that is not there. A missing group is an error."""
        try:
            return _json(await self._in_time(call))
        except ResourceNotFoundError as error:
            translated = errors.translated(error, doing)
            if isinstance(translated, NotThereError):
                raise translated from None
            return None
        except AzureError as error:
            raise errors.translated(error, doing) from None

    async def _done(self, doing: str, call: Awaitable[A]) -> A:
        """A write without an operation."""
        try:
            return await self._in_time(call)
        except AzureError as error:
            raise errors.translated(error, doing) from None

    async def _finished(
        self, doing: str, begin: Callable[[], Awaitable[AsyncLROPoller[Any]]], *, seconds: float | None = None
    ) -> bodies.Body | None:
        """A write and its operation, which may take ``seconds``. Raises StuckOperationError."""
        limit = min(seconds or self._config.operation_seconds, self._config.operation_seconds)
        try:
            poller = await self._in_time(begin())
            async with asyncio.timeout(limit):
                answer = await poller.result()
        except TimeoutError:
            raise reconciling.stuck(doing, limit) from None
        except AzureError as error:
            raise errors.translated(error, doing) from None
        return None if answer is None else _json(answer)

    async def _listed(self, doing: str, pages: AsyncIterator[Any]) -> AsyncIterator[bodies.Body]:
        """Everything of a list. A list of what is gone is empty."""
        try:
            async for one in pages:
                yield _json(one)
        except ResourceNotFoundError as error:
            translated = errors.translated(error, doing)
            if isinstance(translated, NotThereError):
                raise translated from None
        except AzureError as error:
            raise errors.translated(error, doing) from None

    async def _in_time(self, call: Awaitable[A]) -> A:
        try:
            async with asyncio.timeout(self._config.call_seconds):
                return await call
        except TimeoutError:
            raise errors.silent(self._config.call_seconds) from None

    # --- clients

    def _options(self) -> dict[str, Any]:
        config = self._config
        options: dict[str, Any] = {
            "base_url": config.arm_endpoint.rstrip("/"),
            "credential_scopes": [config.scope],
            "retry_total": 0,
            "polling_interval": config.poll_seconds,
        }
        if config.ca_file is not None:
            options["connection_verify"] = str(config.ca_file)
        return options

    def _for(self, subscription: str) -> _Clients:
        """The clients of a subscription, made when they are first needed, closed with us."""
        found = self._clients.get(subscription.lower())
        if found is None:
            options = self._options()
            found = _Clients(
                NetworkManagementClient(self._credential, subscription, **options),
                PrivateDnsManagementClient(self._credential, subscription, **options),
                ResourceManagementClient(self._credential, subscription, **options),
                MonitorManagementClient(self._credential, subscription, **options),
            )
            self._clients[subscription.lower()] = found
            for client in (found.network, found.dns, found.resources, found.monitor):
                self._stack.push_async_callback(client.close)
        return found


def default_credential(config: AzureConfig) -> DefaultAzureCredential:
    """The SDK's chain: environment, workload identity, managed identity, ``az login``, and so on."""
    options: dict[str, Any] = {}
    if config.authority is not None:
        options["authority"] = config.authority
    if config.ca_file is not None:
        options["connection_verify"] = str(config.ca_file)
    return DefaultAzureCredential(**options)


def _json(model: Any) -> bodies.Body:
    found: bodies.Body = model.as_dict()
    return found
