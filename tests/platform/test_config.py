from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from aligner.config import StrictModel, load, validate_overrides
from aligner.errors import ConfigError


class Optimiser(StrictModel):
    learning_rate: float = 2.0e-5
    """Peak."""


class Example(StrictModel):
    out: str
    """Folder."""
    seed: int = 0
    optimiser: Optimiser = Optimiser()


class Square(StrictModel):
    kind: Literal["square"]
    side: float


class Circle(StrictModel):
    kind: Literal["circle"]
    radius: float


class Shapes(StrictModel):
    shapes: dict[str, Annotated[Square | Circle, Field(discriminator="kind")]]


def write(folder: Path, text: str) -> Path:
    path = folder / "example.yaml"
    path.write_text(text)
    return path


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "out: here\nseed: 1\n")
    config = load(Example, path, ["seed=7", "optimiser.learning_rate=1.0e-3"])
    assert config == Example(out="here", seed=7, optimiser=Optimiser(learning_rate=1.0e-3))


def test_a_typo_names_file_and_key_and_suggests_the_right_one(tmp_path: Path) -> None:
    path = write(tmp_path, "out: here\noptimiser:\n  learning_rat: 1\n")
    with pytest.raises(ConfigError) as caught:
        load(Example, path)
    message = str(caught.value)
    assert str(path) in message
    assert "optimiser.learning_rat" in message
    assert "did you mean 'learning_rate'" in message


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("{kind: circle, radus: 1, radius: 1}", "'shapes.circle.radus' is unknown"),
        ("{kind: circle}", "'shapes.circle.radius' is missing"),
        ("{kind: circle, radius: wide}", "'shapes.circle.radius': "),
    ],
)
def test_a_key_inside_a_closed_choice_is_named_as_it_was_written(
    tmp_path: Path, keys: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        load(Shapes, write(tmp_path, f"shapes:\n  circle: {keys}\n"))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key 'out' is missing"):
        load(Example, write(tmp_path, "seed: 1\n"))


def test_a_wrong_type_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key 'seed': "):
        load(Example, write(tmp_path, "out: here\nseed: many\n"))


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "out: here\nseed: [1\n")
    with pytest.raises(ConfigError, match=r"example\.yaml:\d+: broken YAML"):
        load(Example, path)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read .*; check the path"):
        load(Example, tmp_path / "nowhere.yaml")


def test_a_list_is_not_a_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds a list"):
        load(Example, write(tmp_path, "- out\n"))


@pytest.mark.parametrize("override", ["seed", "=1", "out.deeper=1", "seed=[1"])
def test_a_malformed_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load(Example, write(tmp_path, "out: here\n"), [override])


def test_overrides_apply_to_built_in_defaults() -> None:
    assert validate_overrides(Example, {"out": "x"}, ["seed=3"]).seed == 3


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Example(out="x").seed = 1  # type: ignore[misc]


def test_the_docstring_under_a_field_describes_it() -> None:
    assert Example.model_fields["out"].description == "Folder."
