"""Dashboards, rules and code speak of the same metrics."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
DERIVED = ("_total", "_bucket", "_count", "_sum")


def counted() -> set[str]:
    """Names that the code gives to metrics, and those of Serve that the page passes on."""
    sources = (ROOT / "serve" / "aligner_serve").glob("*.py")
    return {
        name
        for source in sources
        for name in re.findall(r'"((?:aligner|ray_serve)_[a-z_]+)"', source.read_text())
    }


def used(expression: str) -> set[str]:
    """Names of metrics in ``expression``, as the code gives them; labels are left out."""
    bare = re.sub(r"\{[^}]*\}|by \([^)]*\)", "", expression)
    names = set(re.findall(r"\b(?:aligner|ray_serve)_[a-z_]+", bare))
    return {re.sub(rf"({'|'.join(DERIVED)})$", "", name) for name in names}


def expressions() -> list[str]:
    board: dict[str, Any] = json.loads((INFRA / "grafana" / "serving.json").read_text())
    rules: dict[str, Any] = yaml.safe_load((INFRA / "prometheus" / "rules.yaml").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    variables = [one["query"]["query"] for one in board["templating"]["list"][1:]]
    return [*shown, *variables, *(rule["expr"] for one in rules["groups"] for rule in one["rules"])]


def test_what_is_shown_is_counted() -> None:
    known = counted()
    for expression in expressions():
        assert used(expression) <= known, expression


def test_what_is_counted_is_shown() -> None:
    shown = set().union(*(used(expression) for expression in expressions()))
    # The name of the package is none of a metric.
    ours = {name for name in counted() if name.startswith("aligner_")} - {"aligner_serve"}
    assert len(ours) > 12
    assert ours <= shown


def test_each_saving_is_shown() -> None:
    source = (ROOT / "serve" / "aligner_serve" / "counting.py").read_text()
    kinds = set(re.findall(r'"(\w+)", savings\.', source))
    assert {"kept_answers", "trusted_tokens", "cached_tokens", "decode_steps"} <= kinds
    shown = " ".join(expressions())
    assert not {kind for kind in kinds if f'kind="{kind}"' not in shown}


def test_panels_do_not_lie_on_one_another() -> None:
    board: dict[str, Any] = json.loads((INFRA / "grafana" / "serving.json").read_text())
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in board["panels"]})
