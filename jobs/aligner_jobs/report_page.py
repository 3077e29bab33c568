"""What the HTML reports share: self-contained pages without script or network, light and dark."""

from typing import Any

import jinja2


def rendered(template: str, **values: Any) -> str:
    """The page that ``template`` makes of ``values``; it escapes whatever comes from outside."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("aligner_jobs", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["signed"] = lambda value: f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")
    environment.filters["thousands"] = lambda value: f"{value:,}"
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    return environment.get_template(template).render(**values)
