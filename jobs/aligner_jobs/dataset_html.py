"""The report of a dataset as one HTML page, good enough to decide on whether to train on it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from aligner.gates import Check
from aligner.manifest import FunnelStep
from aligner.prompt import PromptTemplate
from aligner.records import Triple
from aligner.worddiff import Piece, word_diff
from aligner_jobs.dataset_plots import copies_svg, edits_svg, lengths_svg
from aligner_jobs.dataset_profile import Compared, Profile
from aligner_jobs.report_page import rendered
from aligner_jobs.tables import Tally

EXAMPLES: Final = 50
_COPIES_SHOWN: Final = 5
_UPSTREAMS_SHOWN: Final = 12
"""Of a set that names hundreds, the others are shown together."""

OTHERS: Final = "all others"
NAMELESS: Final = "not named"


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What the page tells."""

    name: str
    prompt: PromptTemplate
    counts: Mapping[str, int]
    """Rows of each folder."""
    by_source: Mapping[str, Mapping[str, int]]
    """Split to source to rows."""
    funnel: Sequence[FunnelStep]
    tally: Tally
    profile: Profile
    compared: Sequence[Compared]
    """The profile's sample."""
    checks: Sequence[Check]
    facts: Mapping[str, Any]
    """Those of the manifest; ``ledger``, ``packing`` and ``pii`` are shown where they are there."""

    @property
    def failed(self) -> list[Check]:
        """The checks that did not pass."""
        return [check for check in self.checks if not check.passed]


@dataclass(frozen=True, slots=True)
class Example:
    """One row as the page shows it."""

    row: Triple
    similarity: float
    pieces: list[Piece]


@dataclass(frozen=True, slots=True)
class ReasonRow:
    """How many rows of each upstream were dropped for one reason."""

    step: str
    reason: str
    counts: list[int]
    """In the order of the table's upstreams."""

    @property
    def total(self) -> int:
        """Over all upstreams."""
        return sum(self.counts)


def render(report: DatasetReport) -> str:
    """The page as text."""
    profile, upstreams = report.profile, _largest(report.profile.rows)
    rows, copied = _grouped(profile.rows, upstreams), _grouped(profile.copied, upstreams)
    columns, reasons = reason_table(report.tally)
    return rendered(
        "dataset.html.j2",
        report=report,
        sources=sorted({name for split in report.by_source.values() for name in split}),
        similarity=mean_similarity(report.compared),
        lengths=Markup(lengths_svg(profile.lengths)),
        copies=Markup(copies_svg(rows, copied)) if rows else "",
        edits=Markup(edits_svg(found)) if (found := _edit_ratios(report, upstreams)) else "",
        columns=columns,
        reasons=reasons,
        ledger=ledger_table(report.facts.get("ledger", {})),
        packing=report.facts.get("packing"),
        pii=report.facts.get("pii"),
        examples=[Example(c.row, c.similarity, _pieces(c.row)) for c in shown(report.compared)],
    )


def mean_similarity(compared: Sequence[Compared]) -> float:
    """Of answer and correction over the sample; 0 for none."""
    return sum(one.similarity for one in compared) / max(1, len(compared))


def shown(compared: Sequence[Compared]) -> list[Compared]:
    """Up to :data:`EXAMPLES` rows: the first edits of the sample, then a few copies."""
    edits = [one for one in compared if not one.row.is_identity]
    copies = [one for one in compared if one.row.is_identity]
    places = EXAMPLES - min(_COPIES_SHOWN, len(copies))
    return [*edits[:places], *copies[: max(_COPIES_SHOWN, EXAMPLES - len(edits))]]


def reason_table(tally: Tally) -> tuple[list[str], list[ReasonRow]]:
    """Upstreams, and for each step and reason the rows of theirs that were dropped."""
    lost: dict[tuple[str, str], Counter[str]] = {}
    rows = Counter[str]()
    for (_, upstream, step, reason), count in tally.counts.items():
        if step is not None and reason is not None:
            lost.setdefault((step, reason), Counter())[upstream] += count
            rows[upstream] += count
    upstreams = _largest(rows)
    found = [(key, _grouped(counts, upstreams)) for key, counts in lost.items()]
    columns = [name for name in (*map(_named, upstreams), OTHERS) if any(c[name] for _, c in found)]
    table = [
        ReasonRow(step, reason, [counts[name] for name in columns])
        for (step, reason), counts in found
    ]
    return columns, sorted(table, key=lambda row: (-row.total, row.step, row.reason))


def ledger_table(ledger: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    """Columns, and a row for each model that was asked: how often, and at what cost."""
    columns = list(dict.fromkeys(key for one in ledger.values() for key in one))
    return columns, [(name, [one.get(key, "") for key in columns]) for name, one in ledger.items()]


def _edit_ratios(report: DatasetReport, upstreams: Sequence[str]) -> dict[str, list[float]]:
    ratios: dict[str, list[float]] = {}
    for one in report.compared:
        if not one.row.is_identity:
            name = _named(one.row.upstream) if one.row.upstream in upstreams else OTHERS
            ratios.setdefault(name, []).append(1 - one.similarity)
    order = [*map(_named, upstreams), OTHERS]
    return {name: ratios[name] for name in order if name in ratios}


def _largest(rows: Counter[str]) -> list[str]:
    """The upstreams with most rows, by name; all of them where there is one too many at most."""
    ranked = sorted(rows, key=lambda name: (-rows[name], name))
    return sorted(ranked if len(ranked) <= _UPSTREAMS_SHOWN + 1 else ranked[:_UPSTREAMS_SHOWN])


def _grouped(rows: Counter[str], upstreams: Iterable[str]) -> Counter[str]:
    """``rows`` by the names that the page shows, those of other upstreams together."""
    grouped = Counter({_named(name): rows[name] for name in upstreams})
    if others := rows.total() - grouped.total():
        grouped[OTHERS] = others
    return grouped


def _named(upstream: str) -> str:
    return upstream or NAMELESS


def _pieces(row: Triple) -> list[Piece]:
    return word_diff(row.answer, row.correction)
