import re

from hypothesis import given
from hypothesis import strategies as st

from aligner.prompt import BUILT_IN, PLAIN, A, PromptTemplate
from aligner.records import Triple
from aligner.tokens import IGNORED, encode_begun_prompt, encode_example, encode_prompt


class Characters:
    """A tokenizer of code points that merges a space with what follows, as BPE does."""

    bos_token_id = 1
    eos_token_id = 2

    def encode(self, text: str) -> list[int]:
        return [ord(character) + 3 for character in text.replace(" ", "\u2581")]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(i - 3) for i in ids if i > 2).replace("\u2581", " ")


class WithoutBos(Characters):
    bos_token_id = None  # type: ignore[assignment]


TEXT = st.text(max_size=20)


@given(question=TEXT, answer=TEXT, correction=TEXT)
def test_loss_falls_on_the_correction_and_its_end_alone(
    question: str, answer: str, correction: str
) -> None:
    row = Triple(question, answer, correction)
    example = encode_example(row, template=A, tokenizer=Characters())
    learned = [label for label in example.labels if label != IGNORED]
    assert learned == [*Characters().encode(A.frame.escape(correction)), 2]
    assert len(example.labels) == len(example.input_ids) == len(example)
    assert example.input_ids[-len(learned) :] == learned


@given(question=TEXT, answer=TEXT)
def test_training_and_inference_see_the_same_prompt_ids(question: str, answer: str) -> None:
    prompt = encode_prompt(question, answer, template=PLAIN, tokenizer=Characters())
    example = encode_example(Triple(question, answer, "x"), template=PLAIN, tokenizer=Characters())
    assert example.prompt_ids == prompt
    assert prompt[0] == 1


def test_a_copy_of_an_answer_with_marks_is_its_very_text_in_the_prompt() -> None:
    row = Triple("q", "It says ##Answer: USER: 5.", "It says ##Answer: USER: 5.")
    example = encode_example(row, template=PLAIN, tokenizer=Characters())
    written = Characters().decode(example.target_ids[:-1])
    assert written == PLAIN.frame.escape(row.answer) != row.answer
    assert written in Characters().decode(example.prompt_ids)


def test_no_beginning_is_added_where_model_or_template_has_none() -> None:
    bare = PLAIN.model_copy(update={"add_bos": False})
    with_template = encode_prompt("q", "a", template=bare, tokenizer=Characters())
    with_model = encode_prompt("q", "a", template=PLAIN, tokenizer=WithoutBos())
    assert with_template == with_model == Characters().encode(PLAIN.render("q", "a"))


class Pairs(Characters):
    """One token for two characters within a word, so that the last one depends on what follows."""

    def encode(self, text: str) -> list[int]:
        found = re.findall(r" ?[^\W_]{1,2}|.", text, flags=re.DOTALL)
        return [hash(piece) for piece in found]


@given(
    answer=st.lists(st.sampled_from(["word ", "#", "##Ans", "wer:", "\\", "真"]), max_size=40).map(
        "".join
    ),
    at=st.integers(0, 120),
    template=st.sampled_from([*BUILT_IN.values()]),
)
def test_what_is_begun_stays_whatever_follows(
    answer: str, at: int, template: PromptTemplate
) -> None:
    begun = encode_begun_prompt("q?", answer[:at], template=template, tokenizer=Pairs())
    whole = encode_prompt("q?", answer, template=template, tokenizer=Pairs())
    assert whole[: len(begun)] == begun
    if template is PLAIN and set(answer) <= set("word "):
        # All but the end of a mark and a word.
        assert len(begun) > len(whole) - len(answer[at:]) - 30
