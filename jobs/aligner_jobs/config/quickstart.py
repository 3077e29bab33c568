"""Config of ``aligner quickstart``; the stages' own settings are those of the shipped files."""

from aligner.config import StrictModel


class QuickstartConfig(StrictModel):
    """The whole road in a simulated world."""

    out: str = "quickstart"
    """Folder for everything the run makes; a second run with the same settings resumes there."""

    seed: int = 0
    """Of the world: another seed has other places, facts, questions and answers."""

    upstream: str = "iron"
    """Simulated model that answers the one served request at the end."""

    build_dataset: tuple[str, ...] = ()
    """Further ``key=value`` for ``jobs/configs/build-dataset/simworld.yaml``."""

    train: tuple[str, ...] = ()
    """Further ``key=value`` for ``jobs/configs/train/tiny.yaml``."""

    evaluate: tuple[str, ...] = ()
    """Further ``key=value`` for ``jobs/configs/evaluate/simworld.yaml``."""

    promote: tuple[str, ...] = ()
    """Further ``key=value`` for ``jobs/configs/promote/default.yaml``."""

    serve: tuple[str, ...] = ()
    """Further ``key=value`` for ``serve/configs/quickstart.yaml``."""
