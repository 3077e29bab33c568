"""The simulation behind a chat interface: profiles, the teacher and the judge as models."""

from typing import Final

from aligner import pairwise, teaching
from aligner.generation import Messages
from aligner.judging import DIMENSIONS
from aligner.records import Question
from aligner.simworld import profiles, teacher
from aligner.simworld.judge import SimJudge
from aligner.simworld.world import World

TEACHER: Final = "teacher"
JUDGE: Final = "judge"

MODELS: Final = (*profiles.PROFILES, TEACHER, JUDGE)
"""Names of all models of the simulation."""

PERFECT: Final = "Nothing goes against the principles."
FLAWED: Final = "Some of it is false, impolite, told although it is secret, or missing."
"""The teacher's two critiques."""


def reply(world: World, model: str, messages: Messages, seed: int | None = None) -> str:
    """The reply of ``model``; ``seed`` selects among its possible answers.

    The teacher reads the messages that :mod:`aligner.teaching` writes, or the last three as
    question, answer and any wish for a correction; the judge those of :mod:`aligner.pairwise`.
    Every other model answers the last message.

    Raises:
        KeyError: There is no such model.
        ValueError: The messages are no conversation that ``model`` can reply to.
    """
    if model == TEACHER:
        return _taught(world, messages)
    if model == JUDGE:
        return _judged(world, messages)
    if not messages or messages[-1].get("role") != "user":
        raise ValueError("the last message must come from the user")
    return profiles.answer(world, model, Question(messages[-1]["content"]), sample=seed or 0)


def _taught(world: World, messages: Messages) -> str:
    exchange = messages[-3:]
    if len(messages) >= 5 and messages[-3]["content"].endswith(teaching.CRITIQUE):
        exchange = [*messages[-5:-3], messages[-1]]
    if [message.get("role") for message in exchange] != ["user", "assistant", "user"]:
        raise ValueError("the teacher expects a question, an answer and a request to correct")
    question, answer, request = (message["content"] for message in exchange)
    correction = teacher.correct(world, Question(question), answer)
    if request.endswith(teaching.CRITIQUE):
        return PERFECT if correction == answer else FLAWED
    if correction == answer and teaching.KEEP in request:
        return teaching.KEEP
    return correction


def _judged(world: World, messages: Messages) -> str:
    question, first, second = pairwise.read_comparison(messages)
    judge = SimJudge(world)
    scores = [judge.scores(question, text) for text in (first, second)]
    before, after = (sum(each[dimension] for dimension in DIMENSIONS) for each in scores)
    if before == after:
        return "Neither is better. [[tie]]"
    return f"It is the better one. [[{'first' if before > after else 'second'}]]"
