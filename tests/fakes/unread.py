"""What correctors have in common that read nothing ahead."""

from typing import Any

from aligner_serve.pieces import READ_NOTHING, Reading


class Unread:
    """Reads no beginnings."""

    async def ahead(self, *_: Any, **__: Any) -> Reading:
        """As one that cannot be reached."""
        return READ_NOTHING
