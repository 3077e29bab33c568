"""What the gateway's routes do: a request of the API through the pipeline and back."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from fastapi.responses import JSONResponse, Response

from aligner.generation import Sampling, chat_messages
from aligner.records import Question
from aligner_serve import replies, responses, wire
from aligner_serve.ahead import ReadingTold, untold
from aligner_serve.callers import ANYBODY, Caller
from aligner_serve.config.graph import GraphConfig
from aligner_serve.pieces import Usage
from aligner_serve.pipeline import Reply, Trouble
from aligner_serve.plans import Asked, Plan, Plans
from aligner_serve.reporting import report
from aligner_serve.stages import AskableCorrector, AskableUpstream
from aligner_serve.streams import Choice, Said, streamed
from aligner_serve.telemetry import Ended, Telemetry

Route = Literal["chat", "completions", "corrections"]
Generation = wire.ChatRequest | wire.CompletionRequest


@dataclass(frozen=True, slots=True)
class Context:
    """What is known of a request besides its body."""

    request_id: str
    who: Caller = ANYBODY

    @property
    def caller(self) -> str:
        """Name of the key, empty without one."""
        return self.who.name


class Gateway:
    """What the routes do."""

    def __init__(
        self,
        config: GraphConfig,
        *,
        upstreams: Mapping[str, AskableUpstream],
        correctors: Mapping[str, AskableCorrector],
        telemetry: Telemetry,
        read_ahead: ReadingTold = untold,
    ) -> None:
        """``upstreams`` and ``correctors`` are those of ``config``, by name.

        ``read_ahead`` hears of what correctors read while upstreams still write.
        """
        self.config = config
        self._plans = Plans(
            config, upstreams=upstreams, correctors=correctors, read_ahead=read_ahead
        )
        self._correctors = correctors
        self._telemetry = telemetry
        self._models = config.served_models
        self._aligners = config.served_aligners

    async def chat(self, request: wire.ChatRequest, context: Context) -> Response:
        """``/v1/chat/completions``, plain or streamed."""
        if refusal := self._refusal(request.model, len(request.messages), context):
            return refusal
        asked = Asked(request.asked, request.upstream_messages)
        return await self._answer(request, [asked], "chat", context)

    async def complete(self, request: wire.CompletionRequest, context: Context) -> Response:
        """``/v1/completions``, plain or streamed."""
        if refusal := self._refusal(request.model, len(request.questions), context):
            return refusal
        asked = [Asked(Question(one), chat_messages(one)) for one in request.questions]
        return await self._answer(request, asked, "completions", context)

    async def correct(self, request: wire.CorrectionRequest, context: Context) -> Response:
        """``/v1/corrections``."""
        name = self._aligner(request.model)
        if name is None:
            return self._unknown(str(request.model), self._aligners)
        if refusal := self._refusal(name, len(request.history), context):
            return refusal
        end = await self._correction(request, name, context)
        if isinstance(end, Trouble):
            return responses.trouble(end)
        return responses.reply(self._corrected(end, name), end)

    async def correct_batch(
        self, request: wire.CorrectionBatchRequest, context: Context
    ) -> Response:
        """``/v1/corrections/batch``: what fails costs its own entry alone."""
        name = self._aligner(request.model)
        if name is None:
            return self._unknown(str(request.model), self._aligners)
        most = max(len(request.pairs), *(len(pair.history) for pair in request.pairs))
        if refusal := self._refusal(name, most, context):
            return refusal
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._correction(pair, name, context)) for pair in request.pairs
            ]
        ends = [task.result() for task in tasks]
        body = replies.CorrectionList(
            data=[
                responses.trouble_body(end)
                if isinstance(end, Trouble)
                else self._corrected(end, name)
                for end in ends
            ],
            usage=replies.usage_report(_sum(ends)),
        )
        return JSONResponse(body.model_dump(mode="json"))

    async def readiness(self) -> dict[str, bool]:
        """Of each corrector, whether a request would find it."""
        healthy = await asyncio.gather(*(one.check_health() for one in self._correctors.values()))
        return dict(zip(self._correctors, healthy, strict=True))

    async def _answer(
        self, request: Generation, asked: Sequence[Asked], route: Route, context: Context
    ) -> Response:
        known = self._models.get(request.model)
        if known is None:
            return self._unknown(request.model, self._models)
        upstream, stack = known
        settings = self.config.upstreams[upstream]
        sampling = request.sampling(settings.sampling)
        if sampling.max_tokens > settings.max_tokens_limit:
            limit = settings.max_tokens_limit
            return responses.error(
                400, f"max_tokens is more than the {limit} allowed here", "max_tokens"
            )
        plans = [
            self._plans.answer(
                one, upstream, stack, _seeded(sampling, turn), stream=bool(request.stream)
            )
            for one in asked
            for turn in range(request.choices)
        ]
        said = partial(self._ended, route, request.model, context, asked)
        shown = request.aligner.include_original and self._may_show(stack)
        if request.stream:
            choices = [Choice(plan.stream()) for plan in plans]
            return await streamed(
                request, choices, said, shown=shown, heartbeat_s=self.config.heartbeat_s
            )
        return await self._whole(request, plans, said, shown=shown)

    async def _whole(
        self, request: Generation, plans: Sequence[Plan], said: Said, *, shown: bool
    ) -> Response:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(plan.respond()) for plan in plans]
        ends = [task.result() for task in tasks]
        reports = [said(end, shown=shown) for end in ends]
        answered = []
        for end, told in zip(ends, reports, strict=True):
            if isinstance(end, Trouble) or told is None:
                assert isinstance(end, Trouble)
                return responses.trouble(end)
            answered.append((end, told))
        body = _body(request, answered, _sum(ends))
        return responses.reply(body, answered[0][0])

    async def _correction(self, pair: wire.Pair, name: str, context: Context) -> Reply | Trouble:
        asked = Asked(pair.asked, [])
        plan = self._plans.correction(asked, pair.answer, self._aligners[name])
        end = await plan.respond()
        self._ended("corrections", name, context, [asked], end, shown=False)
        return end

    def _corrected(self, end: Reply, name: str) -> replies.CorrectionResponse:
        return replies.CorrectionResponse(
            id=replies.new_id("corr"),
            created=replies.now(),
            model=name,
            correction=None if end.outcome == "blocked" else end.text,
            outcome=end.outcome,
            usage=replies.usage_report(end.usage),
            aligner=report(end, shown=False),
        )

    def _ended(
        self,
        route: Route,
        model: str,
        context: Context,
        asked: Sequence[Asked],
        end: Reply | Trouble,
        *,
        shown: bool,
    ) -> replies.AlignerReport | None:
        """Tell the telemetry of ``end``, and make what the client is told of it."""
        told = report(end, shown=shown) if isinstance(end, Reply) else None
        self._telemetry.ended(
            Ended(
                request_id=context.request_id,
                route=route,
                model=model,
                caller=context.caller,
                end=end,
                similarity=told.similarity if told else None,
                question="\n\n".join(one.question.question for one in asked),
            )
        )
        return told

    def _refusal(self, model: str, parts: int, context: Context) -> JSONResponse | None:
        """Why this caller does not get ``model`` asked with so many messages, if so."""
        if not context.who.may_use(model):
            return responses.not_allowed(model)
        if parts > (most := self.config.access.max_messages):
            return responses.error(400, f"more than the {most} messages allowed here", "messages")
        return None

    def _may_show(self, stack: Sequence[str]) -> bool:
        return all(self.config.aligners[name].show_original for name in stack)

    def _aligner(self, wanted: str | None) -> str | None:
        if wanted is None:
            return next(iter(self._aligners)) if len(self._aligners) == 1 else None
        return wanted if wanted in self._aligners else None

    def _unknown(self, model: str, known: Mapping[str, object]) -> JSONResponse:
        message = f"the model {model[:100]!r} does not exist; there are: {', '.join(known)}"
        return responses.error(404, message, "model", code="model_not_found")


def _seeded(sampling: Sampling, turn: int) -> Sampling:
    """Choices of one request must not all be the same."""
    if sampling.seed is None or turn == 0:
        return sampling
    return sampling.model_copy(update={"seed": sampling.seed + turn})


def _sum(ends: Sequence[Reply | Trouble]) -> Usage:
    return sum((end.usage for end in ends if isinstance(end, Reply)), Usage())


def _body(
    request: Generation, answered: Sequence[tuple[Reply, replies.AlignerReport]], usage: Usage
) -> replies.ChatResponse | replies.CompletionResponse:
    head = {
        "created": replies.now(),
        "model": request.model,
        "usage": replies.usage_report(usage),
        "aligner": answered[0][1],
    }
    if isinstance(request, wire.ChatRequest):
        chosen = [replies.choice(n, end, told) for n, (end, told) in enumerate(answered)]
        return replies.ChatResponse(id=replies.new_id("chatcmpl"), choices=chosen, **head)
    texts = [replies.text_choice(n, end, told) for n, (end, told) in enumerate(answered)]
    return replies.CompletionResponse(id=replies.new_id("cmpl"), choices=texts, **head)
