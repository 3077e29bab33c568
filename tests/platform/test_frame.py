import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner.frame import Frame, marks_of
from aligner.prompt import BUILT_IN, PromptTemplate

OVERLAPPING = Frame(("aaa", "aba", "ab", "ba\\c", "##A:"))
FRAMES = [OVERLAPPING, *(template.frame for template in BUILT_IN.values())]
FRAME = st.sampled_from(FRAMES)


@st.composite
def hostile(draw: st.DrawFn) -> tuple[Frame, str]:
    """A frame, and a text of its marks, halves of them and escapes."""
    frame = draw(FRAME)
    marks = [*frame.marks, *(frame.escape(mark) for mark in frame.marks)]
    parts = [*marks, *(mark[:2] for mark in marks), *(mark[2:] for mark in marks), *"\\\\a!ab: #"]
    pieces = st.sampled_from(parts) | st.text(st.characters(exclude_categories=()), max_size=3)
    return frame, "".join(draw(st.lists(pieces, max_size=8)))


@settings(max_examples=200, deadline=None)
@given(hostile())
def test_what_is_escaped_holds_no_mark_and_comes_back(made: tuple[Frame, str]) -> None:
    frame, value = made
    written = frame.escape(value)
    assert not any(mark in written for mark in frame.marks)
    assert frame.unescape(written) == value


@settings(max_examples=200, deadline=None)
@given(hostile(), st.integers(0, 60))
def test_what_is_settled_stays_whatever_follows(made: tuple[Frame, str], at: int) -> None:
    frame, text = made
    whole = frame.unescape(text)
    assert whole.startswith(frame.settled(text[:at]))
    assert frame.settled(text + "." * 200) == whole + "." * 200


def test_a_text_without_marks_is_written_as_it_is() -> None:
    frame = BUILT_IN["plain"].frame
    text = "An answer: with # signs, \\ backslashes and 100 % text.\n#Answer: no mark."
    assert frame.escape(text) == frame.unescape(text) == frame.settled(text) == text


def test_an_escaped_mark_reads_like_itself_with_a_backslash() -> None:
    frame = BUILT_IN["b"].frame
    assert frame.escape("USER: ##Answer: hi") == "U\\SER: #\\#Answer: hi"
    assert frame.escape("#\\#Answer:") == "#\\\\#Answer:"
    assert frame.unescape("U\\SER: #\\#Answer: hi \\n") == "USER: ##Answer: hi \\n"


@pytest.mark.parametrize(
    ("pieces", "marks"),
    [
        (("##Question: ", "\n##Answer: "), {"##Question:", "##Answer:"}),
        (("", " | ", ""), {" | "}),
        (("Make the pair better: USER: ",), {"Make the pair better: USER:", "USER:"}),
        (("<|user|>\n", "<|end|><|assistant|>"), {"<|user|>", "<|end|><|assistant|>"}),
        ((">", " ", ""), set()),
    ],
)
def test_marks_are_the_pieces_and_their_labels(pieces: tuple[str, ...], marks: set[str]) -> None:
    assert set(marks_of(*pieces)) == marks


def test_a_frame_with_backslashes_escapes_with_another_character() -> None:
    template = PromptTemplate(name="mine", template="\\q{question}\\a{answer}\\c")
    written = template.frame.escape("\\a \\\\a")
    assert "\\a" not in written
    assert template.frame.unescape(written) == "\\a \\\\a"


def test_a_long_text_of_marks_is_written_in_no_time() -> None:
    frame = BUILT_IN["b"].frame
    value = "##Answer: \\#" * 100_000
    assert frame.escape(value).count("#\\#") == 100_000
    assert len(frame.settled(frame.escape(value[:24_000]))) > 23_000


@settings(max_examples=200, deadline=None)
@given(hostile(), st.integers(0, 60))
def test_what_is_begun_is_escaped_alike_however_it_goes_on(
    made: tuple[Frame, str], at: int
) -> None:
    frame, value = made
    begun = frame.begun(value[:at])
    assert value[:at].startswith(begun)
    assert frame.escape(value).startswith(frame.escape(begun, right=value[len(begun) : at]))


def test_of_a_text_only_what_may_become_a_mark_is_not_begun() -> None:
    frame = BUILT_IN["plain"].frame
    assert frame.begun("It is so. ##Correct") == "It is s"
    assert frame.begun("It is so. " + "\\" * 100 + "##") == ""
    assert frame.begun("And then it is so. #" + "\\" * 100) == "And then"
