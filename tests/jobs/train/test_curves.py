import re

from aligner_jobs.train.curves import curves_svg, render

HISTORY = {
    "warmup/loss": {step: 1.0 / step for step in range(1, 11)},
    "warmup/heldout_loss": {0: 6.0, 10: 2.0},
    "correction/loss": {step: 2.0 / step for step in range(1, 2001)},
    "correction/heldout_loss": {step: 1.0 / step for step in range(500, 2001, 500)},
    "correction/learning_rate": dict.fromkeys(range(1, 2001), 2e-05),
    "correction/copy_rate": {500: 0.5, 1000: 0.25},
    "train_seconds": {0: 12.0},
}
METRICS = {
    "heldout_loss_before": 6.0,
    "heldout_loss": 0.5,
    "best_heldout_loss": 0.4,
    "best_heldout_step": 1500.0,
    "copy_rate": 0.25,
    "train_seconds": 1234.5,
}
SAMPLE: dict[str, str | float] = {
    "question": "Is <script> safe?",
    "answer": "It is so.",
    "correction": "It is not so.",
    "teacher's correction": "It is not.",
    "unchanged": "no",
    "perfect answer": "no",
    "similarity to the answer": 0.9,
    "similarity to the teacher": 0.8,
}


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))


def test_the_page_tells_how_the_run_went() -> None:
    page = render("train-ab", HISTORY, METRICS, samples=[SAMPLE])
    text = text_of(page)
    assert "from 6.000 to 0.500 nats per token" in text
    assert "its best was 0.400, after step 1500" in text
    assert "It took 1,234 s." in text
    assert "copy rate25.0 % " in text
    assert "identity rate" not in text_of(page.split("<h2>Curves")[0])
    assert "<ins>not </ins>" in page
    assert "teacher: It is not. (80.0 % alike)" in text
    assert "<script>" not in page
    assert page == render("train-ab", HISTORY, METRICS, samples=[SAMPLE])


def test_a_run_without_held_out_rows_has_a_page() -> None:
    history = {"correction/loss": {1: 1.0}}
    assert "no rows" in text_of(render("train-ab", history, {}))
    assert "<svg" in render("train-ab", {}, {})


def test_two_phases_without_samples_have_a_page() -> None:
    losses = {name: values for name, values in HISTORY.items() if name.endswith("/loss")}
    assert "<svg" in render("train-ab", losses, METRICS, samples=[])


def test_long_runs_are_thinned_for_drawing() -> None:
    long = {"correction/loss": {step: 1.0 + step % 7 for step in range(1, 100_001)}}
    assert len(curves_svg(long)) < 100_000
