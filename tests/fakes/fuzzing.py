"""Schemathesis over the gateway's own description, with bodies that reach what lies behind it.

Schemathesis loads this file for its hook, too: what JSON Schema cannot say, the hook makes true of
a drawn body, so that it is answered rather than refused. What is wrong with it stays wrong.
"""

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import schemathesis

_MODELS = ("iron", "iron+fixer", "iron+content", "iron+broken", "iron+strict", "iron+fixer+polite")
_ALIGNERS = ("fixer", "content", "broken", "strict", "polite")
_MAX_TOKENS = 4096
_MOST_QUESTIONS = 16
_GENERATED = re.compile(r"(\d+) generated")


@dataclass(frozen=True)
class Fuzzed:
    """What a run came to."""

    cases: int
    clean: bool
    """No 5xx, no reply that the description does not allow, nothing wrong that was accepted."""
    told: str
    """Schemathesis' own report, with a command that repeats each failure."""


def fuzz(url: str, *, examples: int, seed: int = 0, workers: int = 1) -> Fuzzed:
    """Send up to ``examples`` drawn requests to each route at ``url``, and the odd cases of all."""
    with tempfile.TemporaryDirectory() as folder:
        done = _schemathesis(url, examples, seed, workers, folder)
    found = _GENERATED.search(done.stdout)
    told = done.stdout + done.stderr
    return Fuzzed(int(found[1]) if found else 0, done.returncode == 0 and bool(found), told)


def _schemathesis(
    url: str, examples: int, seed: int, workers: int, folder: str
) -> subprocess.CompletedProcess[str]:
    """Run it in ``folder``, where it leaves files of its own."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
            *("--max-examples", str(examples), "--seed", str(seed), "--workers", str(workers)),
            # One connection error in a suite that shares its cores is not the gateway's.
            *("--request-timeout", "60", "--no-color", "--suppress-health-check", "all"),
        ],
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(Path(__file__).stem)}
        | {"PYTHONPATH": str(Path(__file__).parent)},
        cwd=folder,
        capture_output=True,
        text=True,
    )


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Make ``case`` one that the gateway can answer, where only its content is in the way."""
    if isinstance(case.body, dict):
        _answerable(case.path, case.body)
        if case.meta.generation.mode.is_positive and _is_number(case.body.get("seed")):
            # Schemathesis compares as doubles do, for which the bounds lie a little further out.
            case.body["seed"] = max(-(2**63), min(case.body["seed"], 2**63 - 1))


def _answerable(path: str, body: dict[str, Any]) -> None:
    if isinstance(model := body.get("model"), str):
        known = _ALIGNERS if path.startswith("/v1/corrections") else _MODELS
        body["model"] = known[len(model) % len(known)]
    elif path.startswith("/v1/corrections") and model is None:
        # Of several aligners one must be named.
        body["model"] = _ALIGNERS[0]
    for name in ("max_tokens", "max_completion_tokens"):
        if _is_number(body.get(name)) and body[name] > _MAX_TOKENS:
            body[name] = _MAX_TOKENS
    messages = body.get("messages")
    if isinstance(messages, list) and messages and _role(messages[-1]) not in ("user", None):
        messages.append({"role": "user", "content": "why?"})
    prompt, turns = body.get("prompt"), body.get("n")
    if isinstance(prompt, list) and _is_number(turns) and 1 <= turns <= _MOST_QUESTIONS:
        body["n"] = max(1, _MOST_QUESTIONS // max(1, len(prompt)))


def _role(message: object) -> object:
    return message.get("role") if isinstance(message, dict) else None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
