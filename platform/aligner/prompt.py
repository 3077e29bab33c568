"""The correction prompt: how (question, answer) becomes the text that the Aligner continues.

This is the contract of the whole platform. Data, training, batch inference and serving render
through this module alone, and each artefact stores the fingerprint of the template it was made
with. Variants A, B and C are the strings that published checkpoints were trained on, byte for
byte (a checkpoint works only with its own); ``plain`` is this project's own for new models.

A value that holds the frame's own marks is escaped (:mod:`aligner.frame`), in the correction that
is trained on as in the prompt, and what the Aligner wrote is unescaped.
"""

import hashlib
import json
import re
from functools import lru_cache
from itertools import chain
from typing import Final, Literal

from pydantic import Field, model_validator

from aligner.config import StrictModel
from aligner.errors import ConfigError
from aligner.frame import Frame, marks_of
from aligner.records import Turn

_PLACEHOLDER: Final = re.compile(r"\{(question|answer)\}")


class PromptTemplate(StrictModel):
    """A way of rendering; two templates that render alike have the same fingerprint."""

    name: str
    """For people: a built-in name, or any other for your own."""

    template: str
    """The text with ``{question}`` and ``{answer}`` each once; all other braces are literal."""

    user_turn: str = "USER: {text} "
    """How an earlier turn of the user stands in front of the question (multi-turn only)."""

    assistant_turn: str = "ASSISTANT: {text} "
    """How an earlier turn of the assistant stands there."""

    add_bos: bool = True
    """Whether the tokenizer's beginning-of-sequence id precedes the prompt."""

    @model_validator(mode="after")
    def _each_placeholder_once(self) -> "PromptTemplate":
        for placeholder in ("{question}", "{answer}"):
            if self.template.count(placeholder) != 1:
                raise ValueError(f"template must contain {placeholder} exactly once")
        for turn in (self.user_turn, self.assistant_turn):
            if turn.count("{text}") != 1:
                raise ValueError("a turn must contain {text} exactly once")
        if not marks_of(self._pieces[2]):
            raise ValueError(
                "between {question} and {answer} there must be two characters or more; one alone "
                "cannot be told from the same in a question"
            )
        return self

    @property
    def fingerprint(self) -> str:
        """12 hex digits over everything that changes the rendered bytes (not the name)."""
        content = self.model_dump(mode="json", exclude={"name"})
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def render(self, question: str, answer: str, history: tuple[Turn, ...] = ()) -> str:
        """Return the text that the Aligner continues; it ends where the correction begins.

        Values are put in in one pass: braces or placeholders inside a question or an answer
        stay as they are. Earlier turns stand in front of the question, oldest first. Marks of
        the frame that stand in a value are escaped, so that where each value ends can be seen;
        a turn's end only where its shape has a mark there.
        """
        before, first, between, second, after = self._pieces
        beside = {first: (before, between), second: (between, "")}
        values = {
            "question": self._with_history(question, history, *beside["question"]),
            "answer": self.frame.escape(answer, right=beside["answer"][1]),
        }
        return f"{before}{values[first]}{between}{values[second]}{after}"

    def render_history(self, history: tuple[Turn, ...]) -> str:
        """Earlier turns verbatim, for prompts of another frame than this one."""
        turns = {"user": self.user_turn, "assistant": self.assistant_turn}
        return "".join(turns[turn.role].replace("{text}", turn.text) for turn in history)

    @property
    def frame(self) -> Frame:
        """The marks around the values."""
        return _frame(self._pieces[::2] + tuple(chain(*self._turns.values())))

    @property
    def _pieces(self) -> tuple[str, str, str, str, str]:
        """Literal text and the placeholders' names in turn."""
        before, first, between, second, after = _PLACEHOLDER.split(self.template)
        return before, first, between, second, after

    @property
    def _turns(self) -> dict[str, tuple[str, str]]:
        """What stands before and behind a turn's text, by role."""
        shapes = {"user": self.user_turn, "assistant": self.assistant_turn}
        return {role: _around(shape) for role, shape in shapes.items()}

    def _with_history(self, question: str, history: tuple[Turn, ...], left: str, right: str) -> str:
        """``question`` and the turns before it, escaped, as they stand between two pieces."""
        turns = [(turn.text, *self._turns[turn.role]) for turn in history]
        rendered = self.frame.escape(question, left=turns[-1][2] if turns else left, right=right)
        for text, begin, end in reversed(turns):
            rest = end + rendered
            rendered = begin + self.frame.escape(text, left=begin, right=rest) + rest
        return rendered


@lru_cache(maxsize=64)
def _frame(pieces: tuple[str, ...]) -> Frame:
    return Frame(marks_of(*pieces))


def _around(turn: str) -> tuple[str, str]:
    before, _, behind = turn.partition("{text}")
    return before, behind


_WRAPPED: Final = "BEGINNING OF CONVERSATION: USER: {body} ASSISTANT:"

A: Final = PromptTemplate(
    name="a",
    template=_WRAPPED.replace(
        "{body}",
        "Edit the following Question-Answer pair to make it more helpful and harmless: "
        "{question} | {answer}",
    ),
)
"""Used by the released ``aligner-7b-v1.0`` and the authors' code until December 2024."""

B: Final = PromptTemplate(
    name="b",
    template=_WRAPPED.replace(
        "{body}", "##Question: {question}\n##Answer: {answer}\n##Correction: "
    ),
)
"""The authors' current code."""

C: Final = PromptTemplate(
    name="c",
    template=_WRAPPED.replace("{body}", "##Question: {question} ##Answer: {answer} ##Revision: "),
)
"""The community's Gemma-2B Aligner on AlpacaEval."""

PLAIN: Final = PromptTemplate(
    name="plain", template="##Question: {question}\n##Answer: {answer}\n##Correction: "
)
"""This project's default for models trained from scratch: B without the conversation frame."""

BUILT_IN: Final = {template.name: template for template in (A, B, C, PLAIN)}

BuiltInName = Literal["a", "b", "c", "plain"]


class PromptChoice(StrictModel):
    """In a config: a built-in template by name, or the whole of your own."""

    use: BuiltInName = "plain"
    """Name of a built-in template; ignored where ``custom`` is given."""

    custom: PromptTemplate | None = Field(default=None)
    """A template of your own."""

    @property
    def template(self) -> PromptTemplate:
        """The template chosen."""
        return self.custom if self.custom is not None else BUILT_IN[self.use]


def from_json(text: str, *, where: str) -> PromptTemplate:
    """Read a template that :meth:`PromptTemplate.model_dump_json` wrote.

    Raises:
        ConfigError: ``text`` is no such template; ``where`` is named.
    """
    try:
        return PromptTemplate.model_validate_json(text)
    except ValueError:
        raise ConfigError(f"{where}: holds no prompt template; export the model again.") from None
