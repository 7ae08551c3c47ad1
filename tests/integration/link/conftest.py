"""Private links on a lab in this process: its scene, and our driver on it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.fakes.lab import FakeLab
from tests.fakes.link_scene import LabCredential, Scene, on_fake_lab

from isthmus.link.drivers.azure.config import AzureConfig
from isthmus.link.drivers.azure.driver import AzureCloud


@pytest.fixture(scope="session")
def authority_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One certificate authority for all labs of a run."""
    return tmp_path_factory.mktemp("link-authority")


@pytest.fixture
def lab_and_scene(authority_folder: Path) -> Iterator[tuple[FakeLab, Scene]]:
    with on_fake_lab(authority_folder) as both:
        yield both


@pytest.fixture
def lab(lab_and_scene: tuple[FakeLab, Scene]) -> FakeLab:
    return lab_and_scene[0]


@pytest.fixture
def scene(lab_and_scene: tuple[FakeLab, Scene]) -> Scene:
    return lab_and_scene[1]


@pytest.fixture
async def cloud(lab: FakeLab) -> AsyncIterator[AzureCloud]:
    config = AzureConfig(arm_endpoint=lab.url, ca_file=lab.ca, poll_seconds=0.01, operation_seconds=20)
    async with AzureCloud(config, LabCredential(lab)) as cloud:
        yield cloud
