"""How many tokens to draft: as many as pay for their checking.

A step of an engine takes ``fixed + rows each_row + drafted each_draft`` and yields one token a row
and the drafted ones that come true. :func:`depths` drafts what makes the most tokens a second of
that: an engine with little to do drafts deep, a loaded one only what is all but sure, and a request
whose guesses do not come true nothing, until they would have come true again. No number of it is
set by hand: :class:`Trust` learns the chances, :class:`StepCost` the times.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aligner.copying import LONGEST_RUN, Guess, Support

_PRIOR: Final[dict[Support, tuple[float, ...]]] = {
    "start": (0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.95, 0.97, 0.98),
    "answer": (0.1, 0.25, 0.45, 0.55, 0.7, 0.8, 0.85, 0.9, 0.98),
    "elsewhere": (0.05, 0.1, 0.3, 0.4, 0.5, 0.6, 0.6, 0.7, 0.8),
}
"""Chance that a guess comes true, by the tokens copied before it; about as on real triples."""

_OWN_WEIGHT: Final = 3.0
"""So many guesses of a request's own count as much as all that is known of others."""

_REMEMBERED: Final = 24.0
"""Guesses of one request and support; older ones fade, for a text may change its ways."""

_SLIGHT: Final = 0.02
"""A chance that no step is idle enough for."""

_SHARED_RATE: Final = 1 / 256

_FADING: Final = 0.998
"""Of what earlier steps have shown about times, each step: some hundreds are remembered, for single
ones differ by more than a few drafts cost."""

_BELIEVED: Final = (20.0, 2.0, 2.0)
"""Fixed, each row, each draft: what is believed of a step before one is seen, in proportion. Few
drafts are enough to see that they cost less than a row, and many too dear ones cost much."""

_NOISE: Final = 0.15
"""Of what a step takes, as a share of it."""

_OUTLIER: Final = 3.0
"""A step that takes so many times what was expected was held up by something else."""

_CHEAPEST_DRAFT: Final = 1 / 512
"""Of a step with one row: so cheap is no draft, whatever noise says."""


class Trust:
    """How often guesses come true, of all requests of an engine."""

    def __init__(self) -> None:
        self._shared = {support: list(shares) for support, shares in _PRIOR.items()}

    def learn(self, support: Support, run: int, *, tried: int, true: int) -> None:
        """Some guesses of any request."""
        shares = self._shared[support]
        shares[run] += (true - tried * shares[run]) * _SHARED_RATE

    def share(self, support: Support, run: int) -> float:
        """Of the guesses with this support, how many come true."""
        return self._shared[support][run]


class Record:
    """How often the guesses of one request came true, whether they were drafted or not."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._tried: dict[tuple[Support, int], tuple[float, float]] = {}

    def learn(self, guess: Guess, came: Sequence[int]) -> None:
        """What was written where ``guess`` was made."""
        tried = min(len(guess.ids), len(came))
        true = 0
        while true < tried and guess.ids[true] == came[true]:
            true += 1
        # Guesses behind a wrong one say nothing.
        tried = min(tried, true + 1)
        run = guess.run
        while tried:
            # Runs beyond the longest count as one.
            now = 1 if run < LONGEST_RUN else tried
            self._add(guess.support, run, tried=now, true=min(now, true))
            tried, true, run = tried - now, max(0, true - now), run + 1

    def _add(self, support: Support, run: int, *, tried: int, true: int) -> None:
        self._trust.learn(support, run, tried=tried, true=true)
        before, hits = self._tried.get((support, run), (0.0, 0.0))
        fade = _REMEMBERED / max(_REMEMBERED, before + tried)
        self._tried[support, run] = (before * fade + tried, hits * fade + true)

    def chances(self, guess: Guess) -> list[float]:
        """For each token of ``guess`` the chance that it and all before it come true, while there
        is one."""
        chance, chances, run = 1.0, [], guess.run
        for _ in guess.ids:
            if run <= LONGEST_RUN:
                of_next = self._next(guess.support, run)
                run += 1
            chance *= of_next
            if chance < _SLIGHT:
                break
            chances.append(chance)
        return chances

    def _next(self, support: Support, run: int) -> float:
        tried, hits = self._tried.get((support, run), (0.0, 0.0))
        known = _OWN_WEIGHT * self._trust.share(support, run)
        return (known + hits) / (_OWN_WEIGHT + tried)


class StepCost:
    """What a step takes, learnt from the steps there were.

    Least squares, drawn to the proportions that are believed: where all steps are alike, they say
    nothing about their parts.
    """

    def __init__(self) -> None:
        self._seen_FF = np.zeros((3, 3))
        self._took_F = np.zeros(3)
        self.parts_ms: tuple[float, float, float] = _BELIEVED
        """Fixed, each row, each draft."""

    def learn(self, *, rows: int, drafted: int, took_ms: float) -> None:
        """One step that did nothing but to decode."""
        step_F = np.array([1.0, rows, drafted])
        if self._seen_FF.any():
            took_ms = min(took_ms, _OUTLIER * float(step_F @ self.parts_ms))
        took_ms = max(took_ms, 1e-6)
        self._seen_FF = self._seen_FF * _FADING + np.outer(step_F, step_F)
        self._took_F = self._took_F * _FADING + step_F * took_ms
        believed_F = np.array(_BELIEVED)
        steps = self._seen_FF[0, 0]
        usual = float(self._seen_FF[0] @ believed_F) / steps
        scale = float(self._took_F[0]) / steps / usual
        held_FF = np.diag((_NOISE * usual / believed_F) ** 2)
        differs_F = np.linalg.solve(
            self._seen_FF + held_FF, self._took_F - self._seen_FF @ believed_F * scale
        )
        fixed, row, draft = (believed_F * scale + differs_F).tolist()
        fixed, row = max(fixed, _BELIEVED[0] * scale / 20), max(row, 0.0)
        alone = fixed + row
        self.parts_ms = (fixed, row, min(max(draft, alone * _CHEAPEST_DRAFT), alone))


def depths(chances: Sequence[Sequence[float]], cost: StepCost, *, budget: int) -> list[int]:
    """How many tokens of each row's guess to draft, at most ``budget`` together.

    Args:
        chances: Of each row, for each token the chance that it and all before it come true.
    """
    rows = len(chances)
    all_D: NDArray[np.float64] = np.sort(np.concatenate([*chances, []]))[::-1][: max(budget, 0)]
    if not len(all_D):
        return [0] * rows
    fixed, row, draft = cost.parts_ms
    yields = rows + np.concatenate([[0.0], np.cumsum(all_D)])
    takes_ms = fixed + row * rows + draft * np.arange(len(yields))
    number = int((yields / takes_ms).argmax())
    if not number:
        return [0] * rows
    least = all_D[number - 1]
    return _cut_to([_at_least(least, of_row) for of_row in chances], number)


def _at_least(least: float, falling: Sequence[float]) -> int:
    """How many of them, which fall, are so large."""
    return bisect_right(falling, -least, key=lambda chance: -chance)


def _cut_to(depths: list[int], most: int) -> list[int]:
    """Of chances that are equal not all may fit: the last rows give way."""
    excess = sum(depths) - most
    for index in reversed(range(len(depths))):
        less = min(depths[index], excess)
        depths[index] -= less
        excess -= less
    return depths
