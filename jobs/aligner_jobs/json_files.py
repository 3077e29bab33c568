"""JSON objects out of a file, one by one: JSONL or one array.

No file is ever held whole. A broken line of JSONL is one bad row; in an array what follows a
broken place cannot be told apart any more, so that ends the job.
"""

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import BinaryIO, Final

from aligner.errors import DataError
from aligner_jobs.raw_rows import BadRow, Record

BROKEN_JSON: Final = "broken_json"
"""A line that is no JSON, among others that are."""

_CHUNK_BYTES: Final = 1 << 20
_BOM: Final = b"\xef\xbb\xbf"
_BETWEEN: Final = re.compile(r"[\s,]*")


def read_objects(stream: io.BufferedReader, path: str) -> Iterator[Record | BadRow]:
    """All objects of the file ``path``, in order; blank lines do not count.

    Raises:
        DataError: Its array is broken.
    """
    if stream.peek(64).removeprefix(_BOM).lstrip().startswith(b"["):
        yield from _array(stream, path)
    else:
        yield from _lines(stream, path)


def _lines(stream: BinaryIO, path: str) -> Iterator[Record | BadRow]:
    for number, line in enumerate(stream, start=1):
        line = line.removeprefix(_BOM) if number == 1 else line
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            yield BadRow(where, BROKEN_JSON)
            continue
        yield _checked(value, where)


def _array(stream: BinaryIO, path: str) -> Iterator[Record | BadRow]:
    text = _Window(stream, path)
    text.expect("[")
    number = 0
    while not text.at("]"):
        number += 1
        yield _checked(text.value(), f"{path}, row {number}")
    text.expect("]")
    if text.rest():
        raise DataError(f"{text.place}: something follows the end of the array; remove it.")


def _checked(value: object, where: str) -> Record | BadRow:
    return Record(where, value) if isinstance(value, dict) else BadRow(where, "not_an_object")


class _Window:
    """The part of a JSON text that is being read."""

    def __init__(self, stream: BinaryIO, path: str) -> None:
        self._stream, self._path = stream, path
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._json = json.JSONDecoder()
        self._text, self._at, self._line, self._ended = "", 0, 1, False

    @property
    def place(self) -> str:
        """``file:line`` of the next character."""
        return f"{self._path}:{self._line + self._text.count(chr(10), 0, self._at)}"

    def expect(self, mark: str) -> None:
        """Pass over ``mark``."""
        if not self.at(mark):
            raise self._broken()
        self._at += 1

    def at(self, mark: str) -> bool:
        """Whether ``mark`` comes next, white space and commas aside."""
        while True:
            match = _BETWEEN.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at] == mark
            if not self._more():
                return False

    def value(self) -> object:
        """Pass over the next value and return it."""
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except (ValueError, RecursionError):
                if not self._more():
                    raise self._broken() from None
                continue
            # A number may go on in the next chunk.
            if end == len(self._text) and self._more():
                continue
            self._at = end
            return value

    def rest(self) -> bool:
        """Whether anything but white space follows."""
        while not self._text[self._at :].strip():
            self._at = len(self._text)
            if not self._more():
                return False
        return True

    def _more(self) -> bool:
        if self._ended:
            return False
        self._line += self._text.count("\n", 0, self._at)
        chunk = self._stream.read(_CHUNK_BYTES)
        self._ended = not chunk
        try:
            self._text = self._text[self._at :] + self._decode(chunk, self._ended)
        except UnicodeDecodeError:
            raise DataError(f"{self.place}: is not UTF-8 from here on; fix the file.") from None
        self._at = 0
        return True

    def _broken(self) -> DataError:
        return DataError(f"{self.place}: broken JSON inside the array; fix the file.")
