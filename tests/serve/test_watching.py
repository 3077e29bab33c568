import asyncio
from typing import Any

import pytest
from fixed_engines import correction_of
from seen import SeenGateway, Told

from aligner_serve.pipeline import Reply
from aligner_serve.watching import Ongoing, Watch

ROUTE = "/v1/chat/completions"


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_told_once_with_its_choice(stream: bool) -> None:
    seen = SeenGateway()
    response = seen.chat(stream=stream)
    (told,) = seen.told.requests
    assert (told.route, told.status) == (ROUTE, 200)
    assert told.request_id == response.headers["x-request-id"]
    assert told.ms > 0
    choice = seen.told.choice
    assert (choice.model, choice.outcome, choice.question) == ("iron+fixer", "corrected", "Why?")
    assert isinstance(choice.end, Reply)
    assert choice.end.text == correction_of(choice.end.answer, "fixer")


def test_all_choices_belong_to_their_request() -> None:
    seen = SeenGateway()
    seen.chat(n=3)
    seen.chat("dead+fixer")
    assert [len(told.ends) for told in seen.told.requests] == [3, 1]
    assert (seen.told.last.status, seen.told.choice.outcome) == (502, "error")


def test_requests_at_the_same_time_keep_their_choices_apart() -> None:
    seen = SeenGateway()
    bodies = [{"model": "fixer", "question": f"q{n}", "answer": "Some say"} for n in range(20)]

    async def run() -> None:
        import httpx

        transport = httpx.ASGITransport(app=seen.api)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            posts = (
                client.post("/v1/corrections", json=body, headers={"x-request-id": "same"})
                for body in bodies
            )
            await asyncio.gather(*posts)

    asyncio.run(run())
    asked = [[one.question for one in told.ends] for told in seen.told.requests]
    assert sorted(asked) == sorted([f"q{n}"] for n in range(20))


def test_what_is_refused_is_told_too() -> None:
    seen = SeenGateway()
    seen.chat("nobody")
    seen.client.get("/secret/path")
    seen.client.get("/healthz")
    told = [(one.route, one.status, one.ends) for one in seen.told.requests]
    assert told == [(ROUTE, 404, ()), ("other", 404, ()), ("/healthz", 200, ())]


def test_nothing_is_going_on_when_all_has_ended() -> None:
    seen = SeenGateway()
    seen.chat(stream=True)
    seen.chat("nobody")
    assert dict(seen.seeing.ongoing.by_route) == {ROUTE: 0}


@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_goes_away_is_499(begun: bool) -> None:
    told, ongoing = Told(), Ongoing()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        assert ongoing.by_route["/v1/x"] == 1
        raise asyncio.CancelledError

    async def nothing(*_: Any) -> None:
        pass

    watch = Watch(app, watcher=told, ongoing=ongoing, routes=frozenset({"/v1/x"}))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch({"type": "http", "path": "/v1/x"}, nothing, nothing))  # type: ignore[arg-type]
    assert (told.last.status, ongoing.by_route["/v1/x"]) == (499, 0)
