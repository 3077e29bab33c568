"""KEEP in batch: finding its threshold, or correcting with one that was found before."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from aligner.config import StrictModel, kind_or


class CalibrateKeep(StrictModel):
    """Find the threshold; every answer is corrected, none is kept."""

    kind: Literal["calibrate"] = "calibrate"

    wanted_error: float = Field(default=0.005, gt=0.0, lt=1.0)
    """Largest share of the flawed answers that may be kept."""

    confidence: float = Field(default=0.95, gt=0.0, lt=1.0)
    """That it is not exceeded in other answers of this sort. With 95 % some 3 / wanted_error flawed
    answers are needed; a report on fewer says so and has no threshold."""


class StoredKeep(StrictModel):
    """Return answers without decoding that score as high as a threshold wants."""

    kind: Literal["stored"]

    calibration: str | None = None
    """Folder or ``s3://`` prefix of the evaluation report that has it; unset: it is the one that
    the model version carries."""


Keep = Annotated[
    Annotated[CalibrateKeep, Tag("calibrate")] | Annotated[StoredKeep, Tag("stored")],
    Discriminator(kind_or("calibrate")),
]
