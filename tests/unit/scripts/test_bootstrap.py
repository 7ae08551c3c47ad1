"""Choosing an interpreter, and what the pinned files promise."""

import importlib.util
import os
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


bootstrap = _load("bootstrap")
pin = _load("pin")


def test_an_interpreter_that_all_users_can_read_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {
        Path("/root/python3.11"): bootstrap.Interpreter(Path("/root/python3.11"), "3.11", True, False),
        Path("/usr/bin/python3.12"): bootstrap.Interpreter(Path("/usr/bin/python3.12"), "3.12", False, True),
        Path("/opt/python3.13"): bootstrap.Interpreter(Path("/opt/python3.13"), "3.13", True, True),
        Path("/usr/bin/python2"): None,
    }
    monkeypatch.setattr(bootstrap, "candidates", lambda: list(kinds))
    monkeypatch.setattr(bootstrap, "look_at", kinds.get)
    assert bootstrap.choose().executable == Path("/usr/bin/python3.12"), "its missing package can be installed"
    del kinds[Path("/usr/bin/python3.12")], kinds[Path("/opt/python3.13")]
    assert bootstrap.choose().executable == Path("/root/python3.11"), "better than none"
    del kinds[Path("/root/python3.11")]
    with pytest.raises(bootstrap.BootstrapError, match=r"apt-get install python3\.11"):
        bootstrap.choose()


def test_this_interpreter_is_understood() -> None:
    found = bootstrap.look_at(Path(sys.executable))
    assert found is not None
    assert found.version == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert bootstrap.look_at(Path("/bin/true")) is None


def test_a_folder_that_is_shut_shuts_what_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"
    file.parent.mkdir(mode=0o755)
    file.touch(mode=0o644)
    reachable = all(parent.stat().st_mode & 0o001 for parent in tmp_path.parents) and tmp_path.stat().st_mode & 0o001
    assert bootstrap.open_to_others(file) == bool(reachable)
    file.parent.chmod(0o700)
    assert not bootstrap.open_to_others(file)


def test_without_root_or_sudo_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    with pytest.raises(bootstrap.BootstrapError, match=r"run as root: apt-get install python3\.11-venv"):
        bootstrap.install_debian_package("python3.11-venv")


PINNED = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.mark.parametrize("file", PINNED, ids=lambda file: file.name)
def test_everything_is_pinned_by_hash_and_nothing_says_from_where(file: Path) -> None:
    text = file.read_text()
    assert "://" not in text
    requirements = re.split(r"\n(?=\S)", text.strip())
    assert [one for one in requirements if not re.match(r"[a-z0-9_.\[\]-]+==\S+ ?.*\\\n.*--hash=sha256:", one)] == []


@pytest.mark.parametrize(("name", "wanted"), pin.FILES, ids=lambda value: value if isinstance(value, str) else "")
def test_the_pins_cover_what_the_project_asks_for(name: str, wanted: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = list(project["project"]["dependencies"]) if "pyproject.toml" in wanted else []
    for word in wanted:
        if word.startswith("--extra="):
            asked += project["project"]["optional-dependencies"][word.removeprefix("--extra=")]
        if word.startswith("--group="):
            asked += project["dependency-groups"][word.removeprefix("--group=")]
    names = {re.split(r"[<>=\[ ]", one)[0] for one in asked}
    pinned = set(re.findall(r"^([A-Za-z0-9_.-]+)==", (ROOT / "requirements" / name).read_text(), re.MULTILINE))
    assert names - pinned == set()


def test_all_files_agree() -> None:
    """All but az.txt, which is for an environment of its own."""
    versions: dict[str, set[str]] = {}
    for file in (file for file in PINNED if file.name != "az.txt"):
        for name, version in re.findall(r"^(\S+)==(\S+)", file.read_text(), re.MULTILINE):
            versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}
