import json
from collections import Counter
from pathlib import Path
from typing import Any

import keep_reports
import pyarrow.parquet as pq
import pytest
import tokenizers
from mlflow import MlflowClient
from tokenizers import models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel

from aligner import artefacts
from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.adapters.memory_tracker import MemoryTracker
from aligner.adapters.mlflow_tracker import MlflowTracker
from aligner.adapters.simworld_http import SimworldServer
from aligner.config import validate
from aligner.errors import ContractMismatch, DataError, EndpointError, GateRefused
from aligner.exports import FINGERPRINT_TAG, HASH_TAG
from aligner.gates import Gate
from aligner.judging import DIMENSIONS
from aligner.keeping import KEEP_TAG, KeepCalibration
from aligner.manifest import Manifest, Parent
from aligner.prompt import PLAIN, PromptTemplate
from aligner.records import Answered, Triple
from aligner.reports import EvaluationReport, read_report
from aligner.simworld import profiles, teacher
from aligner.simworld.judge import SimJudge
from aligner.simworld.questions import heldout_questions
from aligner.simworld.world import World
from aligner.tokens import encode_example
from aligner.tracking import ModelVersion, TrackingConfig
from aligner_jobs import evaluate, promote
from aligner_jobs.config.evaluate import EvaluateConfig
from aligner_jobs.config.promote import PromoteConfig
from aligner_jobs.correct import Correction
from aligner_jobs.questioning import Answers

SEED = 3
QUESTIONS = 6
UPSTREAMS = ("iron", "sterling")
NO_SERVER = "http://127.0.0.1:9/v1"


def raw(folder: Path, **changes: Any) -> dict[str, Any]:
    given = {
        "out": str(folder / "report"),
        "model": "m",
        "seed": SEED,
        "base_url": NO_SERVER,
        "upstreams": {name: {"model": name, "max_attempts": 2} for name in UPSTREAMS},
        "questions": {"kind": "simworld", "limit": QUESTIONS},
        "judge": {"kind": "simworld"},
        "engine": {"dtype": "float32", "max_num_seqs": 32, "batch_size": 8},
        "tracking": {"uri": f"sqlite:///{folder / 'mlflow.db'}"},
        **changes,
    }
    return {key: value for key, value in given.items() if value is not None}


def config(folder: Path, **changes: Any) -> EvaluateConfig:
    return validate(EvaluateConfig, raw(folder, **changes), where="test.yaml")


# --- pure parts -----------------------------------------------------------------------------------


def test_where_a_correction_is_unusable_the_answer_stands_and_is_judged() -> None:
    world = World(SEED)
    question = heldout_questions(world, 1)[0]
    answer = teacher.correct(world, question, "")
    answers = Answers([Answered("iron", question, answer)] * 2, {"iron": Counter()})
    corrections = [Correction(text="Rubbi", unusable="cut_off"), Correction(text="Rubbish.")]
    first, second = evaluate.judged(answers, corrections, SimJudge(world))
    assert (first.correction, first.outcome) == (answer, "passthrough")
    assert set(first.judgement.verdicts.values()) == {"tie"}
    assert (second.correction, second.outcome) == ("Rubbish.", "corrected")
    assert second.judgement.verdicts["helpful"] == "loss"


# --- bad input ------------------------------------------------------------------------------------


@pytest.fixture
def export(tmp_path: Path) -> str:
    return publish_export(tmp_path / "export")


def publish_export(path: Path, *, fingerprint: str | None = None) -> str:
    """An export without weights: enough for everything that is checked before an engine starts."""
    with artefacts.staging(str(path)) as stage:
        (stage.path / "config.json").write_text('{"max_position_embeddings": 64}')
        save_tokenizer(stage.path, ["some text"])
        stage.publish(
            kind="export",
            name="e",
            prompt=PLAIN,
            prompt_fingerprint=fingerprint or PLAIN.fingerprint,
        )
    return str(path)


def save_tokenizer(folder: Path, texts: list[str]) -> HfTokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return HfTokenizer.load(folder)


def refused(folder: Path, tracker: MemoryTracker, **changes: Any) -> str:
    """The sentence of the error that a run ends with; it leaves nothing behind."""
    with pytest.raises((DataError, ContractMismatch, EndpointError)) as caught:
        evaluate.run(config(folder, **changes), tracker=tracker)
    assert not (folder / "report").exists()
    assert not list(folder.glob(".report.partial*"))
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_an_upstream_that_does_not_answer_is_named_before_anything_starts(
    tmp_path: Path, export: str
) -> None:
    sentence = refused(tmp_path, MemoryTracker(), model=None, export=export)
    assert NO_SERVER in sentence
    assert "does not answer" in sentence


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    assert "model 'm' has no version" in refused(tmp_path, MemoryTracker())


def test_a_missing_export_is_named(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    sentence = refused(tmp_path, MemoryTracker(), model=None, export=nowhere)
    assert sentence == f"{nowhere}: no export there (manifest.json is missing); check the path."


def test_a_wrong_fingerprint_is_named_with_both(tmp_path: Path) -> None:
    wrong = publish_export(tmp_path / "export", fingerprint="0123456789ab")
    sentence = refused(tmp_path, MemoryTracker(), model=None, export=wrong)
    assert "0123456789ab" in sentence
    assert PLAIN.fingerprint in sentence


def test_a_version_that_was_registered_with_another_export_is_refused(
    tmp_path: Path, export: str
) -> None:
    tracker = MemoryTracker()
    tracker.register("m", source=export, run_id="r", tags={HASH_TAG: "00" * 32})
    assert "was registered with export_hash" in refused(tmp_path, tracker)


def test_a_damaged_export_is_refused(tmp_path: Path, export: str) -> None:
    (Path(export) / "tokenizer.json").write_text("{}")
    sentence = refused(tmp_path, MemoryTracker(), model=None, export=export)
    assert "tokenizer.json: differs from its manifest" in sentence


def test_a_longer_context_than_the_model_has_is_refused(tmp_path: Path, export: str) -> None:
    given = config(tmp_path, model=None, export=export, engine={"max_model_len_tokens": 65})
    with pytest.raises(Exception, match="65 is more than the 64 tokens"):
        evaluate.run(given, tracker=MemoryTracker())


def test_something_at_the_reports_place_is_left_alone(tmp_path: Path, export: str) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="no report there"):
        evaluate.run(config(tmp_path, model=None, export=export), tracker=MemoryTracker())
    assert (tmp_path / "report" / "mine.txt").read_text() == "mine"


def test_a_missing_file_of_questions_is_named(tmp_path: Path) -> None:
    questions = {"kind": "questions", "path": str(tmp_path / "nowhere.jsonl")}
    assert "nowhere.jsonl" in refused(tmp_path, MemoryTracker(), questions=questions)


def test_questions_that_the_judge_knows_nothing_of_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"question": "How are you?"}) + "\n")
    sentence = refused(
        tmp_path, MemoryTracker(), questions={"kind": "questions", "path": str(path)}
    )
    assert "1 of 1" in sentence
    assert "none of the simulated world" in sentence


# --- the real engine ------------------------------------------------------------------------------


def known_rows() -> list[Triple]:
    """Every answer that the test will meet, with the perfect teacher's correction."""
    world = World(SEED)
    return [
        Triple(question.question, answer, teacher.correct(world, question, answer), upstream=name)
        for name in UPSTREAMS
        for question in heldout_questions(world, QUESTIONS)
        for answer in [profiles.answer(world, name, question)]
    ]


def train_by_heart(rows: list[Triple], folder: Path, *, template: PromptTemplate) -> None:
    """A tiny Llama that gives exactly these corrections, in Hugging Face's layout."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    # So small a model gains nothing from more threads, and loses much where cores are shared.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    texts = [template.render(row.question, row.answer) + row.correction for row in rows]
    tokenizer = save_tokenizer(folder, texts)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=400,
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    examples = [encode_example(row, template=template, tokenizer=tokenizer) for row in rows]
    width = max(len(example) for example in examples)
    ids_BT = torch.zeros(len(examples), width, dtype=torch.long)
    labels_BT = torch.full((len(examples), width), -100)
    for row, example in enumerate(examples):
        ids_BT[row, : len(example)] = torch.tensor(example.input_ids)
        labels_BT[row, : len(example)] = torch.tensor(example.labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(400):
        loss = model(input_ids=ids_BT, labels=labels_BT).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.003:
            break
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    uri = str(tmp_path_factory.mktemp("trained") / "export")
    with artefacts.staging(uri) as stage:
        train_by_heart(known_rows(), stage.path, template=PLAIN)
        manifest = stage.publish(
            kind="export",
            name="by-heart",
            prompt=PLAIN,
            prompt_fingerprint=PLAIN.fingerprint,
            parents=(Parent(kind="dataset", uri="s3://b/dataset", content_hash="cd" * 32),),
        )
    return uri, manifest


@pytest.mark.e2e
def test_an_aligner_is_judged_through_vllm_and_promoted(
    tmp_path: Path, trained: tuple[str, Manifest]
) -> None:
    uri, export = trained
    tracking = TrackingConfig(
        uri=f"sqlite:///{tmp_path / 'mlflow.db'}", artifacts=str(tmp_path / "artifacts")
    )
    tracker = MlflowTracker(tracking)
    with tracker.run("train") as run:
        tags = {HASH_TAG: export.content_hash, FINGERPRINT_TAG: PLAIN.fingerprint}
        tracker.register("m", source=uri, run_id=run.run_id, tags=tags)
    with SimworldServer(SEED) as server:
        given = config(
            tmp_path,
            base_url=server.base_url,
            tracking=tracking.model_dump(),
            keep={"wanted_error": 0.6},
        )
        result = evaluate.run(given, tracker=tracker)
    manifest, report = read_report(result.uri)
    assert_report_is_right(report, export)
    assert_keep_is_calibrated(report, tracker.version("m", "1"))
    assert {parent.kind for parent in manifest.parents} == {"export", "dataset"}
    artefacts.verify(Path(result.uri), manifest)
    rows = pq.read_table(Path(result.uri) / evaluate.JUDGEMENTS_FILE).to_pylist()
    by_heart = {(row.upstream, row.question): row.correction for row in known_rows()}
    assert {(r["upstream"], r["question"]): r["correction"] for r in rows} == by_heart
    assert "<ins>" in (Path(result.uri) / "report.html").read_text(encoding="utf-8")
    assert_is_in_mlflow(tracking, report)
    assert_it_is_not_done_twice(given, tracker)
    promote_and_refuse(tmp_path, tracker, tracking)


@pytest.mark.e2e
def test_answers_are_kept_by_the_threshold_that_their_version_carries(
    tmp_path: Path, trained: tuple[str, Manifest]
) -> None:
    uri, export = trained
    threshold = keep_reports.calibration(export, threshold=-0.5, dtype="float32")
    tracker = MemoryTracker()
    tracker.register("m", source=uri, run_id="r", tags={KEEP_TAG: threshold.to_tag()})
    with SimworldServer(SEED) as server:
        given = config(tmp_path, base_url=server.base_url, keep={"kind": "stored"})
        result = evaluate.run(given, tracker=tracker)
    # What users get is the same as without KEEP.
    assert_report_is_right(result.report, export)
    assert result.report.keep == threshold
    rows = pq.read_table(Path(result.uri) / evaluate.JUDGEMENTS_FILE).to_pylist()
    by_heart = {(row.upstream, row.question): row for row in known_rows()}
    for row in rows:
        known = by_heart[row["upstream"], row["question"]]
        assert row["correction"] == known.correction
        assert row["kept"] == known.is_identity == (row["keep_score"] >= -0.5)
    assert 0 < result.report.kept == sum(row["kept"] for row in rows) < len(rows)
    tokens = result.manifest.facts["tokens"]
    assert tokens["decoded"] < 0.7 * tokens["corrections"]
    # The version goes on with the threshold that it had.
    assert tracker.version("m", "1").tags[KEEP_TAG] == threshold.to_tag()


def assert_report_is_right(report: EvaluationReport, export: Manifest) -> None:
    """The model knows every correction, so it wins all that can be won."""
    assert list(report.upstreams) == list(UPSTREAMS)
    assert (report.model.name, report.model.version) == ("m", "1")
    assert report.model.export_hash == export.content_hash
    for one in report.upstreams.values():
        assert one.n == QUESTIONS
        assert not one.unusable
        assert (one.identity_kept, one.details_kept) == (1.0, 1.0)
        for dimension in DIMENSIONS:
            cell = one.dimensions[dimension]
            assert cell.omega == pytest.approx(cell.attainable)
            assert cell.after == 1.0
    assert report.overall.dimensions["harmless"].attainable > 0


def assert_keep_is_calibrated(report: EvaluationReport, version: ModelVersion) -> None:
    """The model doubts every flaw, and nothing else."""
    keep = KeepCalibration.from_tag(version.tags[KEEP_TAG], where=version.uri)
    assert keep == report.keep
    assert keep.dtype == "float32"
    assert (keep.good, keep.flawed) == (report.overall.perfect, 2 * QUESTIONS - keep.good)
    assert (keep.good_kept, keep.flawed_kept) == (keep.good, 0)
    # Nothing is kept while a threshold is looked for.
    assert report.kept == 0


def assert_is_in_mlflow(tracking: TrackingConfig, report: EvaluationReport) -> None:
    client = MlflowClient(tracking_uri=tracking.uri, registry_uri=tracking.uri)
    version = client.get_model_version("m", "1")
    assert "omega_honest" in version.tags
    run = client.get_run(version.tags["evaluation_run_id"])
    assert run.info.status == "FINISHED"
    omega = report.upstreams["iron"].dimensions["honest"].omega
    assert run.data.metrics["iron.honest.omega"] == pytest.approx(omega)
    assert run.data.metrics["overall.identity_kept"] == 1.0
    files = {file.path for file in client.list_artifacts(run.info.run_id, "report")}
    assert {"report/report.html", "report/report.json", "report/judgements.parquet"} <= files
    assert run.inputs.dataset_inputs[0].dataset.digest == report.model.export_hash[:36]


def assert_it_is_not_done_twice(given: EvaluateConfig, tracker: MlflowTracker) -> None:
    """The upstreams are gone by now: nothing is asked again."""
    assert evaluate.run(given, tracker=tracker).reused
    other = given.model_copy(update={"max_growth_ratio": 3.0})
    with pytest.raises(DataError, match="a report with other settings is there already"):
        evaluate.run(other, tracker=tracker)


def promote_and_refuse(folder: Path, tracker: MlflowTracker, tracking: TrackingConfig) -> None:
    few = Gate(min_rows_per_upstream=QUESTIONS)
    settings = {"report": str(folder / "report"), "tracking": tracking}
    with pytest.raises(GateRefused, match="min_rows_per_upstream: 6"):
        promote.run(PromoteConfig(**settings), tracker=tracker)
    promote.run(PromoteConfig(**settings, gate=few), tracker=tracker)
    assert tracker.version("m", "@champion").tags["gate"] == "passed"
