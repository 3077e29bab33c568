from pathlib import Path

import pytest

from aligner.errors import ConfigError
from aligner_jobs.train.size import folder_of, sizes_of


def test_each_size_gets_a_folder_of_its_own_and_every_override(tmp_path: Path) -> None:
    small, large = sizes_of("0.5b, 7b", [f"out={tmp_path}", "seed=7", "dataset=d"])
    assert (small.name, large.name) == ("0.5b", "7b")
    assert (small.config.out, large.config.out) == (f"{tmp_path}/0.5b", f"{tmp_path}/7b")
    assert (small.config.seed, large.config.seed, large.config.dataset) == (7, 7, "d")
    assert small.config.num_workers == 1 and large.config.num_workers == 8


def test_a_file_of_ones_own_is_a_size_as_well(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("{dataset: d, out: o, model: {kind: scratch}}", encoding="utf-8")
    assert [size.name for size in sizes_of(f"tiny,{file}", [])] == ["tiny", "mine"]


@pytest.mark.parametrize(
    ("names", "overrides", "sentence"),
    [
        ("7b,8b", [], "'8b' is none of the configs in jobs/configs/train"),
        ("7b,7b", [], "two configs have the same name"),
        ("7b", ["out=s3://bucket/runs"], "several sizes need a folder of this machine"),
        ("7b", ["sede=7"], "did you mean 'seed'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    names: str, overrides: list[str], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        sizes_of(names, overrides)


def test_without_an_out_the_folder_is_named_sizes() -> None:
    assert folder_of([]) == Path("sizes").absolute()
