"""From answers to corrections: who corrects which answer, and asking teachers over HTTP."""

import asyncio
import functools
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
from pydantic import TypeAdapter

from aligner import teaching
from aligner.records import Question, content_id
from aligner.simworld.teacher import correct
from aligner.simworld.world import World
from aligner.splits import unit_hash
from aligner_jobs.config.teaching import OpenAITeacher, SimworldTeacher, Teacher
from aligner_jobs.generate import Asker, work_table
from aligner_jobs.line import line_to
from aligner_jobs.single_reply import NoReply, reply_of
from aligner_jobs.tables import Row, drop, history_of, on_rows

_TEACHERS: Final[TypeAdapter[dict[str, Teacher]]] = TypeAdapter(dict[str, Teacher])


def teacher_of(row: Row, shares: Mapping[str, float]) -> str:
    """The name of the teacher that corrects the answer of ``row``.

    Drawn by question and answer, so it is the same in every run, and the names' order in the
    config does not matter.
    """
    place = unit_hash(content_id(row["question_id"], row["answer"]), salt="teacher")
    left = place * sum(shares.values())
    for name in sorted(shares):
        left -= shares[name]
        if left < 0:
            return name
    return max(shares)


def teach_simworld(
    batch: pa.Table, *, teachers: Mapping[str, Mapping[str, Any]], seed: int
) -> pa.Table:
    """Columns as they were, ``correction`` and ``teacher`` filled where the simulation teaches.

    Rows: the same; those with a correction, and other teachers', pass unchanged.
    """
    known = _TEACHERS.validate_python(teachers)
    shares = {name: teacher.share for name, teacher in known.items()}
    world = _world(seed)

    def corrected(row: Row) -> Row:
        if row["correction"] is not None:
            return row
        name = teacher_of(row, shares)
        if not isinstance(known[name], SimworldTeacher):
            return row
        asked = Question(row["question"], history_of(row))
        return {**row, "correction": correct(world, asked, row["answer"]), "teacher": name}

    return on_rows(batch, corrected)


class AskTeachers:
    """Columns in: WORK_SCHEMA, corrections null. Columns out: the same, filled, with ``teacher``.

    Rows: same number; those with a correction, dropped ones, and those of teachers that are not
    asked over HTTP, pass unchanged.
    """

    def __init__(
        self, teachers: Mapping[str, Mapping[str, Any]], switchboard: Any = None, salt: str = ""
    ) -> None:
        """``switchboard`` is the process that all workers share, where there is one."""
        line = line_to(switchboard)
        known = _TEACHERS.validate_python(teachers)
        self._shares = {name: teacher.share for name, teacher in known.items()}
        self._teachers = {
            name: teacher for name, teacher in known.items() if isinstance(teacher, OpenAITeacher)
        }
        self._askers = {
            name: Asker(teacher, name=f"teachers.{name}", line=line, salt=salt)
            for name, teacher in self._teachers.items()
        }

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Correct the answers in ``batch``."""
        return work_table(
            await asyncio.gather(*(self._corrected(row) for row in batch.to_pylist()))
        )

    async def aclose(self) -> None:
        """Close the connections; a worker of Ray ends without."""
        await asyncio.gather(*(asker.aclose() for asker in self._askers.values()))

    async def _corrected(self, row: Row) -> Row:
        if row["reason"] is not None or row["correction"] is not None:
            return row
        name = teacher_of(row, self._shares)
        if name not in self._teachers:
            return row
        row = {**row, "teacher": name}
        try:
            reply = await self._taught(
                name, Question(row["question"], history_of(row)), row["answer"]
            )
        except NoReply as failed:
            return drop(row, step="corrections", reason=failed.reason)
        reading = teaching.read_reply(reply, answer=row["answer"])
        if reading.reason is not None:
            return drop(row, step="corrections", reason=reading.reason)
        return {**row, "correction": reading.correction}

    async def _taught(self, name: str, question: Question, answer: str) -> str:
        teacher, asker = self._teachers[name], self._askers[name]
        about = (question, answer, teacher.principles)
        if not teacher.critique:
            asked = teaching.correction_messages(*about, instruction=teacher.instruction)
            return await reply_of(asker, asked)
        asked = teaching.critique_messages(*about, instruction=teacher.critique_instruction)
        critique = await reply_of(asker, asked)
        return await reply_of(
            asker,
            teaching.correction_after_critique(asked, critique, instruction=teacher.instruction),
        )


@functools.lru_cache(maxsize=1)
def _world(seed: int) -> World:
    return World(seed)
