"""KEEP: an answer that the aligner would leave as it is goes out after one prefill.

The answer's copy is read behind the prompt and scored (:mod:`aligner.keeping`). Where its score is
high enough nothing is decoded. Elsewhere greedy decoding begins behind the last token of the copy
that it would have written itself: the same tokens, with fewer to decode.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass

from aligner import reports
from aligner.errors import ConfigError
from aligner.generation import Sampling
from aligner.keeping import CopyScores, KeepCalibration
from aligner.manifest import Manifest
from aligner_serve.config.aligner import KeepConfig
from aligner_serve.engines import Read
from aligner_serve.pieces import NOTHING_SAVED, Failed, Savings


@dataclass(frozen=True, slots=True)
class Looked:
    """What reading an answer's copy came to."""

    savings: Savings = NOTHING_SAVED
    unchanged: bool = False
    """The correction is the answer, and nothing is left to decode."""


NOT_LOOKED = Looked()


async def look(
    read: Awaitable[Read | Failed], *, calibration: KeepCalibration, greedy: bool
) -> Looked | Failed:
    """Wait for the scores of an answer's copy, and decide.

    Only ``greedy`` decoding may begin inside the copy: with chance in it each token is drawn.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    found = await read
    if isinstance(found, Failed):
        return found
    scores = CopyScores(found.logprobs, found.ranks)
    kept = calibration.keeps(scores)
    trusted = scores.trusted if greedy and not kept else 0
    ms = 1000 * (clock() - began)
    # Greedy decoding of a copy whose end it trusts, too, would change nothing, whatever the score.
    unchanged = kept or trusted == len(scores.ranks)
    savings = Savings(
        kept=kept,
        keep_score=scores.score,
        keep_ms=ms,
        trusted_tokens=trusted,
        cached_tokens=found.cached_tokens,
        first_token_ms=ms if unchanged else None,
    )
    return Looked(savings, unchanged)


def is_plainly_greedy(sampling: Sampling) -> bool:
    """Whether decoding writes the likeliest token each time, and ends with EOS alone."""
    return (
        sampling.temperature == 0.0
        and sampling.frequency_penalty == 0.0
        and sampling.repetition_penalty in (None, 1.0)
        and not sampling.stop
    )


def calibration_of(
    keep: KeepConfig, manifest: Manifest, *, tags: Mapping[str, str], where: str
) -> KeepCalibration:
    """The calibration of an export, without its curve; ``tags`` are those of its version.

    Raises:
        ConfigError: There is none.
        DataError: It cannot be read, or found no threshold.
        ContractMismatch: It was made with another export.
    """
    found = reports.calibration_for(manifest, report=keep.calibration, tags=tags, where=where)
    if found is None:
        raise ConfigError(
            f"keep: {where} carries no calibration; run `aligner evaluate` with keep set on it, "
            "name a report that has one in keep.calibration, or remove keep."
        )
    return found.model_copy(update={"curve": ()})
