"""The page templates of `reports/`: everything inlined, everything escaped."""

import functools
from typing import Any

import jinja2

from bitnet_trace.resources import reports_dir


def page(template: str, **values: Any) -> str:
    """The page of one template. Its values are escaped: text as HTML, data (`tojson`) for a script."""
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(reports_dir()),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # style and script stand in the page as they are in their files
    for name in ("style.css", "report.js", "flame.js"):
        environment.globals[name.replace(".", "_")] = (reports_dir() / name).read_text(encoding="utf-8")
    return environment
