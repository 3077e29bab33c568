"""Ready triples at scale: rows/s beside a plain script, and memory that does not grow with rows.

Ours is ``aligner build-dataset`` as a user runs it: a child process with its private Ray, filters,
exact and near-duplicates, splits, Parquet, packs, report, tracking. Theirs is one process of pandas
and datasketch that does the same to the rows as one would write it by hand, all of them in memory.
Both read such JSONL: 70 words a row, 1 % exact copies, 2 % near-duplicates, 1 % blank answers. The
BENCH line sets our rate on the large set against theirs on the small one; the line of the small set
shows what our start costs, some 20 s.

Memory is the sum over the process tree of what is not shared memory (proportional set size), and
what lies in /dev/shm, where Ray's objects are; sampled twice a second, the peak counts.

    python tests/bench/bench_scale.py [--small 100000] [--large 1000000]
"""

import argparse
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml
from tokenizers import Tokenizer

from aligner.manifest import Manifest
from aligner.prompt import PLAIN
from aligner.records import Triple
from aligner_jobs import programs
from aligner_jobs.train.tokenizer import EOS, SPECIAL, train_tokenizer

MEMORY_BAR = 1.3
RATE_BAR = 1.0
ROWS_PER_FILE = 50_000
THRESHOLD = 0.8
EOS_ID = SPECIAL.index(EOS)


# --- the work -------------------------------------------------------------------------------------


def rows(count: int) -> Iterator[dict[str, str]]:
    """``count`` synthetic triples, the same in every run."""
    rng = random.Random(0)
    vocabulary = ["".join(rng.choices("aeioulnrst", k=rng.randint(3, 9))) for _ in range(30_000)]
    words: list[str] = []
    for number in range(count):
        kind = rng.random() if number else 1.0
        if kind >= 0.03:
            # Frequent words are frequent, as in any language.
            words = [vocabulary[int(30_000 * rng.random() ** 3)] for _ in range(70)]
        elif kind >= 0.01:
            words = [*words]
            words[rng.randrange(10, 70)] = "changed"
        answer = "" if 0.03 <= kind < 0.04 else " ".join(words[10:])
        correction = " ".join([*words[10:40], "instead", *words[42:]])
        yield {"question": " ".join(words[:10]), "answer": answer, "correction": correction}


def write_rows(folder: Path, count: int) -> None:
    """JSONL files of equal size."""
    folder.mkdir()
    source = rows(count)
    for number in range(-(-count // ROWS_PER_FILE)):
        with (folder / f"{number:04d}.jsonl").open("w", encoding="utf-8") as file:
            for _ in range(min(ROWS_PER_FILE, count - number * ROWS_PER_FILE)):
                file.write(json.dumps(next(source)) + "\n")


def write_config(folder: Path) -> Path:
    """The config of both sizes; the tokenizer knows the words' letters."""
    sample = [
        Triple(row["question"], row["answer"], row["correction"])
        for row in itertools.islice(rows(10_000), 2_000)
    ]
    files = train_tokenizer(sample, template=PLAIN, vocab_size=2048)
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    for name, content in files.items():
        (tokenizer / name).write_bytes(content)
    config = {
        "out": "unset",
        "sources": {"synthetic": {"kind": "qac", "path": "unset"}},
        "near_duplicates": {"threshold": THRESHOLD},
        "packing": {"tokenizer": str(tokenizer), "max_tokens": 2048},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


# --- ours -----------------------------------------------------------------------------------------


def ours(folder: Path, config: Path, count: int) -> tuple[float, float]:
    """Rows per second, and the peak of memory in MiB."""
    out = folder / f"out-{count}"
    command = programs.command(
        "build-dataset",
        config,
        [
            f"out={out}",
            f"sources.synthetic.path={folder}/{count}",
            f"tracking.uri=sqlite:///{folder}/mlflow-{count}.db",
            f"tracking.artifacts={folder}/mlartifacts-{count}",
        ],
    )
    before = shared_memory_bytes()
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, env=environment())
    while process.poll() is None:
        peak = max(peak, tree_bytes(process.pid) + shared_memory_bytes() - before)
        time.sleep(0.5)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit("the job failed")
    manifest = Manifest.model_validate_json((out / "manifest.json").read_text())
    shutil.rmtree(out)
    mib = peak / 2**20
    print(
        f"{count} rows: {seconds:.0f} s, {count / seconds:.0f} rows/s, {mib:.0f} MiB, "
        f"{manifest.counts}",
        flush=True,
    )
    return count / seconds, mib


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def tree_bytes(pid: int) -> int:
    """Memory of a process and all its descendants, shared memory left out."""
    try:
        parent = psutil.Process(pid)
        found = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(private_bytes(process.pid) for process in found)


def private_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:] if "kB" in line}
    return 1024 * (sizes.get("Pss_Anon", 0) + sizes.get("Pss_File", 0))


def shared_memory_bytes() -> int:
    """In use on /dev/shm."""
    used = os.statvfs("/dev/shm")
    return (used.f_blocks - used.f_bfree) * used.f_frsize


# --- theirs: in a process of its own --------------------------------------------------------------


def by_hand(source: Path, out: Path) -> None:
    """Read, filter, drop duplicates and near-duplicates, split, write, pack."""
    import pandas as pd
    from datasketch import MinHash, MinHashLSH

    frame = pd.concat([pd.read_json(path, lines=True) for path in sorted(source.iterdir())])
    for column in ("question", "answer", "correction"):
        frame = frame[frame[column].str.strip() != ""]
        frame = frame[frame[column].str.len() <= 8000]
    frame = frame.drop_duplicates(["question", "answer", "correction"]).reset_index(drop=True)
    index = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    stays = []
    shingles: dict[int, set[str]] = {}
    for number, (question, answer) in enumerate(
        zip(frame["question"], frame["answer"], strict=True)
    ):
        words = f"{question} {answer}".lower().split()
        own = {" ".join(words[place : place + 3]) for place in range(len(words) - 2)}
        signature = MinHash(num_perm=128)
        signature.update_batch([shingle.encode() for shingle in own])
        found: list[Any] = index.query(signature)
        alike = any(
            len(own & shingles[other]) >= THRESHOLD * len(own | shingles[other]) for other in found
        )
        stays.append(not alike)
        if not alike:
            index.insert(number, signature)
            shingles[number] = own
    frame = frame[stays]
    heldout = pd.util.hash_pandas_object(frame["question"], index=False) % 20 == 0
    frame[~heldout].to_parquet(out / "train.parquet", compression="zstd")
    frame[heldout].to_parquet(out / "heldout.parquet", compression="zstd")
    pack_by_hand(frame[~heldout], out)
    print(f"by hand: {len(frame)} rows are left", flush=True)


def pack_by_hand(frame: Any, out: Path) -> None:
    """Tokens put together in the order of the rows; the tokenizer has all cores."""
    import pandas as pd

    tokenizer = Tokenizer.from_file(str(out.parent / "tokenizer/tokenizer.json"))
    packs: list[list[int]] = [[]]
    for start in range(0, len(frame), 1000):
        part = frame.iloc[start : start + 1000]
        prompts = (part["question"] + "\n\n" + part["answer"] + "\n\n").tolist()
        encoded = tokenizer.encode_batch(prompts)
        corrected = tokenizer.encode_batch(part["correction"].tolist())
        for one, other in zip(encoded, corrected, strict=True):
            document = [*one.ids, *other.ids, EOS_ID]
            if len(packs[-1]) + len(document) > 2048:
                packs.append([])
            packs[-1] += document
    pd.DataFrame({"input_ids": packs}).to_parquet(out / "packed.parquet", compression="zstd")


def theirs(folder: Path, count: int) -> float:
    """Rows per second."""
    out = folder / "by_hand"
    out.mkdir()
    command = [sys.executable, __file__, "--by-hand", str(folder / str(count)), str(out)]
    start = time.perf_counter()
    subprocess.run(command, check=True, env=environment())
    return count / (time.perf_counter() - start)


# --- both -----------------------------------------------------------------------------------------


def line(name: str, one: float, other: float, ratio: float, bar: float, *, ok: bool) -> None:
    verdict = "ok" if ok else "short"
    print(f"BENCH {name} {one:.0f} {other:.0f} {ratio:.2f} {bar} {verdict}", flush=True)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--by-hand", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.by_hand is not None:
        by_hand(*arguments.by_hand)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_config(folder)
        for count in (arguments.small, arguments.large):
            write_rows(folder / str(count), count)
        _, small_mib = ours(folder, config, arguments.small)
        peer = theirs(folder, arguments.small)
        rate, large_mib = ours(folder, config, arguments.large)
    ratio, growth = rate / peer, large_mib / small_mib
    line("scale_rows_per_s", rate, peer, ratio, RATE_BAR, ok=ratio >= RATE_BAR)
    line(
        "scale_peak_memory_ratio", large_mib, small_mib, growth, MEMORY_BAR, ok=growth <= MEMORY_BAR
    )


if __name__ == "__main__":
    main()
