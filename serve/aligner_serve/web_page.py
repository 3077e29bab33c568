"""The page at ``/``: plain files of this package, nothing from elsewhere, and a strict policy.

It holds no secret and needs no key: what it shows, it asks of the API like any other client.
"""

import hashlib
from importlib.resources import files
from typing import Final

from fastapi import FastAPI, Request
from fastapi.responses import Response

_TYPES: Final = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "diff.js": "text/javascript; charset=utf-8",
    "view.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""All there is to be had; no path of a request ever reaches the file system."""

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Asked for again each time, and answered with 304: an update is seen at once.
    "Cache-Control": "no-cache",
}


def add_page(api: FastAPI) -> None:
    """Mount the page's files, the page itself at ``/``."""
    for name in _TYPES:
        path = "/" if name == "index.html" else f"/page/{name}"
        _add_file(api, path, name)


def _add_file(api: FastAPI, path: str, name: str) -> None:
    content = files("aligner_serve").joinpath("page", name).read_bytes()
    headers = {**_HEADERS, "ETag": f'"{hashlib.sha256(content).hexdigest()[:16]}"'}

    @api.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)
    async def file(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=_TYPES[name])
