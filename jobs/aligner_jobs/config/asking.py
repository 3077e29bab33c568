"""Who answers and who corrects: upstreams and teachers."""

from typing import Annotated, Any, Literal

from pydantic import Field

from aligner.config import StrictModel
from aligner.generation import Endpoint, Sampling

INSTRUCTION = (
    "Please correct your last answer. Replace what is false, take out what is harmful or "
    "impolite, and add what was asked for but is missing; change as little as you can, and keep "
    "every sentence that is right word for word. If nothing is wrong with the answer, repeat it "
    "as it is. Reply with the corrected answer and nothing else."
)
"""What a teacher behind an API is asked after it was shown the question and the answer."""


class Upstream(Endpoint):
    """A model whose answers are to be corrected."""

    sampling: Sampling = Sampling()
    """How it decodes."""

    samples_per_question: int = Field(default=1, ge=1, le=128)
    """Answers to each question; more than one needs a temperature above 0 to differ."""

    max_in_flight: int = Field(default=16, ge=1)
    """Requests of one worker that this upstream answers at the same time."""


class SimworldTeacher(StrictModel):
    """The perfect teacher of the simulated world, in memory."""

    kind: Literal["simworld"]


class OpenAITeacher(Endpoint):
    """A model that corrects, behind an API."""

    kind: Literal["openai"]

    sampling: Sampling = Sampling()
    """How it decodes."""

    instruction: str = INSTRUCTION
    """The request that follows the question and the answer."""

    max_in_flight: int = Field(default=16, ge=1)
    """Requests of one worker that it answers at the same time."""


Teacher = Annotated[SimworldTeacher | OpenAITeacher, Field(discriminator="kind")]


def with_base_url(endpoints: dict[Any, Any], base_url: object) -> dict[Any, Any]:
    """Unvalidated ``endpoints``, by name, with ``base_url`` where one names none of its own."""
    return {
        name: {"base_url": base_url, **one} if isinstance(one, dict) else one
        for name, one in endpoints.items()
    }
