import io

import pytest
from rich.console import Console

from aligner.judging import is_perfect
from aligner.records import Question
from aligner.simworld import profiles
from aligner.simworld.judge import SimJudge
from aligner.simworld.questions import heldout_questions
from aligner.simworld.world import World
from aligner_jobs import quickstart
from aligner_jobs.config.quickstart import QuickstartConfig


def test_the_diff_can_be_read_without_colour_and_shows_brackets_as_they_are() -> None:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(quickstart.markup_diff("It is [b] red.", "It is [b] blue."))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "It is [b] [-red-]{+blue+}.\n"


@pytest.mark.parametrize("seed", [0, 7, 4711])
def test_the_question_asked_at_the_end_is_held_out_and_answered_badly(seed: int) -> None:
    config = QuickstartConfig(seed=seed)
    question = Question(quickstart.flawed_question(config))
    world = World(seed)
    assert question in heldout_questions(world)
    answer = profiles.answer(world, config.upstream, question)
    assert not is_perfect(SimJudge(world).scores(question, answer))
