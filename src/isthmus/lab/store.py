"""The documents on disk: a journal that a crash or a full disk cannot take anything from that was answered.

One line a transaction: ``{"put": [document, ...], "removed": [key, ...], "noted": [[topic, key, value], ...]}``. A line
counts once it ends; what a crash left of the last one is cut off when the journal is opened. A journal that has grown
well beyond what it says is written anew beside itself and renamed. Reading never touches the disk: a ``Snapshot`` is
immutable, a ``Draft`` copies the tables that it changes, and committing it makes it the next snapshot.

Invariants: after ``commit`` returned, the change is on disk; after it raised, neither disk nor memory has changed. One
process has a journal open.
"""

import fcntl
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from isthmus.kit.errors import PermanentError
from isthmus.kit.logs import get
from isthmus.lab import ids
from isthmus.lab.documents import Document, ProvisioningState
from isthmus.lab.errors import ArmError
from isthmus.lab.ids import Key, ResourceId

#: A journal is written anew when it has this many lines more than twice what it holds.
_SLACK_LINES: Final = 2000

log = get(component="lab store")

Table = dict[Key, Document]
_K = TypeVar("_K")


@dataclass(slots=True)
class _Tables:
    """The documents by key and by what they are asked for by, each in the order of creation."""

    documents: Table = field(default_factory=dict)
    kinds: dict[str, Table] = field(default_factory=dict)
    children: dict[tuple[Key, str], Table] = field(default_factory=dict)
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def fork(self) -> "_Tables":
        return _Tables(dict(self.documents), dict(self.kinds), dict(self.children), dict(self.notes))


class Snapshot:
    """A ``documents.World`` that does not change."""

    def __init__(self, tables: _Tables) -> None:
        self.tables = tables

    def get(self, id: ResourceId | Key | str) -> Document | None:
        """The document with that id, in any spelling."""
        return self.tables.documents.get(id.key if isinstance(id, ResourceId) else ids.key(id))

    def children(self, id: ResourceId, kind: str) -> Iterator[Document]:
        """Those of ``kind`` directly in ``id``, by name."""
        found = self.tables.children.get((id.key, kind.lower()), {})
        return iter(sorted(found.values(), key=lambda one: one.id.name.lower()))

    def all(self, kind: str, *, subscription: str | None = None, group: str | None = None) -> Iterator[Document]:
        """Those of a kind, in the order of creation."""
        found = iter(tuple(self.tables.kinds.get(kind.lower(), {}).values()))
        if subscription is not None:
            wanted = subscription.lower()
            found = (one for one in found if one.id.subscription.lower() == wanted)
        if group is not None:
            within = group.lower()
            found = (one for one in found if one.id.group is not None and one.id.group.lower() == within)
        return found

    def notes(self, topic: str) -> Mapping[str, Any]:
        """What is kept under ``topic``."""
        return self.tables.notes.get(topic, {})

    def everything(self) -> Iterator[Document]:
        """All documents, in the order of creation."""
        return iter(tuple(self.tables.documents.values()))


class Draft(Snapshot):
    """A ``documents.Change``: a world with what is about to change in it. ``Store.commit`` keeps it."""

    def __init__(self, base: Snapshot) -> None:
        super().__init__(base.tables.fork())
        self.base = base
        self.written: dict[Key, Document] = {}
        self.removed: dict[Key, Document] = {}
        self.noted: dict[tuple[str, str], Any] = {}
        self._owned: set[int] = set()

    @property
    def is_empty(self) -> bool:
        """Nothing has changed."""
        return not (self.written or self.removed or self.noted)

    def put(self, id: ResourceId, kind: str, body: Mapping[str, Any]) -> Document:
        """Create or replace. ``body`` is copied, so that nobody's later change reaches the document."""
        before = self.tables.documents.get(id.key)
        document = Document(
            id=before.id if before else id,
            kind=before.kind if before else kind,
            number=before.number if before else self._lowest_free_number(kind),
            etag=str(uuid.uuid4()),
            guid=before.guid if before else str(uuid.uuid4()),
            state=ProvisioningState.SUCCEEDED,
            body=json.loads(json.dumps(body)),
        )
        self.keep(document)
        return document

    def mark(self, key: Key, state: ProvisioningState) -> None:
        """Change a document's state and nothing else; nothing happens if it is not there."""
        document = self.tables.documents.get(key)
        if document is not None:
            self.keep(replace(document, state=state))

    def remove(self, id: ResourceId) -> None:
        """Remove one document, if it is there."""
        document = self.tables.documents.pop(id.key, None)
        if document is None:
            return
        for table in self._tables_of(document):
            table.pop(document.key, None)
        self.written.pop(document.key, None)
        self.removed[document.key] = document

    def note(self, topic: str, key: str, value: Any) -> None:
        """Keep a JSON value under a topic; None removes it."""
        table = self.tables.notes.get(topic, {})
        if id(table) not in self._owned:
            table = dict(table)
            self._own(table)
            self.tables.notes[topic] = table
        if value is None:
            table.pop(key, None)
        else:
            table[key] = json.loads(json.dumps(value))
        self.noted[(topic, key)] = value

    def line(self) -> str:
        """The transaction as a line of the journal."""
        transaction: dict[str, Any] = {}
        if self.removed:
            transaction["removed"] = [key for key in self.removed if key in self.base.tables.documents]
        if self.written:
            transaction["put"] = [_to_json(document) for document in self.written.values()]
        if self.noted:
            transaction["noted"] = [[topic, key, value] for (topic, key), value in self.noted.items()]
        return json.dumps(transaction, separators=(",", ":")) + "\n"

    def keep(self, document: Document) -> None:
        """Put a document as it is."""
        self.tables.documents[document.key] = document
        for table in self._tables_of(document):
            table[document.key] = document
        self.written[document.key] = document

    def _tables_of(self, document: Document) -> Iterator[Table]:
        """The tables besides ``documents`` that a document is in, as copies of our own."""
        kind = document.kind.lower()
        yield self._writable(self.tables.kinds, kind)
        if document.id.parent is not None:
            yield self._writable(self.tables.children, (document.id.parent.key, kind))

    def _writable(self, tables: dict[_K, Table], key: _K) -> Table:
        table = tables.get(key, {})
        if id(table) not in self._owned:
            table = dict(table)
            self._own(table)
            tables[key] = table
        return table

    def _own(self, table: object) -> None:
        self._owned.add(id(table))

    def _lowest_free_number(self, kind: str) -> int:
        taken = {document.number for document in self.tables.kinds.get(kind.lower(), {}).values()}
        return next(number for number in range(1, len(taken) + 2) if number not in taken)


class Store:
    """The current snapshot, and the journal behind it if there is one."""

    def __init__(self, journal: "_Journal | None" = None, world: Snapshot | None = None) -> None:
        self._journal = journal
        self.world = world or Snapshot(_Tables())

    @classmethod
    def in_memory(cls) -> "Store":
        """A store that forgets."""
        return cls()

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """The store in ``folder``, which is made if it is missing.

        Raises PermanentError: in use, damaged, not writable.
        """
        journal = _Journal.open(folder)
        try:
            store = cls(journal, journal.replay())
            store._compact_if_worthwhile()
        except BaseException:
            journal.close()
            raise
        return store

    def draft(self) -> Draft:
        """A change that may be committed as long as no other one was committed since."""
        return Draft(self.world)

    def commit(self, draft: Draft) -> Snapshot:
        """Keep a change. Raises errors.ArmError (507) when it cannot be written; then nothing has changed."""
        if draft.base is not self.world:
            raise AssertionError("another change was committed since this one began")
        if draft.is_empty:
            return self.world
        if self._journal is not None:
            self._journal.append(draft.line())
        self.world = Snapshot(draft.tables)
        with suppress(ArmError):  # what was to be kept is kept; there will be another occasion to tidy up
            self._compact_if_worthwhile()
        return self.world

    def close(self) -> None:
        """Let go of the journal."""
        if self._journal is not None:
            self._journal.close()

    def _compact_if_worthwhile(self) -> None:
        if self._journal is None:
            return
        held = len(self.world.tables.documents)
        if self._journal.lines > 2 * held + _SLACK_LINES:
            self._journal.rewrite(self.world)


class _Journal:
    """The file. ``lines`` is how many it has, ``_size`` how many bytes of it count."""

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock = lock
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = 0
        self._is_broken = False
        self.lines = 0

    @classmethod
    def open(cls, folder: Path) -> "_Journal":
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PermanentError(f"the lab's state cannot be opened: {error}", code="lab_state_unusable") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                (folder / "journal.new").unlink()
            journal = cls(folder / "journal", lock)
            _sync_folder(folder)
        except OSError as error:
            os.close(lock)
            reason = "another lab has it open" if isinstance(error, BlockingIOError) else str(error)
            raise PermanentError(
                f"the lab's state cannot be opened: {reason}",
                code="lab_state_unusable",
                hint="isthmus lab down --keep ends a lab that is served already; or name another home with --home.",
            ) from None
        return journal

    def replay(self) -> Snapshot:
        """The world that the journal tells of; the rest of an interrupted line is cut off."""
        world = Draft(Snapshot(_Tables()))
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                _apply(world, json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, ArmError) as error:
                raise PermanentError(
                    f"line {number} of {self._path} is damaged: {error}",
                    code="lab_state_damaged",
                    hint="Restore the file, or remove it to begin with an empty lab.",
                ) from None
            self.lines = number
        self._size = len(whole)
        if len(content) > len(whole):
            log.warning("a change that was never answered is dropped", bytes=len(content) - len(whole))
            os.ftruncate(self._file, self._size)
        return Snapshot(world.tables)

    def append(self, line: str) -> None:
        """Write a line through to the disk, or leave the file as it was. Raises errors.ArmError (507)."""
        if self._is_broken:
            raise _not_kept("an earlier failure could not be undone")
        content = line.encode()
        try:
            _write_at(self._file, content, self._size)
            os.fdatasync(self._file)
        except OSError as error:
            self._undo()
            raise _not_kept(error.strerror or str(error)) from None
        self._size += len(content)
        self.lines += 1

    def _undo(self) -> None:
        try:
            os.ftruncate(self._file, self._size)
            os.fdatasync(self._file)
        except OSError as error:
            log.error("the journal is not written any more until the lab is started again", error=str(error))
            self._is_broken = True

    def rewrite(self, world: Snapshot) -> None:
        """Replace the file by one that tells of ``world`` alone.

        Raises errors.ArmError (507); then the old one stays.
        """
        beside = self._path.with_name("journal.new")
        lines = [*_lines(world)]
        content = "".join(lines).encode()
        try:
            file = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                _write_at(file, content, 0)
                os.fsync(file)
                beside.replace(self._path)
            except OSError:
                os.close(file)
                with suppress(OSError):
                    beside.unlink()
                raise
        except OSError as error:
            log.warning("the journal could not be made smaller", error=str(error))
            raise _not_kept(error.strerror or str(error)) from None
        os.close(self._file)
        self._file, self._size, self.lines = file, len(content), len(lines)
        _sync_folder(self._path.parent)

    def close(self) -> None:
        os.close(self._file)
        os.close(self._lock)


def _lines(world: Snapshot) -> Iterator[str]:
    for document in world.everything():
        yield json.dumps({"put": [_to_json(document)]}, separators=(",", ":")) + "\n"
    noted = [[topic, key, value] for topic, table in world.tables.notes.items() for key, value in table.items()]
    if noted:
        yield json.dumps({"noted": noted}, separators=(",", ":")) + "\n"


def _apply(world: Draft, transaction: Mapping[str, Any]) -> None:
    for key in transaction.get("removed", ()):
        world.remove(ids.parse(key))
    for stored in transaction.get("put", ()):
        world.keep(_from_json(stored))
    for topic, key, value in transaction.get("noted", ()):
        world.note(topic, key, value)


def _to_json(document: Document) -> dict[str, Any]:
    return {
        "id": str(document.id),
        "kind": document.kind,
        "number": document.number,
        "etag": document.etag,
        "guid": document.guid,
        "state": document.state,
        "body": document.body,
    }


def _from_json(stored: Mapping[str, Any]) -> Document:
    return Document(
        id=ids.parse(stored["id"]),
        kind=stored["kind"],
        number=stored["number"],
        etag=stored["etag"],
        guid=stored["guid"],
        state=ProvisioningState(stored["state"]),
        body=stored["body"],
    )


def _write_at(file: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _not_kept(reason: str) -> ArmError:
    return ArmError(507, "InsufficientStorage", f"The change could not be written to the lab's disk: {reason}.")
