"""Asking models over HTTP inside Ray Data: many requests in flight, errors as rows.

The stages are classes that Ray starts once per worker; Ray runs several of their batches at the
same time, on one event loop, so a slow reply does not hold up the next batch.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, assert_never

import pyarrow as pa
from pydantic import TypeAdapter

from aligner.adapters.openai_http import OpenAIChat
from aligner.errors import EndpointError, GenerationError
from aligner.failures import failure_reason
from aligner.generation import Completion, Endpoint, Messages, chat_messages
from aligner_jobs.config.asking import AnyUpstream, ApiModel, LocalUpstream, Upstream
from aligner_jobs.line import Line, line_to
from aligner_jobs.reply_store import decoded, encoded, reply_key
from aligner_jobs.tables import WORK_SCHEMA, Row, Step, drop, history_of
from aligner_jobs.traffic import Traffic

GAVE_UP: Final = "gave_up_"
"""Before the reason of a row for which the model was not even asked any more. The driver ends the
job at the first such row: an exception of a stage would lose its class on the way through Ray."""

_UPSTREAMS: Final[TypeAdapter[dict[str, AnyUpstream]]] = TypeAdapter(dict[str, AnyUpstream])

_GIVE_UP_AFTER: Final = 20
"""Requests in a row, each with all its attempts, that found nobody there."""


class Asker:
    """One model, a bound on the requests in flight, and an eye on whether it is there at all.

    With a line to the switchboard, what was replied before is not asked for again, and budgets
    hold over all workers.
    """

    def __init__(
        self, model: ApiModel, *, name: str, line: Line | None = None, salt: str = ""
    ) -> None:
        """``name`` is what budget and ledger know the model by, ``salt`` whatever decides its
        replies beside the request."""
        traffic = Traffic(name, line, budgeted=model.budgeted)
        self._chat = OpenAIChat(model, admit=traffic.admit)
        self._model = model
        self._name, self._line, self._salt = name, line, salt
        self._free = asyncio.Semaphore(model.max_in_flight)
        self._refused_in_a_row = 0
        self._last_refusal = ""

    async def ask(self, messages: Messages, *, n: int = 1) -> list[Completion] | str:
        """``n`` completions, or the reason why there are none.

        The reason begins with :data:`GAVE_UP`, at once and without a request, when request after
        request found nobody there.
        """
        if self._line is None:
            return await self._asked(messages, n=n)
        model, sampling = self._model.model, self._model.sampling
        key = reply_key(self._name, model, messages, sampling, n=n, salt=self._salt)
        if (kept := await self._line.look_up(key)) is not None:
            self._line.count(self._name, kept=1)
            await self._line.finish()
            return decoded(kept)
        self._line.count(self._name, asked=1)
        result = await self._asked(messages, n=n)
        if isinstance(result, str):
            self._line.count(self._name, failed=1)
            await self._line.finish()
        else:
            await self._line.finish(key, encoded(result))
        return result

    async def aclose(self) -> None:
        """Close the connections."""
        await self._chat.aclose()

    async def _asked(self, messages: Messages, *, n: int) -> list[Completion] | str:
        async with self._free:
            if self._refused_in_a_row >= _GIVE_UP_AFTER:
                return GAVE_UP + self._last_refusal
            try:
                completions = await self._chat.complete_many(messages, self._model.sampling, n=n)
            except GenerationError as exc:
                reason = failure_reason(exc)
                if isinstance(exc, EndpointError):
                    self._refused_in_a_row += 1
                    self._last_refusal = reason
                return reason
        self._refused_in_a_row = 0
        return completions


class Recall:
    """A local model: what it had to say was kept before, so nobody is asked any more."""

    def __init__(self, model: LocalUpstream, *, name: str, line: Line, salt: str) -> None:
        self._model, self._name, self._line, self._salt = model, name, line, salt

    async def ask(self, messages: Messages, *, n: int = 1) -> list[Completion] | str:
        """As :meth:`Asker.ask`."""
        model, sampling = self._model.model, self._model.sampling
        key = reply_key(self._name, model, messages, sampling, n=n, salt=self._salt)
        kept = await self._line.look_up(key)
        return "engine_error" if kept is None else decoded(kept)

    async def aclose(self) -> None:
        """Nothing is open."""


class AskUpstreams:
    """Columns in: :data:`WORK_SCHEMA`, answers null. Columns out: the same, answers filled.

    Rows: each question becomes one row per upstream and sample (or one dropped row that stands
    for an upstream's samples); rows with an answer, and dropped ones, pass unchanged.
    """

    def __init__(
        self, upstreams: Mapping[str, Mapping[str, Any]], switchboard: Any = None, salt: str = ""
    ) -> None:
        """``switchboard`` is the process that all workers share, where there is one."""
        line = line_to(switchboard)
        self._upstreams = _UPSTREAMS.validate_python(upstreams)
        self._askers = {
            name: _asker(name, upstream, line=line, salt=salt)
            for name, upstream in self._upstreams.items()
        }

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Answer the questions in ``batch``."""
        rows = await asyncio.gather(*(self._answers(row) for row in batch.to_pylist()))
        return work_table([answered for group in rows for answered in group])

    async def aclose(self) -> None:
        """Close the connections; a worker of Ray ends without."""
        await asyncio.gather(*(asker.aclose() for asker in self._askers.values()))

    async def _answers(self, row: Row) -> list[Row]:
        if row["reason"] is not None or row["answer"] is not None:
            return [row]
        messages = chat_messages(row["question"], history_of(row))
        groups = await asyncio.gather(*(self._of(name, row, messages) for name in self._askers))
        return [answered for group in groups for answered in group]

    async def _of(self, name: str, row: Row, messages: Messages) -> list[Row]:
        samples = self._upstreams[name].samples_per_question
        result = await self._askers[name].ask(messages, n=samples)
        asked = {**row, "upstream": name}
        if isinstance(result, str):
            return [drop({**asked, "rows": samples}, step="answers", reason=result)]
        return [
            filled({**asked, "rows": 1}, "answer", completion, step="answers")
            for completion in result
        ]


def _asker(name: str, upstream: AnyUpstream, *, line: Line | None, salt: str) -> Asker | Recall:
    where = f"upstreams.{name}"
    match upstream:
        case Upstream():
            return Asker(upstream, name=where, line=line, salt=salt)
        case LocalUpstream():
            assert line is not None
            return Recall(upstream, name=where, line=line, salt=salt)
        case unreachable:
            assert_never(unreachable)


async def probe(endpoints: Sequence[Endpoint]) -> None:
    """See that every endpoint answers, all at once, before a job starts its machinery.

    Raises:
        EndpointError: One does not.
    """
    await asyncio.gather(*(_probe(endpoint) for endpoint in endpoints))


async def _probe(endpoint: Endpoint) -> None:
    async with OpenAIChat(endpoint) as chat:
        await chat.probe()


def filled(row: Row, column: str, completion: Completion, *, step: Step) -> Row:
    """``row`` with the completion's text in ``column``, or dropped where it is no whole text."""
    if (reason := flaw(completion)) is not None:
        return drop(row, step=step, reason=reason)
    return {**row, column: completion.text}


def flaw(completion: Completion) -> str | None:
    """Why the completion is no whole text; ``None`` where it is one."""
    if completion.finish_reason == "length":
        return "cut_off"
    try:
        completion.text.encode()
    except UnicodeEncodeError:
        return "broken_unicode"
    return None


def work_table(rows: list[Row]) -> pa.Table:
    """``rows`` as a table of :data:`WORK_SCHEMA`."""
    return pa.Table.from_pylist(rows, schema=WORK_SCHEMA)
