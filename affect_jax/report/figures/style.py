"""The look shared by all figures: colour-blind-safe colours, one font size.

matplotlib is imported inside functions, because its import is slow. Figures are made without
pyplot, which keeps global state.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

# Okabe and Ito's palette (jfly.uni-koeln.de/color), without its yellow, too pale for lines.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, AMBER, INK, GREY = "#56B4E9", "#E69F00", "#222222", "#8A8A8A"
PALE, BROWN = "#E3E3E3", "#8C6D31"
CLASS_COLOURS = (BLUE, AMBER, GREEN, ORANGE, PINK, SKY, "#000000", BROWN)
CLASS_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

SMALL = 7.5  # points, the smallest font: 10 pixels in the report
_STYLE: dict[RcKeyType, object] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": PALE,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": True,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
    "legend.borderpad": 0.2,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
}
# Width in inches of a figure on a small screen, at the 96 pixels an inch of a browser.
NARROW = 3.6
# A figure of more bytes is rendered at a lower resolution.
MAX_PNG_BYTES = 480_000


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Give figures the report's look, independently of the user's matplotlibrc."""
    import matplotlib

    with matplotlib.rc_context():
        defaults: dict[RcKeyType, object] = {
            k: v for k, v in matplotlib.rcParamsDefault.items() if k != "backend"
        }
        matplotlib.rcParams.update(defaults | _STYLE)
        yield


def new_figure(
    width: float,
    height: float,
    layout: Literal["constrained", "compressed", "none"] = "constrained",
) -> Figure:
    """Return an empty figure of `width` x `height` inches.

    Args:
        width, height: inches.
        layout: `constrained`, `compressed` (panels of fixed proportions move together), or `none`
            (positions are set by hand).
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = ConstrainedLayoutEngine(
        w_pad=0.1, h_pad=0.1, wspace=0.02, hspace=0.02, compress=layout == "compressed"
    )
    return Figure(figsize=(width, height), layout=None if layout == "none" else engine)


def png(figure: Figure, dpi: int = 160, max_bytes: int = MAX_PNG_BYTES) -> bytes:
    """Render to PNG, below `dpi` only where the file would exceed `max_bytes`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    content, resolution = b"", float(dpi)
    for _ in range(5):
        buffer = io.BytesIO()
        with styled():
            figure.savefig(buffer, format="png", dpi=resolution, pil_kwargs={"compress_level": 7})
        content = buffer.getvalue()
        if len(content) <= max_bytes:
            break
        resolution *= 0.93 * math.sqrt(max_bytes / len(content))
    return content


def panels(figure: Figure, count: int, columns: int, **options: Any) -> list[Axes]:
    """Return `count` axes in rows of `columns`; `options` as in `Figure.subplots`."""
    lines = math.ceil(count / columns)
    grid = list(figure.subplots(lines, columns, squeeze=False, **options).flat)
    for unused in grid[count:]:
        unused.remove()
    return grid[:count]


def grid(axes: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """Draw light grid lines behind the data."""
    axes.grid(True, axis=axis)


def percent_axis(axis: Axis, decimals: int = 0) -> None:
    """Label fractions in [0, 1] as percentages."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=decimals))
