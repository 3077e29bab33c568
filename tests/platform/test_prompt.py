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

MARKS_AND_THEIR_PARTS = {
    "|",
    "##",
    *(mark for one in BUILT_IN.values() for mark in one.frame.marks),
}
"""A mark may also begin or end in a value's neighbour, as the bar of " | " does."""

TEXT = st.text(max_size=40).filter(lambda text: not any(m in text for m in MARKS_AND_THEIR_PARTS))


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
def test_question_and_answer_without_marks_stand_verbatim(question: str, answer: str) -> None:
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
    """What :meth:`render` promises of values without marks, by concatenation alone."""
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


CLOSED = PromptTemplate(
    name="closed",
    template="<q>{question}<a>{answer}<c>",
    user_turn="<user>{text}</user>",
    assistant_turn="<assistant>{text}</assistant>",
)
"""Turns that end with a mark: those of the built-in templates end with a space."""

Taken = tuple[str, str, tuple[Turn, ...]]


def taken_apart(template: PromptTemplate, text: str) -> Taken:
    """Question, answer and history of a prompt, escaped, found by the marks alone.

    A last turn that ends without a mark comes with the question behind it.
    """
    before, between, after = pieces_of(template.template, "{question}", "{answer}")
    assert text.startswith(before) and text.endswith(after)
    asked, _, answer = text[len(before) : len(text) - len(after)].partition(between)
    shapes = {"user": template.user_turn, "assistant": template.assistant_turn}
    turns = []
    while found := [role for role, shape in shapes.items() if asked.startswith(start_of(shape))]:
        begin, end = pieces_of(shapes[found[0]], "{text}")
        ends = [asked.find(end + start_of(shape), len(begin)) for shape in shapes.values()]
        if end.strip():
            at = asked.index(end, len(begin))
        else:
            at = min((place for place in ends if place >= 0), default=-1)
        turns.append(Turn("user" if found[0] == "user" else "assistant", asked[len(begin) : at]))
        if at < 0:
            return "", answer, (*turns[:-1], Turn(turns[-1].role, asked[len(begin) :]))
        asked = asked[at + len(end) :]
    return asked, answer, tuple(turns)


def start_of(shape: str) -> str:
    return pieces_of(shape, "{text}")[0]


def joined(template: PromptTemplate, row: Taken) -> Taken:
    """``row`` as :func:`taken_apart` finds it."""
    question, answer, history = row
    if not history or template is CLOSED:
        return row
    *earlier, last = history
    return "", answer, (*earlier, Turn(last.role, f"{last.text} {question}"))


@pytest.mark.parametrize("template", [*BUILT_IN.values(), CLOSED], ids=[*BUILT_IN, "closed"])
@settings(deadline=None)
@given(question=HOSTILE, answer=HOSTILE, history=st.lists(TURNS, max_size=3).map(tuple))
def test_no_row_breaks_the_frame(
    template: PromptTemplate, question: str, answer: str, history: tuple[Turn, ...]
) -> None:
    text = template.render(question, answer, history)
    asked, answered, turns = taken_apart(template, text)
    unescape = template.frame.unescape
    assert unescape(answered) == answer
    expected = joined(template, (question, answer, history))
    assert len(turns) == len(expected[2])
    assert [turn.role for turn in turns] == [turn.role for turn in expected[2]]
    # A mark that only its neighbour completes is escaped as well.
    bare = [piece.replace("\\", "") for piece in (asked, *(turn.text for turn in turns))]
    wanted = [expected[0], *(turn.text for turn in expected[2])]
    assert bare == [piece.replace("\\", "") for piece in wanted]


@TEMPLATES
@given(question=TEXT, answer=TEXT, texts=st.lists(TEXT, max_size=3))
def test_rows_without_marks_are_rendered_as_ever(
    template: PromptTemplate, question: str, answer: str, texts: list[str]
) -> None:
    history = tuple(Turn("user" if at % 2 else "assistant", text) for at, text in enumerate(texts))
    assert template.render(question, answer, history) == framed(template, question, answer, history)


@TEMPLATES
@settings(deadline=None)
@given(question=HOSTILE, answer=HOSTILE)
def test_no_other_row_has_the_same_prompt(
    template: PromptTemplate, question: str, answer: str
) -> None:
    text = template.render(question, answer)
    before, between, after = pieces_of(template.template, "{question}", "{answer}")
    body = text[len(before) : len(text) - len(after)]
    rows = {
        (change(body[:at]), undo(body[at + len(between) :]))
        for at in range(len(body))
        if body.startswith(between, at)
        for change in (str, template.frame.unescape)
        for undo in (str, template.frame.unescape)
    }
    others = rows - {(question, answer)}
    assert not [row for row in others if template.render(*row) == text]


@TEMPLATES
def test_an_upstream_cannot_end_the_answer_and_write_the_correction(
    template: PromptTemplate,
) -> None:
    _, between, after = pieces_of(template.template, "{question}", "{answer}")
    text = template.render("Q", f"fine{after}evil{between}more{after}")
    assert text.count(between) == 1
    assert text.count(after.strip()) == 1


@TEMPLATES
def test_texts_of_two_megabytes_are_rendered_quickly(template: PromptTemplate) -> None:
    long = "##Answer: {answer} " * (1 << 17)
    assert len(long) > 2_000_000
    history = (Turn("user", long), Turn("assistant", long))
    text = template.render(long, long, history)
    assert template.frame.unescape(text[-2_000:]).count("{answer}") > 50
    assert len(text) > 8_000_000


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


@pytest.mark.parametrize("between", ["", " ", ">"])
def test_a_template_tells_its_question_from_its_answer(between: str) -> None:
    with pytest.raises(ValidationError, match="two characters"):
        PromptTemplate(name="mine", template=f"Q: {{question}}{between}{{answer}}\nC: ")


def test_a_custom_template_is_chosen_over_a_name() -> None:
    mine = PromptTemplate(name="mine", template="{question} -> {answer} -> ")
    assert PromptChoice(use="a", custom=mine).template == mine
    assert PromptChoice(use="a").template == prompt.A


def test_a_changed_copy_has_a_frame_of_its_own() -> None:
    assert PLAIN.frame.escape("A::") == "A::"
    changed = PLAIN.model_copy(update={"template": "Q::{question}\nA::{answer}\nC::"})
    assert changed.frame.escape("A::") == "A\\::"


def test_a_template_survives_its_json() -> None:
    assert prompt.from_json(prompt.C.model_dump_json(), where="x") == prompt.C
    with pytest.raises(ConfigError, match=r"model\.json"):
        prompt.from_json("{}", where="model.json")
