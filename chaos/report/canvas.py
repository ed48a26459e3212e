"""A drawing of boxes, lines, dots and words, written as SVG and as PNG from the same strokes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

Point = tuple[float, float]


class Box(NamedTuple):
    """A filled rectangle; `says` shows when pointed at."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    says: str = ""


class Line(NamedTuple):
    """A line through points."""

    points: Sequence[Point]
    colour: str


class Dot(NamedTuple):
    """A small dot."""

    x: float
    y: float
    colour: str


class Words(NamedTuple):
    """Text that begins at a point on its base line."""

    x: float
    y: float
    text: str
    colour: str = "#222222"


Stroke = Box | Line | Dot | Words


@dataclass(slots=True)
class Canvas:
    """What was drawn so far, first strokes lowest."""

    width: int
    height: int
    strokes: list[Stroke] = field(default_factory=list)

    def svg(self) -> str:
        """As an SVG element."""
        inside = "\n".join(_as_svg(stroke) for stroke in self.strokes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'font-family="sans-serif" font-size="11">\n{inside}\n</svg>'
        )

    def write_png(self, path: Path) -> None:
        """As a picture."""
        image = Image.new("RGB", (self.width, self.height), "white")
        draw = ImageDraw.Draw(image)
        for stroke in self.strokes:
            _onto(draw, stroke)
        image.save(path, optimize=True)


def _as_svg(stroke: Stroke) -> str:
    match stroke:
        case Box(x, y, width, height, colour, says):
            title = f"<title>{escape(says)}</title>" if says else ""
            return (
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
                f'fill="{colour}">{title}</rect>'
            )
        case Line(points, colour):
            told = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            return f'<polyline points="{told}" fill="none" stroke="{colour}"/>'
        case Dot(x, y, colour):
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.3" fill="{colour}"/>'
        case Words(x, y, text, colour):
            return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}">{escape(text)}</text>'


def _onto(draw: ImageDraw.ImageDraw, stroke: Stroke) -> None:
    match stroke:
        case Box(x, y, width, height, colour):
            draw.rectangle((x, y, x + max(width, 1), y + height), fill=colour)
        case Line(points, colour):
            draw.line(list(points), fill=colour)
        case Dot(x, y, colour):
            draw.rectangle((x - 1, y - 1, x + 1, y + 1), fill=colour)
        case Words(x, y, text, colour):
            draw.text((x, y - 10), text, fill=colour)
