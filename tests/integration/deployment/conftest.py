"""A database with our tables, and a stand-in for the one table of Airflow's that the plane reads, for each test."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from tests import planting

from isthmus.deployment import pooling, tables
from isthmus.deployment.config import DeploymentConfig
from isthmus.deployment.pooling import Pool

DEPLOYMENT_ID = "dtest234"


@pytest.fixture(scope="session")
def core_template(postgres_url: str) -> Iterator[str]:
    """The name of a database with our tables and a stand-in for ``task_instance``."""
    name = f"template_{uuid.uuid4().hex[:12]}"
    planting.execute(postgres_url, f'CREATE DATABASE "{name}"')
    url = make_url(postgres_url).set(database=name)
    engine = create_engine(url)
    tables.metadata.create_all(engine)
    engine.dispose()
    planting.execute(url.render_as_string(hide_password=False), planting.TASK_INSTANCE)
    yield name
    planting.execute(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def core_url(postgres_url: str, core_template: str) -> Iterator[str]:
    """The URL of a fresh database with our tables."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    planting.execute(postgres_url, f'CREATE DATABASE "{name}" TEMPLATE "{core_template}"')
    yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    planting.execute(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def pool(core_url: str) -> AsyncIterator[Pool]:
    """A pool on the test's database."""
    pool = await pooling.open_pool(core_url)
    yield pool
    await pool.close()


@pytest.fixture
def config() -> DeploymentConfig:
    """Settings with leases short enough to watch them end."""
    return DeploymentConfig(
        deployment_id=DEPLOYMENT_ID,
        heartbeat_seconds=1.0,
        lease_seconds=3.0,
        running_lease_seconds=6.0,
        token_limit=5,
    )


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Callable[[str, float], None]:
    """Note a measured figure: in the test's report, and on the terminal with ``-s``."""

    def note(name: str, value: float) -> None:
        record_property(name, round(value, 2))
        print(f"{name}: {value:.2f}")

    return note
