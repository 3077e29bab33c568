"""Strict configuration: one model per program, read from YAML and ``--set key=value``."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from aligner.errors import ConfigError


class StrictModel(BaseModel):
    """Base of every config: frozen, no unknown keys, the docstring under a field describes it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


ModelT = TypeVar("ModelT", bound=BaseModel)


def kind_or(default: str) -> Callable[[Any], Any]:
    """How the members of a union are told apart by ``kind``, which the usual one need not name."""

    def kind(raw: Any) -> Any:
        return raw.get("kind", default) if isinstance(raw, dict) else getattr(raw, "kind", None)

    return kind


def load(model: type[ModelT], path: Path | str, overrides: Sequence[str] = ()) -> ModelT:
    """Read ``path`` as YAML, apply ``overrides`` (``a.b=value``, value in YAML) and validate.

    Raises:
        ConfigError: The file is missing, is no YAML mapping, or does not fit ``model``;
            the sentence names the file and the line or key.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read ({reason}); check the path.") from None
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(exc, "problem", None) or "not YAML"
        raise ConfigError(f"{where}: broken YAML, {problem}; fix that line.") from None
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds a {type(raw).__name__}, expected keys and values.")
    for override in overrides:
        _apply(raw, override)
    return validate(model, raw, where=str(path))


def validate_overrides(
    model: type[ModelT], raw: dict[str, Any], overrides: Sequence[str]
) -> ModelT:
    """Validate ``raw`` with ``overrides`` applied, for programs whose defaults are built in."""
    raw = dict(raw)
    for override in overrides:
        _apply(raw, override)
    return validate(model, raw, where="--set" if overrides else "command line")


def validate(model: type[ModelT], raw: object, *, where: str) -> ModelT:
    """Validate ``raw`` into ``model``; every problem is named in one :class:`ConfigError`."""
    try:
        return model.model_validate(raw)
    except ValidationError as exc:
        problems = "; ".join(_sentence(model, raw, error) for error in exc.errors())
        raise ConfigError(f"{where}: {problems}.") from None


def _apply(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override!r}: write it as key=value, for example seed=7.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override!r}: the value is not YAML; quote it.") from None
    *parents, leaf = key.strip().split(".")
    node = raw
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is a value without keys.")
        node = child
    node[leaf] = value


def _sentence(model: type[BaseModel], raw: object, error: ErrorDetails) -> str:
    key = _written_key(raw, error["loc"]) or "the whole"
    if error["type"] == "extra_forbidden":
        wrong = str(error["loc"][-1])
        near = difflib.get_close_matches(wrong, sorted(set(_field_names(model))), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "remove it"
        return f"key {key!r} is unknown, {hint}"
    if error["type"] == "missing":
        return f"key {key!r} is missing, add it"
    message = error["msg"].removeprefix("Value error, ").rstrip(".")
    return f"key {key!r}: {message[:1].lower()}{message[1:]}"


def _written_key(raw: Any, loc: tuple[int | str, ...]) -> str:
    """``loc`` as the user wrote it: pydantic also names which member of a union it tried."""
    parts = []
    for part in loc[:-1]:
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            continue
        parts.append(part)
    return ".".join(str(part) for part in (*parts, *loc[-1:]))


def _field_names(model: type[BaseModel]) -> Iterator[str]:
    """Names of all fields of ``model`` and of the models nested in it, for suggestions."""
    for name, field in model.model_fields.items():
        yield name
        pending = [field.annotation]
        while pending:
            annotation = pending.pop()
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield from _field_names(annotation)
            else:
                pending.extend(get_args(annotation))
