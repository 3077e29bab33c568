import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.errors import DataError
from aligner.packing import WINDOW_ROWS, Pack, read_packs
from aligner.prompt import PLAIN
from aligner.records import Triple, from_columns
from aligner.tokens import encode_example
from aligner_jobs import dataset_files, runtime
from aligner_jobs.config.output import Packing
from aligner_jobs.packed_files import (
    Chunk,
    Done,
    Spread,
    Work,
    on_all_cores,
    tokenizer_files,
    write_packs,
)
from aligner_jobs.tables import tables_of, triple_row

ROWS = 2_400


def in_turn(work: Work, chunks: Iterable[Chunk]) -> Iterator[Done]:
    """A spread without Ray."""
    return map(work, chunks)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One id per byte."""
    folder = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<s>": 0, "</s>": 1} | {letter: n for n, letter in enumerate(alphabet, start=2)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    triples = [Triple(f"q{n}", "a" * (n % 90), "c" * (n % 70)) for n in range(ROWS)]
    triples += [Triple("long", "a" * 300, f"c{n}") for n in range(5)]
    rows = [triple_row(row, where=str(n)) for n, row in enumerate(triples)]
    dataset_files.write(tables_of(rows, size=500), folder, heldout_share=0.1, warmup_share=0.2)
    return folder


def write(dataset: Path, tokenizer: Path, *, spread: Spread = in_turn) -> dict[str, Any]:
    config = Packing(tokenizer=str(tokenizer), max_tokens=256)
    files = tokenizer_files(config)
    return write_packs(dataset, config=config, files=files, template=PLAIN, spread=spread)


def linked(dataset: Path, folder: Path) -> Path:
    """``dataset`` without its packs."""
    folder.mkdir()
    for split in ("train", "heldout", "warmup"):
        (folder / split).symlink_to(dataset / split)
    return folder


def packs(folder: Path, split: str) -> list[Pack]:
    return list(read_packs(pq.read_table(folder / "packed" / split)))


def test_every_row_of_every_split_is_packed_or_counted(
    dataset: Path, tokenizer: Path, tmp_path: Path
) -> None:
    folder = linked(dataset, tmp_path / "d")
    facts = write(folder, tokenizer)
    encoder, long = HfTokenizer.load(tokenizer), 0
    for split in ("train", "heldout", "warmup"):
        rows = pq.read_table(dataset / split).to_pylist()
        expected = {
            row["row_id"]: encode_example(from_columns(row), template=PLAIN, tokenizer=encoder)
            for row in rows
            if row["question"] != "long"
        }
        found: dict[str, Any] = {}
        for one in packs(folder, split):
            found |= dict(zip(one.row_ids, one.examples(), strict=True))
        assert found == expected
        told = facts["splits"][split]
        assert told["documents"] == len(found)
        assert told["packs"] == len(packs(folder, split))
        assert told["tokens"] == sum(len(example) for example in found.values())
        assert sum(told["set_aside"].values()) == len(rows) - len(found)
        long += len(rows) - len(found)
    assert long >= 5
    assert facts["splits"]["train"]["fill_rate"] > 0.9
    assert len(facts["tokenizer_hash"]) == 64


def test_the_packs_of_the_first_thousand_rows_are_those_of_the_first_window(
    dataset: Path, tokenizer: Path, tmp_path: Path
) -> None:
    folder = linked(dataset, tmp_path / "d")
    write(folder, tokenizer)
    order = pq.read_table(dataset / "train", columns=["row_id"])["row_id"].to_pylist()
    made = packs(folder, "train")
    assert [one.window for one in made] == sorted(one.window for one in made)
    for window in range(-(-len(order) // WINDOW_ROWS)):
        own = order[window * WINDOW_ROWS : (window + 1) * WINDOW_ROWS]
        packed = {row_id for one in made if one.window == window for row_id in one.row_ids}
        assert packed <= set(own)
        assert len(packed) > len(own) - 6


def test_a_tokenizer_that_cannot_serve_is_one_sentence(tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(DataError, match=r"packing\.tokenizer=.*missing: there is no such folder"):
        tokenizer_files(Packing(tokenizer=str(tmp_path / "missing")))
    (tmp_path / "tokenizer.json").write_bytes((tokenizer / "tokenizer.json").read_bytes())
    with pytest.raises(DataError, match="no end-of-sequence token"):
        tokenizer_files(Packing(tokenizer=str(tmp_path)))


@pytest.mark.e2e
def test_all_cores_write_the_same_bytes_as_one(
    dataset: Path, tokenizer: Path, tmp_path: Path
) -> None:
    alone, together = linked(dataset, tmp_path / "one"), linked(dataset, tmp_path / "two")
    with runtime.ray_session():
        facts = write(together, tokenizer, spread=on_all_cores)
    assert write(alone, tokenizer) == facts
    for path in (alone / "packed").rglob("*.parquet"):
        assert path.read_bytes() == (together / path.relative_to(alone)).read_bytes()
