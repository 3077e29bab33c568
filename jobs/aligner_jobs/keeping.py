"""KEEP in jobs: the threshold that answers are held against, and how it is found."""

from collections.abc import Sequence
from typing import assert_never

from aligner.errors import ConfigError
from aligner.exports import computed_in
from aligner.keeping import KeepCalibration, calibrate
from aligner.reports import JudgedRow, calibration_for
from aligner_jobs.config.engine import EngineConfig
from aligner_jobs.config.keeping import CalibrateKeep, Keep, StoredKeep
from aligner_jobs.correct import NEVER
from aligner_jobs.subject import Subject


def stored_calibration(
    subject: Subject, keep: Keep | None, *, engine: EngineConfig
) -> KeepCalibration | None:
    """The calibration that answers are kept by in ``engine``, ``None`` where none of them is.

    Raises:
        ConfigError: Neither the config nor the model version names one.
        DataError: It cannot be read, or found no threshold.
        ContractMismatch: It was made with another export, or computed in another way.
    """
    match keep:
        case None | CalibrateKeep():
            return None
        case StoredKeep():
            version = subject.version
            where = version.uri if version else subject.uri
            found = calibration_for(
                subject.manifest,
                report=keep.calibration,
                tags=version.tags if version else {},
                where=where,
            )
            if found is None:
                raise ConfigError(
                    f"keep: {where} carries no calibration; name a report in keep.calibration, or "
                    "evaluate the model with keep.kind=calibrate first."
                )
            found.require_dtype(computed_in(subject.folder, engine.dtype), where=where)
            return found
        case _:
            assert_never(keep)


def keep_from(keep: Keep | None, calibration: KeepCalibration | None) -> float | None:
    """The lowest score that is kept, as :func:`aligner_jobs.correct.correct` wants it."""
    if keep is None:
        return None
    if calibration is None or calibration.threshold is None:
        return NEVER
    return calibration.threshold


def calibrated(
    rows: Sequence[JudgedRow], subject: Subject, keep: Keep | None, *, engine: EngineConfig
) -> KeepCalibration | None:
    """The threshold that the scores of judged rows lead to, where one is wanted.

    ``engine`` is the one that has computed them.
    """
    if not isinstance(keep, CalibrateKeep):
        return None
    scored = [(row.was_perfect, row.keep_score) for row in rows]
    return calibrate(
        [score for good, score in scored if good and score is not None],
        [score for good, score in scored if not good and score is not None],
        export_hash=subject.manifest.content_hash,
        prompt_fingerprint=subject.manifest.prompt_fingerprint,
        dtype=computed_in(subject.folder, engine.dtype),
        wanted_error=keep.wanted_error,
        confidence=keep.confidence,
    )
