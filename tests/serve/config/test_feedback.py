from pathlib import Path

from aligner_serve.config.feedback import FeedbackConfig


def test_a_folder_is_the_same_wherever_a_replica_runs() -> None:
    assert FeedbackConfig(uri="said").uri == str(Path.cwd() / "said")
    assert FeedbackConfig(uri="~/said").uri == str(Path.home() / "said")
    assert FeedbackConfig(uri="s3://bucket/said").uri == "s3://bucket/said"
