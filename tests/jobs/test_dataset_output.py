from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aligner.adapters.memory_tracker import MemoryTracker
from aligner.config import validate
from aligner.errors import DataError, GateRefused
from aligner.manifest import FunnelStep
from aligner.records import Triple
from aligner_jobs import dataset_files
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.dataset_output import Output, dropped_share
from aligner_jobs.tables import STEPS, Row, Tally, tables_of, triple_row


def config(out: Path, **changes: object) -> BuildDatasetConfig:
    sources = {name: {"kind": "qac", "path": "x.json"} for name in ("one", "two")}
    raw = {"name": "n", "out": str(out), "sources": sources, **changes}
    return validate(BuildDatasetConfig, raw, where="test.yaml")


def some_rows(*, copies: int = 10, source: str = "one") -> list[Row]:
    rows = [(n, f"{source} answer {n}") for n in range(40)]
    triples = [
        Triple(f"q{n}", text, text if n < copies else f"{text} more", source=source)
        for n, text in rows
    ]
    return [triple_row(row, where=str(n)) for n, row in enumerate(triples)]


def finish(
    settings: BuildDatasetConfig, rows: list[Row], folder: Path, tracker: MemoryTracker
) -> dict[str, Any]:
    folder.mkdir()
    output = Output.prepare(settings)
    tally, counts = dataset_files.write(
        tables_of(rows, size=50),
        folder,
        heldout_share=0.1,
        warmup_share=0.2,
        mix=settings.mix,
        look=output.profile.look,
    )
    output.require_mixed(tally)
    with tracker.run("job") as record:
        return output.finish(
            folder, record, tally=tally, counts=counts, funnel=tally.funnel(STEPS), facts={"a": 1}
        )


def test_a_dataset_that_passes_gets_its_page_and_numbers(tmp_path: Path) -> None:
    tracker = MemoryTracker()
    facts = finish(config(tmp_path / "out"), some_rows(), tmp_path / "d", tracker)
    assert facts == {"a": 1}
    assert "All gates were passed" in (tmp_path / "d/report.html").read_text(encoding="utf-8")
    run = tracker.runs["run-1"]
    assert run.artifacts == ["dataset/report.html"]
    assert run.metrics["copy_rate"] == {0: 0.25}
    assert set(run.metrics) == {"copy_rate", "mean_similarity", "dropped_share"}


def test_a_gate_that_fails_leaves_a_page_beside_out_and_a_sentence(tmp_path: Path) -> None:
    tracker, out = MemoryTracker(), tmp_path / "out"
    with pytest.raises(GateRefused) as caught:
        finish(config(out), some_rows(copies=36), tmp_path / "d", tracker)
    page = f"{out}.report.html"
    assert str(caught.value) == (
        f"{out}: not published, 1 of 3 gates failed: max_copy_rate: 0.9, at most 0.8 needed; "
        f"see {page}, then mend the data or change gates knowingly."
    )
    assert "Not published: max_copy_rate" in Path(page).read_text(encoding="utf-8")
    assert tracker.runs["run-1"].artifacts == ["dataset/report.html"]
    assert not out.exists()


def test_the_page_of_a_refusal_goes_when_the_dataset_comes(tmp_path: Path) -> None:
    output, page = Output.prepare(config(tmp_path / "out")), tmp_path / "out.report.html"
    page.write_text("not published")
    output.forget_refusal()
    assert not page.exists()
    output.forget_refusal()


def test_a_mix_takes_the_shares_and_counts_what_was_too_much(tmp_path: Path) -> None:
    rows = [*some_rows(source="one"), *some_rows(source="two")]
    settings = config(tmp_path / "out", mix={"one": 1, "two": 4})
    folder = tmp_path / "d"
    folder.mkdir()
    tally, _ = dataset_files.write(
        tables_of(rows, size=50), folder, heldout_share=0.0, warmup_share=0.0, mix=settings.mix
    )
    assert tally.dropped("mix", source="one") == {"over_share": 30}
    assert tally.dropped("mix", source="two") == {}


def test_a_source_of_which_nothing_is_left_cannot_be_mixed(tmp_path: Path) -> None:
    settings = config(tmp_path / "out", mix={"one": 1, "two": 1})
    with pytest.raises(DataError, match="no row of source 'two' is left"):
        finish(settings, some_rows(source="one"), tmp_path / "d", MemoryTracker())


def test_all_rows_of_a_source_may_be_over_its_share(tmp_path: Path) -> None:
    tally = Tally(Counter({("one", "", None, None): 5, ("two", "", "mix", "over_share"): 1}))
    Output.prepare(config(tmp_path / "out", mix={"one": 99, "two": 1})).require_mixed(tally)


def test_what_filters_and_duplicates_take_is_a_share_of_the_finished_rows() -> None:
    lost = {"read": 50, "answers": 10, "filters": 10, "duplicates": 5, "mix": 20}
    left, funnel = 100, []
    for step, dropped in lost.items():
        reasons = {"reason": dropped}
        funnel.append(FunnelStep(step=step, rows_in=left, rows_out=left - dropped, dropped=reasons))
        left -= dropped
    assert dropped_share(funnel) == 15 / 40
    assert dropped_share([]) == 0.0


def test_a_tokenizer_that_is_missing_is_known_before_anything_starts(tmp_path: Path) -> None:
    packing = {"tokenizer": str(tmp_path / "none")}
    with pytest.raises(DataError, match=r"packing\.tokenizer"):
        Output.prepare(config(tmp_path / "out", packing=packing))
