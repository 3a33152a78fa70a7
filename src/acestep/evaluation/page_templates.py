"""What our pages are made from: their templates, the charts' measures, and how numbers are written."""

from __future__ import annotations

import math

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from acestep.evaluation import charts


def page_environment() -> Environment:
    """Templates in which everything from outside is escaped, and a name that nobody gave is an error."""
    loader = PackageLoader("acestep.evaluation")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

    def own_text(name: str) -> Markup:
        # Our own files, not a user's: style and script must reach the browser unescaped.
        return Markup(loader.get_source(environment, name)[0])

    environment.globals |= {
        "own_text": own_text,
        "clock": clock,
        "width": charts.WIDTH,
        "height": charts.HEIGHT,
        "left": charts.LEFT,
        "right": charts.RIGHT,
        "top": charts.TOP,
        "bottom": charts.BOTTOM,
    }
    return environment


def clock(seconds: float) -> str:
    """A position in a song: 1:05"""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def plain_number(value: float) -> str:
    """Four digits or so; a dash for what is no number."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def signed_number(value: float) -> str:
    """The same with its sign, or `unknown`."""
    return ("+" if value >= 0 else "−") + plain_number(abs(value)) if math.isfinite(value) else "unknown"
