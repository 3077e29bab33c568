import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from aligner.judging import DIMENSIONS, Judgement, verdict_of
from aligner.keeping import calibrate
from aligner.prompt import PLAIN
from aligner.records import Question
from aligner.reports import EvaluationReport, JudgedRow, ModelUnderTest, evaluate_rows
from aligner.simworld import profiles, teacher
from aligner.simworld.judge import SimJudge
from aligner.simworld.questions import heldout_questions
from aligner.simworld.world import World
from aligner_jobs.report_html import negative_cells, render, shade, write_html

HOSTILE = '<script>alert("1")</script> & {{ 7 * 7 }} <img src=x onerror=alert(2)>'
VOID = {"meta", "br", "img", "use", "path", "rect"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on a tag that is closed in the wrong place."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def report_of(rows: list[JudgedRow]) -> EvaluationReport:
    upstreams, overall = evaluate_rows(rows, failed={})
    return EvaluationReport(
        model=ModelUnderTest(
            export_uri="s3://bucket/export",
            export_hash="ab" * 32,
            prompt_name=PLAIN.name,
            prompt_fingerprint=PLAIN.fingerprint,
            name="simworld-aligner",
            version="3",
        ),
        judge="the exact judge",
        questions="held-out questions",
        simulated=True,
        upstreams=upstreams,
        overall=overall,
    )


def corrected(
    count: int = 20, *, upstreams: tuple[str, ...] = ("iron", "sterling")
) -> list[JudgedRow]:
    """What the perfect teacher would make of two upstreams."""
    world = World(0)
    judge = SimJudge(world)
    rows = []
    for name in upstreams:
        for question in heldout_questions(world, count):
            answer = profiles.answer(world, name, question)
            correction = teacher.correct(world, question, answer)
            judgement = judge.judge(question, answer, correction)
            rows.append(JudgedRow(name, question, answer, correction, judgement))
    return rows


def hostile_row(upstream: str) -> JudgedRow:
    scores = dict.fromkeys(DIMENSIONS, 0.5)
    return JudgedRow(
        upstream=upstream,
        question=Question(HOSTILE),
        answer=f"Old {HOSTILE}",
        correction=f"New {HOSTILE}",
        judgement=Judgement(
            before=scores,
            after=dict.fromkeys(DIMENSIONS, 0.0),
            verdicts=dict.fromkeys(DIMENSIONS, verdict_of(0.5, 0.0)),
            details_before=0,
            details_kept=0,
        ),
    )


@pytest.fixture(scope="module")
def page() -> str:
    rows = corrected()
    return render(report_of(rows), rows, examples=3)


def test_the_page_is_well_formed_and_tells_the_main_results(page: str) -> None:
    seen = Page(page)
    text = re.sub(r"\s+", " ", seen.text)
    assert "simworld-aligner, version 3" in text
    assert "This is a simulation" in text
    assert "No cell is negative." in text
    for upstream in ("iron", "sterling", "average"):
        assert upstream in text
    assert "100.0 % of the attainable" in text


def test_the_page_needs_no_script_and_no_network(page: str) -> None:
    seen = Page(page)
    assert "script" not in seen.tags
    assert not seen.tags & {"link", "iframe", "object", "embed", "img"}
    fetched = [
        value
        for name, value in seen.attributes
        if name in ("src", "href", "xlink:href") and value and not value.startswith("#")
    ]
    assert not fetched
    assert "url(http" not in page
    assert "@import" not in page


def test_plots_name_their_axes_and_follow_the_page_colour(page: str) -> None:
    assert page.count("<svg") == 2
    assert "mean score (0 to 1)" in page
    assert "share of all answers (%)" in page
    assert "currentColor" in page


def test_changes_are_marked_word_by_word(page: str) -> None:
    assert re.search(r"<ins>[^<]+</ins>", page)
    assert re.search(r"<del>[^<]+</del>", page)


def test_hostile_text_is_shown_and_never_run() -> None:
    rows = [hostile_row("<b>iron</b> $x$"), *corrected(3, upstreams=("sterling",))]
    page = render(report_of(rows), rows, examples=2)
    seen = Page(page)
    assert not seen.tags & {"script", "img", "b-"}
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert "<script>" not in page
    assert "{{ 7 * 7 }}" in seen.text
    assert HOSTILE in seen.text
    assert "<b>iron</b> $x$" in seen.text


def test_losses_come_first_and_harm_is_said_in_the_first_lines() -> None:
    rows = [*corrected(5, upstreams=("iron",)), hostile_row("iron"), *[hostile_row("iron")] * 20]
    report = report_of(rows)
    assert negative_cells(report) == [f"iron {dimension}" for dimension in DIMENSIONS]
    text = Page(render(report, rows, examples=1)).text
    assert "does harm on balance in 3 of 3 cells" in text
    assert "helpful loss" in text


def kept(*, flawed: int) -> EvaluationReport:
    keep = calibrate(
        [-0.4, -0.2, -0.1],
        [-3.0] * flawed,
        export_hash="ab" * 32,
        prompt_fingerprint=PLAIN.fingerprint,
        dtype="bfloat16",
        wanted_error=0.005,
        confidence=0.95,
    )
    return report_of(corrected()).model_copy(update={"keep": keep, "kept": 2})


def test_the_curve_of_keep_is_drawn_with_what_it_found() -> None:
    page = Page(render(kept(flawed=600), [], examples=0))
    assert "flawed answers kept (%)" in page.text
    assert "keeps 3 of 3 good answers and 0 of 600 flawed ones" in page.text
    assert "2 of 40 answers were returned by it without decoding" in page.text


def test_too_few_flawed_answers_for_keep_are_said_plainly() -> None:
    page = Page(render(kept(flawed=30), [], examples=0))
    assert "There is no threshold: 30 flawed answers cannot show" in page.text


def test_the_same_report_gives_the_same_page(page: str) -> None:
    rows = corrected()
    assert render(report_of(rows), rows, examples=3) == page


def test_no_examples_are_shown_where_none_are_wanted(tmp_path: Path) -> None:
    rows = corrected(3)
    write_html(report_of(rows), rows, tmp_path / "report.html", examples=0)
    assert "<details" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("omega", range(-100, 101, 5))
def test_numbers_in_the_heat_map_can_be_read(omega: int) -> None:
    look = shade(float(omega))
    light, dark = sorted((luminance(look.background), luminance(look.ink)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_winning_is_blue_and_losing_is_orange() -> None:
    win, loss = shade(80.0).background, shade(-80.0).background
    assert int(win[5:7], 16) > int(win[1:3], 16)
    assert int(loss[1:3], 16) > int(loss[5:7], 16)
