"""Manifests: what an artefact is, what it was made from, and where each row went."""

import datetime
import hashlib
import importlib.metadata
import json
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from aligner.config import StrictModel
from aligner.errors import ContractMismatch
from aligner.prompt import PromptTemplate

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"
PAGE_FILE = "report.html"
"""Shows people what is in an artefact and how the run went that made it; no part of its content."""

Kind = Literal["dataset", "export", "report"]


class FunnelStep(StrictModel):
    """One step of the pipeline: ``rows_in`` less everything ``dropped`` is ``rows_out``."""

    step: str
    rows_in: int = Field(ge=0)
    rows_out: int = Field(ge=0)
    dropped: dict[str, int] = Field(default_factory=dict)
    """Reason to number of rows."""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.rows_in - sum(self.dropped.values()) != self.rows_out:
            raise ValueError(f"step {self.step!r} does not add up: {self.model_dump()}")
        return self


class Parent(StrictModel):
    """An artefact that this one was made from."""

    kind: Kind
    uri: str
    content_hash: str


class FileEntry(StrictModel):
    """One file of the artefact."""

    size_bytes: int
    sha256: str


class Manifest(StrictModel):
    """Stands in every artefact's folder as ``manifest.json``, written last."""

    kind: Kind
    name: str
    prompt: PromptTemplate
    prompt_fingerprint: str
    """Fingerprint of ``prompt`` when the artefact was made; see :meth:`require_fingerprint`."""
    schema_version: int = SCHEMA_VERSION
    parents: tuple[Parent, ...] = ()
    counts: dict[str, int] = Field(default_factory=dict)
    """Rows per split of a dataset, or whatever else this kind counts."""
    funnel: tuple[FunnelStep, ...] = ()
    """Unit: rows. Each step begins with what the one before left over."""
    facts: dict[str, Any] = Field(default_factory=dict)
    """Further facts of this kind of artefact: sizes, seconds, sources read."""
    spec: dict[str, Any] = Field(default_factory=dict)
    """The config that made it."""
    files: dict[str, FileEntry] = Field(default_factory=dict)
    """By path relative to the artefact, in POSIX form."""
    created_at: str = ""
    code_version: str = ""
    git_revision: str | None = None

    @model_validator(mode="after")
    def _funnel_chains(self) -> Self:
        for before, after in pairwise(self.funnel):
            if before.rows_out != after.rows_in:
                raise ValueError(
                    f"funnel: {before.step!r} leaves {before.rows_out} rows, "
                    f"{after.step!r} begins with {after.rows_in}"
                )
        return self

    @property
    def content_hash(self) -> str:
        """SHA-256 over kind, prompt and files: equal content has an equal hash, whenever made."""
        files = {name: one.sha256 for name, one in sorted(self.files.items()) if name != PAGE_FILE}
        content = {
            "kind": self.kind,
            "schema_version": self.schema_version,
            "prompt_fingerprint": self.prompt_fingerprint,
            "files": files,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def as_parent(self, uri: str) -> Parent:
        """This artefact, as a child names it."""
        return Parent(kind=self.kind, uri=uri, content_hash=self.content_hash)

    def require_fingerprint(self, *, where: str) -> PromptTemplate:
        """Return the template if this code still renders it as the artefact's maker did.

        Raises:
            ContractMismatch: The stored fingerprint and the one of today's rendering differ.
        """
        rendered = self.prompt.fingerprint
        if rendered != self.prompt_fingerprint:
            raise ContractMismatch(
                f"{where}: the {self.kind} was made with correction prompt "
                f"{self.prompt_fingerprint}, this code renders {rendered}; "
                f"rebuild the {self.kind} or use the code that made it."
            )
        return self.prompt


def provenance() -> dict[str, Any]:
    """``created_at``, ``code_version`` and ``git_revision`` of an artefact made now."""
    try:
        version = importlib.metadata.version("aligner-platform")
    except importlib.metadata.PackageNotFoundError:
        version = "uninstalled"
    return {
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "code_version": version,
        "git_revision": _git_revision(),
    }


def _git_revision() -> str | None:
    """Revision of the checkout this code runs from, ``None`` for an installed wheel."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
