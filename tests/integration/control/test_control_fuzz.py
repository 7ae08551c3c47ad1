"""The control API against its own document, by schemathesis: no server error, and every answer as documented."""

import asyncio
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from sqlalchemy.engine import make_url
from tests.fakes.control_plane import SCENE_CLUSTER, prepare, running
from tests.fakes.lab import FakeLab
from tests.fakes.link_scene import LabCredential, Scene, on_fake_lab

from isthmus.control.api import application, documents
from isthmus.deployment import databases
from isthmus.link.drivers.azure.config import AzureConfig
from isthmus.link.drivers.azure.driver import AzureCloud
from isthmus.wire import paths

pytestmark = [
    pytest.mark.timeout(600),
    # What schemathesis and requests themselves do.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    # Hypothesis finds that a strategy drew from ``random``, when what drew was the plane in its thread.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"),
]

FEW = settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
REJECTED = [400, 401, 403, 404, 405, 409, 413, 422]
CONFIG = {"seed": 20260203, "checks": {"negative_data_rejection": {"expected-statuses": REJECTED}}}
CORE: Any = None
DOCUMENT = documents.document(application.router(CORE))
api = schemathesis.openapi.from_dict(DOCUMENT, config=SchemathesisConfig.from_dict(CONFIG))
#: Ids that exist: most requests shall come further than "not found".
IDS = {"cluster_id": SCENE_CLUSTER["cluster_id"], "deployment_id": "daaaaaaa"}


class Plane:
    """A control plane in a thread."""

    def __init__(self, url: str, lab: FakeLab) -> None:
        self._database, self._lab = url, lab
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()))
        self.url = self.token = ""

    async def _run(self) -> None:
        self.token = await prepare(self._database)
        config = AzureConfig(arm_endpoint=self._lab.url, ca_file=self._lab.ca, poll_seconds=0.01)
        async with (
            AzureCloud(config, LabCredential(self._lab)) as cloud,
            running(self._database, cloud, self.token) as plane,
        ):
            await plane.call("POST", "/clusters", SCENE_CLUSTER, status=201)
            self.url = plane.url
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> "Plane":
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self._loop.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeLab, Scene]]:
    with on_fake_lab(tmp_path_factory.mktemp("lab")) as both:
        yield both


@pytest.fixture(scope="module")
def plane(postgres_url: str, scene: tuple[FakeLab, Scene]) -> Iterator[Plane]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    with databases.connected(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE "{name}"')
    try:
        with Plane(make_url(postgres_url).set(database=name).render_as_string(hide_password=False), scene[0]) as plane:
            yield plane
    finally:
        with databases.connected(postgres_url) as connection, connection.cursor() as cursor:
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@api.parametrize()
@FEW
def test_the_control_api(case: Any, plane: Plane, scene: tuple[FakeLab, Scene]) -> None:
    for name in (case.path_parameters or {}).keys() & IDS.keys():
        if isinstance(case.path_parameters[name], str) and len(case.path_parameters[name]) in (8, 11):
            case.path_parameters[name] = IDS[name]
    excluded = [positive_data_acceptance]  # networks that overlap, links that exist, ids that do not: all fit the form
    if any(isinstance(value, list | dict) for value in (case.query or {}).values()):
        excluded.append(negative_data_rejection)  # sent as several, of which the last counts, or as none
    response = case.call(base_url=plane.url, headers={"Authorization": f"Bearer {plane.token}"})
    # Schemathesis' own words for it end in hundreds of lines, and without the body when Hypothesis cannot repeat it.
    assert response.status_code < 500, f"{case.method} {case.path}: {response.status_code} {response.text}"
    case.validate_response(response, excluded_checks=excluded)


def test_the_document_is_served_and_names_every_route(plane: Plane) -> None:

    assert httpx.get(f"{plane.url}{paths.CONTROL_DOCUMENT}").json() == DOCUMENT
    named = vars(paths).items()
    own = {value for name, value in named if name.startswith("CONTROL_") and value.startswith("/control/v1/")}
    asked = {
        paths.CONTROL_DEPLOYMENT + value
        for name, value in named
        if name.startswith("ADMIN_") and value.startswith("/admin/v1/")
    }
    assert set(DOCUMENT["paths"]) == own | asked
    assert "HTTPValidationError" not in DOCUMENT["components"]["schemas"]
    for item in DOCUMENT["paths"].values():
        for operation in item.values():
            errors = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
            assert errors
            assert all(list(answer["content"]) == ["application/problem+json"] for answer in errors.values())
