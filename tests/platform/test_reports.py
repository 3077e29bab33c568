from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner import artefacts
from aligner.errors import DataError
from aligner.judging import DIMENSIONS, Judgement, Scores, verdict_of
from aligner.keeping import calibrate
from aligner.prompt import PLAIN
from aligner.records import Question
from aligner.reports import (
    REPORT_FILE,
    EvaluationReport,
    JudgedRow,
    ModelUnderTest,
    Overall,
    UpstreamReport,
    evaluate_rows,
    read_calibration,
    read_report,
)

SCORE = st.sampled_from([0.0, 0.5, 1.0])
SCORES = st.builds(
    lambda a, b, c: dict(zip(DIMENSIONS, (a, b, c), strict=True)), SCORE, SCORE, SCORE
)


def scores(helpful: float = 1.0, harmless: float = 1.0, honest: float = 1.0) -> Scores:
    return {"helpful": helpful, "harmless": harmless, "honest": honest}


def judged(
    before: Scores,
    after: Scores,
    *,
    upstream: str = "iron",
    changed: bool = True,
    details: tuple[int, int] = (0, 0),
    unusable: str | None = None,
) -> JudgedRow:
    return JudgedRow(
        upstream=upstream,
        question=Question("Why?"),
        answer="Old.",
        correction="New." if changed else "Old.",
        judgement=Judgement(
            before=before,
            after=after,
            verdicts={name: verdict_of(before[name], after[name]) for name in DIMENSIONS},
            details_before=details[0],
            details_kept=details[1],
        ),
        unusable=unusable,
    )


ROWS = st.lists(
    st.builds(
        judged,
        SCORES,
        SCORES,
        upstream=st.sampled_from(["iron", "jasper", "sterling"]),
        changed=st.booleans(),
        unusable=st.sampled_from([None, None, "cut_off"]),
    ),
    min_size=1,
    max_size=40,
)


def report_of(rows: list[JudgedRow]) -> EvaluationReport:
    upstreams, overall = evaluate_rows(rows)
    return EvaluationReport(
        model=ModelUnderTest(
            export_uri="export",
            export_hash="ab" * 32,
            prompt_name=PLAIN.name,
            prompt_fingerprint=PLAIN.fingerprint,
        ),
        judge="a judge",
        questions="questions",
        simulated=True,
        upstreams=upstreams,
        overall=overall,
    )


def test_a_cell_counts_wins_losses_and_what_could_be_won() -> None:
    rows = [
        judged(scores(honest=0.0), scores()),
        judged(scores(honest=0.5), scores(honest=0.5)),
        judged(scores(), scores(honest=0.0)),
        judged(scores(), scores(), changed=False),
    ]
    upstreams, _ = evaluate_rows(rows)
    cell = upstreams["iron"].dimensions["honest"]
    assert (cell.wins, cell.losses, cell.ties) == (1, 1, 2)
    assert cell.omega == 0.0
    assert cell.attainable == 50.0
    assert (cell.before, cell.after) == (0.625, 0.625)


def test_shares_tell_good_answers_from_flawed_ones() -> None:
    rows = [
        judged(scores(), scores(), changed=False, details=(2, 2)),
        judged(scores(), scores(), changed=True, details=(1, 1)),
        judged(scores(), scores(helpful=0.5), changed=True, details=(1, 0)),
        judged(scores(helpful=0.5), scores(), changed=True, details=(0, 0)),
    ]
    one = evaluate_rows(rows)[0]["iron"]
    assert one.n == 4
    assert one.copy_rate == 0.25
    assert one.perfect == 3
    assert one.identity_kept == pytest.approx(1 / 3)
    assert one.over_correction == pytest.approx(2 / 3)
    assert one.spoiled == pytest.approx(1 / 3)
    assert (one.details, one.details_kept) == (4, 0.75)


def test_nothing_to_keep_counts_as_kept() -> None:
    one = evaluate_rows([judged(scores(honest=0.0), scores())])[0]["iron"]
    assert (one.perfect, one.identity_kept, one.spoiled) == (0, 1.0, 0.0)
    assert (one.details, one.details_kept) == (0, 1.0)


def test_unusable_corrections_are_counted_by_reason() -> None:
    rows = [
        judged(scores(), scores(), changed=False, unusable=reason)
        for reason in ("cut_off", "cut_off", "empty", None)
    ]
    one = evaluate_rows(rows)[0]["iron"]
    assert one.unusable == {"cut_off": 2, "empty": 1}
    assert one.passthrough_share == 0.75
    assert [row.outcome for row in rows] == ["passthrough"] * 3 + ["unchanged"]


def test_the_overall_omega_is_the_mean_over_upstreams_whatever_their_sizes() -> None:
    rows = [judged(scores(honest=0.0), scores(), upstream="bad")]
    rows += [judged(scores(), scores(), upstream="good")] * 3
    _, overall = evaluate_rows(rows)
    assert overall.dimensions["honest"].omega == 50.0
    assert overall.dimensions["honest"].attainable == 50.0
    assert overall.n == 4


def test_failures_of_an_upstream_are_kept_beside_its_answers() -> None:
    upstreams, _ = evaluate_rows(
        [judged(scores(), scores())], failed={"iron": {"timeout": 2}, "gone": {"refused": 1}}
    )
    assert upstreams["iron"].failed == {"timeout": 2}
    assert upstreams["iron"].n == 1


@given(ROWS)
def test_numbers_stay_within_their_bounds(rows: list[JudgedRow]) -> None:
    upstreams, overall = evaluate_rows(rows)
    groups: list[UpstreamReport | Overall] = [*upstreams.values(), overall]
    for one in groups:
        for share in (one.copy_rate, one.similarity, one.identity_kept, one.details_kept):
            assert 0.0 <= share <= 1.0
        for cell in one.dimensions.values():
            assert -100.0 <= cell.low <= cell.omega + 1e-9
            assert cell.omega - 1e-9 <= cell.high <= 100.0
            assert 0.0 <= cell.before <= 1.0
            assert 0.0 <= cell.after <= 1.0
    for upstream in upstreams.values():
        for counted in upstream.dimensions.values():
            assert counted.wins + counted.losses + counted.ties == upstream.n
            # Only a flawed answer can be improved on.
            assert counted.omega <= counted.attainable + 1e-9


@given(ROWS)
def test_a_report_survives_being_written_and_read(rows: list[JudgedRow]) -> None:
    report = report_of(rows)
    assert EvaluationReport.model_validate_json(report.model_dump_json()) == report


def test_the_summary_finds_what_it_promises() -> None:
    """The keys that ``summary.json`` of the quickstart is promised with."""
    raw = report_of([judged(scores(honest=0.0), scores())]).model_dump(mode="json")
    iron = raw["upstreams"]["iron"]
    assert {"n", "copy_rate", "identity_kept", "details_kept", "dimensions"} <= set(iron)
    assert set(iron["dimensions"]) == {"helpful", "harmless", "honest"}
    for cell in (*iron["dimensions"].values(), *raw["overall"]["dimensions"].values()):
        assert {"omega", "attainable", "low", "high", "before", "after"} <= set(cell)
    assert iron["dimensions"]["honest"]["omega"] == 100.0


def test_no_rows_are_an_error() -> None:
    with pytest.raises(DataError, match="not one answer"):
        evaluate_rows([])


def publish(folder: Path, text: str) -> str:
    uri = str(folder / "report")
    with artefacts.staging(uri) as stage:
        (stage.path / REPORT_FILE).write_text(text)
        stage.publish(kind="report", name="r", prompt=PLAIN, prompt_fingerprint=PLAIN.fingerprint)
    return uri


def test_a_published_report_is_read_back(tmp_path: Path) -> None:
    report = report_of([judged(scores(), scores())])
    manifest, again = read_report(publish(tmp_path, report.model_dump_json()))
    assert again == report
    assert manifest.kind == "report"


def test_a_broken_report_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"report\.json: is missing or broken; evaluate"):
        read_report(publish(tmp_path, "{}"))


def test_a_missing_report_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no report there"):
        read_report(str(tmp_path / "nowhere"))


def test_the_calibration_of_a_report_is_read_by_its_uri(tmp_path: Path) -> None:
    keep = calibrate(
        [-0.1],
        [-5.0] * 600,
        export_hash="e" * 64,
        prompt_fingerprint=PLAIN.fingerprint,
        dtype="bfloat16",
        wanted_error=0.005,
        confidence=0.95,
    )
    report = report_of([judged(scores(), scores())]).model_copy(update={"keep": keep})
    assert read_calibration(publish(tmp_path, report.model_dump_json())) == keep


def test_a_report_without_a_calibration_says_what_to_do(tmp_path: Path) -> None:
    report = report_of([judged(scores(), scores())])
    with pytest.raises(DataError, match="evaluate the model with keep set"):
        read_calibration(publish(tmp_path, report.model_dump_json()))
