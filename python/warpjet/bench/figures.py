"""Figures as a paper has them: a title and units on every panel, legends above the curves, vector files where asked."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Panel = Callable[[Any], None]  # draws on the axes that it is given


def draw_figure(title: str, panels: Mapping[str, Panel], path: str) -> None:
    """Writes the panels, at most three a row, each under its title; the file's name decides the format."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 2 if len(panels) <= 4 else 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (name, panel) in zip(places, panels.items(), strict=False):
        panel(axes)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            where = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "handlelength": 1.4}
            axes.legend(frameon=False, ncols=3, fontsize=8.5, columnspacing=1.2, **where)
            axes.set_title(name, loc="left", fontsize=11, pad=20, fontweight="bold")
        else:
            axes.set_title(name, loc="left", fontsize=11, fontweight="bold")
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=200)


def cdf(curves: Mapping[str, Sequence[tuple[float, float]]], label: str, limit: float | None = None) -> Panel:
    """Cumulative distributions, (value in ms, share in 0..1) ascending, on a logarithmic axis unless all values are 0;
    limit: an objective."""

    def draw(axes: Any) -> None:
        from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator, PercentFormatter

        for name, points in curves.items():
            if points:
                axes.step(*zip(*points, strict=True), where="post", linewidth=1.5, label=name)
        if limit is not None:
            axes.axvline(limit, color="tab:red", linestyle="--", linewidth=1, label=f"objective: {limit:g} ms")
        axes.set(xlabel=label, ylabel="cumulative share (%)", ylim=(0, 1.01))
        if any(value > 0 for points in curves.values() for value, _ in points):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=None))

    return draw


def lines(x: Sequence[float], curves: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> Panel:
    """Curves over one x, a legend if there are several. Few points are marked."""

    def draw(axes: Any) -> None:
        style = "o-" if len(x) <= 24 else "-"
        for name, values in curves.items():
            axes.plot(x, values, style, linewidth=1.4, markersize=4, label=name if len(curves) > 1 else None)
        axes.set(xlabel=xlabel, ylabel=ylabel)

    return draw
