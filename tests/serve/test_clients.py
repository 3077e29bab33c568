"""Clients that people have already, unchanged: OpenAI's and LiteLLM's, over HTTP."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fixed_engines import (
    BLOCKED,
    CORRECTED,
    DEAD,
    PASSED,
    RAW,
    STACKED,
    FixedGateway,
    answer_to,
    correction_of,
)

# Else LiteLLM asks the network for prices while it is imported.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import litellm

# LiteLLM reads its own models in a way that pydantic gives up.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince211")

MESSAGES: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "Because."},
    {"role": "user", "content": [{"type": "text", "text": "tea"}]},
]
CORRECTION = correction_of(answer_to("tea"), "fixer")


@pytest.fixture(scope="module")
def served() -> Iterator[FixedGateway]:
    with FixedGateway() as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(served: FixedGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_openai_lists_and_asks(client: openai.OpenAI) -> None:
    assert CORRECTED in [model.id for model in client.models.list()]
    reply = client.chat.completions.create(
        model=CORRECTED, messages=MESSAGES, temperature=0.2, max_tokens=50, stop=["never"], seed=1
    )
    assert reply.choices[0].message.content == CORRECTION
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None and reply.usage.total_tokens == 30


def test_openai_gets_several_choices(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model=STACKED, messages=MESSAGES, n=3)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert {choice.message.content for choice in reply.choices} == {f"{CORRECTION} Thank you."}


def test_openai_reads_a_stream_with_its_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=CORRECTED, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == CORRECTION
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 30
    assert chunks[-1].choices == []


def test_openai_gathers_a_stream_by_its_own_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=CORRECTED, messages=MESSAGES) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == CORRECTION


def test_openai_completes_a_plain_prompt(client: openai.OpenAI) -> None:
    reply = client.completions.create(model=CORRECTED, prompt=["tea", "milk"])
    corrections = [correction_of(answer_to(one), "fixer") for one in ("tea", "milk")]
    assert [choice.text for choice in reply.choices] == corrections
    chunks = client.completions.create(model=CORRECTED, prompt="tea", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == CORRECTION


def test_openai_asks_and_streams_at_once_without_blocking(served: FixedGateway) -> None:
    async def talk() -> tuple[list[str | None], str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="unused") as client:
            asked = [
                client.chat.completions.create(model=model, messages=MESSAGES)
                for model in (CORRECTED, RAW, PASSED)
            ]
            replies = await asyncio.gather(*asked)
            stream = await client.chat.completions.create(
                model=CORRECTED, messages=MESSAGES, stream=True
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        return [reply.choices[0].message.content for reply in replies], text

    replies, text = asyncio.run(talk())
    assert replies == [CORRECTION, answer_to("tea"), answer_to("tea")]
    assert text == CORRECTION


def test_openai_reads_a_refusal(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model=BLOCKED, messages=MESSAGES)
    assert reply.choices[0].finish_reason == "content_filter"
    assert reply.choices[0].message.content is None
    assert reply.choices[0].message.refusal


@pytest.mark.parametrize("stream", [False, True])
def test_openai_raises_its_own_errors(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nobody", messages=MESSAGES, stream=stream)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.InternalServerError) as dead:
        client.chat.completions.create(model=DEAD, messages=MESSAGES, stream=stream)
    assert dead.value.code == "upstream_refused"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=RAW, messages=[], stream=stream)
    assert wrong.value.param == "messages"


def litellm_asks(served: FixedGateway, **changes: Any) -> Any:
    settings = {"model": f"openai/{CORRECTED}", "messages": MESSAGES, **changes}
    return litellm.completion(
        api_base=f"{served.url}/v1", api_key="unused", num_retries=0, **settings
    )


def test_litellm_asks(served: FixedGateway) -> None:
    reply = litellm_asks(served, temperature=0.2, max_tokens=50, n=2)
    assert [choice.message.content for choice in reply.choices] == [CORRECTION] * 2
    assert reply.usage.total_tokens == 60


def test_litellm_reads_a_stream(served: FixedGateway) -> None:
    chunks = list(litellm_asks(served, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == CORRECTION
    assert chunks[-1].usage.total_tokens == 30


def test_litellm_asks_without_blocking(served: FixedGateway) -> None:
    async def talk() -> str:
        stream = await litellm.acompletion(
            model=f"openai/{CORRECTED}",
            messages=MESSAGES,
            api_base=f"{served.url}/v1",
            api_key="unused",
            stream=True,
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(talk()) == CORRECTION


def test_litellm_raises_its_own_errors(served: FixedGateway) -> None:
    with pytest.raises(litellm.exceptions.NotFoundError, match="nobody"):
        litellm_asks(served, model="openai/nobody")
    with pytest.raises(litellm.exceptions.BadGatewayError, match="upstream"):
        litellm_asks(served, model=f"openai/{DEAD}")
