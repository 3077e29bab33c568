"""The page at ``/`` in a real browser, over the real gateway with engines of fixed latency."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from fixed_engines import FixedGateway, answer_to, correction_of
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    Route,
    expect,
    sync_playwright,
)

QUESTION = "tea <script>document.title = 'gone'</script> & <img src=x>"


@pytest.fixture(scope="module")
def served() -> Iterator[FixedGateway]:
    with FixedGateway(latency_s=0.05) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on the path")
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start as root, which containers of tests often are.
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"], timeout=120_000
        )
        expect.set_options(timeout=60_000)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, served: FixedGateway) -> Iterator[Page]:
    """The page, ready; whatever it complains of is a failure, and it asks nobody else."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(60_000)
    complaints: list[str] = []
    asked_for: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if is_fault(said) else None)
    page.on("request", lambda sent: asked_for.append(sent.url))
    page.goto(served.url)
    expect(page.locator("#service")).to_have_text("ready")
    yield page
    context.close()
    assert complaints == []
    assert all(url.startswith(served.url) for url in asked_for)


def is_fault(said: ConsoleMessage) -> bool:
    """Statuses that a test asks for are told there as well."""
    return said.type == "error" and "Failed to load resource" not in said.text


def ask(
    page: Page, question: str = QUESTION, aligner: str = "fixer", upstream: str = "iron"
) -> None:
    page.get_by_label("Upstream").select_option(upstream)
    page.get_by_label("Aligner").select_option(aligner)
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask").click()


def ended(page: Page, outcome: str) -> None:
    expect(page.locator("#outcome")).to_have_text(outcome)


def test_answer_and_correction_stand_side_by_side_with_what_changed(page: Page) -> None:
    ask(page)
    ended(page, "corrected")
    answer = answer_to(QUESTION)
    assert page.locator("#answer").evaluate("it => it.textContent") == answer
    correction = correction_of(answer, "fixer")
    assert page.locator("#correction").evaluate("it => it.textContent") == correction
    assert page.locator("#answer del").all_inner_texts() == ["Some say ", "old"]
    assert page.locator("#correction ins").all_inner_texts() == ["All know ", "rather new"]
    left, right = (page.locator(f"#{name}").bounding_box() for name in ("answer", "correction"))
    assert left and right and left["x"] + left["width"] <= right["x"]


def test_texts_are_never_read_as_html(page: Page) -> None:
    ask(page)
    ended(page, "corrected")
    assert page.title() == "Aligner"
    assert page.locator("#result b, #result script, #result img").count() == 0


def test_the_stages_tell_who_and_how_long(page: Page) -> None:
    ask(page, aligner="fixer+polite")
    ended(page, "corrected")
    rows = [row.locator("td").all_inner_texts() for row in page.locator("#stages tbody tr").all()]
    assert [row[:3] for row in rows] == [
        ["upstream", "iron", "12"],
        ["corrector", "models:/fixer/3", "18"],
        ["corrector", "models:/polite/3", "18"],
    ]
    assert all(int(row[3].strip()) >= 50 for row in rows)


@pytest.mark.parametrize(
    ("aligner", "outcome", "told"),
    [
        ("content", "unchanged", "right as it is"),
        ("broken", "passthrough", "too long"),
        ("strict", "blocked", "withheld"),
    ],
)
def test_every_outcome_is_told_in_words(page: Page, aligner: str, outcome: str, told: str) -> None:
    ask(page, aligner=aligner)
    ended(page, outcome)
    expect(page.locator("#status")).to_contain_text(told)
    shown = page.locator("#result").inner_text()
    assert ("Some say" in shown) is (outcome != "blocked")


def test_a_failure_is_told_and_the_next_question_works(page: Page) -> None:
    ask(page, upstream="dead")
    ended(page, "error")
    expect(page.locator("#status")).to_contain_text("upstream failed")
    ask(page)
    ended(page, "corrected")


def test_a_raw_model_stands_alone(page: Page) -> None:
    ask(page, aligner="")
    ended(page, "raw")
    expect(page.locator("#correction-panel")).to_be_hidden()
    assert page.locator("#answer").evaluate("it => it.textContent") == answer_to(QUESTION)


def test_the_keyboard_alone_is_enough(page: Page) -> None:
    page.keyboard.type("tea")
    page.get_by_label("Upstream").select_option("slow")
    page.get_by_label("Question").focus()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_contain_text("nothing is shown before")
    page.keyboard.press("Escape")
    ended(page, "stopped")
    page.get_by_label("Upstream").select_option("iron")
    page.get_by_label("Question").focus()
    page.keyboard.press("Control+Enter")
    ended(page, "corrected")


def test_a_conversation_is_kept_where_it_is_asked_for(page: Page) -> None:
    bodies: list[dict[str, Any]] = []

    def sent(request: Request) -> None:
        bodies.append(json.loads(request.post_data or "{}"))

    page.on("request", sent)
    page.locator("summary").click()
    page.get_by_label("Keep the conversation").check()
    page.get_by_label("System message").fill("Be brief.")
    ask(page, "one")
    ended(page, "corrected")
    ask(page, "two")
    expect(page.locator("#conversation p")).to_have_count(2)
    ended(page, "corrected")
    assert [message["role"] for message in bodies[-1]["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
    ]


def test_it_fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    ask(page, f"{QUESTION} {'very' * 60}", aligner="fixer+polite")
    ended(page, "corrected")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    answer, correction = (
        page.locator(f"#{one}-panel").bounding_box() for one in ("answer", "correction")
    )
    assert answer and correction and correction["y"] > answer["y"]


def test_a_verdict_goes_out_with_all_that_it_is_about(page: Page) -> None:
    sent: list[dict[str, Any]] = []

    def kept(route: Route) -> None:
        sent.append(json.loads(route.request.post_data or "{}"))
        route.fulfill(status=200, content_type="application/json", body="{}")

    page.route("**/v1/feedback", kept)
    ask(page, "tea")
    ended(page, "corrected")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("My correction").fill("Tea is fine.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#thanks")).to_have_text("Kept; thank you.")
    (verdict,) = sent
    assert verdict.pop("request_id")
    assert verdict == {
        "model": "iron+fixer",
        "question": "tea",
        "answer": answer_to("tea"),
        "correction": correction_of(answer_to("tea"), "fixer"),
        "history": [],
        "verdict": "edit",
        "edit": "Tea is fine.",
    }


def test_a_key_is_sent_and_outlives_the_tab_nowhere(page: Page, served: FixedGateway) -> None:
    asked: list[str | None] = []
    page.on("request", lambda sent: asked.append(sent.headers.get("authorization")))
    page.get_by_label("Key").fill("sk-secret")
    page.keyboard.press("Tab")
    ask(page, "tea")
    ended(page, "corrected")
    assert set(asked) == {"Bearer sk-secret"}
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    other = page.context.new_page()
    other.goto(served.url)
    expect(other.get_by_label("Key")).to_have_value("")


def test_a_gateway_that_wants_a_key_is_asked_again_with_one(page: Page) -> None:
    def guarded(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer right":
            route.continue_()
            return
        refusal = {"error": {"message": "no key", "type": "invalid_request_error"}}
        route.fulfill(status=401, content_type="application/json", body=json.dumps(refusal))

    page.route("**/v1/models", guarded)
    page.reload()
    expect(page.locator("#service")).to_have_text("it asks for a key")
    page.get_by_label("Key").fill("right")
    page.keyboard.press("Tab")
    expect(page.locator("#service")).to_have_text("ready")


def test_the_marks_are_no_part_of_the_texts(page: Page) -> None:
    """Whatever is compared, the runs are the text again, and the kept words are in both."""
    texts = st.text(st.sampled_from("ab .\n真的🙂<&"), max_size=40)

    @settings(max_examples=60)
    @given(left=texts, right=texts)
    def holds(left: str, right: str) -> None:
        runs = page.evaluate(
            "async ([a, b]) => (await import('/page/diff.js')).compare(a, b)", [left, right]
        )
        for text, side in zip((left, right), runs, strict=True):
            assert "".join(run["text"] for run in side) == text
        kept = ["".join(r["text"] for r in side if r["same"]).split() for side in runs]
        assert "".join(kept[0]) == "".join(kept[1])
        if left == right:
            assert all(run["same"] for run in runs[0])

    holds()
