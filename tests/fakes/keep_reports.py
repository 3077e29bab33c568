"""Reports of evaluations that nobody has made, for the calibration of KEEP in them."""

from aligner import artefacts
from aligner.judging import DIMENSIONS, Judgement
from aligner.keeping import KeepCalibration
from aligner.manifest import Manifest
from aligner.prompt import PLAIN
from aligner.records import Question
from aligner.reports import (
    REPORT_FILE,
    EvaluationReport,
    JudgedRow,
    ModelUnderTest,
    evaluate_rows,
)


def calibration(
    manifest: Manifest, *, threshold: float | None, dtype: str = "bfloat16"
) -> KeepCalibration:
    """Of the export of ``manifest``."""
    return KeepCalibration(
        export_hash=manifest.content_hash,
        prompt_fingerprint=manifest.prompt_fingerprint,
        dtype=dtype,
        threshold=threshold,
        wanted_error=0.005,
        confidence=0.95,
        good=10,
        flawed=600,
        good_kept=8,
        flawed_kept=0,
    )


def write_report(uri: str, keep: KeepCalibration) -> str:
    """A report with ``keep``, and with nothing else to speak of; its place."""
    fine = dict.fromkeys(DIMENSIONS, 1.0)
    judgement = Judgement(fine, fine, dict.fromkeys(DIMENSIONS, "tie"), 0, 0)
    upstreams, overall = evaluate_rows([JudgedRow("up", Question("Q?"), "A.", "A.", judgement)])
    written = EvaluationReport(
        model=ModelUnderTest(
            export_uri="e",
            export_hash=keep.export_hash,
            prompt_name="plain",
            prompt_fingerprint=keep.prompt_fingerprint,
        ),
        judge="j",
        questions="q",
        simulated=True,
        upstreams=upstreams,
        overall=overall,
        keep=keep,
    )
    with artefacts.staging(uri) as staging:
        (staging.path / REPORT_FILE).write_text(written.model_dump_json())
        staging.publish(kind="report", name="r", prompt=PLAIN, prompt_fingerprint=PLAIN.fingerprint)
    return uri
