import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner.shingles import hash_of, ngrams, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Hello, World!", ["hello", "world"]),
        ("ﬁne \u00bd STRASSE straße", ["fine", "1", "2", "strasse", "strasse"]),
        ("don't", ["don", "t"]),
        ("日本語 text", ["日", "本", "語", "text"]),
        ("👍 👎", ["👍", "👎"]),
        ("", []),
    ],
)
def test_words_are_free_of_case_punctuation_and_unicode_forms(text: str, found: list[str]) -> None:
    assert words(text) == found


def test_an_ngram_never_crosses_from_one_text_into_the_next() -> None:
    texts = [["a", "b", "c"], [], ["c", "d"], ["a", "b", "c", "d"]]
    grams = ngrams(texts, size=3, pad=False)
    assert np.diff(grams.offsets).tolist() == [1, 0, 0, 2]
    assert grams.owners.tolist() == [0, 3, 3]
    assert grams.hashes[0] == grams.hashes[1] != grams.hashes[2]


def test_a_padded_text_has_at_least_one_ngram() -> None:
    grams = ngrams([["a", "b"], [], ["a"]], size=3, pad=True)
    assert [len(found) for found in grams.sets()] == [1, 1, 1]
    assert len(set(grams.hashes.tolist())) == 3


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=12), max_size=6), st.integers(1, 4))
def test_equal_runs_of_words_have_equal_hashes_and_others_do_not(
    texts: list[list[str]], size: int
) -> None:
    grams = ngrams(texts, size=size, pad=False)
    runs = [tuple(text[i : i + size]) for text in texts for i in range(len(text) - size + 1)]
    assert len(grams.hashes) == len(runs)
    meant = dict(zip(runs, grams.hashes.tolist(), strict=True))
    assert [meant[run] for run in runs] == grams.hashes.tolist()
    assert len(set(meant.values())) == len(meant)


def test_hashes_are_the_same_in_every_process() -> None:
    code = (
        "from aligner.shingles import *; "
        "print(hash_of(['a', 'b']), *ngrams([['a', 'b', 'c']], size=2, pad=False).hashes)"
    )
    import aligner

    root = next(iter(aligner.__path__)).rpartition("/")[0]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": root, "PYTHONHASHSEED": "5"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = [hash_of(["a", "b"]), *ngrams([["a", "b", "c"]], size=2, pad=False).hashes.tolist()]
    assert [int(number) for number in done.stdout.split()] == here


HOSTILE = ["", "\x00", "\u202eabc", "\ud800", "a\x00b", "'\"\\", "\u0301\u0301", "x" * 2_000_000]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_have_ngrams_like_all_others(text: str) -> None:
    grams = ngrams([words(text)], size=3, pad=True)
    assert len(grams.hashes) == 1


@given(st.text())
def test_every_text_has_an_ngram(text: str) -> None:
    assert len(ngrams([words(text)], size=2, pad=True).hashes) >= 1
