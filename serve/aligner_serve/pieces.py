"""What a stage of a request gives, piece by piece; crosses processes as it is."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal

Finish = Literal["stop", "length"]

TIMEOUT: Final = "timeout"
BUSY: Final = "busy"
UNAVAILABLE: Final = "unavailable"
TOO_LONG: Final = "too_long"
CUT_SHORT: Final = "length"
EMPTY: Final = "empty"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a stage read and wrote."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """Both together."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True, slots=True)
class Savings:
    """What a corrector did not have to do, for most of a correction is known beforehand."""

    kept: bool | None = None
    """Whether the answer was found good as it is, and nothing decoded; ``None``: nobody looked."""
    keep_score: float | None = None
    """What was compared with the threshold."""
    keep_ms: float = 0.0
    """Milliseconds of looking."""
    trusted_tokens: int = 0
    """Of the answer's beginning, given to the engine instead of decoded by it."""
    decoded_tokens: int = 0
    decode_steps: int = 0
    """In which they were decoded; more tokens than steps were guessed ahead."""
    cached_tokens: int = 0
    """Of the prompt, read before."""
    first_token_ms: float | None = None
    """Milliseconds from the corrector's call to its first token."""


NOTHING_SAVED: Final = Savings()


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of an answer or of a correction."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The text has come to its end."""

    usage: Usage = Usage()
    finish: Finish = "stop"
    """``length`` for an answer that was cut at its limit; a correction is never cut."""
    by: str = ""
    """Who did it: the upstream's name (a fallback's, perhaps), or the aligner's version."""
    savings: Savings = NOTHING_SAVED
    """Of a correction."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A stage gave nothing usable; the reason is one word, fit for clients and metrics."""

    reason: str
    retry_after_s: float | None = None
    """How long the client should stay away, where somebody has said."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of reading the beginning of a pair ahead. Holds no text."""

    result: Literal["read", "nothing_new", "loaded", "failed", "dropped"]
    """``loaded``: the replica has other work; ``dropped``: the answer ended meanwhile."""
    tokens: int = 0
    """Of the prompt, from its first on, that have been read by now."""
    computed: int = 0
    """Of these, those that were in no cache before."""


READ_NOTHING: Final = Reading("failed")

Piece = Delta | Finished | Failed
"""What a stage gives: deltas, then one of the others."""


async def gathered(pieces: AsyncGenerator[Piece]) -> list[Piece]:
    """All of ``pieces``, for callers that want them in one message."""
    async with aclosing(pieces):
        return [piece async for piece in pieces]
