import asyncio
from pathlib import Path
from typing import Any

import pytest

from aligner.errors import DataError
from aligner.feedback import FeedbackRow
from aligner.records import Answered, Triple
from aligner_jobs.config.sources import FeedbackSource, brings
from aligner_jobs.raw_rows import BadRow
from aligner_jobs.sources import Item, pieces, read
from aligner_serve.config.feedback import FeedbackConfig
from aligner_serve.feedback_store import FeedbackFiles


def row(request: str, at_ms: int, verdict: str = "accept", edit: str | None = None) -> FeedbackRow:
    return FeedbackRow.model_validate(
        {
            "request_id": request,
            "at_ms": at_ms,
            "model": "iron+fixer",
            "verdict": verdict,
            "question": f"{request}?",
            "answer": "A",
            "correction": "C",
            "edit": edit,
        }
    )


def source(path: Path, **settings: object) -> FeedbackSource:
    return FeedbackSource.model_validate({"kind": "feedback", "path": str(path), **settings})


def items(of: FeedbackSource, *, max_bad_share: float = 0.0) -> list[Item | BadRow]:
    return [
        item
        for piece in pieces("said", of)
        for item in read(piece, seed=0, max_bad_share=max_bad_share)
    ]


def corrections(found: list[Item | BadRow]) -> dict[str, str]:
    triples = [item.row for item in found if isinstance(item, Item)]
    return {one.question: one.correction for one in triples if isinstance(one, Triple)}


def reasons(found: list[Item | BadRow]) -> list[str]:
    return [item.reason for item in found if isinstance(item, BadRow)]


def test_accepted_and_edited_corrections_are_rows_and_rejected_ones_are_not(tmp_path: Path) -> None:
    rows = [row("a", 1), row("b", 1, "edit", "E"), row("c", 1, "reject")]
    (tmp_path / "one.jsonl").write_bytes(b"".join(one.line() for one in rows))
    found = items(source(tmp_path))
    assert corrections(found) == {"a?": "C", "b?": "E"}
    assert reasons(found) == ["rejected"]


def test_the_latest_about_a_request_counts_whichever_replica_kept_it(tmp_path: Path) -> None:
    (tmp_path / "2.jsonl").write_bytes(row("a", 1, "reject").line() + row("b", 5).line())
    (tmp_path / "1.jsonl").write_bytes(row("a", 2).line() + row("b", 4, "edit", "E").line())
    found = items(source(tmp_path))
    assert corrections(found) == {"a?": "C", "b?": "C"}
    assert reasons(found) == ["superseded", "superseded"]


def test_what_is_sent_twice_is_kept_once(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_bytes(row("a", 1).line() * 2)
    (tmp_path / "2.jsonl").write_bytes(row("a", 1).line())
    assert len(corrections(items(source(tmp_path)))) == 1


def test_a_row_that_its_replica_did_not_finish_counts_as_never_given(tmp_path: Path) -> None:
    whole = row("a", 1).line()
    (tmp_path / "1.jsonl").write_bytes(whole + row("b", 1).line()[:-20])
    (tmp_path / "2.jsonl").write_bytes(row("c", 1).line())
    found = items(source(tmp_path))
    assert corrections(found) == {"a?": "C", "c?": "C"}
    assert reasons(found) == ["unfinished"]


def test_a_broken_row_among_whole_ones_is_bad(tmp_path: Path) -> None:
    lines = row("a", 1).line() + b"{\n" + b'{"kind": "other"}\n' + row("b", 1).line()
    (tmp_path / "1.jsonl").write_bytes(lines)
    assert reasons(items(source(tmp_path), max_bad_share=1.0)) == ["broken_json", "not_feedback"]
    with pytest.raises(DataError, match="2 of 4 rows"):
        items(source(tmp_path))


def test_rejected_corrections_can_be_left_to_the_teacher(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_bytes(row("a", 1, "reject").line())
    of = source(tmp_path, rejected="teach")
    (found,) = items(of)
    assert isinstance(found, Item) and isinstance(found.row, Answered)
    assert found.row.upstream == "iron"
    assert (brings(of), brings(source(tmp_path))) == ("answers", "corrections")


def test_what_a_gateway_keeps_in_an_object_store_is_read_from_there(s3: Any) -> None:
    uri = "s3://test/feedback/said"
    rows = [row(f"r{number}", number) for number in range(6)]

    async def keep() -> set[str]:
        replicas = [FeedbackFiles(FeedbackConfig(uri=uri, timeout_s=60.0)) for _ in range(2)]
        kept = [replica.keep(one) for replica in replicas for one in rows]
        return set(await asyncio.gather(*kept))

    assert asyncio.run(keep()) == {"kept"}
    found = items(FeedbackSource(kind="feedback", path=uri))
    assert corrections(found) == {f"r{number}?": "C" for number in range(6)}
    assert reasons(found) == ["superseded"] * 6
