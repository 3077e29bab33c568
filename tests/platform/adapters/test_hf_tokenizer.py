import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from aligner.adapters.hf_tokenizer import HfTokenizer, hash_files, open_files, read_files
from aligner.errors import DataError

SPECIAL = {"<pad>": 0, "<s>": 1, "</s>": 2}


def bytes_tokenizer() -> tokenizers.Tokenizer:
    """One id per byte: enough to see what is read as a special token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = SPECIAL | {letter: i for i, letter in enumerate(alphabet, start=3)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL))
    return backend


def folder(tmp_path: Path, **configs: object) -> Path:
    bytes_tokenizer().save(str(tmp_path / "tokenizer.json"))
    for name, content in configs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_ids_of_beginning_and_end_come_from_the_names_in_its_config(tmp_path: Path) -> None:
    named = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    ids = {"bos_token_id": 77, "eos_token_id": 78}
    loaded = HfTokenizer.load(folder(tmp_path, tokenizer_config=named, config=ids))
    assert (loaded.bos_token_id, loaded.eos_token_id) == (1, 2)
    assert loaded.vocab_size == 256 + 3


def test_without_names_the_models_numbers_serve(tmp_path: Path) -> None:
    loaded = HfTokenizer.load(folder(tmp_path, config={"eos_token_id": [2, 9]}))
    assert (loaded.bos_token_id, loaded.eos_token_id) == (None, 2)


def test_a_beginning_that_its_config_denies_is_not_taken_from_the_model(tmp_path: Path) -> None:
    named = {"bos_token": None, "eos_token": "</s>"}
    loaded = HfTokenizer.load(folder(tmp_path, tokenizer_config=named, config={"bos_token_id": 1}))
    assert loaded.bos_token_id is None


PIECES = st.sampled_from([*SPECIAL, "a", " ", "\u00e9", "\n"])


@given(text=st.lists(PIECES).map("".join))
def test_every_text_comes_back_and_holds_no_special_id(text: str) -> None:
    tokenizer = HfTokenizer(bytes_tokenizer(), bos_token_id=1, eos_token_id=2)
    ids = tokenizer.encode(text)
    assert not set(ids) & set(SPECIAL.values())
    assert tokenizer.decode([1, *ids, 2]) == text


def test_a_truncating_tokenizer_is_made_to_keep_everything() -> None:
    backend = bytes_tokenizer()
    backend.enable_truncation(max_length=2)
    backend.enable_padding(length=2)
    assert len(HfTokenizer(backend, bos_token_id=1, eos_token_id=2).encode("abcd")) == 4


def test_a_tokenizer_travels_as_its_files(tmp_path: Path) -> None:
    files = read_files(folder(tmp_path, tokenizer_config={"eos_token": "</s>"}, weights={"w": 1}))
    assert set(files) == {"tokenizer.json", "tokenizer_config.json"}
    assert open_files(files).eos_token_id == 2
    reversed_files = dict(reversed(list(files.items())))
    assert hash_files(reversed_files) == hash_files(files)
    assert hash_files(files) != hash_files({**files, "tokenizer_config.json": b"{}"})


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no tokenizer\.json"):
        HfTokenizer.load(tmp_path)


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no end-of-sequence"):
        HfTokenizer.load(folder(tmp_path, tokenizer_config={"bos_token": "<s>"}))


def test_broken_files_are_named(tmp_path: Path) -> None:
    (folder(tmp_path) / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer_config\.json: is broken"):
        HfTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer\.json: is no tokenizer"):
        HfTokenizer.load(tmp_path)
