"""What training minimises."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from aligner.config import StrictModel

_CONVERSATION = "BEGINNING OF CONVERSATION: USER: {question} ASSISTANT:"


class CorrectionObjective(StrictModel):
    """Cross-entropy of the correction, given question and answer: this makes an Aligner."""

    kind: Literal["correction"] = "correction"


class _OnQuestions(StrictModel):
    """The model is an upstream: it is given the question, never an answer."""

    question_prompt: str = _CONVERSATION
    """What the model continues; ``{question}`` occurs once, all other braces are literal."""

    @field_validator("question_prompt")
    @classmethod
    def _one_question(cls, value: str) -> str:
        if value.count("{question}") != 1:
            raise ValueError("must contain {question} exactly once")
        return value


class SftObjective(_OnQuestions):
    """Cross-entropy of the correction, given the question alone: weak-to-strong fine-tuning."""

    kind: Literal["sft"]


class DpoObjective(_OnQuestions):
    """Direct preference optimisation: the correction is chosen, the answer rejected.

    Rows whose correction is the answer say nothing and are set aside.
    """

    kind: Literal["dpo"]

    beta: float = Field(default=0.1, gt=0)
    """How strongly the model is held to the one that it began as."""


Objective = Annotated[
    CorrectionObjective | SftObjective | DpoObjective, Field(discriminator="kind")
]
