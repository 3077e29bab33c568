"""Aligners as teachers: vLLM inside Ray Data fills the kept replies, one after the other.

The pipeline that follows finds every correction there already, as with the answers of local
upstreams (:mod:`aligner_jobs.local_upstreams`). What is read first, kept and decoded is
:mod:`aligner_jobs.correct`'s business, as in an evaluation.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.generation import Completion, Sampling, chat_messages
from aligner.prompt import PromptTemplate
from aligner.records import Question
from aligner.tracking import Tracker
from aligner_jobs.asking import Desk, ask
from aligner_jobs.config.teaching import AlignerTeacher
from aligner_jobs.correct import Correction, correct_rows, job_of, job_row
from aligner_jobs.generate import work_table
from aligner_jobs.keeping import keep_from, stored_calibration
from aligner_jobs.line import line_to
from aligner_jobs.reply_store import decoded, encoded, encoded_failure, reply_key
from aligner_jobs.subject import Subject, open_subject
from aligner_jobs.switchboard import Post
from aligner_jobs.tables import Row, drop, history_of
from aligner_jobs.teaching import teacher_of

_IDS: Final = pa.list_(pa.int64())

_WORK: Final = pa.schema(
    [
        ("index", pa.binary()),
        ("tokenized_prompt", _IDS),
        ("copy_ids", _IDS),
        ("keep_from", pa.float64()),
        (
            "sampling_params",
            pa.struct(
                [
                    ("temperature", pa.float64()),
                    ("max_tokens", pa.int64()),
                    ("stop_token_ids", _IDS),
                    ("detokenize", pa.bool_()),
                ]
            ),
        ),
    ]
)
"""One row per correction to be made, as :func:`aligner_jobs.correct.job_row` gives it; ``index`` is
the key that it will be kept under."""

_ROWS_PER_POST: Final = 64


@dataclass(frozen=True, slots=True)
class Hired:
    """An Aligner as a teacher: verified, and on this machine."""

    teacher: AlignerTeacher
    subject: Subject
    keep_from: float | None

    @property
    def identity(self) -> str:
        """Whatever decides its corrections beside the pair."""
        told = self.teacher.model_dump(
            mode="json", include={"max_growth_ratio", "min_room_tokens", "engine"}
        )
        return json.dumps(
            [self.subject.manifest.content_hash, self.keep_from, told], sort_keys=True
        )


@contextmanager
def hired(teachers: Mapping[str, AlignerTeacher], tracker: Tracker) -> Iterator[dict[str, Hired]]:
    """Find and verify the Aligners among the teachers, by name, for the length of the block.

    Raises:
        DataError: One is missing or damaged.
        ContractMismatch: One was trained on a prompt that this code renders otherwise, or its
            calibration of KEEP is of another export.
        ConfigError: One is to keep answers and has no calibration.
    """
    with ExitStack() as stack:
        found = {}
        for name, teacher in teachers.items():
            subject = stack.enter_context(open_subject(teacher, tracker))
            calibration = stored_calibration(subject, teacher.keep, engine=teacher.engine)
            found[name] = Hired(teacher, subject, keep_from(teacher.keep, calibration))
        yield found


class _Place:
    """Which rows are an Aligner's, and under which key their corrections are kept."""

    def __init__(self, name: str, identity: str, shares: Mapping[str, float], salt: str) -> None:
        self._name, self._identity, self._shares, self._salt = name, identity, shares, salt

    def key(self, row: Row) -> bytes | None:
        """``None`` for rows that somebody else corrects, or nobody."""
        if row["reason"] is not None or row["correction"] is not None:
            return None
        if teacher_of(row, self._shares) != self._name:
            return None
        pair = chat_messages(row["question"], history_of(row))
        pair.append({"role": "assistant", "content": row["answer"]})
        whose = f"teachers.{self._name}"
        return reply_key(whose, self._identity, pair, Sampling(), n=1, salt=self._salt)


class MissingCorrections:
    """Columns in: WORK_SCHEMA, answers filled. Columns out: :data:`_WORK`.

    Rows: one for each answer whose correction is not kept yet.
    """

    def __init__(
        self,
        place: Mapping[str, Any],
        teacher: Mapping[str, Any],
        export: Mapping[str, Any],
        keep_from: float | None,
        switchboard: Any,
        salt: str,
    ) -> None:
        self._keep_from = keep_from
        self._place = _Place(**place, salt=salt)
        self._teacher = AlignerTeacher.model_validate(teacher)
        self._template = PromptTemplate.model_validate(export["template"])
        self._tokenizer = HfTokenizer.load(Path(export["folder"]))
        self._context_tokens = int(export["context_tokens"])
        self._line = line_to(switchboard)

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Look up the answers in ``batch``."""
        wanted = {key: row for row in batch.to_pylist() if (key := self._place.key(row))}
        assert self._line is not None
        kept = await asyncio.gather(*(self._line.look_up(key) for key in wanted))
        missing = [
            self._work(key, row)
            for (key, row), value in zip(wanted.items(), kept, strict=True)
            if value is None
        ]
        return pa.Table.from_pylist(missing, schema=_WORK)

    def _work(self, key: bytes, row: Row) -> dict[str, Any]:
        job = job_of(
            Question(row["question"], history_of(row)),
            row["answer"],
            template=self._template,
            tokenizer=self._tokenizer,
            config=self._teacher,
            context_tokens=self._context_tokens,
        )
        return job_row(key, job, tokenizer=self._tokenizer, keep_from=self._keep_from)


class RecallCorrections:
    """Columns in: WORK_SCHEMA, corrections null. Columns out: the same, filled, with ``teacher``.

    Rows: same number; those of other teachers pass unchanged.
    """

    def __init__(self, place: Mapping[str, Any], switchboard: Any, salt: str) -> None:
        self._name = str(place["name"])
        self._place = _Place(**place, salt=salt)
        self._line = line_to(switchboard)

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Fill in the corrections of ``batch``."""
        return work_table(
            await asyncio.gather(*(self._corrected(row) for row in batch.to_pylist()))
        )

    async def _corrected(self, row: Row) -> Row:
        if (key := self._place.key(row)) is None:
            return row
        assert self._line is not None
        kept = await self._line.look_up(key)
        found = "engine_error" if kept is None else decoded(kept)
        row = {**row, "teacher": self._name}
        if isinstance(found, str):
            return drop(row, step="corrections", reason=found)
        return {**row, "correction": found[0].text}


def place_of(name: str, one: Hired, shares: Mapping[str, float]) -> dict[str, Any]:
    """What the stages need to find the rows of ``name``."""
    return {"name": name, "identity": one.identity, "shares": dict(shares)}


def fill(name: str, one: Hired, answered: Any, shares: Mapping[str, float], desk: Desk) -> None:
    """Let ``name`` correct those of ``answered``, a Ray dataset, that it has not corrected yet.

    An answer that it cannot correct is remembered with the reason for the rest of this job.

    Raises:
        GenerationError: The engine does not start with this model, or dies.
    """
    switchboard, subject = desk.switchboard, one.subject
    assert switchboard is not None
    settings = {
        "place": place_of(name, one, shares),
        "teacher": one.teacher.model_dump(mode="json"),
        "export": {
            "folder": str(subject.folder.absolute()),
            "template": subject.template.model_dump(mode="json"),
            "context_tokens": subject.context_tokens,
        },
        "keep_from": one.keep_from,
        "switchboard": switchboard.actor,
        "salt": desk.salt,
    }
    missing = ask(answered, MissingCorrections, settings, workers=1).materialize()
    post = _Gathered(f"teachers.{name}")
    for row in missing.filter(_is_too_long).iter_rows():
        post.add(row["index"], Correction("", unusable="too_long"))
    if (fitting := missing.filter(_fits).materialize()).count():
        for key, made in _corrections(fitting, one):
            post.add(key, made)
            if len(post.keep) >= _ROWS_PER_POST:
                switchboard.exchange(post.taken())
    switchboard.exchange(post.taken())


def _corrections(fitting: Any, one: Hired) -> Iterator[tuple[bytes, Correction]]:
    subject = one.subject
    return correct_rows(
        fitting,
        model=subject.folder,
        template=subject.template,
        tokenizer=subject.tokenizer,
        engine=one.teacher.engine,
        context_tokens=subject.context_tokens,
        copies_first=one.keep_from is not None,
    )


@dataclass(slots=True)
class _Gathered:
    """Corrections on their way to the switchboard."""

    name: str
    keep: list[tuple[bytes, bytes]] = field(default_factory=list)
    failed: list[tuple[bytes, bytes]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, key: bytes, made: Correction) -> None:
        """Take in one of them; the ledger counts the tokens that were decoded for it."""
        self.counts.update(asked=1, sent=1, completion_tokens=made.decoded_tokens)
        self.counts[f"reply_{made.unusable or ('kept' if made.kept else 'ok')}"] += 1
        if made.unusable is None:
            self.keep.append((key, encoded([Completion(made.text, "stop", 0, made.tokens)])))
        else:
            self.counts["failed"] += 1
            self.failed.append((key, encoded_failure(made.unusable)))

    def taken(self) -> Post:
        """What is there, which is forgotten here."""
        post = Post(keep=self.keep, failed=self.failed, counts={self.name: self.counts})
        self.keep, self.failed, self.counts = [], [], Counter()
        return post


def _fits(row: dict[str, Any]) -> bool:
    return bool(row["sampling_params"]["max_tokens"] >= 1)


def _is_too_long(row: dict[str, Any]) -> bool:
    return not _fits(row)
