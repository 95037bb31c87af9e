"""Draws figures: for each case a dot per number of callers, its range over the pairs, and the target."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from bench.cases import CALLERS, KINDS
from bench.measure import Figure

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")  # safe for colour-blind readers
_ROW = 0.24
"""Inches for one dot."""


def draw(figures: Sequence[Figure], note: str, file: Path) -> None:
    """Writes the plot as SVG and as PNG. The suffix of ``file`` is replaced."""
    groups = list(dict.fromkeys((figure.case, figure.title, figure.kind) for figure in figures))
    callers = sorted({figure.callers for figure in figures}, key=lambda n: (n not in CALLERS, n))
    drawing = Drawing(figsize=(9, 1.6 + _ROW * (len(figures) + len(groups))), layout="constrained")
    axes = drawing.subplots()
    axes.axvline(1, color="0.4", linewidth=1)
    at, ticks = 0.0, []
    for name, _, _ in groups:
        of_case = [figure for figure in figures if figure.case == name]
        ticks.append(at + (len(of_case) - 1) / 2)
        for figure in of_case:
            colour = _COLOURS[callers.index(figure.callers) % len(_COLOURS)]
            axes.plot([min(figure.ratios), max(figure.ratios)], [at, at], color=colour, linewidth=2, alpha=0.4)
            axes.plot([figure.ratio], [at], "o", color=colour, markersize=6)
            if figure.target is not None:
                axes.plot([figure.target], [at], "|", color="black", markersize=11, markeredgewidth=1.6)
            at += 1
        at += 1
    axes.set_yticks(ticks, [f"{title}\n{KINDS[kind]}" for _, title, kind in groups])
    axes.set_ylim(at - 1, -1)
    axes.set_xlim(left=0)
    axes.set_xlabel("throughput as a ratio to the reference (1 = as fast); dot: median, bar: range of the pairs")
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    marks = [
        Line2D([], [], marker="o", linestyle="", color=_COLOURS[number % len(_COLOURS)], label=_callers(count))
        for number, count in enumerate(callers)
    ]
    marks.append(Line2D([], [], marker="|", linestyle="", color="black", markersize=11, label="target"))
    drawing.legend(handles=marks, loc="outside upper center", ncols=len(marks), frameon=False)
    drawing.supxlabel(note, fontsize=7, color="0.35", wrap=True)
    with mpl.rc_context({"svg.hashsalt": "grpc-idempotency", "svg.fonttype": "path"}):
        drawing.savefig(file.with_suffix(".svg"), metadata={"Date": None}, facecolor="white")
        drawing.savefig(file.with_suffix(".png"), dpi=120, facecolor="white")


def _callers(count: int) -> str:
    return "1 caller" if count == 1 else f"{count} callers"
