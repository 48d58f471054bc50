"""Plots as SVG, from the standard library alone: panels side by side, lines with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 330, 260, 40, 12, 34, 40
COLOURS = ("#777777", "#0072b2", "#d55e00", "#009e73")


@dataclass(frozen=True)
class Line:
    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One pair of axes; the vertical one begins at 0, the other is of powers of ten when ``decades``."""

    title: str
    below: str
    decades: bool
    lines: Sequence[Line]

    def x(self, value: float) -> float:
        ends = [at for line in self.lines for at, _ in line.points]
        low, high, here = (log10(one) if self.decades else one for one in (min(ends), max(ends), value))
        return LEFT + (here - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self.top() * (HEIGHT - TOP - BOTTOM)

    def top(self) -> float:
        most = max(value for line in self.lines for _, value in line.points)
        return next(step for step in (1, 2, 5, 10, 20, 30, 50, 100, 150, 200, 300, 500, 1000) if step >= most)

    def ticks(self) -> Sequence[float]:
        ends = [at for line in self.lines for at, _ in line.points]
        if self.decades:
            return sorted(set(ends))
        return [round(max(ends)) * part / 4 for part in range(5)]


def svg(panels: Sequence[Panel]) -> str:
    """Return the picture."""
    width = WIDTH * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}"'
        ' font-family="sans-serif" font-size="10">',
        f'<rect width="{width}" height="{HEIGHT}" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        parts += [f'<g transform="translate({number * WIDTH} 0)">', *_axes(panel), *_lines(panel), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes(panel: Panel) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [_text(LEFT, 14, panel.title, "start", bold=True), _text((LEFT + right) / 2, HEIGHT - 8, panel.below)]
    for part in range(5):
        value = panel.top() * part / 4
        parts.append(f'<path d="M{LEFT} {panel.y(value):.1f}H{right}" stroke="#dddddd"/>')
        parts.append(_text(LEFT - 5, panel.y(value) + 3, f"{value:g}", "end"))
    parts += [_text(panel.x(value), bottom + 14, f"{value:g}") for value in panel.ticks()]
    return [*parts, f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#333333"/>']


def _lines(panel: Panel) -> list[str]:
    parts = []
    for number, line in enumerate(panel.lines):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{panel.x(x):.1f},{panel.y(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        across = LEFT + 8 + number * (WIDTH - LEFT - RIGHT) / len(panel.lines)
        parts.append(f'<rect x="{across:.0f}" y="20" width="8" height="8" fill="{colour}"/>')
        parts.append(_text(across + 11, 28, line.name, "start"))
    return parts


def _text(x: float, y: float, text: str, anchor: str = "middle", *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{text}</text>'
