"""``aligner evaluate``: held-out questions -> answers -> corrections -> judgements -> a report."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from aligner import artefacts
from aligner.errors import DataError
from aligner.judging import DIMENSIONS, Judge
from aligner.keeping import KEEP_TAG, KeepCalibration
from aligner.manifest import PAGE_FILE, Manifest, Parent, provenance
from aligner.reports import (
    REPORT_FILE,
    EvaluationReport,
    JudgedRow,
    Overall,
    UpstreamReport,
    evaluate_rows,
    read_report,
)
from aligner.simworld.judge import SimJudge
from aligner.simworld.world import World
from aligner.tracking import Run, Tracker
from aligner_jobs import runtime
from aligner_jobs.config.evaluate import EvaluateConfig
from aligner_jobs.correct import Correction, correct, job_of
from aligner_jobs.generate import probe
from aligner_jobs.keeping import calibrated, keep_from, stored_calibration
from aligner_jobs.questioning import Answers, QuestionSet, ask, load_questions
from aligner_jobs.report_html import write_html
from aligner_jobs.report_table import show_report
from aligner_jobs.subject import Subject, open_subject
from aligner_jobs.terminal import progress_bar, quiet_ray_data

JUDGEMENTS_FILE = "judgements.parquet"


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """Where the report stands, and what it says."""

    uri: str
    manifest: Manifest
    report: EvaluationReport
    reused: bool = False
    """Whether an equal one was there already."""


def run(config: EvaluateConfig, *, tracker: Tracker | None = None) -> EvaluateResult:
    """Judge the Aligner that ``config`` names and publish the report at ``config.out``.

    Raises:
        DataError: The model or the questions are missing or damaged, or something stands at
            ``out``.
        ContractMismatch: The model was trained on a prompt that this code renders otherwise.
        EndpointError: An upstream does not answer.
        GenerationError: Too many replies failed, or the model does not run.
    """
    started = time.monotonic()
    found = load_questions(config)
    tracker = tracker or _tracker(config)
    with open_subject(config, tracker) as subject:
        if (done := _published(config, subject)) is not None:
            show_report(Console(), done.report, uri=done.uri)
            return done
        calibration = stored_calibration(subject, config.keep, engine=config.engine)
        asyncio.run(probe(list(config.upstreams.values())))
        with (
            artefacts.staging(config.out) as stage,
            tracker.run(f"evaluate {config.name}") as record,
        ):
            record.log_params(config.model_dump(mode="json"))
            answers, corrections = _generate(found, subject, config, calibration)
            rows = judged(answers, corrections, _judge(config))
            calibration = calibration or calibrated(
                rows, subject, config.keep, engine=config.engine
            )
            report = _report(rows, answers, found, subject, config, calibration)
            _write(report, rows, stage.path, examples=config.examples)
            record.log_artifact(stage.path, folder="report")
            seconds = time.monotonic() - started
            facts = {"seconds": round(seconds, 1), "tokens": _tokens(corrections)}
            manifest = _publish(stage, report, found, subject, config, facts=facts)
            _record(record, tracker, report, subject, uri=config.out)
    show_report(Console(), report, uri=config.out, seconds=seconds)
    return EvaluateResult(config.out, manifest, report)


def _published(config: EvaluateConfig, subject: Subject) -> EvaluateResult | None:
    """An equal report at ``out``, ``None`` where there is nothing yet.

    Raises:
        DataError: Something else stands there.
    """
    if not artefacts.exists(config.out):
        return None
    manifest, report = read_report(config.out)
    same_model = report.model.export_hash == subject.manifest.content_hash
    if not same_model or manifest.facts.get("identity") != config.identity():
        what = "with other settings" if same_model else "on another model"
        raise DataError(
            f"{config.out}: a report {what} is there already; choose another out or remove it."
        )
    return EvaluateResult(config.out, manifest, report, reused=True)


def _generate(
    found: QuestionSet,
    subject: Subject,
    config: EvaluateConfig,
    calibration: KeepCalibration | None,
) -> tuple[Answers, list[Correction]]:
    quiet_ray_data()
    with runtime.ray_session():
        answers = _answers(found, config)
        return answers, _corrections(answers, subject, config, calibration)


def _publish(
    stage: artefacts.Staging,
    report: EvaluationReport,
    found: QuestionSet,
    subject: Subject,
    config: EvaluateConfig,
    *,
    facts: dict[str, Any],
) -> Manifest:
    return stage.publish(
        kind="report",
        name=config.name,
        prompt=subject.template,
        prompt_fingerprint=subject.manifest.prompt_fingerprint,
        parents=_parents(found, subject),
        counts={name: one.n for name, one in report.upstreams.items()},
        facts={**facts, "identity": config.identity()},
        spec=config.model_dump(mode="json"),
        **provenance(),
    )


def judged(answers: Answers, corrections: Sequence[Correction], judge: Judge) -> list[JudgedRow]:
    """Both texts of every row, judged; where a correction is unusable, its answer stands."""
    rows = []
    for one, made in zip(answers.rows, corrections, strict=True):
        text = made.text if made.unusable is None else one.answer
        rows.append(
            JudgedRow(
                upstream=one.upstream,
                question=one.question,
                answer=one.answer,
                correction=text,
                judgement=judge.judge(one.question, one.answer, text),
                unusable=made.unusable,
                keep_score=made.scores.score if made.scores else None,
                kept=made.kept,
            )
        )
    return rows


def _answers(found: QuestionSet, config: EvaluateConfig) -> Answers:
    total = len(found.questions) * config.rows_per_question
    with progress_bar("answers", total=total, unit="replies") as advance:
        return ask(found, config, advance=advance)


def _tokens(corrections: Sequence[Correction]) -> dict[str, int]:
    """Of all corrections, and how many of them the engine wrote."""
    return {
        "corrections": sum(one.tokens for one in corrections),
        "decoded": sum(one.decoded_tokens for one in corrections),
    }


def _corrections(
    answers: Answers,
    subject: Subject,
    config: EvaluateConfig,
    calibration: KeepCalibration | None,
) -> list[Correction]:
    """One for each answer, in the same order."""
    jobs = [
        job_of(
            one.question,
            one.answer,
            template=subject.template,
            tokenizer=subject.tokenizer,
            config=config,
            context_tokens=subject.context_tokens,
        )
        for one in answers.rows
    ]
    done: dict[int, Correction] = {}
    with progress_bar("corrections", total=len(jobs), unit="answers") as advance:
        for index, correction in correct(
            jobs,
            model=subject.folder,
            template=subject.template,
            tokenizer=subject.tokenizer,
            engine=config.engine,
            context_tokens=subject.context_tokens,
            keep_from=keep_from(config.keep, calibration),
        ):
            done[index] = correction
            advance(1)
    return [done[index] for index in range(len(jobs))]


def _judge(config: EvaluateConfig) -> Judge:
    return SimJudge(World(config.seed))


def _report(
    rows: Sequence[JudgedRow],
    answers: Answers,
    found: QuestionSet,
    subject: Subject,
    config: EvaluateConfig,
    calibration: KeepCalibration | None,
) -> EvaluationReport:
    upstreams, overall = evaluate_rows(rows, failed=answers.failed)
    return EvaluationReport(
        model=subject.described,
        judge=f"the exact judge of the simulated world with seed {config.seed}",
        questions=found.described,
        simulated=True,
        upstreams=upstreams,
        overall=overall,
        keep=calibration,
        kept=sum(row.kept for row in rows),
    )


def _write(
    report: EvaluationReport, rows: Sequence[JudgedRow], folder: Path, *, examples: int
) -> None:
    text = report.model_dump_json(indent=2) + "\n"
    (folder / REPORT_FILE).write_text(text, encoding="utf-8")
    pq.write_table(_table(rows), folder / JUDGEMENTS_FILE)
    write_html(report, rows, folder / PAGE_FILE, examples=examples)


def _table(rows: Sequence[JudgedRow]) -> pa.Table:
    """One row per answer: the texts, the outcome, and scores and verdict in each dimension."""
    records = [
        {
            "upstream": row.upstream,
            "question_id": row.question.question_id,
            "question": row.question.question,
            "answer": row.answer,
            "correction": row.correction,
            "outcome": row.outcome,
            "unusable": row.unusable,
            "keep_score": row.keep_score,
            "kept": row.kept,
            "details_before": row.judgement.details_before,
            "details_kept": row.judgement.details_kept,
            **{f"{name}_before": row.judgement.before[name] for name in DIMENSIONS},
            **{f"{name}_after": row.judgement.after[name] for name in DIMENSIONS},
            **{f"{name}_verdict": row.judgement.verdicts[name] for name in DIMENSIONS},
        }
        for row in rows
    ]
    table = pa.Table.from_pylist(records)
    # A column without one value has no type of its own.
    for name, kind in (("unusable", pa.string()), ("keep_score", pa.float64())):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table[name].cast(kind))
    return table


def _parents(found: QuestionSet, subject: Subject) -> tuple[Parent, ...]:
    """The export, the dataset that it was trained on, and the one that was asked."""
    trained_on = tuple(p for p in subject.manifest.parents if p.kind == "dataset")
    parents = (subject.manifest.as_parent(subject.uri), *trained_on, *found.parents)
    return tuple({parent.content_hash: parent for parent in parents}.values())


def _record(
    record: Run, tracker: Tracker, report: EvaluationReport, subject: Subject, *, uri: str
) -> None:
    """The numbers and files in MLflow; the most important ones on the model version, too."""
    record.log_metrics(metrics_of(report))
    record.log_dataset(subject.manifest, subject.uri, context="model under test")
    record.set_tags({"report_uri": uri, "export_hash": report.model.export_hash})
    if (version := subject.version) is not None:
        record.set_tags({"model_version": version.uri})
        tracker.set_version_tags(version.name, version.version, version_tags(report, uri, record))


def metrics_of(report: EvaluationReport) -> dict[str, float]:
    """Every number of the report under a flat name: ``iron.helpful.omega``, ``overall.n``."""
    metrics: dict[str, float] = {}
    groups: dict[str, UpstreamReport | Overall] = {**report.upstreams, "overall": report.overall}
    for name, one in groups.items():
        shares = ("n", "copy_rate", "similarity", "identity_kept", "over_correction", "spoiled")
        for key in (*shares, "details_kept", "passthrough_share"):
            metrics[f"{name}.{key}"] = float(getattr(one, key))
        for dimension, cell in one.dimensions.items():
            for key in ("omega", "attainable", "low", "high", "before", "after"):
                metrics[f"{name}.{dimension}.{key}"] = getattr(cell, key)
    if (keep := report.keep) is not None and keep.threshold is not None:
        metrics["keep.threshold"] = keep.threshold
        metrics["keep.good_kept"] = keep.good_kept / keep.good
        metrics["keep.error_bound"] = keep.error_bound
    return metrics


def version_tags(report: EvaluationReport, uri: str, record: Run) -> dict[str, str]:
    """What the registry shows of an evaluated version."""
    overall = report.overall
    omegas = {
        f"omega_{name}": f"{cell.omega:.1f} of {cell.attainable:.1f}"
        for name, cell in overall.dimensions.items()
    }
    keep = report.keep
    stored = {} if keep is None or keep.threshold is None else {KEEP_TAG: keep.to_tag()}
    return {
        **omegas,
        **stored,
        "identity_kept": f"{overall.identity_kept:.4f}",
        "details_kept": f"{overall.details_kept:.4f}",
        "report_uri": uri,
        "evaluation_run_id": record.run_id,
    }


def _tracker(config: EvaluateConfig) -> Tracker:
    from aligner.adapters.mlflow_tracker import MlflowTracker

    return MlflowTracker(config.tracking)
