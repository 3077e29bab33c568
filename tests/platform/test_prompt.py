import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aligner import prompt
from aligner.errors import ConfigError
from aligner.prompt import BUILT_IN, PLAIN, PromptChoice, PromptTemplate
from aligner.records import Turn

GOLDEN = Path(__file__).parents[1] / "golden" / "prompts.json"

TEXT = st.text(max_size=40)


def rendered() -> dict[str, dict[str, str]]:
    history = (Turn("user", "Hi."), Turn("assistant", "Hello."))
    return {
        name: {
            "fingerprint": template.fingerprint,
            "single": template.render("Why {answer}?", "Because |\n{question}"),
            "history": template.render("And?", "So.", history),
        }
        for name, template in BUILT_IN.items()
    }


def test_built_in_templates_render_the_golden_bytes() -> None:
    assert rendered() == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_variant_b_keeps_the_two_spaces_that_its_checkpoints_saw() -> None:
    assert prompt.B.render("Q", "A") == (
        "BEGINNING OF CONVERSATION: USER: ##Question: Q\n##Answer: A\n##Correction:  ASSISTANT:"
    )


@given(question=TEXT, answer=TEXT)
def test_question_and_answer_stand_verbatim_whatever_they_hold(question: str, answer: str) -> None:
    before, middle, after = (
        PLAIN.template.replace("{question}", "\0").replace("{answer}", "\0").split("\0")
    )
    assert PLAIN.render(question, answer) == before + question + middle + answer + after


def pieces_of(template: str, *placeholders: str) -> list[str]:
    """The literal text before, between and behind ``placeholders``, which stand in this order."""
    pieces = []
    for placeholder in placeholders:
        before, _, template = template.partition(placeholder)
        pieces.append(before)
    return [*pieces, template]


def framed(template: PromptTemplate, question: str, answer: str, history: tuple[Turn, ...]) -> str:
    """What :meth:`render` promises, put together by concatenation alone."""
    past = ""
    for turn in history:
        shape = template.user_turn if turn.role == "user" else template.assistant_turn
        before, after = pieces_of(shape, "{text}")
        past += before + turn.text + after
    before, between, after = pieces_of(template.template, "{question}", "{answer}")
    return before + past + question + between + answer + after


MARKS = [
    *("{question}", "{answer}", "{text}", "{{question}}", "{0}", "%s", "\\1", r"\g<0>"),
    *("<s>", "</s>", "<|im_start|>", "[INST]", "\0", "\ud800", "\udfff", "\ufeff", "\u2028"),
    *("\u200f", "\u202e", "\u2066", "\u2069"),
    *(
        piece
        for template in BUILT_IN.values()
        for text in (template.template, template.user_turn, template.assistant_turn)
        for piece in [text, *pieces_of(text, "{question}", "{answer}"), *pieces_of(text, "{text}")]
        if piece
    ),
]
"""What a row may hold to break the frame: every delimiter, placeholder and odd character."""

HOSTILE = st.lists(
    st.sampled_from(MARKS) | st.text(st.characters(exclude_categories=()), max_size=5), max_size=6
).map("".join)
TURNS = st.builds(Turn, st.sampled_from(["user", "assistant"]), HOSTILE)
TEMPLATES = pytest.mark.parametrize("template", BUILT_IN.values(), ids=list(BUILT_IN))


@TEMPLATES
@settings(deadline=None)
@given(question=HOSTILE, answer=HOSTILE, history=st.lists(TURNS, max_size=3).map(tuple))
def test_no_row_breaks_the_frame(
    template: PromptTemplate, question: str, answer: str, history: tuple[Turn, ...]
) -> None:
    text = template.render(question, answer, history)
    assert text == framed(template, question, answer, history)
    # Who knows the lengths can take it apart again, whatever delimiters the values hold.
    before, between, after = pieces_of(template.template, "{question}", "{answer}")
    end = len(text) - len(after)
    assert text[end - len(answer) : end] == answer
    end -= len(answer) + len(between)
    assert text[end - len(question) : end] == question
    assert (text[: len(before)], text[end : end + len(between)]) == (before, between)


@TEMPLATES
def test_texts_of_two_megabytes_stand_verbatim(template: PromptTemplate) -> None:
    long = "##Answer: {answer} " * (1 << 17)
    assert len(long) > 2_000_000
    history = (Turn("user", long), Turn("assistant", long))
    assert template.render(long, long, history) == framed(template, long, long, history)


def test_placeholders_inside_values_are_not_filled_again() -> None:
    assert "{answer}" in PLAIN.render("{answer}", "secret")


def test_the_name_does_not_change_the_fingerprint_but_the_text_does() -> None:
    renamed = PLAIN.model_copy(update={"name": "mine"})
    changed = PLAIN.model_copy(update={"template": PLAIN.template + " "})
    assert renamed.fingerprint == PLAIN.fingerprint
    assert changed.fingerprint != PLAIN.fingerprint


@pytest.mark.parametrize("text", ["{question}", "{answer}", "{question}{question}{answer}", ""])
def test_a_template_needs_each_placeholder_once(text: str) -> None:
    with pytest.raises(ValidationError, match="exactly once"):
        PromptTemplate(name="mine", template=text)


def test_a_custom_template_is_chosen_over_a_name() -> None:
    mine = PromptTemplate(name="mine", template="{question}>{answer}>")
    assert PromptChoice(use="a", custom=mine).template == mine
    assert PromptChoice(use="a").template == prompt.A


def test_a_template_survives_its_json() -> None:
    assert prompt.from_json(prompt.C.model_dump_json(), where="x") == prompt.C
    with pytest.raises(ConfigError, match=r"model\.json"):
        prompt.from_json("{}", where="model.json")
