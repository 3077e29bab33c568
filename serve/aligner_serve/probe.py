"""A new version's examination: pairs whose corrections are known, before it corrects for anybody.

It runs inside the replica between the engine's start and the first request, so a version that
fails it never becomes healthy, and a rolling update stops at the replica that was to be the first.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from aligner import artefacts
from aligner.config import StrictModel
from aligner.errors import DataError, GateRefused
from aligner.metrics import similarity
from aligner.records import Question, Triple, Turn, from_columns
from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.release import ProbeConfig
from aligner_serve.pieces import BUSY, TIMEOUT, UNAVAILABLE, Delta, Failed, Finished, Piece

_MAX_PAIRS: Final = 1_000
_AT_ONCE: Final = 8
_BROKEN: Final = (BUSY, TIMEOUT, UNAVAILABLE)
"""Reasons that speak of the engine and not of the pair."""

Correct = Callable[[Question, str], AsyncGenerator[Piece]]
"""Corrects the answer to a question."""


class Pair(StrictModel):
    """A question, an answer and the correction that is expected; ``None`` expects any end."""

    question: str
    answer: str
    correction: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    """Role and text of each turn."""

    @property
    def asked(self) -> Question:
        """The question as a record."""
        turns = (Turn(role, text) for role, text in self.history)  # type: ignore[arg-type]
        return Question(self.question, tuple(turns))


class Probe(StrictModel):
    """What a version is examined with; crosses process borders as a plain dict."""

    pairs: tuple[Pair, ...] = (Pair(question="Is it well?", answer="It is well."),)
    """Unless told otherwise it must do no more than to come to an end, whatever it writes."""

    where: str = "the built-in probe"
    """The pairs' file, for messages."""

    limits: ProbeConfig = ProbeConfig()


@dataclass(frozen=True, slots=True)
class _Mark:
    """What became of one pair."""

    number: int
    """Of its line, from 1."""
    passed: bool
    why: str


def load_all(config: GraphConfig) -> dict[str, Probe]:
    """:func:`load` for each aligner of ``config``, by name."""
    return {name: load(aligner.probe) for name, aligner in config.aligners.items()}


def load(config: ProbeConfig) -> Probe:
    """The probe that ``config`` describes, its pairs read.

    Raises:
        DataError: The file is missing, or a line is no row of question, answer and correction.
    """
    if config.pairs is None:
        return Probe(limits=config)
    filesystem, path = artefacts.resolve(config.pairs)
    try:
        with filesystem.open_input_stream(path) as stream:
            lines = stream.read().decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(
            f"probe.pairs: {config.pairs} cannot be read ({type(exc).__name__}); correct the "
            "path, or save it as UTF-8."
        ) from None
    rows = [
        _pair(line, where=f"{config.pairs}:{number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not 0 < len(rows) <= _MAX_PAIRS:
        raise DataError(
            f"probe.pairs: {config.pairs} holds {len(rows)} rows, expected 1 to {_MAX_PAIRS}; a "
            "probe runs at every start of a replica, keep it short."
        )
    return Probe(pairs=tuple(rows), where=config.pairs, limits=config)


async def examine(correct: Correct, probe: Probe, *, version: str) -> None:
    """Have ``version`` correct every pair of ``probe``.

    Raises:
        GateRefused: Fewer pairs passed than the limits ask for, or it took too long.
    """
    limits = probe.limits
    try:
        async with asyncio.timeout(limits.timeout_s):
            marks = await _mark_all(correct, probe)
    except TimeoutError:
        raise GateRefused(
            f"{version}: did not finish {probe.where} within {limits.timeout_s:g} s; raise "
            "probe.timeout_s, or give it a faster engine."
        ) from None
    passed = sum(mark.passed for mark in marks)
    if passed < limits.min_share * len(marks):
        failed = [f"pair {mark.number}: {mark.why}" for mark in marks if not mark.passed]
        told = "; ".join(failed[:3]) + ("; ..." if len(failed) > 3 else "")
        raise GateRefused(
            f"{version}: passed {passed} of {len(marks)} pairs of {probe.where}, fewer than "
            f"probe.min_share={limits.min_share:g} asks for ({told}); make a better version, or "
            "correct the pairs or the limits."
        )


async def _mark_all(correct: Correct, probe: Probe) -> list[_Mark]:
    free = asyncio.Semaphore(_AT_ONCE)

    async def mark(number: int, pair: Pair) -> _Mark:
        async with free:
            return await _mark(correct, pair, number, probe.limits.min_similarity)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(mark(n, pair)) for n, pair in enumerate(probe.pairs, 1)]
    return [task.result() for task in tasks]


async def _mark(correct: Correct, pair: Pair, number: int, min_similarity: float) -> _Mark:
    """No text goes into the mark: it is told in logs."""
    text, end = "", None
    async with aclosing(correct(pair.asked, pair.answer)) as pieces:
        async for piece in pieces:
            match piece:
                case Delta(text=more):
                    text += more
                case Finished() | Failed():
                    end = piece
                    break
    match end:
        case Failed(reason=reason):
            # A pair that expects nothing may be too long for a model or never end with it.
            return _Mark(number, pair.correction is None and reason not in _BROKEN, reason)
        case Finished() if pair.correction is None:
            return _Mark(number, True, "")
        case Finished():
            alike = similarity(pair.correction or "", text)
            return _Mark(number, alike >= min_similarity, f"similarity {alike:.2f}")
        case None:
            return _Mark(number, False, UNAVAILABLE)


def _pair(line: str, *, where: str) -> Pair:
    try:
        record: Any = json.loads(line)
        row: Triple = from_columns(record if isinstance(record, dict) else {})
    except json.JSONDecodeError:
        raise DataError(f"{where}: is not JSON; write one row of a dataset a line.") from None
    except DataError as exc:
        raise DataError(f"{where}: {exc}; write one row of a dataset a line.") from None
    return Pair(
        question=row.question,
        answer=row.answer,
        correction=row.correction,
        history=tuple((turn.role, turn.text) for turn in row.history),
    )
