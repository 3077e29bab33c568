"""What is built and what is installed: the wheel, its metadata and the pinned requirements."""

import email.parser
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = {"platform": "aligner", "jobs": "aligner_jobs", "serve": "aligner_serve"}
"""Source root -> the one package in it."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    out = tmp_path_factory.mktemp("wheel")
    command = ["-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        yield archive


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert {name.partition("/")[0] for name in names} == set(PACKAGES.values())
    expected = {
        path.relative_to(REPOSITORY / root).as_posix()
        for root in PACKAGES
        for path in (REPOSITORY / root / PACKAGES[root]).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    configs = {
        f"{PACKAGES[root]}/_configs/{path.relative_to(REPOSITORY / root / 'configs').as_posix()}"
        for root in ("jobs", "serve")
        for path in (REPOSITORY / root / "configs").rglob("*.yaml")
    }
    assert expected | configs == set(names)


def test_the_wheel_carries_its_commands_and_its_licence(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    text = wheel.read(entry_points).decode()
    assert "aligner = aligner_jobs.cli:main" in text
    commands = "keys = aligner_serve.keys_cli:keys\nserve = aligner_serve.cli:serve"
    assert f"[aligner.commands]\n{commands}" in text
    (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    fields = email.parser.Parser().parsestr(wheel.read(metadata).decode())
    assert fields["License-Expression"] == "Apache-2.0"
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def pins(file: str) -> dict[str, Requirement]:
    lines = (REPOSITORY / "requirements" / file).read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in parsed}


@pytest.mark.parametrize("engines", ["cpu", "gpu"])
def test_pinned_requirements_cover_what_the_project_declares(engines: str) -> None:
    """After an edit of the dependencies: ``make requirements``."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"]
    declared = [
        *project["dependencies"],
        *extras["engines"],
        *extras["dev"],
        *(line for line in extras[engines] if "[engines]" not in line),
    ]
    pinned = pins(f"{engines}.txt")
    for line in declared:
        wanted = Requirement(line)
        pin = pinned.get(canonicalize_name(wanted.name))
        assert pin is not None, f"requirements/{engines}.txt does not pin {line}"
        (version,) = [specifier.version for specifier in pin.specifier]
        assert wanted.specifier.contains(version, prereleases=True), f"{pin} is not {line}"
