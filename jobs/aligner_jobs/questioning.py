"""The first half of an evaluation: held-out questions, and what the upstreams answer."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, assert_never

import pyarrow as pa

from aligner import artefacts
from aligner.errors import DataError, EndpointError, GenerationError
from aligner.manifest import Parent
from aligner.records import Answered, Question
from aligner.simworld.questions import heldout_questions, read_question
from aligner.simworld.world import World
from aligner_jobs import dataset_files
from aligner_jobs.config.evaluate import (
    DatasetQuestions,
    EvaluateConfig,
    FileQuestions,
    SimworldQuestions,
)
from aligner_jobs.generate import GAVE_UP, AskUpstreams
from aligner_jobs.sources import Item, listed, pieces, read
from aligner_jobs.tables import WORK_SCHEMA, history_of, question_row

_ROWS_PER_BLOCK: Final = 32


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions and where they came from."""

    questions: list[Question]
    described: str
    """In words, for the report."""
    parents: tuple[Parent, ...] = ()


@dataclass(frozen=True, slots=True)
class Answers:
    """What the upstreams said, by upstream and question in the config's order."""

    rows: list[Answered]
    failed: Mapping[str, Counter[str]]
    """By upstream: replies that failed, by reason."""


def load_questions(config: EvaluateConfig) -> QuestionSet:
    """The questions that ``config`` names, each once, in an order that is the same in every run.

    Raises:
        DataError: There are none, they cannot be read, or the judge knows nothing about one.
    """
    found = _questions(config)
    if not found.questions:
        raise DataError(f"questions: {found.described} hold no question; check the source.")
    unknown = [q for q in found.questions if read_question(q.question) is None or q.history]
    if config.judge.kind == "simworld" and unknown:
        raise DataError(
            f"questions: {len(unknown)} of {len(found.questions)} from {found.described} are none "
            "of the simulated world, whose judge knows nothing else; use questions of that world."
        )
    return found


def ask(found: QuestionSet, config: EvaluateConfig, *, advance: Callable[[int], None]) -> Answers:
    """Ask every upstream every question; ``advance`` hears how many replies have come.

    Raises:
        EndpointError: Request after request finds nobody there.
        GenerationError: Too many replies of an upstream failed.
    """
    order = {name: number for number, name in enumerate(config.upstreams)}
    numbered: list[tuple[int, int, Answered]] = []
    failed: dict[str, Counter[str]] = {name: Counter() for name in order}
    for row in _replies(found, config):
        advance(row["rows"])
        if row["reason"] is not None:
            _require_there(row["upstream"], row["reason"], config)
            failed[row["upstream"]][row["reason"]] += row["rows"]
            continue
        answered = Answered(
            row["upstream"], Question(row["question"], history_of(row)), row["answer"]
        )
        numbered.append((order[answered.upstream], int(row["where"]), answered))
    _require_enough(Counter(answered.upstream for _, _, answered in numbered), failed, config)
    # Replies come as they are done; a report must not depend on that.
    numbered.sort(key=lambda entry: entry[:2])
    return Answers([answered for _, _, answered in numbered], failed)


def _replies(found: QuestionSet, config: EvaluateConfig) -> Iterator[dict[str, Any]]:
    """Columns out: :data:`WORK_SCHEMA`. Rows: one per question and upstream (and sample)."""
    import ray.data

    from aligner_jobs import asking

    rows = [
        question_row(question, source="evaluate", where=str(number), rows=config.rows_per_question)
        for number, question in enumerate(found.questions)
    ]
    blocks = [
        pa.Table.from_pylist(rows[start : start + _ROWS_PER_BLOCK], schema=WORK_SCHEMA)
        for start in range(0, len(rows), _ROWS_PER_BLOCK)
    ]
    upstreams = {name: one.model_dump(mode="json") for name, one in config.upstreams.items()}
    asked = ray.data.from_arrow(blocks)
    answered = asking.ask(asked, AskUpstreams, {"upstreams": upstreams}, workers=1)
    yield from answered.iter_rows()


def _require_there(upstream: str, reason: str, config: EvaluateConfig) -> None:
    if reason.startswith(GAVE_UP):
        endpoint = config.upstreams[upstream]
        raise EndpointError(
            f"{endpoint.base_url} (model {endpoint.model!r}): upstream {upstream!r} stopped "
            f"answering ({reason.removeprefix(GAVE_UP)}); start it again and repeat the run."
        )


def _require_enough(
    answered: Counter[str], failed: Mapping[str, Counter[str]], config: EvaluateConfig
) -> None:
    for name, reasons in failed.items():
        asked = reasons.total() + answered[name]
        if reasons.total() > config.max_failed_share * asked:
            raise GenerationError(
                f"upstream {name!r}: {reasons.total()} of {asked} replies failed "
                f"({listed(reasons)}), more than max_failed_share={config.max_failed_share:g} "
                "permits; see to the endpoint or raise the limit."
            )


def _questions(config: EvaluateConfig) -> QuestionSet:
    match config.questions:
        case SimworldQuestions(limit=limit):
            world = World(config.seed)
            described = f"the simulated world with seed {config.seed}, held out"
            return QuestionSet(heldout_questions(world, limit), described)
        case DatasetQuestions() as source:
            return _of_dataset(source)
        case FileQuestions() as source:
            return QuestionSet(_first(_of_files(source), source.limit), source.path)
        case unreachable:
            assert_never(unreachable)


def _of_dataset(source: DatasetQuestions) -> QuestionSet:
    manifest = artefacts.read_manifest(source.uri, kind="dataset")
    questions = dataset_files.heldout_questions(source.uri)
    return QuestionSet(
        _first(questions, source.limit),
        f"the held-out rows of {manifest.name}",
        parents=(manifest.as_parent(source.uri),),
    )


def _of_files(source: FileQuestions) -> Iterator[Question]:
    for piece in pieces("questions", source):
        for item in read(piece, seed=0, max_bad_share=source.max_bad_share):
            if isinstance(item, Item) and isinstance(item.row, Question):
                yield item.row


def _first(questions: Iterable[Question], limit: int | None) -> list[Question]:
    """The first ``limit`` different questions."""
    return list(islice(dict.fromkeys(questions), limit))
