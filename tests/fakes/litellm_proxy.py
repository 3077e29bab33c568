"""A LiteLLM proxy that does the same two calls, in an environment of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aligner.runtime_env import free_port

VERSION = "1.106.2"
PLACE = Path("~/.cache/aligner/bench").expanduser() / f"litellm-proxy-{VERSION}"
MODEL = "corrected"
_START_S = 120.0

_HOOK = '''
import litellm
from litellm.integrations.custom_logger import CustomLogger


class Correct(CustomLogger):
    """Sends question and answer to the second model and replies with what it says."""

    async def async_post_call_success_hook(self, data, user_api_key_dict, response):
        message = response.choices[0].message
        pair = data["messages"][-1]["content"] + "\\n" + message.content
        correction = await litellm.acompletion(
            model="openai/corrector",
            api_base={base_url!r},
            api_key="none",
            messages=[{{"role": "user", "content": pair}}],
        )
        message.content = correction.choices[0].message.content
        return response


correct = Correct()
'''

_ENVIRONMENT = {
    # On loopback, for as long as it is measured; a key would only slow it down.
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
}


def install() -> Path:
    """Its program; made on first use, which takes a minute and 600 MB."""
    program = PLACE / "bin" / "litellm"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(PLACE)], check=True)
        uv = Path(sys.executable).with_name("uv")
        wanted = ["--python", str(PLACE / "bin" / "python"), f"litellm[proxy]=={VERSION}"]
        subprocess.run([str(uv), "pip", "install", "--quiet", *wanted], check=True)
    return program


@contextmanager
def proxy(base_url: str, *, workers: int = 1) -> Iterator[str]:
    """The address of its API, over an upstream and a corrector that both are at ``base_url``."""
    port = free_port()
    settings = {
        "model_list": [
            {
                "model_name": MODEL,
                "litellm_params": {"model": "openai/up", "api_base": base_url, "api_key": "none"},
            }
        ],
        "litellm_settings": {"callbacks": ["hook.correct"], "num_retries": 0},
    }
    program = install()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "hook.py").write_text(_HOOK.format(base_url=base_url), encoding="utf-8")
        # JSON is YAML.
        (Path(folder) / "proxy.yaml").write_text(json.dumps(settings), encoding="utf-8")
        process = subprocess.Popen(
            [
                *(str(program), "--config", "proxy.yaml", "--host", "127.0.0.1"),
                *("--port", str(port), "--num_workers", str(workers)),
            ],
            cwd=folder,
            env={**os.environ, **_ENVIRONMENT},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            _wait(f"http://127.0.0.1:{port}/health/liveliness", process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(process.pid, 15)
            process.wait(timeout=60)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, "the LiteLLM proxy does not start"
            assert time.monotonic() < until, "the LiteLLM proxy does not answer"
            time.sleep(0.3)
