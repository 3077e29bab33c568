"""Configs by their names: shipped ones (``7b``) and files of one's own (``my.yaml``)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aligner.config import load
from aligner.errors import ConfigError
from aligner_jobs import programs
from aligner_jobs.config.train import TrainConfig

_OUT: Final = "sizes"


@dataclass(frozen=True, slots=True)
class Size:
    """One of several runs."""

    name: str
    path: Path
    overrides: tuple[str, ...]
    config: TrainConfig


def size_of(path: Path, overrides: Sequence[str]) -> Size:
    """The file at ``path``.

    Raises:
        ConfigError: It cannot be read or is wrong.
    """
    return Size(path.stem, path, tuple(overrides), load(TrainConfig, path, overrides))


def sizes_of(names: str, overrides: Sequence[str]) -> list[Size]:
    """The configs that ``names``, separated by commas, stand for; each of ``overrides`` holds for
    all, and each gets a folder of its own inside ``out``.

    Raises:
        ConfigError: A name is no config, or occurs twice, or a config is wrong.
    """
    folder = folder_of(overrides)
    common = [one for one in overrides if not one.startswith("out=")]
    found = []
    for name in (name.strip() for name in names.split(",")):
        path = _path(name)
        found.append(size_of(path, [*common, f"out={folder / path.stem}"]))
    if len({size.name for size in found}) < len(found):
        raise ConfigError("--sizes: two configs have the same name; rename one of the files.")
    return found


def _path(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    try:
        return programs.shipped_config("jobs", f"train/{name}.yaml")
    except ConfigError:
        raise ConfigError(
            f"--sizes: {name!r} is none of the configs in jobs/configs/train; name one of them "
            "(0.5b, 2b, 7b, 13b), or a file that ends in .yaml."
        ) from None


def folder_of(overrides: Sequence[str]) -> Path:
    """Where several sizes are put: ``out`` among ``overrides``, else ``sizes``.

    Raises:
        ConfigError: It is no folder of this machine.
    """
    given = [one.removeprefix("out=") for one in overrides if one.startswith("out=")]
    folder = given[-1] if given else _OUT
    if "://" in folder:
        raise ConfigError(f"out={folder}: several sizes need a folder of this machine; name one.")
    return Path(folder).absolute()
