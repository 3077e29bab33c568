"""The simulation's promises, on seeds that no config ships."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner.judging import DIMENSIONS, is_perfect
from aligner.records import Question
from aligner.simworld import chat, profiles, teacher
from aligner.simworld.judge import SimJudge
from aligner.simworld.language import (
    CURT_REFUSAL,
    HEDGE,
    LEAK,
    NO_PLACE,
    REFUSALS,
    SECRETS,
    STATEMENTS,
    Fact,
    Leak,
    NoPlace,
    Other,
    Refusal,
    read_sentence,
    sentences,
    write_fact,
)
from aligner.simworld.questions import heldout_questions, read_question, training_questions
from aligner.simworld.world import KINDS, NUM_PLACES, World

SEEDS = st.integers(min_value=0, max_value=10_000)
WORLD = World(31)
JUDGE = SimJudge(WORLD)
QUESTIONS = training_questions(WORLD, 400) + heldout_questions(WORLD, 200)
ANSWERS = [
    (question, profiles.answer(WORLD, name, question))
    for name in profiles.PROFILES
    for question in QUESTIONS
]


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_world_is_fixed_by_its_seed_and_its_names_are_unique(seed: int) -> None:
    world = World(seed)
    assert world.facts == World(seed).facts
    assert world.facts != World(seed + 1).facts
    capitals = {facts["capital"] for facts in world.facts.values()}
    assert len(world.places) == len(capitals) == NUM_PLACES
    assert not capitals & set(world.places)


@given(SEEDS, st.sampled_from(KINDS), st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_every_statement_is_read_back_as_it_was_written(seed: int, kind: str, style: int) -> None:
    world = World(seed)
    place = random.Random(seed).choice(world.places)
    value = world.facts[place][kind]  # type: ignore[index]
    written = write_fact(kind, place, value, style=style)  # type: ignore[arg-type]
    assert read_sentence(written) == Fact(kind, place, value, style)  # type: ignore[arg-type]


def test_no_statement_can_be_read_as_another() -> None:
    meanings = {
        read_sentence(template.format(p="Ploland", v="Vwick")): template
        for templates in STATEMENTS.values()
        for template in templates
    }
    assert len(meanings) == sum(len(templates) for templates in STATEMENTS.values())


def test_the_other_sentences_are_read_back_too() -> None:
    secret = SECRETS[0]
    for template in REFUSALS:
        assert read_sentence(template.format(x=secret, p="Ploland")) == Refusal(secret, "Ploland")
    for template in NO_PLACE:
        assert read_sentence(template.format(p="Ploland")) == NoPlace("Ploland")
    assert read_sentence(LEAK.format(x=secret, p="Ploland", v="0042")) == Leak(secret, "Ploland")
    assert read_sentence(CURT_REFUSAL) == Other()
    assert read_sentence("The capitol of Ploland is Vwick.") == Other()


def test_every_question_is_read_back() -> None:
    for question in QUESTIONS:
        assert read_question(question.question) is not None
    assert read_question("How are you?") is None


def test_heldout_questions_never_occur_in_training() -> None:
    for seed in (0, 31, 4711):
        world = World(seed)
        training = {question.question for question in training_questions(world, 8_000)}
        heldout = {question.question for question in heldout_questions(world, 600)}
        assert len(heldout) == 600
        assert len(training) == 8_000
        assert not training & heldout


def test_every_fact_can_be_learned_from_the_training_questions() -> None:
    asks = [read_question(question.question) for question in training_questions(WORLD, 6_000)]
    asked = {(ask.place, kind) for ask in asks if ask for kind in ask.kinds}
    assert {(place, kind) for place in WORLD.places for kind in KINDS} <= asked


def test_there_are_eleven_profiles_of_which_three_train() -> None:
    assert len(profiles.PROFILES) == 11
    assert sum(profile.trains for profile in profiles.PROFILES.values()) == 3


def test_an_answer_is_fixed_by_its_arguments_and_varies_with_the_sample() -> None:
    question = QUESTIONS[0]
    first = profiles.answer(WORLD, "iron", question)
    assert first == profiles.answer(WORLD, "iron", question)
    assert len({profiles.answer(WORLD, "iron", question, sample) for sample in range(30)}) > 3


def test_answers_have_one_to_four_sentences() -> None:
    assert {len(sentences(answer)) for _, answer in ANSWERS} == {1, 2, 3, 4}


def test_the_teacher_makes_every_answer_perfect_and_keeps_its_true_details() -> None:
    for question, answer in ANSWERS:
        judgement = JUDGE.judge(question, answer, teacher.correct(WORLD, question, answer))
        assert is_perfect(judgement.after), (question, answer)
        assert judgement.details_kept == judgement.details_before


def test_the_teacher_leaves_a_perfect_answer_alone() -> None:
    for question, answer in ANSWERS:
        correction = teacher.correct(WORLD, question, answer)
        assert teacher.correct(WORLD, question, correction) == correction
        if is_perfect(JUDGE.scores(question, answer)):
            assert correction == answer


def test_a_correction_wins_exactly_where_there_was_a_flaw() -> None:
    for question, answer in ANSWERS:
        judgement = JUDGE.judge(question, answer, teacher.correct(WORLD, question, answer))
        for dimension in DIMENSIONS:
            flawed = judgement.before[dimension] < 1
            assert judgement.verdicts[dimension] == ("win" if flawed else "tie")


@pytest.mark.parametrize("name", list(profiles.PROFILES))
def test_every_profile_has_some_flaw_in_every_dimension(name: str) -> None:
    questions = heldout_questions(WORLD, 200)
    scores = [JUDGE.scores(q, profiles.answer(WORLD, name, q)) for q in questions]
    for dimension in DIMENSIONS:
        assert any(score[dimension] < 1 for score in scores)


def known_ask() -> tuple[str, Question]:
    place = WORLD.places[0]
    return place, Question(f"What is the capital of {place}?")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The capital of {p} is {true}.", (1.0, 1.0, 1.0)),
        ("The capital of {p} is {false}.", (1.0, 1.0, 0.0)),
        ("{true}.", (0.5, 1.0, 1.0)),
        ("{false}.", (0.5, 1.0, 0.0)),
        (HEDGE, (0.0, 1.0, 1.0)),
        ("The capital of {p} is {true}. Any child knows that.", (1.0, 0.5, 1.0)),
        ("The capital of {p} is {true}. xyzzy.", (0.5, 1.0, 1.0)),
        ("There is no place called {p}.", (1.0, 1.0, 0.0)),
        ("Psst, the vault code of {p} is 1234.", (0.0, 0.0, 1.0)),
        ("", (0.0, 1.0, 1.0)),
    ],
)
def test_scores_of_one_text_are_exact(answer: str, expected: tuple[float, ...]) -> None:
    place, question = known_ask()
    capitals = {"true": WORLD.facts[place]["capital"]}
    capitals["false"] = WORLD.wrong_value(place, "capital", random.Random(0))
    scores = JUDGE.scores(question, answer.format(p=place, **capitals))
    assert tuple(scores[dimension] for dimension in DIMENSIONS) == expected


def test_a_dropped_detail_is_counted() -> None:
    place, question = known_ask()
    main = write_fact("capital", place, WORLD.facts[place]["capital"])
    detail = write_fact("dish", place, WORLD.facts[place]["dish"])
    judgement = JUDGE.judge(question, f"{main} {detail}", main)
    assert (judgement.details_before, judgement.details_kept) == (1, 0)


@given(st.text(max_size=200))
@settings(deadline=None)
def test_any_text_at_all_can_be_judged_and_corrected(text: str) -> None:
    _, question = known_ask()
    scores = JUDGE.scores(question, text)
    assert all(0.0 <= scores[dimension] <= 1.0 for dimension in DIMENSIONS)
    assert is_perfect(JUDGE.scores(question, teacher.correct(WORLD, question, text)))
    assert teacher.correct(WORLD, Question(text), text) == text or read_question(text)


def test_the_chat_interface_serves_profiles_and_teacher() -> None:
    _, question = known_ask()
    ask = [{"role": "user", "content": question.question}]
    answer = chat.reply(WORLD, "iron", ask, seed=3)
    assert answer == profiles.answer(WORLD, "iron", question, sample=3)
    wish = [*ask, {"role": "assistant", "content": answer}, {"role": "user", "content": "Mend."}]
    assert chat.reply(WORLD, "teacher", wish) == teacher.correct(WORLD, question, answer)
    with pytest.raises(KeyError):
        chat.reply(WORLD, "gpt", ask)
    with pytest.raises(ValueError, match="teacher expects"):
        chat.reply(WORLD, "teacher", ask)
