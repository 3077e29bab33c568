import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel

from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.answer_marks import Marks, marks_of, marks_of_all
from aligner.prompt import BUILT_IN, PLAIN, PromptTemplate
from aligner.records import Turn
from aligner.tokens import encode_prompt


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> HfTokenizer:
    """A byte-level BPE that has learnt the frames themselves, so that their tokens merge."""
    folder = tmp_path_factory.mktemp("tokenizer")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.decoder = ByteLevel()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [one.render("Is it so?", "It is. Yes.") for one in BUILT_IN.values()]
    backend.train_from_iterator(texts * 9, trainer)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    return HfTokenizer.load(folder)


def found(
    template: PromptTemplate, tokenizer: HfTokenizer, answer: str, written: str = ""
) -> tuple[str, str]:
    """The text between the marks, and that behind them."""
    marks = marks_of(template, tokenizer)
    assert marks is not None
    ids = encode_prompt(
        "Why — ##Answer: this?",
        answer,
        (Turn("user", "##Answer: no\n##Correction: yes"),),
        template=template,
        tokenizer=tokenizer,
    )
    ids += tokenizer.encode(template.frame.escape(written))
    place = marks.find(np.array(ids, dtype=np.int32))
    assert place is not None
    return tokenizer.decode(ids[place[0]]), tokenizer.decode(ids[place[1] :])


@pytest.mark.parametrize("template", BUILT_IN.values(), ids=BUILT_IN)
@pytest.mark.parametrize("answer", ["It is so.", "真的\n\n- « naïvely » 🙂", "  x", "##Answer: y"])
def test_the_answer_is_found_in_each_built_in_prompt(
    template: PromptTemplate, answer: str, tokenizer: HfTokenizer
) -> None:
    text, written = found(template, tokenizer, answer, "It is")
    # What merges at the edges may stay on the wrong side of them.
    assert template.frame.escape(answer).strip() in text
    assert len(text) <= len(template.frame.escape(answer)) + 8
    assert written == "It is"


@given(st.text(max_size=60), st.text(max_size=30))
def test_whatever_the_answer_holds_it_is_found(
    tokenizer: HfTokenizer, answer: str, written: str
) -> None:
    text, behind = found(PLAIN, tokenizer, answer, written)
    escaped = PLAIN.frame.escape(answer)
    # A part of a mark that ends a value and begins the mark may be tokenised with it.
    assert escaped[2:-2] in text
    assert behind == PLAIN.frame.escape(written)


def test_a_prompt_of_something_else_has_no_answer(tokenizer: HfTokenizer) -> None:
    marks = marks_of(PLAIN, tokenizer)
    assert marks is not None
    for text in ("", "Is it?", "##Question: a\n##Answer: b"):
        assert marks.find(np.array(tokenizer.encode(text), dtype=np.int32)) is None


def test_a_frame_with_the_answer_first_has_no_marks(tokenizer: HfTokenizer) -> None:
    template = PromptTemplate(name="mine", template="A: {answer} Q: {question} C:")
    assert marks_of(template, tokenizer) is None


def test_aligners_that_ask_alike_share_their_marks(tokenizer: HfTokenizer) -> None:
    one, two = BUILT_IN["plain"], BUILT_IN["c"]
    assert len(marks_of_all([(one, tokenizer), (one, tokenizer), (two, tokenizer)])) == 2


def test_marks_cross_between_processes_as_plain_data(tokenizer: HfTokenizer) -> None:
    for marks in marks_of_all((one, tokenizer) for one in BUILT_IN.values()):
        assert Marks.model_validate(marks.model_dump(mode="json")) == marks


def test_the_last_of_several_marks_is_taken() -> None:
    marks = Marks(before=(5, 6), after=(7, 8), end_id=2)
    ids = np.array([5, 6, 9, 7, 8, 5, 6, 10, 11, 7, 8, 12], dtype=np.int32)
    assert marks.find(ids) == (slice(7, 9), 11)
    assert marks.find(ids[:4]) is None
