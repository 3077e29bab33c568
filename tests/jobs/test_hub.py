from pathlib import Path

import pytest

from aligner.errors import DataError
from aligner_jobs.hub import local_folder


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert local_folder(str(tmp_path), key="model.path", patterns=["*"]) == tmp_path


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("/no/such/folder", "no such folder"), ("nobody/nothing", "the hub gave nothing: .*OFFLINE")],
)
def test_what_is_nowhere_is_named_by_its_setting(path: str, sentence: str) -> None:
    with pytest.raises(DataError, match=f"packing.tokenizer={path}: .*{sentence}"):
        local_folder(path, key="packing.tokenizer", patterns=["*.json"])
