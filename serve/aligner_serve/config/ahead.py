"""Reading pairs before they are whole. Free of ray, torch and fastapi."""

from pydantic import Field

from aligner.config import StrictModel


class PrefillAheadConfig(StrictModel):
    """How an aligner reads an answer while the upstream still writes it.

    What is read then need not be read between the answer's last word and the correction's first.
    Each token is read once all the same: only the engine's cache holds it for a while.
    """

    min_new_chars: int = Field(default=512, ge=1)
    """Characters between two readings, those of the question among the first; about four to a
    token."""

    max_queued_tokens: int = Field(default=4096, ge=1)
    """A replica that has more tokens still to be read or written reads nothing ahead."""

    max_ongoing: int = Field(default=8, ge=1)
    """Readings at once, of each replica of the gateway; what comes meanwhile is not read ahead."""
