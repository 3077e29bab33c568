import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest

from aligner.dataset_gates import DatasetGates, DatasetNumbers, hold
from aligner.prompt import PLAIN
from aligner.records import Triple
from aligner_jobs.dataset_html import (
    EXAMPLES,
    NAMELESS,
    OTHERS,
    DatasetReport,
    mean_similarity,
    reason_table,
    render,
    shown,
)
from aligner_jobs.dataset_profile import Profile
from aligner_jobs.tables import WORK_SCHEMA, Row, Step, Tally, drop, triple_row

HOSTILE = '<script>alert("1")</script> & {{ 7 * 7 }} $x$ \u202etxt <img src=x onerror=alert(2)>'
STEPS: tuple[Step, ...] = ("read", "filters", "duplicates")


def rows_of(upstreams: list[str], *, each: int = 20, text: str = "answer") -> list[Row]:
    """Every fourth correction is a copy, every tenth row was dropped."""
    rows = []
    for upstream in upstreams:
        for n in range(each):
            answer = f"{text} {n} of {upstream}"
            correction = answer if n % 4 == 0 else f"{answer}, corrected"
            triple = Triple(f"{text}? {n}", answer, correction, source="set", upstream=upstream)
            row = triple_row(triple, where=f"f:{n}")
            rows.append(drop(row, step="filters", reason="noise") if n % 10 == 9 else row)
    return rows


def report_of(
    rows: list[Row], *, gates: DatasetGates | None = None, facts: Mapping[str, Any] | None = None
) -> DatasetReport:
    table = pa.Table.from_pylist(rows, schema=WORK_SCHEMA)
    profile, tally = Profile(), Tally()
    profile.look(table)
    tally.add(table)
    compared = profile.compared()
    numbers = DatasetNumbers(profile.copy_rate, mean_similarity(compared), 0.1)
    kept = profile.rows.total()
    return DatasetReport(
        name="a set",
        prompt=PLAIN,
        counts={"train": kept, "heldout": 0, "warmup": 0},
        by_source={"train": {"set": kept}, "heldout": {}, "warmup": {}},
        funnel=tally.funnel(STEPS),
        tally=tally,
        profile=profile,
        compared=compared,
        checks=hold(numbers, gates or DatasetGates()),
        facts=facts or {},
    )


def text_of(page: str) -> str:
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def test_the_page_says_what_went_where_and_that_all_gates_were_passed() -> None:
    text = text_of(render(report_of(rows_of(["u", "v"]))))
    assert "36 of 40 rows are left, from 1 source and 2 upstreams" in text
    assert "All gates were passed" in text
    assert "4 noise" in text
    for title in ("Where each row went", "How long the texts are", "What was dropped"):
        assert title in text
    assert "What was asked of models" not in text
    assert "Packs of" not in text


def test_a_gate_that_failed_is_in_the_first_lines_with_both_numbers() -> None:
    page = render(report_of(rows_of(["u"]), gates=DatasetGates(max_copy_rate=0.1)))
    assert "Not published: max_copy_rate: 0.2778, at most 0.1 needed." in text_of(page)
    assert page.count('class="failed"') == 1


def test_hostile_text_is_shown_and_never_run() -> None:
    facts = {"ledger": {HOSTILE: {"requests": 3, HOSTILE: HOSTILE}}}
    page = render(report_of(rows_of([HOSTILE, "u"], text=HOSTILE), facts=facts))
    assert "<script" not in page
    assert "<img" not in page
    assert "{{ 7 * 7 }}" in page
    assert "&lt;script&gt;" in page
    assert not re.search(r'(src|href)="(?!#)', page)


def test_the_same_rows_give_the_same_page() -> None:
    rows = rows_of(["u", "v"])
    assert render(report_of(rows)) == render(report_of(rows))


def test_what_was_spent_and_packed_is_shown_where_it_is_known() -> None:
    packs = {"documents": 9, "packs": 2, "tokens": 1234, "fill_rate": 0.5, "set_aside": {"x": 1}}
    facts = {
        "pii": {"rows": 2, "places": {"EMAIL_ADDRESS": 3, "PHONE_NUMBER": 1}},
        "ledger": {"u": {"requests": 1200, "retries": {"http_429": 3}}, "t": {"cost": 0.25}},
        "packing": {
            "tokenizer": "models/one",
            "tokenizer_hash": "ab" * 32,
            "max_tokens": 2048,
            "splits": {"train": packs},
        },
    }
    text = text_of(render(report_of(rows_of(["u"]), facts=facts)))
    assert "1,200 3 http_429" in text
    assert "0.25" in text
    assert "Redacted in 2 rows: 3 EMAIL_ADDRESS, 1 PHONE_NUMBER." in text
    assert "Packs of 2,048 tokens" in text
    assert "1,234 50.0 % 1 x" in text


def test_reasons_are_counted_by_upstream_and_small_ones_go_together() -> None:
    upstreams = [f"u{n:02}" for n in range(30)]
    report = report_of([*rows_of(upstreams, each=10), *rows_of(["", "u00"], each=20)])
    columns, (noise,) = reason_table(report.tally)
    assert (noise.step, noise.reason, noise.total) == ("filters", "noise", 34)
    counts = dict(zip(columns, noise.counts, strict=True))
    assert counts["u00"] == 3
    assert counts[NAMELESS] == 2
    assert counts[OTHERS] == 34 - sum(n for name, n in counts.items() if name != OTHERS)
    assert OTHERS in text_of(render(report))


@pytest.mark.parametrize(("each", "copies"), [(200, 5), (10, 3)])
def test_up_to_fifty_rows_are_shown_mostly_edits(each: int, copies: int) -> None:
    rows = shown(report_of(rows_of(["u"], each=each)).compared)
    assert len(rows) <= EXAMPLES
    assert sum(one.row.is_identity for one in rows) == copies
    assert len(rows) == (EXAMPLES if each == 200 else 9)


def test_a_set_of_copies_alone_has_examples_too() -> None:
    rows = [one for one in rows_of(["u"], each=400) if one["answer"] == one["correction"]]
    report = report_of([row for row in rows if row["reason"] is None])
    assert len(shown(report.compared)) == EXAMPLES
    assert "edit ratio" not in render(report)


def test_no_rows_are_a_page_all_the_same() -> None:
    page = render(report_of([drop(row, step="filters", reason="x") for row in rows_of(["u"])]))
    assert "0 of 20 rows are left" in text_of(page)
