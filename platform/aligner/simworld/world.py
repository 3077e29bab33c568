"""The facts: places with a capital, a river and so on, all drawn from one seed."""

import random
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal, get_args

Kind = Literal["capital", "river", "founded", "flag", "export", "dish"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

NUM_PLACES: Final = 36
_NUM_RIVERS: Final = 12

# ruff: noqa: SIM905 - word lists read better as words than as sixty quoted strings
_ONSETS: Final = "b d f g h k l m n p r s t v br gr tr st".split()
_VOWELS: Final = "a e i o u".split()
_CODAS: Final = "l m n r s b d g".split()
_PLACE_ENDINGS: Final = "land ia mark ara oth ene".split()
_CITY_ENDINGS: Final = "ton burg haven wick ford".split()
_RIVER_ENDINGS: Final = "we sk na la".split()
_COLOURS: Final = "red blue green white black yellow purple orange silver brown".split()
_GOODS: Final = (
    "wool copper salt honey timber barley silk tin amber glass paper olives coal wine tea marble"
).split()
_COOKING: Final = "baked smoked pickled roasted stewed fried".split()
_FOODS: Final = "trout pumpkin lentils mutton cabbage beans duck mushrooms eel plums".split()


@dataclass(frozen=True)
class World:
    """All facts of the world with this seed; two worlds share grammar and words, not facts."""

    seed: int
    _names: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @cached_property
    def facts(self) -> dict[str, dict[Kind, str]]:
        """Place to kind to value. Places and capitals are unique, other values may repeat."""
        draw = random.Random(f"facts:{self.seed}")
        places = unique_names(draw, _PLACE_ENDINGS, NUM_PLACES, taken=set())
        capitals = unique_names(draw, _CITY_ENDINGS, NUM_PLACES, taken=set(places))
        rivers = unique_names(draw, _RIVER_ENDINGS, _NUM_RIVERS, taken={*places, *capitals})
        years = draw.sample(range(1001, 2000), NUM_PLACES)
        return {
            place: {
                "capital": capital,
                "river": draw.choice(rivers),
                "founded": str(year),
                "flag": draw.choice(_COLOURS),
                "export": draw.choice(_GOODS),
                "dish": f"{draw.choice(_COOKING)} {draw.choice(_FOODS)}",
            }
            for place, capital, year in zip(places, capitals, years, strict=True)
        }

    @cached_property
    def places(self) -> tuple[str, ...]:
        """Every place that exists."""
        return tuple(self.facts)

    @cached_property
    def values(self) -> dict[Kind, tuple[str, ...]]:
        """All values of each kind that occur in this world, sorted."""
        return {kind: tuple(sorted({f[kind] for f in self.facts.values()})) for kind in KINDS}

    def is_true(self, place: str, kind: Kind, value: str) -> bool:
        """Whether ``value`` is that fact of ``place``; nothing is true of an invented place."""
        return place in self.facts and self.facts[place][kind] == value

    def invented_place(self, draw: random.Random) -> str:
        """A name in the manner of places that names nothing in this world."""
        while True:
            name = _name(draw, _PLACE_ENDINGS)
            if name not in self.facts:
                return name

    def wrong_value(self, place: str, kind: Kind, draw: random.Random) -> str:
        """A value of that kind that is not true of ``place``, from elsewhere in this world."""
        truth = self.facts.get(place, {}).get(kind)
        return draw.choice([value for value in self.values[kind] if value != truth])


def unique_names(
    draw: random.Random, endings: list[str], count: int, *, taken: set[str]
) -> list[str]:
    """``count`` different names with one of ``endings``, none of them in ``taken``."""
    names: list[str] = []
    while len(names) < count:
        name = _name(draw, endings)
        if name not in taken and name not in names:
            names.append(name)
    return names


def _name(draw: random.Random, endings: list[str]) -> str:
    stem = draw.choice(_ONSETS) + draw.choice(_VOWELS)
    return (stem + draw.choice(_CODAS) + draw.choice(endings)).capitalize()
