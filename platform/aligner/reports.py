"""What an evaluation found out: the model of ``report.json``, and how rows become its numbers.

Shares that people read as percentages in the paper (omega, attainable and the interval) are in
percent here too; scores and all other shares are in [0, 1].
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import Field

from aligner import artefacts
from aligner.config import StrictModel
from aligner.errors import DataError
from aligner.judging import DIMENSIONS, Dimension, Judgement, is_perfect
from aligner.keeping import KEEP_TAG, KeepCalibration
from aligner.manifest import Manifest
from aligner.metrics import similarity
from aligner.records import Question
from aligner.winrate import WinRate, mean_interval, mean_omega

REPORT_FILE: Final = "report.json"

Outcome = Literal["corrected", "unchanged", "passthrough"]
"""``passthrough``: the correction was unusable, so the answer was returned in its place."""


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """One answer, what the Aligner made of it, and the judge's view of both."""

    upstream: str
    question: Question
    answer: str
    correction: str
    """What a user would get: for a passthrough, the answer."""
    judgement: Judgement
    unusable: str | None = None
    """Why the generated correction could not be used; ``None`` if it could."""
    keep_score: float | None = None
    """Of the answer's copy, where it was read; see :mod:`aligner.keeping`."""
    kept: bool = False
    """Whether the answer was returned without decoding because of it."""

    @property
    def outcome(self) -> Outcome:
        """What became of the answer."""
        if self.unusable is not None:
            return "passthrough"
        return "unchanged" if self.correction == self.answer else "corrected"

    @property
    def was_perfect(self) -> bool:
        """Whether the answer left nothing to correct."""
        return is_perfect(self.judgement.before)


class Cell(StrictModel):
    """One upstream in one dimension; a cell of the paper's Table 1."""

    omega: float
    """Net win margin in percent: (wins - losses) / all (equation 5)."""

    attainable: float
    """Percent of the answers with a flaw here: what a perfect corrector would win."""

    low: float
    """Lower end of omega's 95 % interval, in percent."""

    high: float
    """Upper end, in percent."""

    before: float
    """Mean score of the answers."""

    after: float
    """Mean score of the corrections."""


class CountedCell(Cell):
    """A cell with the verdicts that it was counted from."""

    wins: int
    losses: int
    ties: int


class Shares(StrictModel):
    """What was left alone, what was changed, what was lost."""

    n: int = Field(ge=0)
    """Answers judged."""

    copy_rate: float
    """Share of all answers returned byte for byte."""

    similarity: float
    """Mean likeness of answer and correction, over words."""

    perfect: int
    """Answers that left nothing to correct."""

    identity_kept: float
    """Share of the perfect answers returned unchanged; 1 where there was none."""

    spoiled: float
    """Share of the perfect answers that score lower afterwards; 0 where there was none."""

    details: int
    """True side details in the answers."""

    details_kept: float
    """Share of them that stand word for word in the corrections; 1 where there was none."""

    unusable: dict[str, int] = Field(default_factory=dict)
    """Corrections that could not be used, by reason: the answer was returned instead."""

    @property
    def over_correction(self) -> float:
        """Share of the perfect answers that were changed at all."""
        return 1.0 - self.identity_kept

    @property
    def passthrough_share(self) -> float:
        """Share of the answers whose correction could not be used."""
        return sum(self.unusable.values()) / self.n if self.n else 0.0


class UpstreamReport(Shares):
    """One upstream."""

    dimensions: dict[Dimension, CountedCell]

    failed: dict[str, int] = Field(default_factory=dict)
    """Questions that it did not answer, by reason; they are not among the ``n``."""


class Overall(Shares):
    """All upstreams: means over them in ``dimensions``, pooled over all answers elsewhere."""

    dimensions: dict[Dimension, Cell]


class ModelUnderTest(StrictModel):
    """What was evaluated."""

    export_uri: str
    export_hash: str
    """Content hash of the export's manifest; promotion compares it with the version's."""

    prompt_name: str
    prompt_fingerprint: str
    name: str | None = None
    """Registered name; unset for an export that was given by its path."""

    version: str | None = None


class EvaluationReport(StrictModel):
    """``report.json``."""

    model: ModelUnderTest
    judge: str
    """Who judged, in words."""

    questions: str
    """Where the questions came from, in words."""

    simulated: bool
    """Whether questions, upstreams and judge are those of the simulated world."""

    upstreams: dict[str, UpstreamReport] = Field(min_length=1)
    overall: Overall

    keep: KeepCalibration | None = None
    """The threshold of KEEP that was found, or by which answers were kept."""

    kept: int = 0
    """Answers that were returned without decoding because of it."""

    schema_version: int = 1


def evaluate_rows(
    rows: Sequence[JudgedRow], *, failed: Mapping[str, Mapping[str, int]] | None = None
) -> tuple[dict[str, UpstreamReport], Overall]:
    """The numbers of each upstream, in order of first appearance, and of all.

    ``failed`` holds for an upstream the questions that it did not answer, by reason.

    Raises:
        DataError: There are no rows.
    """
    if not rows:
        raise DataError("evaluation: there is not one answer to judge; check the upstreams.")
    by_upstream: dict[str, list[JudgedRow]] = {}
    for row in rows:
        by_upstream.setdefault(row.upstream, []).append(row)
    reports = {
        name: UpstreamReport(
            **_shares(group),
            dimensions={dimension: _cell(group, dimension) for dimension in DIMENSIONS},
            failed=dict((failed or {}).get(name, {})),
        )
        for name, group in by_upstream.items()
    }
    means = {dimension: _mean_cell(list(reports.values()), dimension) for dimension in DIMENSIONS}
    return reports, Overall(**_shares(rows), dimensions=means)


def read_report(uri: str) -> tuple[Manifest, EvaluationReport]:
    """Read the report artefact at ``uri``.

    Raises:
        DataError: There is none, or it is broken.
    """
    manifest = artefacts.read_manifest(uri, kind="report")
    filesystem, path = artefacts.resolve(uri)
    try:
        with filesystem.open_input_stream(f"{path}/{REPORT_FILE}") as stream:
            return manifest, EvaluationReport.model_validate_json(stream.read())
    except (OSError, ValueError):
        raise DataError(
            f"{uri}/{REPORT_FILE}: is missing or broken; evaluate the model again."
        ) from None


def read_calibration(uri: str) -> KeepCalibration:
    """The calibration of KEEP in the report at ``uri``; it has a threshold.

    Raises:
        DataError: There is no such report, or it has none.
    """
    _, report = read_report(uri)
    if report.keep is None:
        raise DataError(f"{uri}: has no calibration of KEEP; evaluate the model with keep set.")
    return report.keep.usable(where=uri)


def calibration_for(
    manifest: Manifest, *, report: str | None, tags: Mapping[str, str], where: str
) -> KeepCalibration | None:
    """The calibration of KEEP for the export of ``manifest``.

    That of ``report`` where one is named, else the one among ``tags``, those of its version;
    ``None`` where there is neither.

    ``where`` is the version, or the export, for messages.

    Raises:
        DataError: It cannot be read, or found no threshold.
        ContractMismatch: It was made with another export.
    """
    if report is not None:
        found, where = read_calibration(report), report
    elif (tag := tags.get(KEEP_TAG)) is not None:
        found = KeepCalibration.from_tag(tag, where=where)
    else:
        return None
    return found.require_export(
        export_hash=manifest.content_hash,
        prompt_fingerprint=manifest.prompt_fingerprint,
        where=where,
    )


def _shares(rows: Sequence[JudgedRow]) -> dict[str, object]:
    perfect = [row for row in rows if row.was_perfect]
    kept = sum(row.correction == row.answer for row in perfect)
    spoiled = sum(not is_perfect(row.judgement.after) for row in perfect)
    details = sum(row.judgement.details_before for row in rows)
    details_kept = sum(row.judgement.details_kept for row in rows)
    return {
        "n": len(rows),
        "copy_rate": sum(row.correction == row.answer for row in rows) / len(rows),
        "similarity": sum(similarity(row.answer, row.correction) for row in rows) / len(rows),
        "perfect": len(perfect),
        "identity_kept": kept / len(perfect) if perfect else 1.0,
        "spoiled": spoiled / len(perfect) if perfect else 0.0,
        "details": details,
        "details_kept": details_kept / details if details else 1.0,
        "unusable": dict(Counter(row.unusable for row in rows if row.unusable is not None)),
    }


def _cell(rows: Sequence[JudgedRow], dimension: Dimension) -> CountedCell:
    rate = WinRate.of(row.judgement.verdicts[dimension] for row in rows)
    low, high = rate.interval
    before = [row.judgement.before[dimension] for row in rows]
    return CountedCell(
        omega=100 * rate.omega,
        attainable=100 * sum(score < 1.0 for score in before) / len(rows),
        low=100 * low,
        high=100 * high,
        before=math.fsum(before) / len(rows),
        after=math.fsum(row.judgement.after[dimension] for row in rows) / len(rows),
        wins=rate.wins,
        losses=rate.losses,
        ties=rate.ties,
    )


def _mean_cell(reports: Sequence[UpstreamReport], dimension: Dimension) -> Cell:
    cells = [report.dimensions[dimension] for report in reports]
    rates = [WinRate(wins=c.wins, losses=c.losses, ties=c.ties) for c in cells]
    low, high = mean_interval(rates)
    return Cell(
        omega=100 * mean_omega(rates),
        attainable=sum(cell.attainable for cell in cells) / len(cells),
        low=100 * low,
        high=100 * high,
        before=sum(cell.before for cell in cells) / len(cells),
        after=sum(cell.after for cell in cells) / len(cells),
    )
