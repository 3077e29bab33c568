"""Errors of ours on their way out of Ray's workers."""

import contextlib
from collections.abc import Iterator

from aligner.errors import AlignerError


@contextlib.contextmanager
def unwrapped() -> Iterator[None]:
    """Raise an error of ours that a worker raised as itself, without Ray's wrapping."""
    try:
        yield
    except Exception as exc:
        if (ours := _innermost(exc)) is not None:
            raise ours from None
        raise


def _innermost(exc: BaseException) -> AlignerError | None:
    """Ray derives a class of its own from ours, too; only the innermost has the sentence alone."""
    found = None
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, AlignerError):
            found = cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    return found
