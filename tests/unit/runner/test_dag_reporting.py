"""The desk between the parsing loop and the plane: nothing is lost in an outage, nothing is sent twice."""

import json
from itertools import chain
from typing import Any

import pytest

from isthmus.kit.errors import RefusedError, UnreachableError
from isthmus.runner.dag_processing.contents import Parsed
from isthmus.runner.dag_processing.reporting import Desk, Offer
from isthmus.wire import dags

#: The id of a request to parse a file, as Airflow makes it.
ASKED = "1" * 32


class Plane:
    """The plane in memory: it keeps what is sent, and does what it is told to."""

    def __init__(self) -> None:
        self.away = False
        self.wants_reasons = True
        self.failed_at = float("-inf")
        self.sent_bytes = self.polled_bytes = self.requests = 0
        self.now = 0.0
        self.fence = 1
        self.mine = True
        self.unreadable = ""
        self.kept: dict[str, str] = {}
        self.bodies: list[list[str]] = []
        self.text = ""
        self.observed: list[dags.Observation] = []
        self.work: list[dags.DagClaim] = []
        self.settled: list[str] = []

    def _reach(self) -> None:
        if self.away:
            self.failed_at = self.now
            raise UnreachableError("away", code="plane_unreachable")

    def bundles(self, bundles: tuple[dags.OfferedBundle, ...]) -> dags.BundlesResponse:
        self._reach()
        verdicts = [
            dags.BundleVerdict(name=one.name, accepted=True, assigned=self.mine, fence=self.fence) for one in bundles
        ]
        return dags.BundlesResponse(
            bundles=tuple(verdicts), poll_seconds=5, lease_seconds=30, max_body_bytes=1024 * 1024, max_submissions=4
        )

    def submissions(self, submissions: list[bytes]) -> dags.SubmissionsResponse:
        self._reach()
        came = [json.loads(one) for one in submissions]
        if any(self.unreadable and self.unreadable in str(one["result"]) for one in came):
            raise RefusedError("what is this", code="request_invalid")
        self.text += str(came)
        self.bodies.append([one["relative_fileloc"] for one in came])
        verdict = dags.SubmissionVerdict.ACCEPTED if self.mine else dags.SubmissionVerdict.STALE
        if self.mine:
            self.kept |= {one["relative_fileloc"]: one["content_hash"] for one in came}
        files = [
            dags.SubmittedFile(bundle="etl", relative_fileloc=one["relative_fileloc"], verdict=verdict) for one in came
        ]
        return dags.SubmissionsResponse(files=tuple(files))

    def observations(self, observations: tuple[dags.Observation, ...]) -> dags.ObservationsResponse:
        self._reach()
        (one,) = observations
        self.observed.append(one)
        known = one.digest == dags.digest(self.kept.items())
        wanted: tuple[str, ...] = ()
        if one.files is not None:
            sent = {file.relative_fileloc: file.content_hash for file in one.files}
            wanted = tuple(path for path, hashed in sent.items() if self.kept.get(path) != hashed)
            self.kept = {path: hashed for path, hashed in self.kept.items() if path in sent}
        return dags.ObservationsResponse(
            bundles=(dags.ObservedBundle(bundle="etl", held=True, known=known, wanted=wanted),)
        )

    def claims(self, bundles: tuple[dags.HeldBundle, ...], limit: int) -> dags.DagClaimsResponse:
        self._reach()
        work, self.work = tuple(self.work), []
        return dags.DagClaimsResponse(claims=work)

    def settle(self, claims: Any, extended: Any) -> dags.DagSettleResponse:
        self._reach()
        self.settled += [one.claim_id for one in claims]
        return dags.DagSettleResponse(settled=len(claims))


class Scene:
    def __init__(self) -> None:
        self.plane = Plane()
        self.desk = Desk(self.plane, lambda: [Offer(name="etl")], monotonic=lambda: self.plane.now)  # type: ignore[arg-type]
        self.desk.turn()
        self.desk.present("etl", ["a.py", "b.py"], None, None)

    def turn(self, after: float = 1.0) -> None:
        self.plane.now += after
        self.desk.turn()

    def parse(self, path: str, dag: str = "one", *, began: float | None = None, error: str = "", **values: Any) -> None:
        result: dict[str, Any] = {"serialized_dags": [{"data": {"dag": {"dag_id": dag}}}]}
        if error:
            result = {"serialized_dags": [], "import_errors": {path: error}}
        at = self.plane.now if began is None else began
        self.desk.parsed(Parsed(bundle="etl", relative_fileloc=path, result=result, began=at, **values))


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_files_are_sent_together_and_the_second_pass_is_a_digest(scene: Scene) -> None:
    scene.parse("a.py")
    scene.parse("b.py")
    scene.turn()
    scene.turn()
    assert scene.plane.bodies == [["a.py", "b.py"]]
    assert [one.files for one in scene.plane.observed] == [None]
    scene.parse("a.py")
    scene.parse("b.py")
    scene.turn()
    assert scene.plane.bodies == [["a.py", "b.py"]]
    assert [one.count for one in scene.plane.observed] == [2, 2]


def test_nothing_is_lost_in_an_outage_and_only_the_newest_is_sent(scene: Scene) -> None:
    scene.plane.away = True
    scene.parse("a.py", "old")
    scene.turn()
    assert scene.desk.is_paused
    scene.parse("a.py", "new")
    scene.parse("b.py")
    scene.plane.away = False
    scene.turn(20)
    scene.turn(20)
    assert scene.plane.bodies == [["b.py", "a.py"]] or scene.plane.bodies == [["a.py", "b.py"]]
    assert not scene.desk.is_paused


def test_an_import_error_of_an_outage_is_parsed_again_and_not_shown(scene: Scene) -> None:
    began = scene.plane.now
    scene.plane.now += 1
    scene.plane.failed_at = scene.plane.now
    scene.parse("a.py", began=began, error="AirflowNotFoundException")
    scene.turn()
    assert scene.plane.bodies == []
    assert scene.desk.again() == {("etl", "a.py")}
    scene.parse("a.py", began=scene.plane.now, error="SyntaxError")
    scene.turn()
    scene.turn()
    assert scene.plane.bodies == [["a.py"]]


def test_an_import_error_that_is_not_for_the_plane_is_sent_without_its_reason(scene: Scene) -> None:
    scene.plane.wants_reasons = False
    scene.parse("a.py", began=scene.plane.now, error="KeyError: 's3cret'")
    scene.turn()
    scene.parse("a.py", began=scene.plane.now, error="KeyError: 's4cret'")
    scene.turn()
    assert scene.plane.bodies == [["a.py"]], "which reason it is does not leave either"
    assert "s3cret" not in scene.plane.text
    assert "withheld" in scene.plane.text


def test_a_bundle_that_is_anothers_now_is_left_alone(scene: Scene) -> None:
    scene.plane.mine = False
    scene.parse("a.py")
    scene.turn()
    scene.turn()
    assert scene.desk.held == frozenset()
    scene.parse("b.py")
    scene.turn(10)
    assert scene.plane.bodies == [["a.py"]]
    assert scene.plane.kept == {}
    scene.plane.mine, scene.plane.fence = True, 2
    scene.turn(10)
    assert scene.desk.held == {"etl"}


def test_a_lease_that_was_not_extended_stops_parsing(scene: Scene) -> None:
    scene.plane.away = True
    scene.plane.now += 40
    assert scene.desk.is_paused


def test_what_the_plane_does_not_have_is_parsed_and_sent_again(scene: Scene) -> None:
    scene.parse("a.py")
    scene.parse("b.py")
    scene.turn()
    scene.plane.kept = {"a.py": scene.plane.kept["a.py"], "gone.py": "0" * 64}
    scene.plane.now += 1
    scene.parse("a.py")
    scene.parse("b.py")
    scene.turn()
    assert scene.plane.kept.keys() == {"a.py"}
    assert scene.desk.again() == {("etl", "b.py")}
    scene.parse("b.py")
    scene.turn(3)
    scene.turn(3)
    assert scene.plane.kept.keys() == {"a.py", "b.py"}


def test_one_file_that_the_plane_cannot_read_holds_up_no_other(scene: Scene) -> None:
    scene.desk.present("etl", ["a.py", "b.py", "c.py"], None, None)
    scene.plane.unreadable = "poison"
    scene.parse("a.py")
    scene.parse("b.py", "poison")
    scene.parse("c.py")
    scene.turn()
    scene.turn()
    assert sorted(chain(*scene.plane.bodies)) == ["a.py", "b.py", "c.py"]
    scene.parse("b.py", "poison")
    scene.turn()
    assert len([*chain(*scene.plane.bodies)]) == 3


def test_a_file_asked_for_is_settled_once_the_plane_has_it(scene: Scene) -> None:
    scene.plane.work = [
        dags.DagClaim(
            claim_id=ASKED,
            fence=1,
            kind=dags.DagClaimKind.PARSE,
            bundle="etl",
            relative_fileloc="a.py",
            lease_seconds=60,
        )
    ]
    scene.turn(3)
    assert [one.claim_id for one in scene.desk.claims.new_parses()] == [ASKED]
    assert scene.plane.settled == []
    scene.parse("a.py")
    scene.turn()
    scene.turn()
    assert scene.plane.settled == [ASKED]


def test_a_new_commit_is_told_of_without_sending_files(scene: Scene) -> None:
    """What was begun at the commit before is parsed again: the files were replaced under it."""
    both = ["a.py", "b.py"]
    scene.desk.present("etl", both, "v1", None)
    for path in both:
        scene.parse(path, version="v1")
    scene.turn()
    scene.desk.present("etl", both, "v2", None)
    scene.turn()
    scene.plane.now += 1
    scene.parse("a.py", version="v2")
    scene.parse("b.py", version="v1")
    assert scene.desk.again() == {("etl", "b.py")}
    scene.turn()
    scene.parse("b.py", version="v2")
    scene.turn()
    scene.turn()
    assert scene.plane.bodies == [both]
    assert [(one.version, one.moved) for one in scene.plane.observed if one.moved] == [("v2", ("a.py", "b.py"))]
