"""Asking a judge over HTTP whether a correction is better than its answer."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, assert_never

import pyarrow as pa

from aligner import pairwise
from aligner.pairwise import Choice
from aligner.records import Question
from aligner_jobs.config.teaching import OpenAIJudge
from aligner_jobs.generate import Asker, work_table
from aligner_jobs.line import line_to
from aligner_jobs.single_reply import NoReply, reply_of
from aligner_jobs.tables import Row, drop, history_of

_PREFERS_ANSWER: Final = "judge_prefers_answer"
_UNDECIDED: Final = "judge_undecided"

VERDICTS: Final = frozenset({_PREFERS_ANSWER, _UNDECIDED})
"""Reasons that are judgements; all others of this step are replies that failed."""


class AskJudge:
    """Columns in: WORK_SCHEMA, complete. Columns out: the same.

    Rows: same number; those whose correction the judge does not prefer are dropped by reason.
    Identity rows and dropped ones pass without being asked for.
    """

    def __init__(self, judge: Mapping[str, Any], switchboard: Any = None, salt: str = "") -> None:
        """``switchboard`` is the process that all workers share, where there is one."""
        self._judge = OpenAIJudge.model_validate(judge)
        self._asker = Asker(self._judge, name="judge", line=line_to(switchboard), salt=salt)

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Judge the rows of ``batch``."""
        return work_table(await asyncio.gather(*(self._judged(row) for row in batch.to_pylist())))

    async def aclose(self) -> None:
        """Close the connections; a worker of Ray ends without."""
        await self._asker.aclose()

    async def _judged(self, row: Row) -> Row:
        if row["reason"] is not None or row["correction"] == row["answer"]:
            return row
        question = Question(row["question"], history_of(row))
        try:
            # Both orders: models favour a position.
            choices = await asyncio.gather(
                self._choice(question, row["answer"], row["correction"]),
                self._choice(question, row["correction"], row["answer"]),
            )
        except NoReply as failed:
            return drop(row, step="judge", reason=failed.reason)
        match pairwise.verdict_of_both(*choices):
            case "win":
                return row
            case "tie":
                return row if self._judge.keep_ties else _dropped(row, _UNDECIDED)
            case "loss":
                return _dropped(row, _PREFERS_ANSWER)
            case unreachable:
                assert_never(unreachable)

    async def _choice(self, question: Question, first: str, second: str) -> Choice:
        messages = pairwise.comparison_messages(
            question, first, second, instruction=self._judge.instruction
        )
        choice = pairwise.read_choice(await reply_of(self._asker, messages))
        if choice is None:
            raise NoReply("judge_unreadable")
        return choice


def _dropped(row: Row, reason: str) -> Row:
    return drop(row, step="judge", reason=reason)
