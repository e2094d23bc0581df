"""A matplotlib figure → markup that stands alone in a page: inline SVG, or PNG where SVG would be heavy.

Inline SVG takes its ink, axis and grid colours from the page (CSS variables), so that one picture serves
light, dark and print.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from io import BytesIO, StringIO

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

SVG_LIMIT_BYTES = 400_000
PAGE_COLOURS = {"#1d2730": "var(--ink)", "#8a96a3": "var(--axis)", "#d9dee3": "var(--grid)"}
"""Colours of perpbt.mplstyle and the page's variables that stand in for them."""


@dataclass(frozen=True)
class Picture:
    """A figure in the page: `markup` to insert, `caption` below it, `wide` over both columns."""

    name: str
    caption: str
    markup: Markup
    wide: bool = False


def picture(figure: Figure, name: str, caption: str, alt: str, *, wide: bool = False) -> Picture:
    """The figure under a name unique in its page; call inside the style the figure was drawn in."""
    fix_layout(figure)
    drawing = _svg(figure, name, alt)
    markup = drawing if len(drawing) <= SVG_LIMIT_BYTES else _png(figure, alt)
    return Picture(name, caption, Markup(markup), wide)


def fix_layout(figure: Figure) -> None:
    """Lay the figure out once, to a thousandth of its size: the solver's last digits differ from one drawing to the next."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = axes.get_position().bounds
        axes.set_position((round(left, 3), round(bottom, 3), round(width, 3), round(height, 3)))


def _svg(figure: Figure, name: str, alt: str) -> str:
    """Inline SVG: no prologue, ids of its own, colours by variable."""
    text = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(
            text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    drawing = text.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    # Matplotlib makes some ids from where objects lie in memory: numbered by appearance they are the same in every run.
    found = dict.fromkeys(re.findall(r'\bid="([^"]+)"', drawing))
    numbers = {old: f"{name}-{number}" for number, old in enumerate(found)}
    drawing = re.sub(
        r'(\bid="|"#|url\(#)([^")]+)', lambda match: match[1] + numbers.get(match[2], match[2]), drawing
    )
    for colour, variable in PAGE_COLOURS.items():
        drawing = drawing.replace(colour, variable)
    return drawing.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)


def _png(figure: Figure, alt: str) -> str:
    """A PNG on white as a data address."""
    image = BytesIO()
    figure.savefig(image, format="png", facecolor="white", metadata={"Software": None})
    data = base64.b64encode(image.getvalue()).decode("ascii")
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
