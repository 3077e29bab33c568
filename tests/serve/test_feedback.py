import json
from typing import Any

import pytest
from seen import FixedStore, SeenGateway

from aligner_serve.feedback_store import Kept

SAID = {
    "request_id": "r-1",
    "model": "iron+fixer",
    "verdict": "accept",
    "question": "Why?",
    "history": [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "Yes."}],
    "answer": "Dunno.",
    "correction": "Because.",
}


def give(seen: SeenGateway, **changes: Any) -> Any:
    # Written here: the client itself would refuse a text that is none.
    body = json.dumps(SAID | changes)
    return seen.client.post(
        "/v1/feedback", content=body, headers={"content-type": "application/json"}
    )


def test_a_verdict_is_kept_with_all_that_it_speaks_of() -> None:
    store = FixedStore()
    response = give(SeenGateway(store))
    assert response.status_code == 200
    assert response.json() == {"object": "feedback", "request_id": "r-1", "verdict": "accept"}
    (row,) = store.rows
    assert (row.question, row.answer, row.correction) == ("Why?", "Dunno.", "Because.")
    assert [turn.text for turn in row.history] == ["Is it?", "Yes."]
    assert row.at_ms > 1_700_000_000_000


def test_an_edit_brings_what_it_should_have_been() -> None:
    store = FixedStore()
    assert give(SeenGateway(store), verdict="edit", edit="Wind.").status_code == 200
    assert store.rows[0].edit == "Wind."


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": "edit"},
        {"verdict": "accept", "edit": "x"},
        {"verdict": "like"},
        {"request_id": ""},
        {"request_id": "x" * 201},
        {"answer": ""},
        {"history": [{"role": "system", "content": "x"}]},
        {"question": "\ud800"},
        {"extra": 1},
    ],
)
def test_what_is_no_verdict_is_refused_and_not_kept(changes: dict[str, Any]) -> None:
    store = FixedStore()
    response = give(SeenGateway(store), **changes)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert store.rows == []


@pytest.mark.parametrize("model", ["nobody", "iron", "iron+nobody"])
def test_feedback_speaks_of_models_that_correct_here(model: str) -> None:
    response = give(SeenGateway(FixedStore()), model=model)
    assert (response.status_code, response.json()["error"]["param"]) == (404, "model")


@pytest.mark.parametrize("model", ["fixer", "iron+fixer+polite", "fixer+polite"])
def test_bare_aligners_and_stacks_can_be_spoken_of(model: str) -> None:
    assert give(SeenGateway(FixedStore()), model=model).status_code == 200


@pytest.mark.parametrize(("says", "status"), [("busy", 429), ("away", 503), ("full", 507)])
def test_what_cannot_be_kept_is_told(says: Kept, status: int) -> None:
    response = give(SeenGateway(FixedStore(says)))
    assert response.status_code == status
    assert response.json()["error"]["code"] == f"feedback_{says}"
    assert ("retry-after" in response.headers) is (status != 507)


def test_where_none_is_kept_the_route_says_so() -> None:
    response = give(SeenGateway())
    assert (response.status_code, response.json()["error"]["code"]) == (404, "feedback_off")
