"""The simulation behind a chat interface: profiles and the teacher as models."""

from typing import Final

from aligner.generation import Messages
from aligner.records import Question
from aligner.simworld import profiles, teacher
from aligner.simworld.world import World

TEACHER: Final = "teacher"

MODELS: Final = (*profiles.PROFILES, TEACHER)
"""Names of all models of the simulation."""


def reply(world: World, model: str, messages: Messages, seed: int | None = None) -> str:
    """The reply of ``model``; ``seed`` selects among its possible answers.

    The teacher reads the last three messages as question, answer and the wish for a
    correction. Every other model answers the last message.

    Raises:
        KeyError: There is no such model.
        ValueError: The messages are no conversation that ``model`` can reply to.
    """
    if model == TEACHER:
        roles = [message.get("role") for message in messages[-3:]]
        if roles != ["user", "assistant", "user"]:
            raise ValueError("the teacher expects a question, an answer and a request to correct")
        question, answer = messages[-3]["content"], messages[-2]["content"]
        return teacher.correct(world, Question(question), answer)
    if not messages or messages[-1].get("role") != "user":
        raise ValueError("the last message must come from the user")
    return profiles.answer(world, model, Question(messages[-1]["content"]), sample=seed or 0)
