import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from aligner import artefacts, exports
from aligner.errors import ContractMismatch, DataError
from aligner.manifest import Manifest
from aligner.prompt import PLAIN
from aligner.tracking import ModelVersion


def publish(folder: Path | str, config: dict[str, object] | None = None) -> tuple[str, Manifest]:
    uri = f"{folder}/export"
    with artefacts.staging(uri) as stage:
        content = {"max_position_embeddings": 512} if config is None else config
        (stage.path / "config.json").write_text(json.dumps(content))
        manifest = stage.publish(
            kind="export", name="e", prompt=PLAIN, prompt_fingerprint=PLAIN.fingerprint
        )
    return uri, manifest


def version(uri: str, **tags: str) -> ModelVersion:
    return ModelVersion(name="m", version="3", source=uri, tags=tags)


def test_only_exports_that_correct_answers_are_aligners(tmp_path: Path) -> None:
    _, manifest = publish(tmp_path)
    assert exports.require_aligner(manifest, where="here") == PLAIN
    upstream = manifest.model_copy(update={"spec": {"objective": {"kind": "dpo"}}})
    with pytest.raises(ContractMismatch, match=r"here: was trained with objective\.kind=dpo"):
        exports.require_aligner(upstream, where="here")


def test_a_local_export_is_verified_and_used_where_it_stands(tmp_path: Path) -> None:
    uri, manifest = publish(tmp_path)
    assert exports.fetch(uri, manifest, into=tmp_path / "cache") == Path(uri)
    assert exports.context_tokens(Path(uri)) == 512
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("saved", "wanted", "computed"),
    [
        ({"dtype": "bfloat16"}, "float32", "float32"),
        ({"dtype": "bfloat16"}, "auto", "bfloat16"),
        ({"torch_dtype": "float16"}, "auto", "float16"),
        ({"dtype": "float32"}, "auto", "bfloat16"),
        ({}, "auto", "bfloat16"),
    ],
)
def test_it_is_known_what_a_model_is_computed_in(
    tmp_path: Path, saved: dict[str, object], wanted: str, computed: str
) -> None:
    uri, _ = publish(tmp_path, saved)
    assert exports.computed_in(Path(uri), wanted) == computed


def test_a_damaged_export_is_refused(tmp_path: Path) -> None:
    uri, manifest = publish(tmp_path)
    (Path(uri) / "config.json").write_text("{}")
    with pytest.raises(DataError, match="differs from its manifest"):
        exports.fetch(uri, manifest, into=tmp_path)


def test_a_model_of_unknown_length_is_refused(tmp_path: Path) -> None:
    uri, _ = publish(tmp_path, config={})
    with pytest.raises(DataError, match="max_position_embeddings"):
        exports.context_tokens(Path(uri))


def test_a_version_and_its_export_must_speak_of_the_same(tmp_path: Path) -> None:
    uri, manifest = publish(tmp_path)
    same = {"export_hash": manifest.content_hash, "prompt_fingerprint": PLAIN.fingerprint}
    exports.require_same(version(uri, **same), manifest)
    with pytest.raises(ContractMismatch, match="models:/m/3: was registered with export_hash"):
        exports.require_same(version(uri, **{**same, "export_hash": "00"}), manifest)
    with pytest.raises(ContractMismatch, match="prompt_fingerprint 00"):
        exports.require_same(version(uri, **{**same, "prompt_fingerprint": "00"}), manifest)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """``s3://`` address of a bucket on a real S3-compatible server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with contextlib.closing(boto3.client("s3")) as client:
        client.create_bucket(Bucket="models")
    yield "s3://models"
    server.stop()


def test_an_export_on_s3_is_copied_and_verified(bucket: str, tmp_path: Path) -> None:
    uri, manifest = publish(f"{bucket}/here")
    folder = exports.fetch(uri, manifest, into=tmp_path)
    assert folder.is_relative_to(tmp_path)
    assert exports.context_tokens(folder) == 512


def test_an_export_that_is_gone_from_s3_is_one_sentence(bucket: str, tmp_path: Path) -> None:
    _, manifest = publish(f"{bucket}/once")
    with pytest.raises(DataError, match=r"s3://models/elsewhere: cannot be fetched"):
        exports.fetch(f"{bucket}/elsewhere", manifest, into=tmp_path)
