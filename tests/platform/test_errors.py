import pickle

import pytest

from aligner import errors
from aligner.errors import AlignerError

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, AlignerError)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_error_survives_pickling_between_processes(kind: type[AlignerError]) -> None:
    again = pickle.loads(pickle.dumps(kind("rows.jsonl:3: correction is empty; fix the row.")))
    assert type(again) is kind
    assert str(again) == "rows.jsonl:3: correction is empty; fix the row."


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_error_has_no_init_of_its_own(kind: type[AlignerError]) -> None:
    assert "__init__" not in vars(kind)
