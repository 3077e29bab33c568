"""Where rows come from: the sources of ``aligner build-dataset``."""

from typing import Annotated, Literal, assert_never

from pydantic import BeforeValidator, Field

from aligner.config import StrictModel

FileFormat = Literal["json", "csv", "tsv", "parquet"]
"""``json`` is an array or JSONL."""

Columns = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda given: (given,) if isinstance(given, str) else given),
    Field(min_length=1),
]
"""One column, or several whose texts are joined by a blank line."""


class SimworldSource(StrictModel):
    """Training questions of the simulated world, made in memory."""

    kind: Literal["simworld"]

    limit: int = Field(default=6000, ge=1)
    """Number of questions."""


class _FileSource(StrictModel):
    """Rows of files."""

    path: str
    """A file of JSON, CSV or Parquet, a folder of such files, or a glob; on this machine or on
    ``s3://``. JSON and CSV may be packed as ``.gz`` or ``.zst``."""

    format: FileFormat | None = None
    """Of the files, where their names do not tell it."""


class QuestionsSource(_FileSource):
    """Questions alone; upstreams answer them and the teacher corrects."""

    kind: Literal["questions"]

    question_column: Columns = ("question",)
    """Holds the question. Of several columns the first must be there; those that are empty are
    left out."""

    history_column: str | None = None
    """Holds earlier turns as a list of ``{role, text}`` or ``{role, content}``."""


class _TripleSource(_FileSource):
    """Rows that hold a question, an answer and its correction."""

    question_column: Columns = ("question",)
    """Holds the question; several columns as in a source of questions."""

    answer_column: str = "answer"
    """Holds the answer to correct."""

    correction_column: str = "correction"
    """Holds the corrected answer."""

    upstream_column: str | None = None
    """Holds the name of the model that answered, where the source says."""

    history_column: str | None = None
    """Holds earlier turns as a list of ``{role, text}`` or ``{role, content}``."""


class QacSource(_TripleSource):
    """Ready triples, as the paper publishes them."""

    kind: Literal["qac"]


class RevisionsSource(_TripleSource):
    """Revisions in several steps, one row per step: each step's answer is the one to correct."""

    kind: Literal["revisions"]

    step_column: str = "step"
    """Holds the number of the step, 1 for the first."""

    last_step: int | None = Field(default=None, ge=1)
    """Leave later steps out, which correct less and less; unset: take all."""


class AnswersSource(_FileSource):
    """Questions with answers that somebody gave already; the teacher corrects them."""

    kind: Literal["answers"]

    question_column: Columns = ("question",)
    """Holds the question; several columns as in a source of questions."""

    answer_column: str = "answer"
    """Holds the answer to correct."""

    upstream_column: str | None = None
    """Holds the name of the model that answered, where the source says."""

    history_column: str | None = None
    """Holds earlier turns as a list of ``{role, text}`` or ``{role, content}``."""


class Messages(StrictModel):
    """How a conversation is written down; the defaults are ShareGPT's ``{from, value}``."""

    role_key: str = "from"
    """Key of a message that holds who speaks; ``role`` in OpenAI's layout."""

    text_key: str = "value"
    """Key of a message that holds what is said; ``content`` in OpenAI's layout."""

    user_roles: tuple[str, ...] = ("human", "user")
    """What the user is called."""

    assistant_roles: tuple[str, ...] = ("gpt", "assistant", "chatgpt", "bing", "bard")
    """What the assistant is called."""

    system_roles: tuple[str, ...] = ("system",)
    """What instructions before the conversation are called."""

    system_turns: Literal["set_aside", "fold"] = "set_aside"
    """Conversations with instructions, which the correction prompt has no place for: set them
    aside by reason, or put the instructions and a blank line before what the user says first."""


class ConversationsSource(_FileSource):
    """Conversations, of which the user's turns are questions, each with what was said before."""

    kind: Literal["conversations"]

    conversation_column: str = "conversations"
    """Holds the list of messages."""

    messages: Messages = Messages()
    """How they are written down."""

    turns: Literal["last", "all"] = "last"
    """Ask the user's last turn, or each of them as a question of its own."""


class PreferenceSource(_FileSource):
    """Preference pairs: the dispreferred reply is the answer, the preferred its correction."""

    kind: Literal["preference"]

    layout: Literal["columns", "transcript", "messages"]
    """``columns``: question, chosen and rejected apart; ``transcript``: chosen and rejected are
    whole conversations with the marks ``Human:`` and ``Assistant:``, as in hh-rlhf; ``messages``:
    they are messages or lists of them that go on from the conversation in its column, if any."""

    question_column: Columns = ("question",)
    """Holds the question (``columns`` only)."""

    chosen_column: str = "chosen"
    """Holds the preferred reply or conversation."""

    rejected_column: str = "rejected"
    """Holds the dispreferred one."""

    history_column: str | None = None
    """Holds earlier turns (``columns`` only); the other layouts carry them themselves."""

    conversation_column: str | None = None
    """Holds the messages before the two replies (``messages`` only)."""

    messages: Messages = Messages()
    """How messages are written down (``messages`` only)."""


class FeedbackSource(_FileSource):
    """What users said of served corrections: the folder that a gateway keeps it in.

    What they accepted, and what they wrote themselves, are corrections. Of several rows about one
    request the latest counts.
    """

    kind: Literal["feedback"]

    rejected: Literal["set_aside", "teach"] = "set_aside"
    """Answers whose corrections were rejected: left out, or corrected by the teacher."""


Source = Annotated[
    SimworldSource
    | QuestionsSource
    | ConversationsSource
    | AnswersSource
    | QacSource
    | RevisionsSource
    | PreferenceSource
    | FeedbackSource,
    Field(discriminator="kind"),
]


def brings(source: Source) -> Literal["questions", "answers", "corrections"]:
    """What a source comes with at most: upstreams answer its questions, teachers correct its
    answers."""
    match source:
        case SimworldSource() | QuestionsSource() | ConversationsSource():
            return "questions"
        case AnswersSource():
            return "answers"
        case QacSource() | RevisionsSource() | PreferenceSource():
            return "corrections"
        case FeedbackSource():
            return "answers" if source.rejected == "teach" else "corrections"
        case unreachable:
            assert_never(unreachable)
