"""Dataset artefacts of the simulated world, for training."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from aligner import artefacts
from aligner.prompt import PLAIN, PromptTemplate
from aligner.records import TRIPLE_SCHEMA, Triple, to_columns
from aligner.simworld.profiles import answer
from aligner.simworld.questions import heldout_questions, training_questions
from aligner.simworld.teacher import correct
from aligner.simworld.world import World
from aligner.warmup import warmup_rows


def simworld_rows(questions: int, *, split: str = "train", seed: int = 0) -> list[Triple]:
    """One corrected answer of each training profile to each question."""
    world = World(seed)
    draw = training_questions if split == "train" else heldout_questions
    rows = []
    for question in draw(world, questions):
        for upstream in ("amber", "basalt", "copper"):
            text = answer(world, upstream, question)
            correction = correct(world, question, text)
            rows.append(Triple(question.question, text, correction, upstream=upstream))
    return rows


def published_dataset(
    uri: Path,
    train: Sequence[Triple],
    heldout: Sequence[Triple] = (),
    *,
    share: float = 0.2,
    template: PromptTemplate = PLAIN,
    fingerprint: str | None = None,
) -> str:
    """Publish a dataset artefact; ``fingerprint`` other than the template's is a broken one."""
    splits = {"train": train, "warmup": warmup_rows(train, share=share), "heldout": heldout}
    with artefacts.staging(str(uri)) as staging:
        for split, rows in splits.items():
            (staging.path / split).mkdir()
            table = pa.Table.from_pylist([to_columns(row) for row in rows], schema=TRIPLE_SCHEMA)
            pq.write_table(table, staging.path / split / "part-00000.parquet")
        staging.publish(
            kind="dataset",
            name="test",
            prompt=template,
            prompt_fingerprint=fingerprint or template.fingerprint,
            counts={split: len(rows) for split, rows in splits.items()},
        )
    return str(uri)
