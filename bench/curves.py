"""Curves as SVG, for pictures of documents: panels side by side in rows of two, the same lines in all of them.

Must not know: what is drawn.
"""
import math
from html import escape

WIDTH, HEIGHT, LEFT, TOP, GAP = 330, 190, 44, 34, 26
COLOURS = ("#0b62a4", "#d1495b", "#2a9d5c", "#8d5fb5", "#e08a00", "#4d4d4d", "#20a4b0", "#a05a2c")


def ticks(low, high):
    """Four to seven round numbers from low's floor to high's ceiling."""
    step = 10 ** math.floor(math.log10(max(high - low, 1e-9) / 2))
    step *= next(f for f in (1, 2, 5, 10) if (high - low) / (f * step) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * i for i in range(first, last + 1)]


def panel(title, xs, lines):
    """lines: of each its y at every x; NaN where there is none."""
    return title, list(xs), [[float(y) for y in line] for line in lines]


def text(x, y, what, anchor="middle", size=11):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(what)}</text>'


def stroke(i, dashed, width):
    """How line i looks."""
    dashes = ' stroke-dasharray="5 3"' if dashed[i] else ""
    return f'stroke="{COLOURS[i % len(COLOURS)]}" stroke-width="{width}"{dashes}'


def draw_panel(x0, y0, drawing, dashed):
    title, xs, lines = drawing
    values = [y for line in lines for y in line if not math.isnan(y)]
    marks = ticks(min(0, *values), max(values))
    right, bottom, top = x0 + WIDTH - 10, y0 + HEIGHT - 20, y0 + TOP

    def at(x, y):
        return (x0 + LEFT + (right - x0 - LEFT) * (x - xs[0]) / (xs[-1] - xs[0]),
                bottom - (bottom - top) * (y - marks[0]) / (marks[-1] - marks[0]))

    out = [text(x0 + LEFT, y0 + TOP - 12, title, "start", 12)]
    for mark in marks:
        y = at(xs[0], mark)[1]
        out += [f'<path d="M{x0 + LEFT} {y:.1f}H{right}" stroke="{"#888" if mark == 0 else "#ddd"}"/>',
                text(x0 + LEFT - 6, y + 4, f"{mark:g}", "end")]
    out += [text(at(x, 0)[0], bottom + 16, f"{x:g}") for x in xs]
    for i, line in enumerate(lines):
        points = [at(x, y) for x, y in zip(xs, line) if not math.isnan(y)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" {stroke(i, dashed, 1.8)}/>')
    return out


def write_svg(path, names, panels, dashed):
    """names: of the lines, for the legend; dashed: which of them are."""
    width, rows = 2 * (WIDTH + GAP), (len(panels) + 1) // 2
    out, y = [], 22
    x = LEFT
    for i, name in enumerate(names):
        out += [f'<path d="M{x} {y - 4}h24" {stroke(i, dashed, 2.4)}/>', text(x + 30, y, name, "start", 12)]
        x += 46 + 7 * len(name)
    for i, drawing in enumerate(panels):
        out += draw_panel((i % 2) * (WIDTH + GAP), 30 + (i // 2) * (HEIGHT + GAP), drawing, dashed)
    height = 30 + rows * (HEIGHT + GAP)
    with open(path, "w", encoding="utf-8") as f:
        f.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
                f'height="{height}" font-family="sans-serif" fill="#333">'
                '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(out) + "\n</svg>\n")
