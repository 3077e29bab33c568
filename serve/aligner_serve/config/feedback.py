"""Where feedback is kept. Free of ray, torch and fastapi."""

from pathlib import Path

from pydantic import Field, field_validator

from aligner.config import StrictModel


class FeedbackConfig(StrictModel):
    """What users say of corrections, kept as rows that ``aligner build-dataset`` reads."""

    uri: str
    """Folder, on this machine or on ``s3://``. The rows hold texts of users in the clear."""

    max_bytes: int = Field(default=2**30, ge=1)
    """What one replica of the gateway writes at most; further feedback is refused."""

    max_waiting: int = Field(default=256, ge=1)
    """Rows on their way to the disk; the next one is turned away with 429."""

    timeout_s: float = Field(default=10.0, gt=0)
    """For a row to be on the disk, or in the object store; longer is 503."""

    @field_validator("uri")
    @classmethod
    def _absolute(cls, value: str) -> str:
        # The replicas that write need not run in the folder that the command was started in.
        return value if "://" in value else str(Path(value).expanduser().absolute())
