"""HAProxy as Serve starts it, but for three things that Serve has no settings for.

Its pages of statistics would listen on every interface. With its splicing, replicas do not hear of
half of the clients that go away, and work on for nobody. And when its parent is killed it would go
on listening. Runs by itself: nothing but the standard library can be imported here.
"""

import ctypes
import os
import re
import signal
import sys
from pathlib import Path
from typing import Final

BINARY: Final = "ALIGNER_HAPROXY_BINARY"
"""The variable that names the real program."""

_EVERYWHERE: Final = re.compile(r"^(\s*bind )\*?:(?=\d)", re.MULTILINE)
_SPLICING: Final = re.compile(r"^\s*option splice-\w+\n", re.MULTILINE)
_PR_SET_PDEATHSIG: Final = 1


def corrected(config: str) -> str:
    """``config`` without splicing, and on loopback what would listen on every interface."""
    return _EVERYWHERE.sub(r"\g<1>127.0.0.1:", _SPLICING.sub("", config))


def main(arguments: list[str]) -> None:
    """Become HAProxy; ``arguments`` are those that Serve gives it."""
    path = Path(arguments[arguments.index("-f") + 1])
    path.write_text(corrected(path.read_text(encoding="utf-8")), encoding="utf-8")
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # It may have gone before it was to be told of.
    if os.getppid() == parent:
        program = os.environ[BINARY]
        os.execv(program, [program, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
