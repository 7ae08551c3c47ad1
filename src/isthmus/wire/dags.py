"""Bodies by which an agent with the role dag-processor brings DAGs, and a component of an agent gets its token.

An agent says which bundles it has, and the plane leases each to one agent at a time (``fence``). The holder parses,
sends what has changed (submissions), and after each pass what there is (observations): equal digests make a pass over
any number of unchanged files cost about a hundred bytes. What is to be parsed first, and DAG-level callbacks, are
claimed under a lease and settled.

Paths follow the upstream proposal for a DAG processor without a database (apache/airflow, AIP-92). Bodies may be
compressed (``Content-Encoding: gzip``); the limits hold for what they are uncompressed.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints

from isthmus.wire.agents import Fence
from isthmus.wire.bodies import Request, Response

#: Bundles of one agent; files of one bundle; files in one body of submissions.
MAX_BUNDLES: Final = 64
MAX_FILES: Final = 20_000
MAX_SUBMISSIONS: Final = 64

#: A bundle's name: what ``dag_bundle.name`` of Airflow holds (250 characters). It is the first part of virtual file
#: locations, so it is no path.
BundleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_. -]*$", max_length=250)]
#: What ``dag_bundle.version`` holds: a commit, a tag, a digest.
BundleVersion = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=200)]


def _relative(path: str) -> str:
    """Refuse what could lead out of the bundle, or be spelt in two ways."""
    if any(part in {"", ".", ".."} for part in path.split("/")):
        raise ValueError("is not a relative path without empty parts, '.' and '..'")
    return path


#: Where a file is in its bundle: with slashes, neither absolute nor with an empty part, ``.`` or ``..``. The length is
#: what ``import_error.filename`` holds. For a DAG in a zip file it goes on inside: ``folder/packed.zip/etl.py``.
RelativePath = Annotated[
    str,
    StringConstraints(pattern=r"^[^\x00-\x1f\x7f\\]+$", max_length=1000),
    AfterValidator(_relative),
]
#: The SHA-256, in hex, of what would be submitted of a file: the result as canonical JSON without volatile fields
#: (durations, times of loading), and the source. The plane compares it and never computes it.
ContentHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class ComponentTokenRequest(Request):
    """``POST component-tokens``: Airflow's token for this agent's own calls of the Execution API.

    For agents with the role dag-processor or triggerer. It opens what the role needs and nothing else, together with
    the agent token and ``Isthmus-Agent-Id`` and without ``Isthmus-Workload-Id``.
    """

    agent_id: UUID
    instance_id: UUID


class ComponentTokenResponse(Response):
    """A token for ``Authorization: Bearer``; ask for the next one when two thirds of its time are over."""

    token: str = Field(repr=False)
    valid_seconds: float


class OfferedBundle(Request):
    """A bundle that the agent can parse. The template is as Airflow's bundle gives it, with ``{version}`` in it."""

    name: BundleName
    version: BundleVersion | None = None
    view_url_template: Annotated[str, Field(max_length=2000)] | None = None
    template_params: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=500)]] = Field(
        default_factory=dict, max_length=32
    )
    refreshed_at: datetime | None = None


class BundlesRequest(Request):
    """``POST dag-processing/bundles``: I have these; which are mine to parse? Extends the leases that the agent holds.

    A bundle that is no longer named is given back. Sent every ``poll_seconds`` of the answer.
    """

    agent_id: UUID
    instance_id: UUID
    bundles: tuple[OfferedBundle, ...] = Field(max_length=MAX_BUNDLES)


class RefusalCode(StrEnum):
    """Why a bundle or a file was refused. Stable; new ones may be added."""

    #: The bundle belongs to agents with another token, or the agent token's scope does not cover it.
    BUNDLE_FOREIGN = "bundle_foreign"
    BUNDLE_SCOPE = "bundle_scope"
    #: The deployment has as many bundles as it may have.
    BUNDLE_LIMIT = "bundle_limit"
    #: A DAG id that another bundle has, or that the same file has twice.
    DAG_FOREIGN = "dag_foreign"
    #: Not what Airflow's DAG processor makes.
    RESULT_INVALID = "result_invalid"
    #: More than the deployment takes: characters, DAGs, tags, depth.
    TOO_LARGE = "too_large"
    #: The plane cannot read a class in it: a timetable, a partition mapper that it has no plugin for.
    CLASS_UNKNOWN = "class_unknown"


class BundleVerdict(Response):
    """What the plane says to one bundle.

    ``assigned``: it is this agent's to parse, under ``fence``, for ``lease_seconds`` from now; else ``holder`` may say
    which agent has it. A bundle that is not accepted has a ``code`` and a ``detail`` for people.
    """

    name: str
    accepted: bool
    assigned: bool = False
    fence: int = 0
    holder: str | None = None
    code: str = ""
    detail: str = ""


class BundlesResponse(Response):
    """One verdict per bundle, in the same order, and what holds for all.

    ``sources_wanted``: put the files' text into submissions. ``max_body_bytes`` is for a body as it is uncompressed.
    """

    bundles: tuple[BundleVerdict, ...]
    sources_wanted: bool = False
    poll_seconds: float
    lease_seconds: float
    max_body_bytes: int
    max_submissions: int = MAX_SUBMISSIONS


class Submission(Request):
    """What came of parsing one file.

    ``result`` is Airflow's ``DagFileParsingResult`` as its ``model_dump(mode="json")`` gives it: ``fileloc``,
    ``serialized_dags`` (each ``{"data": …, "last_loaded": …}``), ``warnings``, ``import_errors`` by relative path.
    File locations in it are the agent's; the plane replaces them by ``<bundle>/<relative path>``. ``source`` is the
    file's text, if the plane wants sources. ``version_data`` is what Airflow keeps beside a version, as a manifest.
    """

    bundle: BundleName
    fence: Fence
    version: BundleVersion | None = None
    version_data: dict[str, Any] | None = None
    relative_fileloc: RelativePath
    content_hash: ContentHash
    duration_seconds: float = Field(ge=0, le=86400)
    result: dict[str, Any]
    source: str | None = None


class SubmissionsRequest(Request):
    """``POST dag-processing/submissions``: files whose content hash has changed."""

    agent_id: UUID
    instance_id: UUID
    submissions: tuple[Submission, ...] = Field(min_length=1, max_length=MAX_SUBMISSIONS)


class SubmissionVerdict(StrEnum):
    """The plane's answer for one file."""

    #: It is in Airflow's tables. Settled, whatever Airflow says of single DAGs: that is an import error in its UI.
    ACCEPTED = "accepted"
    #: It is not, and an import error of the file says why. Settled as well: send it again when it has changed.
    REFUSED = "refused"
    #: Send it again, after ``retry_seconds``.
    LATER = "later"
    #: The bundle is not (any more) this agent's under this fence: drop it and ask ``bundles`` anew.
    STALE = "stale"


class SubmittedFile(Response):
    """The verdict on one submission. ``code`` is of ``RefusalCode``, ``detail`` for people."""

    bundle: str
    relative_fileloc: str
    verdict: SubmissionVerdict
    code: str = ""
    detail: str = ""
    retry_seconds: float = 0


class SubmissionsResponse(Response):
    """One verdict per submission, in the same order."""

    files: tuple[SubmittedFile, ...]


class ObservedFile(Request):
    """A file of a bundle, and what a submission of it has or would have as its content hash."""

    relative_fileloc: RelativePath
    content_hash: ContentHash


class Observation(Request):
    """What there is in a bundle after a pass over all of its files.

    ``digest`` is that of ``digest()`` over all files. ``files`` only when the plane did not know the digest. ``moved``
    are files that were parsed at ``version`` and have the content that they had at another one: their DAGs are of this
    version from now on, without ``version_data``. Files of a bundle that has some are submitted anew instead.
    """

    bundle: BundleName
    fence: Fence
    version: BundleVersion | None = None
    count: int = Field(ge=0, le=MAX_FILES)
    digest: ContentHash
    refreshed_at: datetime | None = None
    files: tuple[ObservedFile, ...] | None = Field(default=None, max_length=MAX_FILES)
    moved: tuple[RelativePath, ...] = Field(default=(), max_length=MAX_FILES)


class ObservationsRequest(Request):
    """``POST dag-processing/observations``: a pass has ended."""

    agent_id: UUID
    instance_id: UUID
    observations: tuple[Observation, ...] = Field(min_length=1, max_length=MAX_BUNDLES)


class ObservedBundle(Response):
    """The plane's answer for one bundle.

    ``held`` is false under an old fence: nothing was done. ``known`` is false where the plane has something else: send
    the observation again with ``files``. ``wanted`` are files to submit (again), by relative path; it may come with
    ``known`` as well, as when a refusal may have lost its reason.
    """

    bundle: str
    held: bool
    known: bool = False
    wanted: tuple[str, ...] = ()


class ObservationsResponse(Response):
    """One answer per observation, in the same order."""

    bundles: tuple[ObservedBundle, ...]


class HeldBundle(Request):
    """A bundle that the agent holds."""

    name: BundleName
    fence: Fence


class DagClaimsRequest(Request):
    """``POST dag-processing/claims``: what is to be parsed first, and which callbacks are to be run, in these bundles?

    Answered at once. What was claimed before and is neither settled nor expired does not come again.
    """

    agent_id: UUID
    instance_id: UUID
    bundles: tuple[HeldBundle, ...] = Field(min_length=1, max_length=MAX_BUNDLES)
    limit: int = Field(default=20, ge=1, le=100)


class DagClaimKind(StrEnum):
    """What a claim is."""

    #: Parse this file before others (somebody asked for it in Airflow).
    PARSE = "parse"
    #: Run a DAG-level or task-level callback, or send an e-mail, that Airflow's scheduler handed to the DAG processor.
    CALLBACK = "callback"


class DagClaim(Response):
    """One thing to do, under lease until ``lease_seconds`` from now.

    ``request`` is Airflow's JSON of a ``DagCallbackRequest``, ``TaskCallbackRequest`` or ``EmailRequest`` (see its
    ``type``), null for a parse. A callback that is not settled is handed out again: it runs at least once.
    """

    claim_id: str
    fence: int
    kind: DagClaimKind
    bundle: str
    relative_fileloc: str
    lease_seconds: float
    request: dict[str, Any] | None = None


class DagClaimsResponse(Response):
    """What to do."""

    claims: tuple[DagClaim, ...] = ()
    poll_seconds: float = 2.0


class DagClaimReference(Request):
    """A claim under its fence. ``released``: not done, hand it out again at once."""

    claim_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f-]{32,36}$")]
    fence: Fence
    released: bool = False


class DagSettleRequest(Request):
    """``POST dag-processing/settlements``: these were done. ``extended``: these are still being done."""

    agent_id: UUID
    instance_id: UUID
    claims: tuple[DagClaimReference, ...] = Field(default=(), max_length=1000)
    extended: tuple[DagClaimReference, ...] = Field(default=(), max_length=1000)


class DagSettleResponse(Response):
    """How many claims were settled, and the ids of those in the request that are no longer the agent's."""

    settled: int
    lost: tuple[str, ...] = ()


def digest(files: Iterable[tuple[str, str]]) -> str:
    """SHA-256, in hex, over (relative_fileloc, content_hash) of all files of a bundle, in order of the path.

    Each file adds its path in UTF-8, a zero byte, its hash and a line feed. Paths are ordered by code point.
    """
    whole = hashlib.sha256()
    for relative_fileloc, content_hash in sorted(files):
        whole.update(f"{relative_fileloc}\0{content_hash}\n".encode())
    return whole.hexdigest()
