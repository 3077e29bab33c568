import contextlib
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import boto3
import keep_reports
import pytest
from moto.server import ThreadedMotoServer

from aligner import artefacts
from aligner.errors import AlignerError, ConfigError, ContractMismatch, DataError
from aligner.keeping import KEEP_TAG, KeepCalibration, KeepPoint
from aligner.manifest import Manifest
from aligner.prompt import PLAIN
from aligner.tracking import ModelVersion, Run, TrackingConfig
from aligner_serve import release
from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.release import FromPath, FromRegistry

UNUSED = TrackingConfig(uri="sqlite:///unused.db")


class Registry:
    """A tracker that knows one version, behind one alias."""

    def __init__(self, source: str, tags: Mapping[str, str]) -> None:
        self._version = ModelVersion("fixer", "3", source, tags=tags)

    def require_answer(self) -> None:
        pass

    def version(self, name: str, version_or_alias: str) -> ModelVersion:
        if (name, version_or_alias) != ("fixer", "@champion"):
            raise DataError(f"model {name!r} has no version or alias {version_or_alias!r}.")
        return self._version

    def run(
        self, name: str, *, parent_run_id: str | None = None, run_id: str | None = None
    ) -> AbstractContextManager[Run]:
        raise NotImplementedError

    def register(
        self, name: str, *, source: str, run_id: str, tags: Mapping[str, str]
    ) -> ModelVersion:
        raise NotImplementedError

    def set_alias(self, name: str, alias: str, version: str) -> None:
        raise NotImplementedError

    def set_version_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        raise NotImplementedError


@pytest.fixture
def export(tmp_path: Path) -> tuple[str, Manifest]:
    """An export with files, but without a model in them."""
    return make_export(str(tmp_path / "export"))


def make_export(uri: str) -> tuple[str, Manifest]:
    with artefacts.staging(uri) as staging:
        (staging.path / "config.json").write_text('{"max_position_embeddings": 128}')
        (staging.path / "model.safetensors").write_bytes(b"weights")
        manifest = staging.publish(
            kind="export", name="e", prompt=PLAIN, prompt_fingerprint=PLAIN.fingerprint
        )
    return uri, manifest


def by_alias(version: str = "@champion", model: str = "fixer") -> FromRegistry:
    return FromRegistry(model=model, version=version)


def by_path(uri: str) -> FromPath:
    return FromPath(uri=uri)


def graph(**aligners: object) -> GraphConfig:
    return GraphConfig.model_validate(
        {"base_url": "http://127.0.0.1:9/v1", "upstreams": {"up": {}}, "aligners": aligners}
    )


def tags(manifest: Manifest) -> dict[str, str]:
    return {
        "prompt_fingerprint": manifest.prompt_fingerprint,
        "export_hash": manifest.content_hash,
    }


def rewrite(uri: str, **changes: object) -> None:
    path = Path(uri) / "manifest.json"
    raw = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps(raw), encoding="utf-8")


def told(error: pytest.ExceptionInfo[AlignerError]) -> str:
    """The message, which must be one sentence and cause exit code 2."""
    text = str(error.value)
    assert error.value.exit_code == 2
    assert "\n" not in text and text.endswith(".")
    return text


def test_an_alias_leads_to_verified_weights(export: tuple[str, Manifest], tmp_path: Path) -> None:
    uri, manifest = export
    found = release.resolve(by_alias(), UNUSED, tracker=Registry(uri, tags(manifest)))
    assert found.version == "models:/fixer/3"
    assert found.content_hash == manifest.content_hash
    weights = release.fetch(found, cache=str(tmp_path / "cache"))
    assert weights.folder == Path(uri)
    assert weights.context_tokens == 128


def test_a_folder_is_served_without_any_registry(export: tuple[str, Manifest]) -> None:
    uri, manifest = export
    found = release.resolve(by_path(uri), UNUSED)
    assert found.version == manifest.content_hash[:12]


def test_a_release_survives_its_trip_to_another_process(export: tuple[str, Manifest]) -> None:
    found = release.resolve(by_path(export[0]), UNUSED)
    assert release.Release.model_validate(found.model_dump(mode="json")) == found


def test_a_missing_alias_is_told(export: tuple[str, Manifest]) -> None:
    with pytest.raises(DataError, match="has no version or alias '@nobody'"):
        release.resolve(by_alias("@nobody"), UNUSED, tracker=Registry(export[0], {}))


def test_a_missing_database_is_told_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "typo" / "mlflow.db"
    with pytest.raises(DataError) as error:
        release.resolve(by_alias(), TrackingConfig(uri=f"sqlite:///{path}"))
    assert str(path) in told(error)
    assert not path.parent.exists()


def test_a_prompt_that_this_code_renders_otherwise_is_refused(
    export: tuple[str, Manifest],
) -> None:
    rewrite(export[0], prompt_fingerprint="0" * 12)
    with pytest.raises(ContractMismatch) as error:
        release.resolve(by_path(export[0]), UNUSED)
    assert "0" * 12 in told(error) and PLAIN.fingerprint in told(error)


@pytest.mark.parametrize("wrong", [{"prompt_fingerprint": "f" * 12}, {"export_hash": "f" * 64}])
def test_a_registry_that_tells_of_another_export_is_refused(
    export: tuple[str, Manifest], wrong: dict[str, str]
) -> None:
    uri, manifest = export
    with pytest.raises(ContractMismatch) as error:
        release.resolve(by_alias(), UNUSED, tracker=Registry(uri, {**tags(manifest), **wrong}))
    assert "models:/fixer/3" in told(error)


def test_a_version_without_a_fingerprint_is_refused(export: tuple[str, Manifest]) -> None:
    with pytest.raises(ContractMismatch, match="is missing"):
        release.resolve(by_alias(), UNUSED, tracker=Registry(export[0], {}))


def test_no_export_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        release.resolve(by_path(str(tmp_path / "nothing")), UNUSED)
    assert "manifest.json is missing" in told(error)


def test_every_seat_of_a_graph_has_its_release(export: tuple[str, Manifest]) -> None:
    uri, manifest = export
    config = graph(
        fixer={
            "source": by_alias().model_dump(),
            "challenger": {"kind": "shadow", "source": by_path(uri).model_dump()},
        },
        other={"source": by_path(uri).model_dump()},
    )
    registry = release.Registry(config, tracker=Registry(uri, tags(manifest)))
    found = registry.resolve_all()
    assert {seat: one.version for seat, one in found.items()} == {
        "fixer": "models:/fixer/3",
        "fixer (challenger)": manifest.content_hash[:12],
        "other": manifest.content_hash[:12],
    }
    registry.fetch("fixer (challenger)", found["fixer (challenger)"])


def test_a_release_that_is_too_short_for_its_seat_is_refused(
    export: tuple[str, Manifest],
) -> None:
    uri, _ = export
    config = graph(
        fixer={"source": by_path(uri).model_dump(), "engine": {"max_model_len_tokens": 129}}
    )
    registry = release.Registry(config)
    with pytest.raises(ConfigError, match="129 is more than the 128"):
        registry.fetch("fixer", registry.resolve("fixer"))


def calibration(manifest: Manifest) -> KeepCalibration:
    drawn = (KeepPoint(threshold=-0.5, kept_good=0.8, kept_flawed=0.0),)
    return keep_reports.calibration(manifest, threshold=-0.5).model_copy(update={"curve": drawn})


def test_what_a_version_keeps_answers_by_is_part_of_its_release(
    export: tuple[str, Manifest],
) -> None:
    uri, manifest = export
    carried = {**tags(manifest), KEEP_TAG: calibration(manifest).to_tag()}
    config = graph(
        keeps={"source": by_alias().model_dump(), "keep": {}},
        decodes={"source": by_alias().model_dump()},
    )
    found = release.Registry(config, tracker=Registry(uri, carried)).resolve_all()
    # The curve is for people.
    assert found["keeps"].keep == calibration(manifest).model_copy(update={"curve": ()})
    assert found["decodes"].keep is None
    assert release.Release.model_validate(found["keeps"].model_dump(mode="json")) == found["keeps"]


def test_nothing_is_kept_without_a_calibration(export: tuple[str, Manifest]) -> None:
    uri, manifest = export
    tracker = Registry(uri, tags(manifest))
    config = graph(
        fixer={
            "source": by_path(uri).model_dump(),
            "challenger": {"kind": "canary", "source": by_alias().model_dump(), "share": 0.5},
            "keep": {},
        }
    )
    registry = release.Registry(config, tracker=tracker)
    carriers = {"fixer": manifest.content_hash[:12], "fixer (challenger)": "models:/fixer/3"}
    for seat, where in carriers.items():
        with pytest.raises(ConfigError) as error:
            registry.resolve(seat)
        assert where in told(error) and "keep" in told(error)


def test_only_what_may_move_is_watched() -> None:
    assert by_alias().moves and by_alias("latest").moves
    assert not by_alias("3").moves and not by_path("somewhere").moves


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_file_is_told(export: tuple[str, Manifest], damage: str, tmp_path: Path) -> None:
    found = release.resolve(by_path(export[0]), UNUSED)
    weights = Path(export[0]) / "model.safetensors"
    if damage == "changed":
        weights.write_bytes(b"weighty")
    else:
        weights.unlink()
    with pytest.raises(DataError) as error:
        release.fetch(found, cache=str(tmp_path / "cache"))
    assert "model.safetensors" in told(error)


def test_an_export_put_in_the_place_of_the_released_one_is_refused(
    export: tuple[str, Manifest], tmp_path: Path
) -> None:
    found = release.resolve(by_path(export[0]), UNUSED)
    other = found.model_copy(update={"content_hash": "f" * 64})
    with pytest.raises(ContractMismatch, match="is not the export"):
        release.fetch(other, cache=str(tmp_path / "cache"))


@pytest.mark.parametrize(("wanted", "context"), [(None, 128), (64, 64), (128, 128)])
def test_the_context_is_the_models_or_less(
    export: tuple[str, Manifest], wanted: int | None, context: int
) -> None:
    weights = release.Weights(Path(export[0]), export[1])
    assert release.require_context(weights, wanted) == context


def test_a_longer_context_than_the_models_is_refused(export: tuple[str, Manifest]) -> None:
    with pytest.raises(ConfigError) as error:
        release.require_context(release.Weights(Path(export[0]), export[1]), 129)
    assert "129" in told(error) and "128" in told(error)


@pytest.mark.parametrize(
    ("prompt", "answer", "room"),
    [
        (50, 20, 50),
        (74, 20, 26),
        (75, 20, None),
        (10, 39, 50),
        (10, 40, None),
        (100, 0, None),
        (99, 0, 1),
    ],
)
def test_a_pair_fits_only_with_room_for_its_correction(
    prompt: int, answer: int, room: int | None
) -> None:
    got = release.room_tokens(
        prompt=prompt, answer=answer, context=100, max_tokens=50, headroom_ratio=1.25
    )
    assert got == room


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a real S3-compatible server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    with contextlib.closing(boto3.client("s3")) as client:
        client.create_bucket(Bucket="models")
    yield "models"
    server.stop()


def test_an_export_on_s3_is_fetched_once_and_verified(bucket: str, tmp_path: Path) -> None:
    uri, manifest = make_export(f"s3://{bucket}/sound")
    found = release.resolve(by_path(uri), UNUSED)
    cache = tmp_path / "cache"
    weights = release.fetch(found, cache=str(cache))
    assert weights.folder == cache / manifest.content_hash
    assert (weights.folder / "model.safetensors").read_bytes() == b"weights"
    before = weights.folder.stat().st_mtime_ns
    assert release.fetch(found, cache=str(cache)).folder.stat().st_mtime_ns == before


def test_a_damaged_export_on_s3_leaves_nothing_in_the_cache(bucket: str, tmp_path: Path) -> None:
    uri, _ = make_export(f"s3://{bucket}/damaged")
    found = release.resolve(by_path(uri), UNUSED)
    with contextlib.closing(boto3.client("s3")) as client:
        client.put_object(Bucket=bucket, Key="damaged/model.safetensors", Body=b"weighty")
    with pytest.raises(DataError, match=r"model\.safetensors"):
        release.fetch(found, cache=str(tmp_path / "cache"))
    assert list((tmp_path / "cache").iterdir()) == []
