"""Pages from templates: reports, cards and results, by jinja2."""

import base64
from pathlib import Path
from typing import Any

import jinja2

from support.tables import number_columns

TYPES = {".png": "image/png", ".gif": "image/gif"}


def fill(template: str, **values: Any) -> str:
    """A template of this folder with its values; in HTML they are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=".html" in template,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number_columns": number_columns, "data_uri": _data_uri}
    return environment.get_template(template).render(values)


def _data_uri(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{TYPES[path.suffix]};base64,{data}"
