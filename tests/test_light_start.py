"""Nothing heavy is loaded before it is needed: ``--help`` and a typo are answered at once.

What is loaded is asserted rather than seconds: it decides how soon an answer comes, and it does
not depend on what else the machine does.
"""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

ENGINES = {"deepspeed", "ray", "torch", "transformers", "vllm"}
"""Seconds each."""

HEAVY = ENGINES | {
    "boto3",
    "fastapi",
    "httpx",
    "matplotlib",
    "mlflow",
    "openai",
    "pandas",
    "tokenizers",
    "uvicorn",
}
"""Besides the engines, what costs a tenth of a second or more."""

CONFIGURED = ("build-dataset", "train", "evaluate", "promote", "cost", "serve")
"""Commands that read a YAML file."""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter, started where the folder ``platform/`` lies."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=REPOSITORY, capture_output=True, text=True
    )


IMPORT_AND_LIST = """
import importlib, sys
for name in sys.argv[1].split():
    importlib.import_module(name)
print(*{name.partition(".")[0] for name in sys.modules})
"""


def packages_loaded_by(*modules: str) -> set[str]:
    done = python(IMPORT_AND_LIST, " ".join(modules))
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_core_loads_no_heavy_library() -> None:
    modules = [
        ".".join(source.relative_to(REPOSITORY / "platform").with_suffix("").parts)
        for source in (REPOSITORY / "platform/aligner").rglob("[!_]*.py")
    ]
    core = [module for module in modules if not module.startswith("aligner.adapters.")]
    assert "aligner.prompt" in core
    assert not packages_loaded_by(*core) & HEAVY


@pytest.mark.parametrize(
    "module",
    [
        "aligner_jobs.config",
        "aligner_jobs.train.deepspeed_config",
        "aligner_jobs.train.planner",
        "aligner_serve.config",
        "aligner_serve.pipeline",
        "aligner_serve.wire",
    ],
)
def test_modules_to_be_tested_without_an_engine_load_none(module: str) -> None:
    assert not packages_loaded_by(module) & ENGINES


def test_adapters_load_no_engine() -> None:
    adapters = (REPOSITORY / "platform/aligner/adapters").glob("[!_]*.py")
    modules = [f"aligner.adapters.{path.stem}" for path in sorted(adapters)]
    assert not packages_loaded_by(*modules) & ENGINES


RUN_AND_LIST = """
import atexit, sys
from aligner_jobs.cli import main
loaded = lambda: print("\\n", *{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
atexit.register(loaded)
sys.argv = ["aligner", *sys.argv[1:]]
main()
"""


def aligner(*arguments: str) -> tuple[int, str, set[str]]:
    """Exit code and output of ``aligner``, and the packages that it had loaded by its end."""
    done = python(RUN_AND_LIST, *arguments)
    output, _, loaded = done.stderr.rstrip().rpartition("\n")
    return done.returncode, done.stdout + output, set(loaded.split())


@pytest.mark.parametrize(
    "command",
    [
        None,
        "build-dataset",
        "train",
        "evaluate",
        "promote",
        "cost",
        "serve",
        "quickstart",
        "simworld",
    ],
)
def test_help_loads_no_engine(command: str | None) -> None:
    code, output, loaded = aligner(*filter(None, [command]), "--help")
    assert code == 0, output
    assert not loaded & HEAVY


def test_a_plan_loads_no_engine() -> None:
    plan = ["train", "--sizes", "0.5b,7b", "--plan", "--json", "--set", "plan.sample_rows=0"]
    code, output, loaded = aligner(*plan)
    assert code == 0, output
    assert not loaded & ENGINES


def test_a_size_that_is_none_is_one_sentence_and_loads_no_engine() -> None:
    code, output, loaded = aligner("train", "--sizes", "7b,8b")
    assert code == 2 and "'8b' is none of the configs" in output
    assert not loaded & HEAVY


@pytest.mark.parametrize("command", CONFIGURED)
def test_a_config_typo_is_one_sentence_and_loads_no_engine(command: str, tmp_path: Path) -> None:
    config = tmp_path / "typo.yaml"
    config.write_text("sede: 7\n", encoding="utf-8")
    code, output, loaded = aligner(command, "--config", str(config))
    assert code == 2, output
    assert "sede" in output and str(config) in output.replace("\n", "")
    assert "Traceback" not in output
    assert not loaded & HEAVY
