import asyncio
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from aligner.feedback import FeedbackRow
from aligner_serve.config.feedback import FeedbackConfig
from aligner_serve.feedback_store import FeedbackFiles, Kept, Write


def row(number: int, *, words: int = 1) -> FeedbackRow:
    return FeedbackRow(
        request_id=f"r-{number}",
        at_ms=number,
        model="iron+fixer",
        verdict="accept",
        question="Why?",
        answer="word " * words,
        correction="Because.",
    )


def store(folder: Path, *, write: Write | None = None, **settings: Any) -> FeedbackFiles:
    return FeedbackFiles(FeedbackConfig(uri=str(folder), **settings), write=write)


def whole_rows(folder: Path) -> list[dict[str, Any]]:
    """What a killed process did not finish has no end of line, and is at the end of its file."""
    ended = [file.read_bytes().split(b"\n")[:-1] for file in sorted(folder.glob("*.jsonl"))]
    return [json.loads(line) for lines in ended for line in lines]


def kept(folder: Path) -> list[str]:
    return [one["request_id"] for one in whole_rows(folder)]


def keep_all(files: FeedbackFiles, *rows: FeedbackRow) -> list[Kept]:
    async def run() -> list[Kept]:
        return await asyncio.gather(*(files.keep(one) for one in rows))

    return asyncio.run(run())


class Stuck:
    """A disk that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.blocks: list[bytes] = []

    def __call__(self, lines: bytes) -> None:
        self.go.wait(20)
        self.blocks.append(lines)


def test_rows_are_on_the_disk_when_they_are_told_as_kept(tmp_path: Path) -> None:
    files = store(tmp_path / "new" / "folder")
    assert keep_all(files, *(row(number) for number in range(50))) == ["kept"] * 50
    assert keep_all(files, row(50)) == ["kept"]
    assert kept(tmp_path / "new" / "folder") == [f"r-{number}" for number in range(51)]


def test_only_their_owner_may_read_them(tmp_path: Path) -> None:
    keep_all(store(tmp_path / "said"), row(1))
    (file,) = (tmp_path / "said").iterdir()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_each_replica_writes_a_file_of_its_own(tmp_path: Path) -> None:
    for number in range(3):
        keep_all(store(tmp_path), row(number))
    assert len(list(tmp_path.iterdir())) == 3
    assert sorted(kept(tmp_path)) == ["r-0", "r-1", "r-2"]


def test_what_waits_for_a_write_goes_with_the_next_one(tmp_path: Path) -> None:
    disk = Stuck()
    files = store(tmp_path, write=disk)

    async def run() -> None:
        asks = [asyncio.create_task(files.keep(row(0)))]
        await asyncio.sleep(0.05)
        asks += [asyncio.create_task(files.keep(row(number))) for number in range(1, 9)]
        await asyncio.sleep(0.05)
        disk.go.set()
        assert set(await asyncio.gather(*asks)) == {"kept"}

    asyncio.run(run())
    assert [block.count(b"\n") for block in disk.blocks] == [1, 8]


def test_more_than_may_wait_is_turned_away(tmp_path: Path) -> None:
    disk = Stuck()
    files = store(tmp_path, write=disk, max_waiting=3)

    async def run() -> list[Kept]:
        asks = [asyncio.create_task(files.keep(row(number))) for number in range(5)]
        await asyncio.sleep(0.05)
        disk.go.set()
        return await asyncio.gather(*asks)

    assert sorted(asyncio.run(run())) == ["busy", "busy", "kept", "kept", "kept"]


def test_no_more_is_written_than_may_be(tmp_path: Path) -> None:
    size = len(row(0).line())
    files = store(tmp_path, max_bytes=2 * size)
    assert keep_all(files, row(0)) == ["kept"]
    assert keep_all(files, row(1), row(2)) == ["kept", "full"]
    assert kept(tmp_path) == ["r-0", "r-1"]


def test_a_disk_that_hangs_costs_no_more_than_its_time(tmp_path: Path) -> None:
    disk = Stuck()
    files = store(tmp_path, write=disk, timeout_s=0.05)

    async def run() -> Kept:
        told = await files.keep(row(0))
        disk.go.set()
        return told

    assert asyncio.run(run()) == "away"


def test_a_disk_that_fails_is_told_and_can_come_back(tmp_path: Path) -> None:
    full = [True]
    taken: list[bytes] = []

    def write(lines: bytes) -> None:
        if full[0]:
            raise OSError(28, "No space left on device")
        taken.append(lines)

    files = store(tmp_path, write=write, max_bytes=len(row(0).line()))
    assert keep_all(files, row(0)) == ["away"]
    full[0] = False
    assert keep_all(files, row(0)) == ["kept"]
    assert len(taken) == 1


def test_half_a_write_is_taken_back(tmp_path: Path) -> None:
    """On a disk that fills up: the kernel writes what fits, then says there is no room."""
    limit = len(row(0).line()) * 2 + 10
    script = (
        "import resource, signal, sys\n"
        # Or the limit would cut off what Python compiles.
        "sys.dont_write_bytecode = True\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_feedback_store import keep_all, row, store\n"
        f"files = store(Path({str(tmp_path)!r}))\n"
        "print(keep_all(files, row(0)), keep_all(files, row(1), row(2)), keep_all(files, row(3)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "['kept'] ['away', 'away'] ['kept']", done.stderr
    assert kept(tmp_path) == ["r-0", "r-3"]


_KEEPER = """
import asyncio, sys
sys.path[:0] = {path!r}
from pathlib import Path
from test_feedback_store import row, store

async def run():
    files = store(Path({folder!r}))
    for start in range(0, 1_000_000, 8):
        numbers = range({first} + start, {first} + start + 8)
        told = await asyncio.gather(*(files.keep(row(n, words=4000)) for n in numbers))
        for number, one in zip(numbers, told):
            if one == "kept":
                print(number, flush=True)

asyncio.run(run())
"""


def test_what_was_told_as_kept_survives_a_kill(tmp_path: Path) -> None:
    told: list[str] = []
    for attempt in range(4):
        script = _KEEPER.format(
            path=[*sys.path, str(Path(__file__).parent)],
            folder=str(tmp_path),
            first=attempt * 1_000_000,
        )
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(8 * (attempt + 1)):
                told.append(f"r-{int(process.stdout.readline())}")
            process.send_signal(signal.SIGKILL)
            told += [f"r-{int(line)}" for line in process.stdout if line.endswith(b"\n")]
    whole = whole_rows(tmp_path)
    assert set(told) <= {one["request_id"] for one in whole}
    assert all(len(one["answer"]) == 20_000 for one in whole)
    assert len(told) >= 80
