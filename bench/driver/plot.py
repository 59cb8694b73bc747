# SPDX-License-Identifier: MIT
"""The plot: one line for each row, a dot for each guest side, at its time in multiples of native on a
logarithmic axis. Rows without a native side (boots) are not drawn."""
import math
from xml.sax.saxutils import escape

COLOURS = ('#0b6e99', '#c2571a', '#5b8c2a', '#7a4fa3')
LEFT, RIGHT, WIDTH, LINE, TOP = 190, 30, 640, 16, 60


def marks(most):
    """Values for the axis: 1, 2, 5, 10, 20, …, up to the first above the greatest."""
    value, steps = 1, (2, 2.5, 2)
    while True:
        for step in steps:
            yield value
            if value > most:
                return
            value *= step


def svg(results, groups):
    """The document as text; groups are (name, rows) in the order to draw."""
    sides = [side for side in results.sides if side != 'native']
    drawn = [(group, row, [results.ratio(group, row, side, 'native') for side in sides])
             for group, rows in groups for row in rows]
    drawn = [d for d in drawn if any(v > 0 for v in d[2])]
    ratios = [v for _, _, values in drawn for v in values if v > 0]
    if not ratios:
        return None
    low = math.log(min(1, *ratios))
    axis = list(marks(max(ratios)))
    high = math.log(axis[-1])

    def x(value):
        return LEFT + WIDTH * (math.log(value) - low) / (high - low)

    height = TOP + LINE * (len(drawn) + len({d[0] for d in drawn})) + 20
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" '
           f'height="{height}" font-family="sans-serif" font-size="11">',
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="{LEFT}" y="16" font-size="13">time in multiples of native, medians</text>']
    for i, side in enumerate(sides):
        at = LEFT + 300 + 100 * i
        out.append(f'<circle cx="{at}" cy="12" r="4" fill="{COLOURS[i % len(COLOURS)]}"/>'
                   f'<text x="{at + 8}" y="16">{escape(side)}</text>')
    for value in axis:
        out.append(f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{TOP - 12}" '
                   f'y2="{height - 14}" stroke="{"#888" if value == 1 else "#ddd"}"/>'
                   f'<text x="{x(value):.1f}" y="{TOP - 18}" text-anchor="middle">{value:g}</text>')
    y, last = TOP, None
    for group, row, values in drawn:
        if group != last:
            out.append(f'<text x="8" y="{y + 4}" font-weight="bold">{escape(group)}</text>')
            y, last = y + LINE, group
        known = [v for v in values if v > 0]
        out.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(row)}</text>'
                   f'<line x1="{x(min(known)):.1f}" x2="{x(max(known)):.1f}" y1="{y}" y2="{y}" '
                   'stroke="#bbb" stroke-width="2"/>')
        out += [f'<circle cx="{x(v):.1f}" cy="{y}" r="4" fill="{COLOURS[i % len(COLOURS)]}"/>'
                for i, v in enumerate(values) if v > 0]
        y += LINE
    return '\n'.join([*out, '</svg>', ''])
