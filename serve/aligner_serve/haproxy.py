"""HAProxy as Serve starts it, but on loopback, and not longer than Serve itself.

Serve has its pages of statistics listen on every interface and offers no setting for that; and an
HAProxy whose parent is killed would go on listening. Runs by itself: nothing but the standard
library can be imported here.
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
_PR_SET_PDEATHSIG: Final = 1


def on_loopback(config: str) -> str:
    """``config`` in which what would listen on every interface listens on loopback."""
    return _EVERYWHERE.sub(r"\g<1>127.0.0.1:", config)


def main(arguments: list[str]) -> None:
    """Become HAProxy; ``arguments`` are those that Serve gives it."""
    path = Path(arguments[arguments.index("-f") + 1])
    path.write_text(on_loopback(path.read_text(encoding="utf-8")), encoding="utf-8")
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # It may have gone before it was to be told of.
    if os.getppid() == parent:
        program = os.environ[BINARY]
        os.execv(program, [program, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
