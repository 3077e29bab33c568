"""The house keeps its shape: source roots, import walls, packaging and shipped configs.

What import-linter cannot say is asserted here; its contracts run in ``test_checks.py``.
"""

import ast
import importlib
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from aligner.config import load

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = {"platform": "aligner", "jobs": "aligner_jobs", "serve": "aligner_serve"}
"""Source root -> the one package in it."""

CORE_MAY_IMPORT = {"aligner", "numpy", "pyarrow", "pydantic", "pydantic_core", "yaml"}
"""Besides the standard library; the adapters are outside of this."""

CONFIG_CLASSES = {
    "jobs/configs/build-dataset": "aligner_jobs.config.build_dataset:BuildDatasetConfig",
    "jobs/configs/cost": "aligner_jobs.config.cost:CostConfig",
    "jobs/configs/evaluate": "aligner_jobs.config.evaluate:EvaluateConfig",
    "jobs/configs/principles": "aligner.teaching:Principles",
    "jobs/configs/promote": "aligner_jobs.config.promote:PromoteConfig",
    "jobs/configs/quickstart": "aligner_jobs.config.quickstart:QuickstartConfig",
    "jobs/configs/train": "aligner_jobs.config.train:TrainConfig",
    "serve/configs": "aligner_serve.config.graph:GraphConfig",
}
"""Folder of shipped YAML -> the class that each file in it loads into."""


def shipped_configs() -> list[str]:
    found = [
        path.relative_to(REPOSITORY).as_posix()
        for root in ("jobs/configs", "serve/configs")
        for path in (REPOSITORY / root).rglob("*.y*ml")
    ]
    return sorted(found)


def sources(*, root: str) -> list[Path]:
    return sorted((REPOSITORY / root / PACKAGES[root]).rglob("*.py"))


# --- source roots ---------------------------------------------------------------------------


@pytest.mark.parametrize("root", [*PACKAGES, "tests"])
def test_no_folder_on_the_path_is_a_package(root: str) -> None:
    """One ``__init__.py`` in ``platform/`` and Python's own ``platform`` is gone."""
    assert not (REPOSITORY / root / "__init__.py").exists()


def test_no_folder_of_tests_is_a_package() -> None:
    assert not list((REPOSITORY / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("root", PACKAGES)
def test_a_source_root_holds_its_package_its_configs_and_a_readme(root: str) -> None:
    """A loose module would import from a checkout and be missing from the wheel."""
    left_by_tools = {"__pycache__"}
    found = {path.name for path in (REPOSITORY / root).iterdir()} - left_by_tools
    assert {PACKAGES[root], "README.md"} <= found
    assert found <= {PACKAGES[root], "README.md", "configs"}


def test_platform_is_the_standard_library_here() -> None:
    assert Path(platform.__file__).is_relative_to(sysconfig.get_path("stdlib"))


def test_platform_is_the_standard_library_for_a_program_started_in_the_repository() -> None:
    command = [sys.executable, "-c", "import platform; print(platform.system())"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("root", PACKAGES)
def test_no_module_is_named_like_one_of_the_standard_library(root: str) -> None:
    stems = {path.stem for path in sources(root=root)} - {"__init__", "__main__"}
    assert not stems & sys.stdlib_module_names


@pytest.mark.parametrize("root", PACKAGES)
def test_a_package_says_that_it_is_typed(root: str) -> None:
    assert (REPOSITORY / root / PACKAGES[root] / "py.typed").is_file()


@pytest.mark.parametrize(
    ("line", "banned"),
    [
        ("from jobs.aligner_jobs import runtime", True),
        ("import serve.aligner_serve", True),
        ("from unittest import mock", True),
        ("from ray import serve", False),
        ("import platform", False),
    ],
)
def test_ruff_bans_imports_by_folder_and_patching(line: str, banned: bool) -> None:
    command = ["-m", "ruff", "check", "--select=TID251", "--stdin-filename=jobs/aligner_jobs/x.py"]
    done = subprocess.run(
        [sys.executable, *command, "-"], cwd=REPOSITORY, input=line, capture_output=True, text=True
    )
    assert ("TID251" in done.stdout) is banned


# --- import walls ---------------------------------------------------------------------------


def imported_packages(source: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import in ``source``, those in functions too."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name.partition(".")[0]) for alias in names)
            case ast.ImportFrom(module=str(module)):
                yield node.lineno, module.partition(".")[0]


def test_the_core_imports_a_short_list_and_nothing_else() -> None:
    allowed = CORE_MAY_IMPORT | sys.stdlib_module_names
    adapters = REPOSITORY / "platform/aligner/adapters"
    trespasses = [
        f"{source.relative_to(REPOSITORY)}:{line}: {package}"
        for source in sources(root="platform")
        if not source.is_relative_to(adapters)
        for line, package in imported_packages(source)
        if package not in allowed
    ]
    assert not trespasses


# --- shipped configs ------------------------------------------------------------------------


@pytest.mark.parametrize("path", shipped_configs())
def test_a_shipped_config_loads_into_the_class_of_its_folder(path: str) -> None:
    module, _, name = CONFIG_CLASSES[path.rpartition("/")[0]].partition(":")
    load(getattr(importlib.import_module(module), name), REPOSITORY / path)


@pytest.mark.parametrize("folder", sorted({*CONFIG_CLASSES} - {"jobs/configs/quickstart"}))
def test_every_program_that_asks_for_a_config_ships_one(folder: str) -> None:
    assert list((REPOSITORY / folder).glob("*.yaml"))


# --- nothing of one machine -----------------------------------------------------------------

ELSEWHERE_MEANINGLESS = re.compile(
    r"""
      (?<![\w.}-]) / (?: work | root | Users | home / (?!ray\b|app\b) \w+ ) /   # somebody's folders
    | (?<![\w.}-]) /opt/(?:wheels|pypi)
    | pypi[.]org/simple | files[.]pythonhosted[.]org | download[.]pytorch[.]org   # package indexes
    | -index[-]url [ =] \S
    """,
    re.VERBOSE,
)


def project_files() -> list[Path]:
    """Every file that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("not a git checkout, so what belongs to the project cannot be told")
    files = [REPOSITORY / name for name in done.stdout.split("\0") if name]
    return [file for file in files if file.is_file()]


def test_no_file_names_a_folder_of_one_machine_or_a_package_index() -> None:
    found = []
    for file in project_files():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if ELSEWHERE_MEANINGLESS.search(line):
                found.append(f"{file.relative_to(REPOSITORY)}:{number}: {line.strip()}")
    assert not found


@pytest.mark.parametrize(
    ("line", "is_meant"),
    [
        ("data: /wo" + "rk/shared/data", True),
        ("path = '/ro" + "ot/x'", True),
        ("--extra-index" + "-url https://example.org", True),
        ("https://py" + "pi.org/simple", True),
        ("network/work/x and ./work/x", False),
        ("/home/ray/app in an image", False),
    ],
)
def test_the_search_for_machine_paths_finds_them(line: str, is_meant: bool) -> None:
    assert bool(ELSEWHERE_MEANINGLESS.search(line)) is is_meant
