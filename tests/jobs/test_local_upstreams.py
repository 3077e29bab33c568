"""Local models as upstreams; the one that runs here says "OK." whatever it is asked."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from aligner.adapters.memory_tracker import MemoryTracker
from aligner.config import load
from aligner.errors import DataError
from aligner.generation import Completion
from aligner.manifest import Manifest
from aligner_jobs import build_dataset
from aligner_jobs.config.asking import PAPER_SAMPLING, LocalUpstream
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.local_upstreams import completion_of, require_usable, sampling_params

CONFIG = Path(__file__).parents[2] / "jobs/configs/build-dataset/simworld.yaml"
VOCABULARY = 320
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def row(**changes: Any) -> dict[str, Any]:
    plain = {"error": "", "generated_text": "Hi.", "num_input_tokens": 5, "num_generated_tokens": 3}
    return {**plain, **changes}


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({}, Completion("Hi.", "stop", 5, 3)),
        ({"num_generated_tokens": 8}, Completion("Hi.", "length", 5, 8)),
        ({"num_input_tokens": 61}, Completion("Hi.", "length", 61, 3)),
        ({"error": "ValueError: longer than the maximum model length of 64"}, "too_long"),
        ({"error": "RuntimeError: no"}, "engine_error"),
    ],
)
def test_a_row_of_the_engine_is_a_completion_or_a_reason(
    changes: dict[str, Any], result: Completion | str
) -> None:
    assert completion_of(row(**changes), max_tokens=8, context=64) == result


def test_the_papers_sampling_reaches_the_engine() -> None:
    assert sampling_params(PAPER_SAMPLING) == {
        "temperature": 0.5,
        "top_p": 0.95,
        "top_k": 10,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.1,
        "max_tokens": 2048,
    }


def save_model(folder: Path, *, template: str | None = TEMPLATE) -> None:
    """A Llama without attention: each token decides the next one, and ":" leads to "OK."."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    vocabulary["</s>"] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=VOCABULARY,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=VOCABULARY // 32,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=vocabulary["</s>"],
        )
    )
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(VOCABULARY))
        model.lm_head.weight.zero_()
        for before, after in ((":", "O"), ("O", "K"), ("K", "."), (".", "</s>")):
            model.lm_head.weight[vocabulary[after], vocabulary[before]] = 10.0
    model.save_pretrained(folder)


def test_a_folder_without_a_chat_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"layout is there; correct upstreams\.me\.model"):
        require_usable("me", LocalUpstream(kind="vllm", model=str(tmp_path)))
    save_model(tmp_path / "base", template=None)
    with pytest.raises(DataError, match=r"no chat template.*upstreams\.me\.model"):
        require_usable("me", LocalUpstream(kind="vllm", model=str(tmp_path / "base")))


@pytest.mark.e2e
def test_a_local_model_answers_and_is_not_started_for_nothing(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    upstream = {
        "kind": "vllm",
        "model": str(tmp_path / "model"),
        "sampling": {"max_tokens": 16, "temperature": 0.5, "top_k": 10},
        "engine": {"dtype": "float32", "max_num_seqs": 8, "batch_size": 8},
    }

    def build(out: str) -> Manifest:
        """In this process: the start of a program takes longer than a few rows."""
        sets = [
            f"out={tmp_path / out}",
            f"upstreams={json.dumps({'local': upstream})}",
            "sources.simworld.limit=12",
            f"replies={tmp_path}/replies",
            "workers=1",
        ]
        settings = load(BuildDatasetConfig, CONFIG, sets)
        return build_dataset.run(settings, tracker=MemoryTracker()).manifest

    first = build("first")
    answers = pq.read_table(tmp_path / "first" / "train").column("answer").to_pylist()
    assert set(answers) == {"OK."}
    ledger = first.facts["ledger"]["upstreams.local"]
    assert (ledger["asked"], ledger["sent"], ledger["replies"]) == (12, 12, {"ok": 12})
    assert ledger["completion_tokens"] == 12 * 4
    # The weights are gone; every reply is kept.
    (tmp_path / "model" / "model.safetensors").unlink()
    assert build("second").content_hash == first.content_hash
