"""Who is asked, and what ends the job when replies are missing."""

from typing import Any

import pyarrow as pa
import pytest

from aligner.errors import EndpointError, GenerationError
from aligner.records import Triple
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.endpoints import endpoints, require_alive, require_replies
from aligner_jobs.generate import GAVE_UP
from aligner_jobs.tables import WORK_SCHEMA, Row, Step, Tally, drop, triple_row

FAR: dict[str, Any] = {"kind": "openai", "model": "m"}
CONFIG = BuildDatasetConfig.model_validate(
    {
        "out": "o",
        "base_url": "http://127.0.0.1:1/v1",
        "sources": {"s": {"kind": "simworld"}},
        "upstreams": {"one": {"model": "m", "base_url": "http://127.0.0.1:2/v1"}},
        "teachers": {
            "near": {"kind": "simworld"},
            "far": {**FAR, "base_url": "http://127.0.0.1:3/v1"},
        },
        "judge": FAR,
    }
)


def table(*rows: Row) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=WORK_SCHEMA)


def row(step: Step | None = None, reason: str = "") -> Row:
    triple = Triple("q", "a", "c", upstream="one", source="s", teacher="far")
    made = triple_row(triple, where="f:1")
    return made if step is None else drop(made, step=step, reason=reason)


def test_all_who_are_asked_over_http_are_known_by_their_places() -> None:
    assert set(endpoints(CONFIG)) == {"upstreams.one", "teachers.far", "judge"}


@pytest.mark.parametrize(
    ("step", "parts"),
    [
        ("answers", ["127.0.0.1:2", "upstream 'one'"]),
        ("corrections", ["127.0.0.1:3", "teacher 'far'"]),
        ("judge", ["127.0.0.1:1", "the judge"]),
    ],
)
def test_whoever_is_gone_is_named_with_the_address(step: Step, parts: list[str]) -> None:
    with pytest.raises(EndpointError) as caught:
        require_alive(CONFIG, table(row(), row(step, f"{GAVE_UP}refused")))
    assert all(part in str(caught.value) for part in (*parts, "(refused)"))
    require_alive(CONFIG, table(row(), row(step, "refused")))


@pytest.mark.parametrize(
    ("step", "reason", "whose"),
    [
        ("answers", "http_500", "upstream 'one'"),
        ("corrections", "chatty", "the teachers"),
        ("judge", "judge_unreadable", "the judge"),
    ],
)
def test_too_many_missing_replies_end_the_job(step: Step, reason: str, whose: str) -> None:
    tally = Tally()
    tally.add(table(*[row()] * 19, row(step, reason)))
    require_replies(CONFIG, tally)
    tally.add(table(row(step, reason)))
    with pytest.raises(GenerationError) as caught:
        require_replies(CONFIG, tally)
    assert all(part in str(caught.value) for part in (whose, "2 of 21", reason))


@pytest.mark.parametrize("verdict", ["judge_prefers_answer", "judge_undecided"])
def test_a_judge_s_verdict_is_no_missing_reply(verdict: str) -> None:
    tally = Tally()
    tally.add(table(row(), *[row("judge", verdict)] * 9))
    require_replies(CONFIG, tally)
