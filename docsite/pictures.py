"""Draws the pictures of the pages: ``python -m docsite.pictures [FOLDER]``."""

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import drawsvg

from docsite.pages import FIGURES

_INK, _DIM, _LINE = "#1f2933", "#52606d", "#7b8794"
_PLAIN, _GOOD, _WAIT, _BAD, _ASK = "#f0f4f8", "#d5f0dd", "#fdf0cc", "#fbdcdc", "#dfe9fb"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_LEADING = 17
"""The distance between two lines of text."""

Point = tuple[float, float]


class Picture:
    """A drawing of boxes, arrows and labels on white, so that it can be read on a dark page too."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._svg = drawsvg.Drawing(width, height, font_family=_FONT)
        self._svg.append_title(title)
        self._svg.append(drawsvg.Rectangle(0, 0, width, height, rx=8, fill="white"))
        self._head = drawsvg.Marker(-8, -4, 1, 4, scale=1, orient="auto")
        self._head.append(drawsvg.Lines(-8, -4, 0, 0, -8, 4, fill=_LINE, close=True))

    def box(self, at: Point, size: Point, text: str, *, fill: str = _PLAIN, round_: float = 8, dim: str = "") -> None:
        """Draws a box around its centre, with lines of text, and smaller ones below them."""
        (x, y), (width, height) = at, size
        self._svg.append(
            drawsvg.Rectangle(x - width / 2, y - height / 2, width, height, rx=round_, fill=fill, stroke=_LINE)
        )
        lines: list[tuple[str, str, float, str]] = [(line, _INK, 15, "bold") for line in text.split("\n")]
        lines += [(line, _DIM, 12.5, "normal") for line in dim.split("\n") if line]
        top = y - (len(lines) - 1) * _LEADING / 2
        for number, (line, colour, points, weight) in enumerate(lines):
            self._text(line, (x, top + number * _LEADING), colour, points, "middle", weight)

    def arrow(self, *points: Point, dashed: bool = False) -> None:
        """Draws an arrow through points: a straight one, or with four points a Bézier curve."""
        path = drawsvg.Path(
            stroke=_LINE,
            stroke_width=1.5,
            fill="none",
            marker_end=self._head,
            stroke_dasharray="5 4" if dashed else "none",
        )
        path.M(*points[0])
        if len(points) == 4:
            path.C(*points[1], *points[2], *points[3])
        else:
            for point in points[1:]:
                path.L(*point)
        self._svg.append(path)

    def label(self, text: str, at: Point, anchor: str = "middle", *, strong: bool = False) -> None:
        """Writes lines of text; the first one is at the point."""
        for number, line in enumerate(text.split("\n")):
            colour, weight = (_INK, "bold") if strong else (_DIM, "normal")
            self._text(line, (at[0], at[1] + number * (_LEADING - 2)), colour, 12.5, anchor, weight)

    def svg(self) -> str:
        """Returns the picture as the text of an SVG file."""
        text: str = self._svg.as_svg(header="")
        return text.rstrip("\n") + "\n"

    def _text(self, line: str, at: Point, colour: str, points: float, anchor: str, weight: str) -> None:
        self._svg.append(
            drawsvg.Text(
                line,
                points,
                at[0],
                at[1] + 0.35 * points,  # from the middle of the letters to their baseline
                text_anchor=anchor,
                fill=colour,
                font_weight=weight,
            )
        )


def states() -> str:
    """Draws the states of a record, and what changes them."""
    drawn = Picture(980, 540, "The states of a record")
    size = (120, 46)
    absent, running, completed = (115.0, 150.0), (440.0, 150.0), (855.0, 150.0)
    waiting, undoing, held = (440.0, 320.0), (705.0, 320.0), (440.0, 490.0)
    drawn.arrow((175, 140), (378, 140))
    drawn.label("claimed, for a lease", (277, 126))
    drawn.arrow((380, 160), (177, 160))
    drawn.label("released:\nnothing happened", (277, 176))
    drawn.arrow((500, 150), (793, 150))
    drawn.label("the outcome is stored", (647, 136))
    drawn.arrow((400, 127), (380, 82), (500, 82), (480, 125))
    drawn.label("taken over: the lease ran out, and it may run again", (440, 79))
    drawn.arrow((452, 173), (452, 295))
    drawn.label("failed in a way\nthat may pass", (460, 226), "start")
    drawn.arrow((428, 297), (428, 175))
    drawn.label("due", (420, 250), "end")
    drawn.arrow((495, 173), (660, 295))
    drawn.label("failed for good,\nwith finished steps", (600, 214), "start")
    drawn.arrow((645, 312), (502, 312))
    drawn.label("an undo failed", (573, 300))
    drawn.arrow((500, 328), (643, 328))
    drawn.label("due", (573, 341))
    drawn.arrow((745, 297), (830, 175))
    drawn.label("all undone:\nfailure stored", (762, 250), "end")
    drawn.arrow((392, 173), (260, 290), (260, 400), (398, 465))
    drawn.label("an opaque handler\nwas cut short,\nor is in doubt", (280, 310), "end")
    drawn.arrow((680, 343), (490, 465))
    drawn.label("an undo failed\ntoo often", (606, 414), "start")
    drawn.arrow((380, 490), (220, 490), (115, 400), (115, 175))
    drawn.label("resolved: it never happened", (265, 512))
    drawn.arrow((500, 490), (740, 490), (855, 400), (855, 175))
    drawn.label("resolved: with an outcome", (625, 512))
    drawn.arrow((855, 127), (855, 20), (115, 20), (115, 125))
    drawn.label("expires, when its TTL has passed", (485, 34))
    drawn.box(absent, size, "absent", fill="white", dim="no record")
    drawn.box(running, size, "running", fill=_ASK)
    drawn.box(completed, size, "completed", fill=_GOOD)
    drawn.box(waiting, size, "waiting", fill=_WAIT)
    drawn.box(undoing, size, "undoing", fill=_WAIT)
    drawn.box(held, size, "held", fill=_BAD)
    return drawn.svg()


def call() -> str:
    """Draws a call's way through the interceptor, and that of its retries."""
    drawn = Picture(1040, 430, "A call's way through the interceptor, and a retry's")
    steps = [
        ("1 admission", "key, principal,\nfingerprint"),
        ("2 lead or join", "one execution\nof an operation"),
        ("3 claim", "a record,\nwith a lease"),
        ("4 run", "your handler,\nonce"),
        ("5 settle", "the outcome\nis stored"),
        ("6 answer", "now the status\nleaves"),
    ]
    centres = [200 + 153 * number for number in range(len(steps))]
    for left, right in pairwise(centres):
        drawn.arrow((left + 64, 90), (right - 66, 90))
    drawn.box((60, 205), (84, 290), "client")
    drawn.arrow((102, 90), (134, 90))
    drawn.label("a call with a key", (60, 40))
    for centre, (name, what) in zip(centres, steps, strict=True):
        drawn.box((centre, 90), (128, 72), name, fill=_ASK if name != "4 run" else _GOOD, dim=what)
    drawn.box((centres[3], 215), (434, 50), "store", fill=_WAIT, dim="on the disk before the next step")
    drawn.arrow((centres[2], 126), (centres[2], 188))
    drawn.arrow((centres[4], 126), (centres[4], 188))
    drawn.arrow((centres[5], 126), (centres[5], 330), (104, 330))
    drawn.label("executed", (centres[5] - 10, 318), "end", strong=True)
    drawn.arrow((centres[1], 126), (centres[1], 290), (104, 290), dashed=True)
    drawn.label("attached", (centres[1] - 10, 278), "end", strong=True)
    drawn.arrow((centres[0], 126), (centres[0], 250), (104, 250), dashed=True)
    drawn.label("replayed", (centres[0] - 10, 238), "end", strong=True)
    drawn.label(
        "A retry turns back earlier. At 1 if this process still has the outcome; at 2 if the operation runs here.\n"
        "At 3 the record decides: completed is replayed, running is waited for, held is refused, and one whose lease\n"
        "has run out is taken over, or held. If the client goes away, everything from 2 to 5 goes on.",
        (60, 376),
        "start",
    )
    return drawn.svg()


def guarantees() -> str:
    """Draws the questions that lead to a guarantee, as a tree."""
    drawn = Picture(960, 540, "The questions that lead to a guarantee")
    questions = [
        ("Does it change anything?", "no", "pass through", "NO_SIDE_EFFECTS in its proto; no key", _PLAIN),
        (
            "Are all changes rows in one\nPostgreSQL or SQLite database?",
            "yes",
            "exactly once",
            "TRANSACTIONAL, by store.transaction or complete_in",
            _GOOD,
        ),
        ("Is it harmless to repeat\nas a whole?", "yes", "at least once", "REPEATABLE", _ASK),
        (
            "Can each part be repeated\nunder a key, or be undone?",
            "yes",
            "at least once, each step kept",
            "REPEATABLE, in steps",
            _ASK,
        ),
    ]
    for number, (question, reply, guarantee, how, fill) in enumerate(questions):
        y = 60 + 105 * number
        last = number == len(questions) - 1
        drawn.arrow((220, y + 32), (220, y + 71))
        drawn.label("yes" if reply == "no" else "no", (232, y + 51), "start", strong=True)
        drawn.arrow((370, y), (518, y))
        drawn.label(reply, (440, y - 13), strong=True)
        drawn.box((220, y), (300, 62), question, fill="white", round_=28)
        drawn.box((735, y), (430, 62), guarantee, fill=fill, dim=how)
        if last:
            drawn.box((220, y + 105), (300, 62), "at most once", fill=_BAD, dim="OPAQUE; held if it is cut short")
    return drawn.svg()


PICTURES = {"states.svg": states, "call.svg": call, "guarantees.svg": guarantees}
"""The drawing function of each file in ``docs/figures``."""


def main(arguments: Sequence[str]) -> None:
    """Draws all pictures into a folder, ``docs/figures`` by default."""
    folder = Path(arguments[0]) if arguments else FIGURES
    for name, draw in PICTURES.items():
        (folder / name).write_text(draw())


if __name__ == "__main__":
    main(sys.argv[1:])
