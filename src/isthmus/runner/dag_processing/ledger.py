"""What the plane has of the files of one bundle, and when a pass over them has ended. Pure.

A pass has ended once every file of the bundle was parsed since the last one, and the plane has answered for each; or as
soon as the bundle is not what it was at the last observation any more and all is answered for.

A file that is parsed at another version of its bundle (a commit) and has the content that it had is not sent again. It
has moved: the plane has to hear that its DAGs are of this version, because a run is made at the version of its DAG, and
what its tasks import may be other code there. Where Airflow keeps data beside a version, the file is sent again.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

#: Files that have moved are told of no later than this after the first of them, even in the middle of a long pass.
MOVED_SECONDS: Final = 10.0


@dataclass(slots=True)
class File:
    """A file of the bundle. ``settled`` is the content hash that the plane has answered for, at ``version``."""

    settled: str | None = None
    version: str | None = None
    parsed_at: float | None = None


@dataclass(slots=True)
class Ledger:
    """One bundle that this agent holds."""

    bundle: str
    fence: int
    version: str | None = None
    #: Whether Airflow keeps data beside the version.
    has_data: bool = False
    refreshed_at: datetime | None = None
    files: dict[str, File] = field(default_factory=dict)
    #: Whether the bundle's folder was looked through.
    scanned: bool = False
    #: Whether something is other than in the last observation.
    changed: bool = True
    observed_at: float = float("-inf")
    not_before: float = float("-inf")
    #: Files that are at ``version`` now with the content of another one, which the plane has not heard of.
    moved: set[str] = field(default_factory=set)
    moved_since: float = float("inf")

    def renew(self, fence: int) -> None:
        """Under another fence another agent may have been at it meanwhile: observe anew."""
        if fence != self.fence:
            self.fence = fence
            self.changed = True

    def present(
        self,
        files: Iterable[str],
        version: str | None,
        refreshed_at: datetime | None,
        *,
        has_data: bool = False,
    ) -> set[str]:
        """These files are there now; returns those that are gone."""
        there = set(files)
        if version != self.version:
            self._forget_moved()  # each is parsed again, at the version of now
        self.has_data = has_data
        gone = self.files.keys() - there
        if gone or there - self.files.keys() or version != self.version or not self.scanned:
            self.changed = True
        self.moved -= gone
        for path in gone:
            del self.files[path]
        for path in there - self.files.keys():
            self.files[path] = File()
        self.version, self.refreshed_at, self.scanned = version, refreshed_at, True
        return gone

    def parsed(self, path: str, content_hash: str, at: float) -> bool:
        """A file was parsed; whether the plane has to hear of it."""
        file = self.files.get(path)
        if file is None:
            return False  # deleted meanwhile
        file.parsed_at = at
        if file.settled != content_hash:
            return True
        if file.version == self.version or self.has_data:
            return file.version != self.version
        self.moved.add(path)
        self.moved_since = min(self.moved_since, at)
        return False

    def settled(self, path: str, content_hash: str, version: str | None) -> None:
        """The plane has answered for a file."""
        file = self.files.get(path)
        if file is None:
            return
        self.changed = self.changed or file.settled != content_hash
        file.settled, file.version = content_hash, version
        self.moved.discard(path)

    def wanted(self, paths: Iterable[str]) -> set[str]:
        """The plane wants these again; returns those that there are."""
        found = set(paths) & self.files.keys()
        for path in found:
            self.files[path] = File()
            self.changed = True
        self.moved -= found
        return found

    def is_due(self, now: float) -> bool:
        """Whether a pass has ended; the caller sees to it that nothing of the bundle waits to be sent."""
        if not self.scanned or now < self.not_before or any(one.settled is None for one in self.files.values()):
            return False
        if self.changed or now - self.moved_since >= MOVED_SECONDS:
            return True
        return bool(self.files and self._parsed_since() > self.observed_at)

    def told_moved(self) -> None:
        """The plane has heard of what has moved."""
        for path in self.moved:
            self.files[path].version = self.version
        self._forget_moved()

    def observed(self, now: float) -> None:
        """The plane knows what there is."""
        self.changed = False
        self.observed_at = now

    def hashes(self) -> list[tuple[str, str]]:
        """(relative path, content hash) of all files that the plane has answered for, by path."""
        return sorted((path, one.settled) for path, one in self.files.items() if one.settled is not None)

    def _forget_moved(self) -> None:
        self.moved.clear()
        self.moved_since = float("inf")

    def _parsed_since(self) -> float:
        return min(float("-inf") if one.parsed_at is None else one.parsed_at for one in self.files.values())
