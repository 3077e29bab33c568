"""The judge over HTTP: the simulation's exact one, and models that cannot judge."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from aligner.adapters.simworld_http import SimworldServer
from aligner.records import Triple
from aligner.simworld.questions import training_questions
from aligner.simworld.teacher import correct
from aligner.simworld.world import World
from aligner_jobs.judging import AskJudge
from aligner_jobs.tables import WORK_SCHEMA, Row, drop, triple_row

WORLD = World(2)
QUESTION = training_questions(WORLD, 1)[0]
BAD = "Stop wasting my time."
GOOD = correct(WORLD, QUESTION, BAD)


@pytest.fixture(scope="module")
def server() -> Iterator[SimworldServer]:
    with SimworldServer(2) as server:
        yield server


def judged(server: SimworldServer, row: Row, **settings: object) -> Row:
    judge = {"kind": "openai", "base_url": server.base_url, "model": "judge", **settings}

    async def passed() -> pa.Table:
        stage = AskJudge(judge)
        try:
            return await stage(pa.Table.from_pylist([row], schema=WORK_SCHEMA))
        finally:
            await stage.aclose()

    found: list[Row] = asyncio.run(passed()).to_pylist()
    return found[0]


def row_of(answer: str, correction: str) -> Row:
    return triple_row(Triple(QUESTION.question, answer, correction), where="f:1")


@pytest.mark.parametrize(
    ("answer", "correction", "settings", "reason"),
    [
        (BAD, GOOD, {}, None),
        (GOOD, BAD, {}, "judge_prefers_answer"),
        (BAD, BAD + " ", {}, "judge_undecided"),
        (BAD, BAD + " ", {"keep_ties": True}, None),
        (BAD, GOOD, {"model": "amber"}, "judge_unreadable"),
        (BAD, GOOD, {"base_url": "http://127.0.0.1:9/v1", "max_attempts": 1}, "refused"),
    ],
)
def test_a_row_stays_only_where_the_correction_wins(
    server: SimworldServer,
    answer: str,
    correction: str,
    settings: dict[str, Any],
    reason: str | None,
) -> None:
    row = judged(server, row_of(answer, correction), **settings)
    assert row["reason"] == reason
    assert row["step"] == (None if reason is None else "judge")


def test_identity_rows_and_dropped_ones_are_not_asked_for(server: SimworldServer) -> None:
    gone = {"base_url": "http://127.0.0.1:9/v1", "max_attempts": 1}
    same = row_of(BAD, BAD)
    assert judged(server, same, **gone) == same
    lost = drop(same, step="filters", reason="blank_answer")
    assert judged(server, lost, **gone) == lost
