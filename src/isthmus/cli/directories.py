"""placeholder until initializing lands."""

from dataclasses import dataclass
from pathlib import Path

from isthmus.kit.errors import ConfigError


@dataclass(frozen=True, slots=True)
class AdminDoor:
    """x."""

    url: str
    token_file: Path


def door(directory: Path) -> AdminDoor:
    """x."""
    raise ConfigError(f"{directory} is not a deployment", code="deployment_directory_missing")
