"""Who corrects what, and the teachers over HTTP: the simulation, and one that talks too much."""

import asyncio
import contextlib
import http.server
import json
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from aligner.adapters.simworld_http import SimworldServer
from aligner.records import Question, Triple
from aligner.simworld.questions import training_questions
from aligner.simworld.teacher import correct
from aligner.simworld.world import World
from aligner_jobs.tables import WORK_SCHEMA, Row, drop, question_row, triple_row
from aligner_jobs.teaching import AskTeachers, teach_simworld, teacher_of

WORLD = World(2)
QUESTIONS = training_questions(WORLD, 12)
RUDE = "Idiot. I cannot say."


@pytest.fixture(scope="module")
def server() -> Iterator[SimworldServer]:
    with SimworldServer(2) as server:
        yield server


def table(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=WORK_SCHEMA)


def answered(question: Question, answer: str) -> Row:
    row = question_row(question, source="s", where="f:1", rows=1)
    return {**row, "answer": answer}


def asked(teachers: dict[str, Any], rows: list[Row]) -> list[Row]:
    async def passed() -> pa.Table:
        stage = AskTeachers(teachers)
        try:
            return await stage(table(rows))
        finally:
            await stage.aclose()

    found: list[Row] = asyncio.run(passed()).to_pylist()
    return found


def over_http(server: SimworldServer, **settings: object) -> dict[str, Any]:
    return {"kind": "openai", "base_url": server.base_url, "model": "teacher", **settings}


@contextlib.contextmanager
def replying(text: str, finish_reason: str) -> Iterator[str]:
    """An API that replies alike to everything; its base URL."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@pytest.mark.parametrize("critique", [False, True])
def test_the_teacher_over_http_equals_the_one_in_memory(
    server: SimworldServer, critique: bool
) -> None:
    rows = [answered(question, RUDE) for question in QUESTIONS]
    # What is perfect already, the teacher over HTTP leaves alone by its marker.
    rows += [answered(question, correct(WORLD, question, RUDE)) for question in QUESTIONS]
    found = asked({"teacher": over_http(server, critique=critique)}, rows)
    simulated = {"teacher": {"kind": "simworld"}}
    assert found == teach_simworld(table(rows), teachers=simulated, seed=2).to_pylist()
    assert [row["correction"] for row in found[len(QUESTIONS) :]] == [
        row["answer"] for row in rows[len(QUESTIONS) :]
    ]
    assert {row["teacher"] for row in found} == {"teacher"}


def test_rows_with_a_correction_and_dropped_ones_pass(server: SimworldServer) -> None:
    ready = triple_row(Triple("q", "a", "c"), where="f:1")
    lost = drop(ready, step="read", reason="broken_json")
    assert asked({"teacher": over_http(server)}, [ready, lost]) == [ready, lost]


def test_each_teacher_gets_its_share_and_the_same_rows_in_every_run() -> None:
    rows = [answered(Question(f"q{i}"), "a") for i in range(2000)]
    shares = {"few": 1.0, "many": 3.0}
    names = [teacher_of(row, shares) for row in rows]
    assert Counter(names)["few"] == pytest.approx(500, abs=60)
    assert names == [teacher_of(row, {"many": 0.3, "few": 0.1}) for row in rows]


def test_teachers_of_both_kinds_share_the_rows(server: SimworldServer) -> None:
    teachers = {"far": over_http(server), "near": {"kind": "simworld", "share": 2.0}}
    rows = [answered(question, RUDE) for question in QUESTIONS]
    near = teach_simworld(table(rows), teachers=teachers, seed=2).to_pylist()
    both = asked(teachers, near)
    assert {row["teacher"] for row in near} == {"", "near"}
    assert {row["teacher"] for row in both} == {"far", "near"}
    assert all(row["correction"] for row in both)


@pytest.mark.parametrize(
    ("reply", "finish_reason", "reason", "correction"),
    [
        ("It is blue.", "stop", None, "It is blue."),
        ("<keep/>\n", "stop", None, RUDE),
        ("Nothing is wrong: <keep/>", "stop", "ambiguous_keep", None),
        ("Here is the corrected answer:\nIt is blue.", "stop", "chatty", None),
        ("It is bl", "length", "cut_off", None),
    ],
)
@pytest.mark.parametrize("critique", [False, True])
def test_a_reply_that_is_no_correction_sets_the_row_aside(
    critique: bool, reply: str, finish_reason: str, reason: str | None, correction: str | None
) -> None:
    with replying(reply, finish_reason) as base_url:
        teacher = {"kind": "openai", "base_url": base_url, "model": "m", "critique": critique}
        (row,) = asked({"t": teacher}, [answered(QUESTIONS[0], RUDE)])
    assert (row["reason"], row["correction"]) == (reason, correction)


def test_an_endpoint_that_is_gone_is_the_reason(server: SimworldServer) -> None:
    teacher = over_http(server, base_url="http://127.0.0.1:9/v1", max_attempts=1, critique=True)
    (row,) = asked({"t": teacher}, [answered(QUESTIONS[0], RUDE)])
    assert (row["step"], row["reason"], row["teacher"]) == ("corrections", "refused", "t")
