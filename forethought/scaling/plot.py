"""Charts as SVG text that reads in light and in dark: colours are CSS, words are words."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from html import escape

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from forethought.scaling.stages import Chart, Line
from forethought.scaling.words import short

PALETTE = ("#2f7fc1", "#d9731f", "#1f9a78", "#b45fa0", "#a8860c", "#5aa7d6", "#c4514d", "#7a7f8a")
"""After Okabe and Ito: told apart by the colour-blind, and mid-tones that show on white and on black."""
MARKERS = "osD^vPX*"
DASHES = ("-", (0, (4, 2.2)), (0, (1.2, 1.8)))

# Matplotlib knows no CSS: it draws these colours, which no one chooses, and they are exchanged in its text.
_INK, _RULE = "#010203", "#010204"
_CSS = {_INK: "currentColor", _RULE: "var(--chart-rule, #8888)"} | {
    f"#0102{16 + i:02x}": f"var(--chart-{i}, {colour})" for i, colour in enumerate(PALETTE)
}
_SERIES = tuple(colour for colour in _CSS if colour not in (_INK, _RULE))
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "grid.color": _RULE,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.2,
}


def svg(chart: Chart) -> str:
    """The chart as one `<svg>` element, transparent, scaling to its container, safe to stand in a page with others.

    Its colours follow `color` and, where a page sets them, the CSS variables `--chart-rule`, `--chart-0` … `--chart-7`.
    """
    if not any(line.x for line in chart.lines):
        raise ValueError(f"chart {chart.title!r} has no points to draw")
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": chart.title}):
        figure = Figure(figsize=(5.4, 3.6), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        _draw(axes, chart)
        _legend(figure, axes, chart)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), chart.title)


def _draw(axes: Axes, chart: Chart) -> None:
    names, kinds = _names(chart)
    for line in chart.lines:
        place = names.index(line.name)
        colour, dash = _SERIES[place % len(_SERIES)], DASHES[kinds.index(line.kind) % len(DASHES)]
        if line.faint:
            axes.plot(line.x, line.y, color=colour, linewidth=0.8, alpha=0.35)
            continue
        marker = MARKERS[place % len(MARKERS)] if len(line.x) <= 16 else ""
        axes.plot(line.x, line.y, color=colour, linestyle=dash, marker=marker, markeredgewidth=0)
        if line.low:
            axes.fill_between(
                line.x, line.low, line.high, color=colour, alpha=0.16 if len(names) <= 4 else 0.08, linewidth=0
            )
        _label(axes, line, colour)
    axes.set_xlabel(chart.x_label, parse_math=False)
    axes.set_ylabel(chart.y_label, parse_math=False)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.margins(x=0.06)
    if chart.log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    if chart.x_names:
        _name_ticks(axes, chart.x_names)
    if chart.percent:
        top = max(max(line.high or line.y, default=0.0) for line in chart.lines)
        labelled = any(line.labels for line in chart.lines)
        top = min(1.1 if labelled else 1.02, max(0.05, top * 1.12))
        axes.set_ylim(0, top)
        ticks = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(0, min(1.0, top))
        axes.set_yticks([tick for tick in ticks if tick <= min(1.0, top)])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def _name_ticks(axes: Axes, names: Sequence[str]) -> None:
    stride = -(-len(names) // 8)
    places = list(range(0, len(names), stride))
    axes.set_xticks(places, [names[place] for place in places])
    for tick in axes.get_xticklabels():
        tick.set_parse_math(False)
    if max(map(len, names)) * len(places) > 60:
        axes.tick_params(axis="x", labelrotation=25)


def _label(axes: Axes, line: Line, colour: str) -> None:
    for place, text in enumerate(line.labels):
        side = "left" if place == 0 else "right" if place == len(line.labels) - 1 else "center"
        point = (line.x[place], line.y[place])
        axes.annotate(
            text, point, (0, 6), textcoords="offset points", ha=side, color=colour, fontsize=8, parse_math=False
        )


def _names(chart: Chart) -> tuple[list[str], list[str]]:
    names = list(dict.fromkeys(line.name for line in chart.lines))
    return names, list(dict.fromkeys(line.kind for line in chart.lines))


def _legend(figure: Figure, axes: Axes, chart: Chart) -> None:
    names, kinds = _names(chart)
    entries = [
        Line2D([], [], color=_SERIES[i % len(_SERIES)], marker=MARKERS[i % len(MARKERS)], markeredgewidth=0, label=name)
        for i, name in enumerate(names)
        if name and len(names) > 1
    ]
    entries += [
        Line2D([], [], color=_INK, linestyle=DASHES[i % len(DASHES)], linewidth=1.2, label=kind)
        for i, kind in enumerate(kinds)
        if kind and len(kinds) > 1
    ]
    if entries:
        columns = min(3, len(entries))
        # Matplotlib fills columns first; reordered, the rows read from left to right.
        entries = [entry for column in range(columns) for entry in entries[column::columns]]
        legend = figure.legend(
            handles=entries, loc="outside upper left", ncols=columns, frameon=False, fontsize=8.5, handlelength=2.1,
            columnspacing=1.4, borderpad=0,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)


def _inline(text: str, title: str) -> str:
    """A standalone SVG file as an element: no prologue, no foreign namespaces, identifiers of its own, CSS colours."""
    head, _, body = text[text.index("<svg") :].partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.S)
    body = body.replace("xlink:href=", "href=")
    # Identifiers are the page's, not the picture's: keep those that something refers to, and make them unique.
    used = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', body))
    mark = "c" + hashlib.sha256(text.encode()).hexdigest()[:8]
    body = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{mark}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{mark}-", body)
    body = re.sub(r"font-family: [^;\"]*", f"font-family: {_FONT}", body)
    for colour, css in _CSS.items():
        body = body.replace(colour, css)
    style = 'style="stroke-linejoin: round; stroke-linecap: butt"'
    return f'<svg role="img" aria-label="{escape(title)}" {box[0] if box else ""} {style}>{body.strip()}'
