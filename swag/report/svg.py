"""Matplotlib figures as inline SVG: text stays text, ink follows the page, ids are unique, bytes repeat."""

import io
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from swag.report.plots import BLUE, INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "swag",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": True,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.labelsize": 8.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def draw(
    paint: Callable[["Figure"], None], width: float, height: float, description: str, prefix: str
) -> str:
    """One figure as an `<svg>` element.

    Args:
        paint: Draws on the figure it is given.
        width: Inches, which set the size of text and lines relative to the figure; the page scales the rest.
        height: Inches.
        description: What a screen reader says.
        prefix: Makes ids unique in the page, e.g. "f3".
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the caller's style, a report looks the same
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return _inline(buffer.getvalue().decode("utf-8"), description, prefix)


def _inline(document: str, description: str, prefix: str) -> str:
    body = document[document.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    used = set(re.findall(r"url\(#([^)]+)\)", body)) | set(re.findall(r'href="#([^"]+)"', body))
    body = re.sub(
        r'\s+id="([^"]*)"', lambda match: f' id="{prefix}-{match[1]}"' if match[1] in used else "", body
    )
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    body = re.sub(r'(?:xlink:)?href="#([^"]+)"', rf'href="#{prefix}-\1"', body)
    body = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", body)
    body = body.replace(INK.lower(), "currentColor").replace(BLUE.lower(), f"var(--blue, {BLUE})")
    view = re.search(r'viewBox="([^"]+)"', body)
    assert view is not None
    head = f'<svg viewBox="{view[1]}" role="img" aria-label="{escape(description)}">'
    return head + body[body.index(">") + 1 :]
