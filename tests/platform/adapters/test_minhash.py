import numpy as np

from aligner import dedup
from aligner.adapters.minhash import signatures
from aligner.shingles import ngrams


def test_signatures_are_the_same_in_every_process_and_release() -> None:
    grams = ngrams([["a", "b", "c"], ["a", "b", "d"]], size=2, pad=False)
    # Taken from rensa 0.5.0: were another version to seed otherwise, sketches of one dataset
    # that two versions made would not fit together.
    assert signatures(grams, values=4).tolist() == GOLDEN


def test_values_agree_as_often_as_the_sets_are_similar() -> None:
    rng = np.random.default_rng(0)
    texts = []
    for changed in range(0, 40, 2):
        text = [f"w{number}" for number in rng.integers(0, 5000, 80)]
        texts += [text, [f"x{changed}" if place < changed else w for place, w in enumerate(text)]]
    grams = ngrams(texts, size=1, pad=True)
    sets, found = grams.sets(), signatures(grams, values=2048)
    for one in range(0, len(texts), 2):
        estimate = (found[one] == found[one + 1]).mean()
        # Five standard deviations.
        assert abs(estimate - dedup.jaccard(sets[one], sets[one + 1])) < 5 * 0.5 / 2048**0.5


def test_no_texts_have_no_signatures() -> None:
    assert signatures(ngrams([], size=3, pad=True), values=8).shape == (0, 8)


GOLDEN = [
    [3036256396, 373791555, 4003949099, 745854363],
    [3143622941, 139780215, 1592310004, 3480153347],
]
