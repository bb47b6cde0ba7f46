"""The lessons' pictures: plotting and nothing else, so that a lesson holds what it is about.

Each function draws one picture and shows it, in a window at Python's prompt and below the cell in a notebook. It
returns nothing, so that the prompt prints nothing. Where there is neither, as over ssh, it says in which file the
picture is.
"""

import itertools
import os
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from tutorials.pictures import CHANCE, DIFFERENT, FRAME, OURS, PAPER, PIXELS, RIGHT, SAME, WRONG, label

COLOURS = {"same": SAME, "different": DIFFERENT, "right": RIGHT, "chosen": WRONG, "pixels": PIXELS}  # by first words
PICTURES = (Path("runs") / f"picture-{number}.png" for number in itertools.count(1))


def colour_of(title, otherwise="black"):
    """Return the colour that belongs to a title's first word."""
    return COLOURS.get(title.partition(" ")[0].strip(":,"), otherwise)


def finish():
    """Show the picture that is drawn; where there is no screen, write it to a file and say where."""
    if plt.get_backend().lower() == "agg" and "MPLBACKEND" not in os.environ:  # nobody asked for pictures unseen
        path = next(PICTURES)
        path.parent.mkdir(exist_ok=True)
        plt.savefig(path, dpi=110)
        print(f"there is no screen here: the picture is {path}", file=sys.stderr)
        plt.close("all")
    plt.show()


def images(pictures, titles=(), n_rows=1, rows=(), behind=None, low=0, high=1):
    """Draw images in rows.

    pictures: (n, H, W), row after row, 1 = ink; titles: up to n; rows: the names of the rows, or none
    behind: (H, W), what is drawn in light blue below each; low, high: the values that are white and black
    """
    n_columns = len(pictures) // n_rows
    side = min(1.3, 9 / n_columns)
    titled = sum(any(titles[row * n_columns : (row + 1) * n_columns]) for row in range(n_rows))
    figure, cells = plt.subplots(
        n_rows, n_columns, figsize=(n_columns * side + 0.3, n_rows * side + 0.22 * titled + 0.1),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for cell, picture, title in zip(cells.flat, pictures, [*titles, *[""] * len(pictures)]):
        draw_image(cell, picture, behind, low, high)
        cell.set_title(title, color=colour_of(title), fontsize=9, pad=3)
    for cell, name in zip(cells[:, 0], rows):
        cell.set_ylabel(name, color=colour_of(name), fontsize=9)
    finish()


def draw_image(cell, picture, behind, low, high):
    """Draw one image without ticks, ink in black, over another one in light blue."""
    cell.set(xticks=[], yticks=[])
    if behind is None:
        cell.imshow(picture, cmap="gray_r", vmin=low, vmax=high)
        return
    shade = np.ones((*np.shape(picture), 3)) - np.asarray(behind, float)[:, :, None] * (0.45, 0.2, 0.05)
    cell.imshow(shade * (1 - np.asarray(picture, float)[:, :, None]), vmin=0, vmax=1)


def lines(curves, x, y, levels=None, log=False, **limits):
    """Draw curves over one another.

    curves: {name: ys, or (xs, ys)}, ys over 0, 1, ... if alone; x, y: what the axes are called, with units
    levels: {name: value}, horizontal lines; log: whether y is logarithmic; limits: xlim, ylim
    """
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    markers = itertools.cycle([("o-", OURS), ("s--", PIXELS), ("^:", RIGHT), ("D-.", WRONG), ("v-", PAPER)])
    for (name, values), (style, colour) in zip(curves.items(), markers):
        xs, ys = values if isinstance(values, tuple) else (range(len(values)), values)
        axes.plot(xs, ys, style[0 if len(xs) < 20 else 1 :], color=colour_of(name, colour), label=name, markersize=4)
    for (name, value), style in zip((levels or {}).items(), itertools.cycle(["--", ":", "-."])):
        axes.axhline(value, linestyle=style, color=colour_of(name, CHANCE), linewidth=1.2, label=name)
    label(axes, x, y, yscale="log" if log else "linear", **limits)
    axes.legend(fontsize=8)
    finish()


def bars(values, x, levels=None):
    """Draw {name: value} as bars, one below the other, the value beside each; levels: {name: value}, vertical lines."""
    figure, axes = plt.subplots(figsize=(7, 0.3 * len(values) + 1), layout="constrained")
    axes.barh(range(len(values)), list(values.values()), color=[colour_of(name, OURS) for name in values])
    for place, value in enumerate(values.values()):
        axes.text(value, place, f" {value:.1f}", va="center", fontsize=8)
    for (name, value), style in zip((levels or {}).items(), itertools.cycle(["--", ":"])):
        axes.axvline(value, linestyle=style, color=colour_of(name, CHANCE), linewidth=1.2, label=name)
    axes.set_yticks(range(len(values)), list(values), fontsize=8)
    axes.invert_yaxis()
    label(axes, x, None, xlim=(0, 1.15 * max(values.values())))
    if levels:
        axes.legend(fontsize=8)
    finish()


def maps(clouds, pictures):
    """Draw each image at its place on a map.

    clouds: {title: (n, 2) places}, a map each; pictures: (n, H, W), 1 = ink
    """
    figure, panels = plt.subplots(1, len(clouds), figsize=(4.4 * len(clouds), 4.2), layout="constrained")
    for axes, (title, places) in zip(np.atleast_1d(panels), clouds.items()):
        for (right, up), picture in zip(places / np.ptp(places, axis=0), pictures):
            box = (right - 0.04, right + 0.04, up - 0.04, up + 0.04)
            axes.imshow(picture, extent=box, cmap="gray_r", vmin=0, vmax=1, alpha=np.asarray(picture, float))
        axes.set(title=title, xlabel="first axis", ylabel="second axis", xlim=(-0.68, 0.68), ylim=(-0.68, 0.68))
        axes.set(xticks=[], yticks=[])
    finish()


def roofline(points, roof, bandwidth, layers):
    """Draw programs' rates under what a machine can do.

    points: {program: [(FLOP per byte, FLOP a second), ...]}; roof: the best rate that any library reached, FLOP
    a second; bandwidth: bytes a second; layers: {name: FLOP per byte}, named above the picture
    """
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    x = np.geomspace(1, 2000, 200)
    name = f"best rate of any library: {roof / 1e9:.0f} GFLOP/s,\nand from memory: {bandwidth / 1e9:.0f} GB/s"
    axes.plot(x, np.minimum(x * bandwidth, roof) / 1e9, color=CHANCE, label=name)
    styles = zip("*o^sDv", (WRONG, OURS, PIXELS, RIGHT, PAPER, DIFFERENT))
    for (program, pairs), (marker, colour) in zip(points.items(), styles):
        rates = [(intensity, rate / 1e9) for intensity, rate in pairs]
        axes.plot(*zip(*rates), marker, color=colour, label=program, markersize=7)
    for name, intensity in layers.items():
        axes.text(intensity, 1.01, name, fontsize=8, ha="center", transform=axes.get_xaxis_transform())
    axes.set(xscale="log", yscale="log")
    axes.grid(color=FRAME, linewidth=0.5)
    axes.set(xlabel="arithmetic intensity (FLOP per byte that must be moved)", ylabel="rate (GFLOP/s)")
    axes.legend(loc="lower right", fontsize=8)
    finish()
