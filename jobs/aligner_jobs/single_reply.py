"""One whole reply of a model, or the reason why there is none."""

from aligner.generation import Messages
from aligner_jobs.generate import Asker, flaw


class NoReply(Exception):
    """Never leaves the stage that asked: the row is dropped for its reason."""

    @property
    def reason(self) -> str:
        """In a word or two, as funnels count it."""
        return str(self)


async def reply_of(asker: Asker, messages: Messages) -> str:
    """The text of one completion.

    Raises:
        NoReply: There is none, or it was cut off or is no text.
    """
    result = await asker.ask(messages)
    if isinstance(result, str):
        raise NoReply(result)
    if (reason := flaw(result[0])) is not None:
        raise NoReply(reason)
    return result[0].text
