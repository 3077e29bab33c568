import pytest
from pydantic import ValidationError

from aligner.errors import ContractMismatch
from aligner.manifest import FileEntry, FunnelStep, Manifest, provenance
from aligner.prompt import PLAIN, A


def manifest(**fields: object) -> Manifest:
    base: dict[str, object] = {
        "kind": "dataset",
        "name": "sample",
        "prompt": PLAIN,
        "prompt_fingerprint": PLAIN.fingerprint,
    }
    return Manifest.model_validate({**base, **fields})


def test_a_step_whose_numbers_do_not_add_up_is_refused() -> None:
    with pytest.raises(ValidationError, match="does not add up"):
        FunnelStep(step="dedup", rows_in=10, rows_out=8, dropped={"duplicate": 1})


def test_steps_must_follow_on_one_another() -> None:
    steps = [
        {"step": "read", "rows_in": 10, "rows_out": 9, "dropped": {"blank_answer": 1}},
        {"step": "dedup", "rows_in": 8, "rows_out": 8},
    ]
    with pytest.raises(ValidationError, match="'read' leaves 9 rows, 'dedup' begins with 8"):
        manifest(funnel=steps)


def test_the_content_hash_follows_files_and_prompt_not_the_time() -> None:
    files = {"train/part-0.parquet": FileEntry(size_bytes=3, sha256="ab")}
    first = manifest(files=files, created_at="2026-01-01T00:00:00+00:00")
    later = manifest(files=files, created_at="2026-02-01T00:00:00+00:00")
    other = manifest(files={**files, "x": FileEntry(size_bytes=1, sha256="cd")})
    assert first.content_hash == later.content_hash
    assert first.content_hash != other.content_hash


def test_the_page_for_people_is_no_content() -> None:
    files = {"train/part-0.parquet": FileEntry(size_bytes=3, sha256="ab")}
    page = {"report.html": FileEntry(size_bytes=1, sha256="cd")}
    assert manifest(files=files | page).content_hash == manifest(files=files).content_hash


def test_a_fingerprint_that_this_code_does_not_render_is_refused() -> None:
    stale = manifest(prompt_fingerprint=A.fingerprint)
    with pytest.raises(ContractMismatch, match=f"{A.fingerprint}.*{PLAIN.fingerprint}"):
        stale.require_fingerprint(where="models/x")
    assert manifest().require_fingerprint(where="models/x") == PLAIN


def test_a_manifest_survives_its_json() -> None:
    whole = manifest(counts={"train": 3}, **provenance())
    assert Manifest.model_validate_json(whole.model_dump_json()) == whole
