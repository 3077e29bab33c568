"""Names that become parts of served model names."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def _require_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} is no name; use up to 63 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    return value


Name = Annotated[str, AfterValidator(_require_name)]
"""Of an upstream or an aligner; free of ``+``, which joins them."""
