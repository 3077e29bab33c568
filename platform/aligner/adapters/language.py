"""The language of a text, by py3langid, whose model comes with the package."""

import py3langid


def detect(text: str) -> str:
    """The ISO 639-1 code of the likeliest of about a hundred languages (``en``, ``de``, ...)."""
    code, _ = py3langid.classify(text)
    return str(code)
