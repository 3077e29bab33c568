"""What every test may count on; fixtures of one area stand in that area's own conftest."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from aligner.runtime_env import collect_rarely

# Before anything is imported: no test reaches out, draws windows or starts threads it need not.
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MPLBACKEND": "Agg",
        # Models of tests gain nothing from threads, which only wait where cores are shared.
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
    }
)
# A developer's own cluster or tracking server must stay out of it.
for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
    os.environ.pop(name, None)
# As our programs do; pytest looks for garbage at its end.
collect_rarely()
# Who starts the tests in the background may have Ctrl-C ignored; programs under test inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "ours",
    # How long an example takes says more of what else the machine does than of the code.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    # The same examples each time: what a new one finds should meet whoever looks for it.
    derandomize="ALIGNER_TEST_EXPLORE" not in os.environ,
)
settings.load_profile("ours")

_SLOW = ("e2e", "slow")
_SLOW_TIMEOUT_S = 900
"""Of one slow test, its fixtures included, unless its own mark says otherwise."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slow tests last: whatever a quick one can tell is known after a minute.

    Of several processes none should be left with a slow one at the end: there they come first.
    """
    several = "PYTEST_XDIST_WORKER" in os.environ
    slow = {item: any(map(item.get_closest_marker, _SLOW)) for item in items}
    items.sort(key=lambda item: slow[item], reverse=several)
    for item in items:
        if slow[item] and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_SLOW_TIMEOUT_S))


@pytest.fixture(autouse=True)
def _away_from_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow and others write into the current folder when nobody says where."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real public data sets; they are not part of the project and may lie beside it."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no real data sets at {path}")
    return path
