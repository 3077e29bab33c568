"""Which adapters may be added to which model; ``test_engine_serving.py`` adds them."""

from pathlib import Path

import pytest

from aligner import exports
from aligner.errors import AlignerError, ConfigError, ContractMismatch
from aligner.manifest import Manifest
from aligner.prompt import PLAIN
from aligner_serve import adapters
from aligner_serve.config.graph import GraphConfig
from aligner_serve.release import Weights


def model(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def weights(folder: Path, base: Path | None) -> Weights:
    facts = {}
    if base is not None:
        fact = exports.Adapter(base=str(base), base_hash=exports.weights_hash(base), rank=4)
        facts = {exports.ADAPTER: fact.model_dump()}
    return Weights(
        folder,
        Manifest(
            kind="export",
            name="one",
            prompt=PLAIN,
            prompt_fingerprint=PLAIN.fingerprint,
            facts=facts,
        ),
    )


def test_adapters_of_one_model_stand_side_by_side(tmp_path: Path) -> None:
    base = model(tmp_path / "base", b"weights")
    # The same model in another place.
    copy = model(tmp_path / "copy", b"weights")
    released = {name: weights(tmp_path / name, copy) for name in ("first", "second")}
    assert adapters.folders(released, base=base) == {
        "first": tmp_path / "first" / "adapter",
        "second": tmp_path / "second" / "adapter",
    }


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    base, other = model(tmp_path / "base", b"weights"), model(tmp_path / "other", b"others")
    released = {"first": weights(tmp_path, base), "models:/second/3": weights(tmp_path, other)}
    with pytest.raises(ContractMismatch, match=r"models:/second/3: .* trained on another model"):
        adapters.folders(released, base=base)


def test_an_export_without_an_adapter_is_refused(tmp_path: Path) -> None:
    base = model(tmp_path / "base", b"weights")
    with pytest.raises(ContractMismatch, match=r"holds no adapter .* export.adapter=true"):
        adapters.folders({"first": weights(tmp_path, None)}, base=base)


def test_a_base_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model lies in"):
        adapters.base_folder(str(tmp_path), cache=str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": {"kind": "shared", "aligner": "nobody"}}, "can be shared"),
        ({"engine": {"kind": "shared", "aligner": "second"}}, "can be shared"),
        ({"engine": {"kind": "shared", "aligner": "lone"}}, "can be shared; set engine.base"),
        (
            {"engine": {"kind": "shared", "aligner": "first"}, "scaling": {"max_replicas": 2}},
            "scaling has no effect",
        ),
    ],
)
def test_a_shared_engine_is_one_that_can_be_shared(
    changes: dict[str, object], message: str
) -> None:
    source = {"kind": "path", "uri": "nowhere"}
    with pytest.raises((AlignerError, ValueError), match=message):
        GraphConfig.model_validate(
            {
                "base_url": "http://127.0.0.1:9/v1",
                "upstreams": {"up": {}},
                "aligners": {
                    "first": {"source": source, "engine": {"base": "model"}},
                    "lone": {"source": source},
                    "second": {"source": source, **changes},
                },
            }
        )


def test_engines_are_found_by_whom_they_work_for() -> None:
    source = {"kind": "path", "uri": "nowhere"}
    config = GraphConfig.model_validate(
        {
            "base_url": "http://127.0.0.1:9/v1",
            "upstreams": {"up": {}},
            "aligners": {
                "first": {"source": source, "engine": {"base": "model", "num_gpus": 2}},
                "lone": {"source": source},
                "second": {"source": source, "engine": {"kind": "shared", "aligner": "first"}},
            },
        }
    )
    assert config.engine_of("second").num_gpus == 2
    assert [config.host_of(name) for name in config.aligners] == ["first", "lone", "first"]
    assert [config.guests_of(name) for name in config.aligners] == [["second"], [], []]
    again = GraphConfig.model_validate(config.model_dump(mode="json"))
    assert again == config
