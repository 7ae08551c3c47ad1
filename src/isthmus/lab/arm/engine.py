"""The engine: from a call to an answer, for every kind of resource alike.

What is decided here, in this order: the api-version, the caller, the subscription, the kind, the group, the body,
location, tags and name, the operation that may be in the way, the ETag; then the kind decides. A write is one change:
it is on disk before it is answered, and then the packets follow.

Invariant: between drafting a change and committing it nothing is awaited, so that writes come one after another.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from isthmus.kit.clocks import Clock, SystemClock
from isthmus.kit.logs import get
from isthmus.lab import ids
from isthmus.lab.arm import addresses, etags, filtering, operations, paging, rules, versions
from isthmus.lab.arm.addresses import Address, Collection, Following, Question, Resource
from isthmus.lab.arm.calls import Answer, Call, refused
from isthmus.lab.arm.operations import Operation, Operations
from isthmus.lab.arm.registry import Registry
from isthmus.lab.documents import Change, Document, ProvisioningState, World
from isthmus.lab.errors import ArmError, Refusal
from isthmus.lab.identity import Tokens
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Caller, Decided, Kind, Mixed, Style
from isthmus.lab.store import Draft, Store
from isthmus.lab.tenancy import Tenancy

log = get(component="resource manager")

Settle = Callable[[Change], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """``operation_seconds`` makes operations last, for those who test how they wait for them."""

    #: How long an operation takes beyond what it needs.
    operation_seconds: float = 0.0
    #: How long a question for an operation's status is held while it runs, so that the first one finds it ended.
    hold_seconds: float = 0.4


@dataclass(frozen=True, slots=True)
class Page:
    """An address of its own: ``path`` in lower case, ``{word}`` for what varies.

    ``{*scope}`` in front is the id of anything. ``is_open`` ones are for everybody.
    """

    method: str
    path: tuple[str, ...]
    answer: "Callable[[Engine, Call, Mapping[str, str]], Awaitable[Answer]]"
    is_open: bool = False

    def match(self, call: Call) -> dict[str, str] | None:
        """What stands for the words that vary; None if it is another page."""
        path, segments, found = self.path, call.segments, dict[str, str]()
        if path[0] == "{*scope}":
            path = path[1:]
            scope = segments[: -len(path)]
            if len(scope) < 2 or scope[0].lower() != "subscriptions":
                return None
            found = {"scope": "/".join(scope), "subscription": scope[1]}
            segments = segments[-len(path) :]
        if len(segments) != len(path):
            return None
        for word, given in zip(path, segments, strict=True):
            if word.startswith("{"):
                found[word[1:-1]] = given
            elif word != given.lower():
                return None
        return found


async def _nothing_to_settle(_change: Change) -> None:
    return None


class Engine:
    """One resource manager over one store."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        tokens: Tokens,
        *,
        settle: Settle = _nothing_to_settle,
        pages: Sequence[Page] = (),
        config: EngineConfig | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.registry = registry
        self.store = store
        self.tokens = tokens
        self.config = config or EngineConfig()
        self._settle = settle
        self._pages = pages
        self._clock = clock or SystemClock()
        self.operations = Operations(store.world)
        self._following: set[asyncio.Task[None]] = set()

    @property
    def tenancy(self) -> Tenancy:
        """Whose resources they are."""
        return self.tokens.tenancy

    async def answer(self, call: Call) -> Answer:
        """Answer one call. Nothing is raised: what goes wrong is an answer too."""
        try:
            return await self._answer(call)
        except ArmError as error:
            return refused(error)
        except Exception:
            log.exception("answering a call failed", method=call.method, path=call.path)
            return refused(ArmError(500, "InternalServerError", "An unexpected error occurred."))

    async def close(self) -> None:
        """Wait for what still follows a change."""
        await asyncio.gather(*self._following, return_exceptions=True)

    async def _answer(self, call: Call) -> Answer:
        rules.check_path(call.segments)
        allowed: set[str] = set()
        for page in self._pages:
            words = page.match(call)
            if words is None:
                continue
            if page.method == call.method:
                if not page.is_open:
                    self._admit(call, words.get("subscription"))
                return await page.answer(self, call, words)
            allowed.add(page.method)
        version = self._admit(call, call.segments[1] if _names_subscription(call) else None)
        try:
            address = addresses.find(call.segments, self.registry)
        except ArmError:
            if allowed:
                raise rules.not_allowed(call.method, allowed) from None
            raise
        return await self._at(address, call, Caller(version, dict(call.query)))

    def _admit(self, call: Call, subscription: str | None) -> str:
        version = versions.read(call.query)
        self.tokens.check(call.headers.get("authorization"))
        if subscription is not None:
            rules.check_subscription(self.tenancy, subscription)
        return version

    async def _at(self, address: Address, call: Call, caller: Caller) -> Answer:
        match address:
            case Following():
                return await self._follow_up(address, call)
            case Question():
                return await self._ask(address, call, caller)
            case Collection():
                return self._list(address, call, caller)
            case Resource():
                return await self._at_resource(address, call, caller)

    # -- reading

    def _list(self, address: Collection, call: Call, caller: Caller) -> Answer:
        world = self.store.world
        virtual = self.registry.virtual(address.kind)
        kind = self._kind(address.kind, caller) if virtual is None else None
        if call.method != "GET":
            raise rules.not_allowed(call.method, {"GET"})
        parent = address.parent
        self._require_group(world, parent)
        if parent.namespace and world.get(parent) is None:
            raise rules.parent_not_found("read", address.kind, parent)
        listed = kind if virtual is None and isinstance(kind, Mixed) else virtual
        if listed is not None:
            values = listed.list(world, parent, caller)
            cut, link = paging.cut(call, [str(one.get("id", "")) for one in values])
            return Answer(200, paging.shown(values[cut], link))
        assert kind is not None  # noqa: S101  (for the type checker)
        found = self._documents(world, kind, parent)
        if kind.style is Style.GROUP:
            fits = filtering.parse(call.query.get("$filter"))
            found = [one for one in found if fits(kind.show(world, one, caller))]
        cut, link = paging.cut(call, [one.key for one in found])
        return Answer(200, paging.shown([self.show(kind, world, one, caller) for one in found[cut]], link))

    def _documents(self, world: World, kind: Kind, parent: ResourceId) -> list[Document]:
        if parent.namespace or kind.name == ids.GROUP_KIND:
            return list(world.children(parent, kind.name))
        return list(world.all(kind.name, subscription=parent.subscription, group=parent.group))

    def show(self, kind: Kind, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        """A document as clients see it, with the state of the operation that runs on it."""
        operation = self.operations.running_on(document.key)
        if operation is not None:
            state = ProvisioningState.DELETING if operation.is_delete else ProvisioningState.UPDATING
            document = replace(document, state=state)
        return kind.show(world, document, caller)

    def _get(self, kind: Kind, id: ResourceId, caller: Caller) -> Answer:
        world: World = self.store.world
        document = world.get(id)
        if document is None:
            world, document = self._ghost(id) or (world, None)
        if document is not None:
            shown = self.show(kind, world, document, caller)
        elif isinstance(kind, Mixed) and id.parent is not None and world.get(id.parent) is not None:
            shown = kind.find(world, id, caller)
        else:
            raise rules.resource_not_found(world, kind, id)
        return Answer(200, shown, _etag_header(shown))

    def _ghost(self, id: ResourceId) -> tuple[World, Document] | None:
        operation = self.operations.running_on(id.key)
        return operation.ghost if operation is not None else None

    # -- one resource

    async def _at_resource(self, address: Resource, call: Call, caller: Caller) -> Answer:
        virtual = self.registry.virtual(address.kind)
        if virtual is not None:
            return self._get_virtual(virtual.list, address, call, caller)
        kind = self._kind(address.kind, caller)
        if address.id.namespace:
            self._require_group(self.store.world, address.id)
        match call.method:
            case "GET":
                return self._get(kind, address.id, caller)
            case "HEAD":
                return self._head(kind, address.id)
            case "PUT":
                return await self._put(kind, address.id, call, caller)
            case "PATCH":
                return await self._patch(kind, address.id, call, caller)
            case "DELETE":
                return await self._delete(kind, address.id, call, caller)
            case method:
                raise rules.not_allowed(method, {"GET", "HEAD", "PUT", "PATCH", "DELETE"})

    def _get_virtual(
        self,
        listing: Callable[[World, ResourceId, Caller], Sequence[dict[str, Any]]],
        address: Resource,
        call: Call,
        caller: Caller,
    ) -> Answer:
        if call.method != "GET":
            raise rules.not_allowed(call.method, {"GET"})
        world = self.store.world
        self._require_group(world, address.id)
        parent = address.id.parent
        if parent is None or (parent.namespace and world.get(parent) is None):
            raise rules.resource_missing(address.id)
        for one in listing(world, parent, caller):
            if str(one.get("name", "")).lower() == address.id.name.lower():
                return Answer(200, one, _etag_header(one))
        raise rules.nested_not_found(address.id)

    def _head(self, kind: Kind, id: ResourceId) -> Answer:
        if self.store.world.get(id) is not None:
            return Answer(204)
        raise rules.resource_not_found(self.store.world, kind, id)

    async def _put(self, kind: Kind, id: ResourceId, call: Call, caller: Caller) -> Answer:
        body = call.json()
        draft = self.store.draft()
        before = draft.get(id)
        rules.check_write(kind, id, body, before)
        if id.namespace:
            self._require_registration(draft, id)
            self._require_parent(draft, kind, id, "write")
        self._refuse_concurrent(kind, id, call)
        try:
            etags.check(call.headers, kind, id, before)
            document = kind.write(draft, before.id if before else id, body, before, caller)
        except ArmError as error:
            return self._refuse(kind, id, error, call, caller)
        status = 200 if before else 201
        return await self._accept(kind, draft, document, call, caller, status=status)

    async def _patch(self, kind: Kind, id: ResourceId, call: Call, caller: Caller) -> Answer:
        body = call.json()
        draft = self.store.draft()
        before = draft.get(id)
        if before is None:
            if id.namespace:
                self._require_parent(draft, kind, id, "write")
            raise rules.resource_not_found(draft, kind, id)
        rules.check_patch(kind, body)
        self._refuse_concurrent(kind, id, call)
        try:
            etags.check(call.headers, kind, id, before)
            document = kind.patch(draft, before, body, caller)
        except ArmError as error:
            return self._refuse(kind, id, error, call, caller)
        style = Style.SYNC if kind.style is Style.NETWORK else kind.style
        return await self._accept(kind, draft, document, call, caller, status=200, style=style)

    async def patch(self, document: Document, body: Mapping[str, Any], caller: Caller) -> None:
        """Change a document as PATCH does, and return when the packets have followed. Raises errors.ArmError."""
        kind = self._kind(document.kind, caller)
        draft = self.store.draft()
        kind.patch(draft, document, body, caller)
        await self._commit_and_settle(draft)

    async def apply(self, id: ResourceId, body: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        """Write a resource as PUT does, after what is in its way; it as it is when the packets have followed.

        Raises errors.ArmError.
        """
        kind = self._kind(id.kind, caller)
        while (operation := self.operations.conflicting(id, kind.style)) is not None:
            await operation.ended.wait()
        draft = self.store.draft()
        self._require_group(draft, id)
        before = draft.get(id)
        rules.check_write(kind, id, body, before)
        self._require_registration(draft, id)
        self._require_parent(draft, kind, id, "write")
        document = kind.write(draft, before.id if before else id, body, before, caller)
        await self._commit_and_settle(draft)
        world = self.store.world
        return kind.show(world, world.get(document.key) or document, caller)

    def look(self, id: ResourceId, caller: Caller) -> dict[str, Any] | None:
        """A resource as it is shown, if it is there."""
        document = self.store.world.get(id)
        kind = self.registry.kind(document.kind) if document is not None else None
        return (
            self.show(kind, self.store.world, document, caller) if document is not None and kind is not None else None
        )

    async def _delete(self, kind: Kind, id: ResourceId, call: Call, caller: Caller) -> Answer:
        draft = self.store.draft()
        before = draft.get(id)
        if before is None:
            running = self.operations.running_on(id.key)
            if running is not None and running.is_delete:
                return operations.waiting(running, call.origin)
            if kind.style is Style.GROUP:
                raise rules.resource_not_found(draft, kind, id)
            return Answer(204)
        self._refuse_concurrent(kind, id, call)
        world = self.store.world
        try:
            etags.check(call.headers, kind, id, before)
            kind.remove(draft, before, caller)
        except ArmError as error:
            return self._refuse(kind, id, error, call, caller)
        if kind.style is Style.SYNC:
            await self._commit_and_settle(draft)
            return Answer(200)
        operation = self._operation(kind, before.id, "Delete", rules.location_of(world, before), caller, is_delete=True)
        operation.ghost = (world, before)
        self._start(draft, operation)
        answer = operations.waiting(operation, call.origin)
        return Answer(answer.status, None, answer.headers | _notification(kind))

    async def _accept(
        self,
        kind: Kind,
        draft: Draft,
        document: Document,
        call: Call,
        caller: Caller,
        *,
        status: int,
        style: Style | None = None,
    ) -> Answer:
        """Keep a change, let the packets follow, and answer as the kind's provider does."""
        match style or kind.style:
            case Style.SYNC | Style.GROUP | Style.DEPLOYMENT:
                await self._commit_and_settle(draft)
                world = self.store.world
                shown = kind.show(world, world.get(document.key) or document, caller)
                return Answer(status, shown, _etag_header(shown))
            case Style.NETWORK:
                operation = self._operation(kind, document.id, "Put", rules.location_of(draft, document), caller)
                self._start(draft, operation)
                shown = self.show(kind, self.store.world, document, caller)
                headers = {
                    "Azure-AsyncOperation": operation.status_url(call.origin),
                    "Retry-After": str(operations.RETRY_SECONDS),
                }
                if isinstance(kind, Decided):
                    await self._clock.wait(operation.ended, self.config.hold_seconds)
                return Answer(status, shown, headers | _notification(kind))
            case Style.PRIVATE_DNS:
                operation = self._operation(kind, document.id, "Upsert", rules.location_of(draft, document), caller)
                self._start(draft, operation)
                return _accepted(operation, call)

    # -- operations

    def _operation(
        self, kind: Kind, target: ResourceId, verb: str, location: str, caller: Caller, *, is_delete: bool = False
    ) -> Operation:
        return Operation(
            id=operations.new_id(kind.style, target, verb, location),
            style=kind.style,
            target=target,
            location=location,
            api_version=caller.api_version,
            is_delete=is_delete,
        )

    def _start(self, draft: Draft, operation: Operation) -> None:
        """Keep the change and let the packets follow."""
        self.begin(draft, operation, self._settled(draft))

    def begin(self, draft: Draft, operation: Operation, work: Coroutine[Any, Any, Refusal | None]) -> None:
        """Keep the change, and let the operation last as long as its work. Raises errors.ArmError (507)."""
        self.operations.begin(draft, operation)
        try:
            self.store.commit(draft)
        except ArmError:
            self.operations.forget(operation)
            work.close()
            raise
        self._spawn(self._run(draft, operation, work), f"operation {operation.id}")

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine, name=name)
        self._following.add(task)
        task.add_done_callback(self._following.discard)
        return task

    async def _run(self, draft: Draft, operation: Operation, work: Coroutine[Any, Any, Refusal | None]) -> None:
        try:
            refusal = await work
        except Exception as error:
            log.exception("an operation failed", operation=operation.id)
            refusal = error.refusal if isinstance(error, ArmError) else _unexpected()
        if self.config.operation_seconds > 0:
            await self._clock.sleep(self.config.operation_seconds)
        if refusal is not None:
            self._keep_failure(draft, operation, refusal)
        operation.end(refusal)

    async def _settled(self, change: Change) -> Refusal | None:
        """Let the packets follow; why they do not, if they do not."""
        try:
            await self._settle(change)
        except ArmError as error:
            return error.refusal
        except Exception as error:
            log.exception("the packets do not follow a change", error=str(error))
            return _unexpected()
        return None

    def _keep_failure(self, change: Draft, operation: Operation | None, refusal: Refusal) -> None:
        """Mark what was written as failed."""
        draft = self.store.draft()
        for key, written in change.written.items():
            current = draft.get(key)
            if current is not None and current.etag == written.etag:
                draft.mark(key, ProvisioningState.FAILED)
        if operation is not None:
            operation.end(refusal)
            self.operations.remember(draft, operation)
        try:
            self.store.commit(draft)
        except ArmError as error:
            log.error("a failure could not be kept", error=str(error))

    async def _commit_and_settle(self, draft: Draft) -> None:
        self.store.commit(draft)
        # The client may go away: what was committed is followed all the same.
        await asyncio.shield(self._spawn(self._follow(draft), "a change"))

    async def _follow(self, draft: Draft) -> None:
        refusal = await self._settled(draft)
        if refusal is not None:
            self._keep_failure(draft, None, refusal)
            raise ArmError(refusal.status, refusal.code, refusal.message)

    def _refuse_concurrent(self, kind: Kind, id: ResourceId, call: Call) -> None:
        operation = self.operations.conflicting(id, kind.style)
        if operation is None:
            return
        if operation.style is Style.GROUP:
            raise rules.group_being_deleted(operation.target)
        raise ArmError(
            409,
            "AnotherOperationInProgress",
            "Another operation on this or dependent resource is in progress. To retrieve status of the operation use "
            f"uri: {operation.status_url(call.origin)}.",
        )

    def _refuse(self, kind: Kind, id: ResourceId, error: ArmError, call: Call, caller: Caller) -> Answer:
        """A kind's refusal, at once or as the outcome of an operation that is accepted."""
        if kind.style is Style.NETWORK:
            error.refusal = replace(error.refusal, has_details=True)
        if not error.is_outcome or kind.style in (Style.SYNC, Style.GROUP):
            raise error
        draft = self.store.draft()
        operation = self._operation(kind, id, "Upsert", "global", caller)
        operation.end(error.refusal)
        self.operations.begin(draft, operation)
        self.store.commit(draft)
        return _accepted(operation, call)

    async def _follow_up(self, address: Following, call: Call) -> Answer:
        if call.method != "GET":
            raise rules.not_allowed(call.method, {"GET"})
        operation = self.operations.get(address.operation)
        if operation is None or operation.target.subscription.lower() != address.subscription.lower():
            raise ArmError(404, "OperationNotFound", f"The operation '{address.operation}' was not found.")
        if operation.is_running:
            await self._clock.wait(operation.ended, self.config.hold_seconds)
        if address.sort in ("operations", "operationstatuses", "privatednsoperationstatuses"):
            return operations.status_of(operation, call.origin)
        if operation.is_running:
            return operations.waiting(operation, call.origin)
        return self._result_of(operation)

    def _result_of(self, operation: Operation) -> Answer:
        if operation.refusal is not None:
            refusal = operation.refusal
            raise ArmError(refusal.status, refusal.code, refusal.message, details=refusal.details)
        if operation.result is not None:
            return Answer(200, operation.result)
        if operation.is_delete:
            return Answer(200 if operation.style is Style.GROUP else 204)
        document = self.store.world.get(operation.target)
        kind = self.registry.kind(document.kind) if document is not None else None
        if document is None or kind is None:
            return Answer(204)
        return Answer(200, self.show(kind, self.store.world, document, Caller(operation.api_version)))

    # -- actions

    async def _ask(self, address: Question, call: Call, caller: Caller) -> Answer:
        versions.check(caller.api_version, address.kind or address.namespace, address.location)
        action = self.registry.action(call.method, address.namespace, address.kind, address.path)
        if action is None:
            if not self.registry.has_action(address.namespace, address.kind, address.path):
                raise addresses.unknown_kind(f"{address.namespace}/{address.path}", caller.api_version, self.registry)
            raise rules.not_allowed(call.method, {"GET", "POST"})
        world = self.store.world
        self._require_group(world, address.scope)
        if address.scope.namespace:
            kind = self._kind(address.kind, caller)
            if world.get(address.scope) is None:
                raise rules.resource_not_found(world, kind, address.scope)
        found = action.answer(world, address.scope, address.location, call.json_if_any(), caller)
        if not action.is_async:
            return Answer(200, found)
        operation = Operation(
            id=str(uuid.uuid4()),
            style=Style.NETWORK,
            target=address.scope,
            location=address.location or "global",
            api_version=caller.api_version,
            result=found,
        )
        operation.end()
        draft = self.store.draft()
        self.operations.begin(draft, operation)
        self.store.commit(draft)
        return operations.waiting(operation, call.origin)

    # -- what has to be there

    def _kind(self, name: str, caller: Caller) -> Kind:
        kind = self.registry.kind(name)
        if kind is None:
            raise addresses.unknown_kind(name, caller.api_version, self.registry)
        versions.check(caller.api_version, kind.name)
        return kind

    def _require_group(self, world: World, id: ResourceId) -> None:
        if id.group is not None and world.get(ResourceId(id.subscription, id.group)) is None:
            raise rules.group_not_found(id.group)

    def _require_registration(self, world: World, id: ResourceId) -> None:
        if not self.tenancy.is_registered(world, id.subscription, id.namespace):
            raise rules.not_registered(id.namespace)

    def _require_parent(self, world: World, kind: Kind, id: ResourceId, verb: str) -> None:
        parent = id.parent
        if parent is not None and parent.namespace and world.get(parent) is None:
            raise rules.parent_not_found(verb, kind.name, parent)


def _unexpected() -> Refusal:
    return Refusal(500, "InternalServerError", "An unexpected error occurred.")


def _notification(kind: Kind) -> dict[str, str]:
    """What Microsoft.Network says with operations on resources of the first level."""
    return {"azure-asyncnotification": "Enabled"} if kind.style is Style.NETWORK and kind.is_tracked else {}


def _accepted(operation: Operation, call: Call) -> Answer:
    answer = operations.waiting(operation, call.origin)
    return Answer(202, {}, answer.headers)


def _etag_header(shown: Mapping[str, Any]) -> dict[str, str]:
    etag = shown.get("etag")
    return {"ETag": etag} if isinstance(etag, str) else {}


def _names_subscription(call: Call) -> bool:
    return len(call.segments) > 1 and call.segments[0].lower() == "subscriptions"
