import json
from pathlib import Path

import pytest
from hypothesis import given
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
