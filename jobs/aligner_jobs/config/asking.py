"""Who answers: upstreams."""

from typing import Any

from pydantic import Field

from aligner.generation import Endpoint, Sampling


class Upstream(Endpoint):
    """A model whose answers are to be corrected."""

    sampling: Sampling = Sampling()
    """How it decodes."""

    samples_per_question: int = Field(default=1, ge=1, le=128)
    """Answers to each question; more than one needs a temperature above 0 to differ."""

    max_in_flight: int = Field(default=16, ge=1)
    """Requests of one worker that this upstream answers at the same time."""


def with_base_url(endpoints: dict[Any, Any], base_url: object) -> dict[Any, Any]:
    """Unvalidated ``endpoints``, by name, with ``base_url`` where one names none of its own."""
    return {
        name: {"base_url": base_url, **one} if isinstance(one, dict) else one
        for name, one in endpoints.items()
    }
