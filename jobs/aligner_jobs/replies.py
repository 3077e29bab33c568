"""One whole reply of a model, or the reason why there is none."""

from aligner.generation import Messages
from aligner_jobs.generate import Asker, flaw


class NoReply(Exception):
    """There is no whole reply."""

    @property
    def reason(self) -> str:
        """In a word or two, as rows carry it."""
        return str(self)


async def reply_of(asker: Asker, messages: Messages) -> str:
    """The text that ``asker`` got for ``messages``.

    Raises:
        NoReply: There is none, or it is cut off or broken.
    """
    result = await asker.ask(messages)
    if isinstance(result, str):
        raise NoReply(result)
    (completion,) = result
    if (reason := flaw(completion)) is not None:
        raise NoReply(reason)
    return completion.text
