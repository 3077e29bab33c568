"""``make check`` as tests: what the checks call red, ``make test`` calls red as well."""

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.timeout(900)  # mypy without a cache reads torch and Ray: a minute, more on busy cores
@pytest.mark.parametrize("target", ["check-lint", "check-format", "check-types", "check-walls"])
def test_the_sources_pass(target: str) -> None:
    # --old-file: the environment that runs this test is not for make to change.
    command = ["make", "--silent", "--old-file=.venv/.installed", target]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, f"make {target} says:\n{done.stdout}{done.stderr}"


def test_make_check_is_made_of_the_targets_above() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (line,) = [line for line in makefile.splitlines() if line.startswith("check:")]
    targets = line.partition("##")[0].removeprefix("check:").split()
    parametrized = test_the_sources_pass.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert targets == parametrized
