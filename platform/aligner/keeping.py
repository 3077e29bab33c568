"""KEEP: returning an answer as it is because the Aligner, asked for a copy of it, has no doubt.

One prefill over prompt, copy and EOS gives the log-probability and the rank of each token of the
copy. Their score is compared with a threshold that ``aligner evaluate`` finds on held-out rows
and stores in its report (:func:`aligner.reports.read_calibration`) and, as the tag
:data:`KEEP_TAG`, on the model version.

Of a text that greedy decoding would return, all tokens have rank 1: as far as they do, a copy need
not be decoded, whatever the threshold.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final, Literal

from pydantic import Field

from aligner.config import StrictModel
from aligner.errors import ContractMismatch, DataError

KEEP_TAG: Final = "keep_calibration"
"""Tag of a model version: a calibration as :meth:`KeepCalibration.to_tag` writes it."""

_LEAST: Final = -1000.0
"""A score: JSON has no infinity."""

_CURVE_STEPS: Final = 20
_HALVINGS: Final = 60
"""Of an interval of length 1, until nothing is left of it in double precision."""


@dataclass(frozen=True, slots=True)
class CopyScores:
    """What the Aligner gives each token of an answer's copy, and the EOS behind the last."""

    logprobs: tuple[float, ...]
    """Natural logarithms."""

    ranks: tuple[int, ...]
    """1 is the token that greedy decoding writes."""

    def __post_init__(self) -> None:
        assert len(self.logprobs) == len(self.ranks) > 0

    @property
    def score(self) -> float:
        """The log-probability of the weakest token: one doubt is enough, however long the copy.

        In the simulated world it keeps as many good answers at an error of 0.5 % as the sum over
        all tokens, and lets fewer flawed ones through than their mean. A sum falls with every
        token of a longer answer, and in a mean one doubt disappears among the others.
        """
        return max(_LEAST, min(self.logprobs))

    @property
    def trusted(self) -> int:
        """Tokens of the copy before the first that greedy decoding would not write.

        If it is ``len(ranks)``, EOS included, greedy decoding returns the answer as it is.
        """
        return sum(1 for _ in takewhile(lambda rank: rank == 1, self.ranks))


class KeepPoint(StrictModel):
    """What one threshold would have done to the rows of a calibration."""

    threshold: float

    kept_good: float
    """Share of the good answers that score at least ``threshold``."""

    kept_flawed: float
    """Share of the flawed answers that do: the error."""


class KeepCalibration(StrictModel):
    """A threshold for one export, and the trade-off that it was chosen from."""

    export_hash: str
    prompt_fingerprint: str

    dtype: str
    """What the scores were computed in: others come out of the same weights in another."""

    statistic: Literal["weakest_token"] = "weakest_token"
    """What :attr:`CopyScores.score` was; thresholds of another are not comparable."""

    threshold: float | None
    """Lowest score that is kept; ``None`` if none could be found, so that nothing is kept."""

    wanted_error: float = Field(gt=0.0, lt=1.0)
    """Largest share of the flawed answers that may be kept."""

    confidence: float = Field(gt=0.0, lt=1.0)
    """That the true share is within ``wanted_error``, one-sided (Clopper and Pearson, 1934)."""

    good: int = Field(ge=0)
    """Answers scored in which the judge found nothing to mend."""

    flawed: int = Field(ge=0)
    """Answers scored in which it found something."""

    good_kept: int = Field(ge=0)
    """Of the good ones, at the threshold."""

    flawed_kept: int = Field(ge=0)
    """Of the flawed ones, at the threshold."""

    curve: tuple[KeepPoint, ...] = ()
    """From strict to lenient."""

    schema_version: Literal[1] = 1

    def keeps(self, scores: CopyScores) -> bool:
        """Whether an answer with these scores goes out as it is."""
        return self.threshold is not None and scores.score >= self.threshold

    @property
    def error_bound(self) -> float:
        """Upper end of the confidence interval of the share of flawed answers kept."""
        return upper_bound(self.flawed_kept, self.flawed, confidence=self.confidence)

    @property
    def sentence(self) -> str:
        """What was found, or why nothing was."""
        if self.threshold is None:
            return (
                f"no threshold: {self.flawed} flawed answers cannot show an error of "
                f"{self.wanted_error:.2%} with {self.confidence:.0%} confidence; "
                f"{rows_needed(self.wanted_error, confidence=self.confidence)} are needed if "
                "none of them is kept, and a good answer must score higher than they do."
            )
        return (
            f"keeps {self.good_kept} of {self.good} good answers and {self.flawed_kept} of "
            f"{self.flawed} flawed ones: with {self.confidence:.0%} confidence at most "
            f"{self.error_bound:.2%} of these."
        )

    def to_tag(self) -> str:
        """The calibration as compact JSON, some two thousand characters."""
        return self.model_dump_json()

    @classmethod
    def from_tag(cls, text: str, *, where: str) -> "KeepCalibration":
        """Read what :meth:`to_tag` wrote; ``where`` is named in the error.

        Raises:
            DataError: It is no calibration that this code can use, or it found no threshold.
        """
        try:
            found = cls.model_validate_json(text)
        except ValueError:
            raise DataError(
                f"{where}: holds no calibration of KEEP that can be read; evaluate the model "
                "again with keep set."
            ) from None
        return found.usable(where=where)

    def usable(self, *, where: str) -> "KeepCalibration":
        """This calibration.

        Raises:
            DataError: It found no threshold.
        """
        if self.threshold is None:
            raise DataError(
                f"{where}: the calibration of KEEP found {self.sentence.removesuffix('.')}; "
                "evaluate the model on more rows."
            )
        return self

    def require_export(
        self, *, export_hash: str, prompt_fingerprint: str, where: str
    ) -> "KeepCalibration":
        """This calibration, if it was made with that export.

        Raises:
            ContractMismatch: It was made with another export or another prompt.
        """
        if (self.export_hash, self.prompt_fingerprint) != (export_hash, prompt_fingerprint):
            raise ContractMismatch(
                f"{where}: the calibration of KEEP is of export {self.export_hash[:12]} with "
                f"prompt {self.prompt_fingerprint}, this is export {export_hash[:12]} with prompt "
                f"{prompt_fingerprint}; evaluate this export with keep set."
            )
        return self

    def require_dtype(self, dtype: str, *, where: str) -> None:
        """See that scores are computed as they were for this calibration.

        Raises:
            ContractMismatch: They are computed in another ``dtype``.
        """
        if self.dtype != dtype:
            raise ContractMismatch(
                f"{where}: the calibration of KEEP was made with dtype {self.dtype}, and the "
                f"engine computes other scores in {dtype}; set engine.dtype={self.dtype}, or "
                f"evaluate with keep set and engine.dtype={dtype}."
            )


def calibrate(
    good: Sequence[float],
    flawed: Sequence[float],
    *,
    export_hash: str,
    prompt_fingerprint: str,
    dtype: str,
    wanted_error: float,
    confidence: float,
) -> KeepCalibration:
    """Choose the threshold from the scores of good and of flawed answers.

    It is the score of a good answer, the lowest above as many flawed ones as may be kept: no
    stricter one keeps as many good answers. Thresholds are tried from strict to lenient and the
    first that fails ends it, so that trying several costs no confidence.
    """
    goods, flaws = sorted(good), sorted(flawed)
    threshold = None
    allowed = _allowed(len(flaws), wanted_error=wanted_error, confidence=confidence)
    if allowed is not None:
        threshold = _lowest_above(flaws[-allowed - 1], goods)
    kept_good = _at_least(goods, threshold)
    return KeepCalibration(
        export_hash=export_hash,
        prompt_fingerprint=prompt_fingerprint,
        dtype=dtype,
        threshold=threshold,
        wanted_error=wanted_error,
        confidence=confidence,
        good=len(goods),
        flawed=len(flaws),
        good_kept=kept_good,
        flawed_kept=_at_least(flaws, threshold),
        curve=_curve(goods, flaws, threshold),
    )


def upper_bound(count: int, total: int, *, confidence: float) -> float:
    """One-sided upper bound of a share seen ``count`` times in ``total`` (Clopper-Pearson)."""
    if count >= total:
        return 1.0
    low, high = count / total, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _at_most(count, total, middle) > 1.0 - confidence:
            low = middle
        else:
            high = middle
    return high


def rows_needed(wanted_error: float, *, confidence: float) -> int:
    """Flawed answers that show ``wanted_error`` if not one is kept; about 3 / error at 95 %."""
    return math.ceil(math.log(1.0 - confidence) / math.log1p(-wanted_error))


def _allowed(total: int, *, wanted_error: float, confidence: float) -> int | None:
    """Flawed answers of ``total`` that may be kept; ``None`` if even none of them is no proof."""
    allowed = None
    for count in range(total):
        if _at_most(count, total, wanted_error) > 1.0 - confidence:
            break
        allowed = count
    return allowed


def _at_most(count: int, total: int, share: float) -> float:
    """Probability of ``count`` or fewer of ``total`` (binomial)."""
    log, log_not = math.log(share), math.log1p(-share)
    terms = (
        math.exp(
            math.lgamma(total + 1)
            - math.lgamma(k + 1)
            - math.lgamma(total - k + 1)
            + k * log
            + (total - k) * log_not
        )
        for k in range(count + 1)
    )
    return math.fsum(terms)


def _lowest_above(refused: float, goods: Sequence[float]) -> float | None:
    """The lowest of ascending ``goods`` above a score that is not kept any more."""
    place = bisect_right(goods, refused)
    return goods[place] if place < len(goods) else None


def _curve(
    goods: Sequence[float], flaws: Sequence[float], chosen: float | None
) -> tuple[KeepPoint, ...]:
    """At even shares of the good answers, and just above the flawed ones that score highest."""
    even = (goods[round(i * (len(goods) - 1) / _CURVE_STEPS)] for i in range(_CURVE_STEPS + 1))
    corners = (_lowest_above(flaw, goods) for flaw in flaws[-_CURVE_STEPS:])
    thresholds = {*(even if goods else ()), *corners, chosen}
    return tuple(
        KeepPoint(
            threshold=_short(threshold),
            kept_good=_short(_at_least(goods, threshold) / max(1, len(goods))),
            kept_flawed=_short(_at_least(flaws, threshold) / max(1, len(flaws))),
        )
        for threshold in sorted((one for one in thresholds if one is not None), reverse=True)
    )


def _at_least(ascending: Sequence[float], threshold: float | None) -> int:
    """How many reach ``threshold``; none where there is no threshold."""
    return 0 if threshold is None else len(ascending) - bisect_left(ascending, threshold)


def _short(number: float) -> float:
    return float(f"{number:.4g}")
