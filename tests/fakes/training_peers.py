"""The sides of ``bench_train.py`` that are not ours, each in a process of its own.

A line on standard input is a turn: an epoch over all rows. ``TURN <seconds>`` is the answer.
"""

import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aligner.adapters.hf_tokenizer import TokenizerFiles, open_files, write_files
from aligner.tokens import IGNORED
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.batches import collate, epoch_batches, passes_of
from aligner_jobs.train.corpus import Corpus, IntArray
from aligner_jobs.train.model import build_model
from aligner_jobs.train.objectives import CrossEntropy

RATE = 1e-4
CLIP = 1.0
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Job:
    """What all sides train on."""

    config: TrainConfig
    tokenizer: TokenizerFiles
    corpus: Corpus

    def batches(self) -> list[IntArray]:
        """One epoch's global batches."""
        size = self.config.global_batch_size
        return epoch_batches(len(self.corpus), global_batch_size=size, seed=0, epoch=0)

    def model(self, *, packing: bool) -> Any:
        """The same weights for every side; without ``packing`` as Transformers makes it."""
        torch.set_num_threads(self.config.cpus_per_worker)
        tokenizer = open_files(self.tokenizer)
        model: Any = build_model(
            self.config, vocab_size=tokenizer.vocab_size, bos_token_id=1, eos_token_id=2
        )
        if not packing:
            model.set_attn_implementation("sdpa")
        return model

    def documents(self, rows: IntArray) -> list[tuple[list[int], list[int]]]:
        """Ids and labels of each row."""
        read = zip(self.corpus.read(rows), self.corpus.prompt_lengths[rows], strict=True)
        return [
            (ids.tolist(), [IGNORED] * int(prompt) + ids[prompt:].tolist()) for ids, prompt in read
        ]


def turns() -> Iterator[None]:
    """Each turn that is asked for; what happens until the next is its time."""
    for _ in sys.stdin:
        began_s = time.perf_counter()
        yield
        print(f"TURN {time.perf_counter() - began_s}", flush=True)


def stepper(model: Any) -> Callable[[], None]:
    """What ends a step: clip, update, zero."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def bare(job: Job) -> None:
    """A loop of PyTorch alone over our packs, with our objective."""
    model, loss = job.model(packing=True), CrossEntropy()
    step = stepper(model)
    for _ in turns():
        for rows in job.batches():
            weight = loss.weight(job.corpus, rows)
            for (part,) in passes_of(job.corpus, rows, config=job.config, world_size=1):
                batch = collate(job.corpus, part, packed=True)
                total = loss.total(model, batch, device=CPU) / weight
                total.backward()  # type: ignore[no-untyped-call]
            step()


def padded(job: Job) -> None:
    """The usual loop: rows as they come, padded to the longest of their micro batch."""
    model = job.model(packing=False)
    step = stepper(model)
    for _ in turns():
        for rows in job.batches():
            passes = -(-len(rows) // job.config.micro_batch_size)
            for part in np.array_split(rows, passes):
                ids_BT, labels_BT, mask_BT = pad(job.documents(part))
                loss = model(input_ids=ids_BT, attention_mask=mask_BT, labels=labels_BT).loss
                (loss / passes).backward()
            step()


def pad(documents: list[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, ...]:
    """Ids, labels and mask, each as wide as the longest document."""
    width = max(len(ids) for ids, _ in documents)
    shape = (len(documents), width)
    ids_BT, mask_BT = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels_BT = torch.full(shape, IGNORED)
    for line, (ids, labels) in enumerate(documents):
        ids_BT[line, : len(ids)] = torch.tensor(ids)
        labels_BT[line, : len(ids)] = torch.tensor(labels)
        mask_BT[line, : len(ids)] = 1
    return ids_BT, labels_BT, mask_BT


def trl(job: Job) -> None:
    """TRL's trainer on rows that are tokenised already; a step is of about as many tokens."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    steps = len(job.batches())
    packs = -(-int(job.corpus.lengths.sum()) // job.config.pack_tokens)
    documents = job.documents(np.arange(len(job.corpus)))
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in documents]

    class TakeTurns(TrainerCallback):  # type: ignore[misc]
        """An epoch is a turn."""

        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            if not sys.stdin.readline():
                raise SystemExit(0)
            self.began_s = time.perf_counter()

        def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
            print(f"TURN {time.perf_counter() - self.began_s}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        write_files(job.tokenizer, Path(folder))
        settings = SFTConfig(
            output_dir=folder,
            packing=True,
            max_length=job.config.pack_tokens,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=-(-packs // steps),
            num_train_epochs=1000,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_grad_norm=CLIP,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_steps=1_000_000,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        SFTTrainer(
            model=job.model(packing=False),
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder),
            callbacks=[TakeTurns()],
        ).train()


SIDES: dict[str, Callable[[Job], None]] = {"bare": bare, "padded": padded, "trl": trl}


if __name__ == "__main__":
    SIDES[sys.argv[1]](pickle.loads(Path(sys.argv[2]).read_bytes()))
