"""``aligner keys``: make, list and revoke the API keys of a gateway."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from aligner_serve.keys import Key

_FILE = click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The file that access.keys of the graph names.",
)


@click.group()
def keys() -> None:
    """Make, list and revoke API keys; a running gateway sees the change within a second."""


@keys.command()
@_FILE
@click.option("--name", required=True, help="Who gets it; in logs and metrics.")
@click.option(
    "--models",
    multiple=True,
    metavar="PATTERN",
    help="May ask for these alone, for example 'iron+*'; may be repeated.",
)
@click.option("--requests-per-minute", type=int)
@click.option("--tokens-per-minute", type=int)
@click.option("--expires", metavar="DATE", help="First day on which it is no good, in UTC.")
def new(path: Path, name: str, models: tuple[str, ...], **settings: Any) -> None:
    """Make a key and print it, which happens once: the file keeps its hash alone."""
    from aligner.config import validate
    from aligner.errors import ConfigError
    from aligner_serve import keys as files

    with _sentences():
        known = files.read(path).keys if path.exists() else ()
        if name in (key.name for key in known):
            raise ConfigError(f"{path}: there is a key named {name!r}; revoke it first.")
        secret = files.new_secret()
        given = {key: value for key, value in settings.items() if value is not None}
        given |= {"models": models} if models else {}
        raw = {"name": name, "sha256": files.hash_of(secret), **given}
        files.write(path, [*known, validate(files.Key, raw, where="the new key")])
        click.echo(secret)
        click.echo(f"{name}: added to {path}; the key is shown this once.", err=True)


@keys.command("list")
@_FILE
def list_keys(path: Path) -> None:
    """Show each key's name and what it may do."""
    from aligner_serve import keys as files

    with _sentences():
        for key in files.read(path).keys:
            click.echo(_line(key))


@keys.command()
@_FILE
@click.argument("name")
def revoke(path: Path, name: str) -> None:
    """Take the key of NAME out of the file."""
    from aligner.errors import ConfigError
    from aligner_serve import keys as files

    with _sentences():
        found = files.read(path).keys
        left = [key for key in found if key.name != name]
        if len(left) == len(found):
            known = ", ".join(key.name for key in found) or "none"
            raise ConfigError(f"{path}: there is no key named {name!r}; there are: {known}.")
        files.write(path, left)
        click.echo(f"{name}: revoked")


def _line(key: "Key") -> str:
    said = {
        "models": ",".join(key.models),
        "requests/min": key.requests_per_minute,
        "tokens/min": key.tokens_per_minute,
        "expires": key.expires,
    }
    told = (f"{what} {value}" for what, value in said.items() if value is not None)
    return "  ".join([key.name, *told])


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    """Errors as one sentence: the command also runs by itself."""
    from aligner.errors import AlignerError

    try:
        yield
    except AlignerError as exc:
        click.echo(f"error: {exc}", err=True)
        sys.exit(exc.exit_code)


if __name__ == "__main__":
    keys()
