"""The pictures of the lessons and studies, with the same colours for the same thing throughout.

Each function draws a PNG of less than 80 KB, dark on white, and writes it whole or not at all.
"""

import io

import numpy as np
from PIL import Image, ImageColor

from tutorials.common import write_whole

# The hues of Okabe and Ito and of Tol, which every kind of colour vision tells apart; no meaning hangs on colour alone.
OURS, PIXELS, CHANCE, PAPER = "#0072b2", "#e69f00", "#666666", "#cc79a7"  # whose accuracy it is
SAME, DIFFERENT = "#56b4e9", "#882255"  # what is true of a pair
RIGHT, WRONG = "#009e73", "#d55e00"  # answers
INK, FRAME = "black", "#cccccc"  # what is asked about; what there is nothing to say about, and grids


def new_figure(width, height):
    """Return an empty Matplotlib figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained", facecolor="white")


def save(figure, path):
    """Write a Matplotlib figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    small = io.BytesIO()
    with Image.open(buffer) as image:
        in_few_colours(image.convert("RGB")).save(small, "PNG", optimize=True)
    write_whole(path, small.getvalue())


def in_few_colours(page):
    """Return a Pillow image in greys and the shades of the colours above: as a PNG it has a quarter of the bytes."""
    palette = [round(255 * i / 30) for i in range(31) for _ in range(3)]  # red, green, blue, red, ...
    for name in (OURS, PIXELS, PAPER, SAME, DIFFERENT, RIGHT, WRONG):
        for i in range(6, 0, -1):
            palette += [255 - (255 - part) * i // 6 for part in ImageColor.getrgb(name)]
    named = Image.new("P", (1, 1))
    named.putpalette(palette)
    return page.quantize(palette=named, dither=Image.Dither.NONE)


def label(axes, x, y, title=None, **more):
    """Give axes their title, labels and a light grid."""
    axes.set_title(title, fontsize=10)
    axes.set(xlabel=x, ylabel=y, **more)
    axes.grid(color=FRAME, linewidth=0.5)
    axes.set_axisbelow(True)


# Trials ---------------------------------------------------------------------------------------------------------------


def draw_sweep(rows, path):
    """Draw the accuracy over the number of ways, within one alphabet and across alphabets.

    rows: {"where": "within" or "across", "way": n_way, "shot": n_shot, "accuracy", "low", "high", "pixels", "chance"},
        the last five fractions: ours, its 95 % interval, pixel 1-NN's (or None) and that of guessing
    """
    titles = {"within": "within one alphabet", "across": "across alphabets"}
    kinds = [kind for kind in titles if any(row["where"] == kind for row in rows)]
    figure = new_figure(1.5 + 4.2 * len(kinds), 3.8)
    for axes, kind in zip(figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0], kinds):
        draw_ways(axes, [row for row in rows if row["where"] == kind])
        y = "right (%)" if kind == kinds[0] else ""
        label(axes, "ways: characters to choose from", y, titles[kind], ylim=(0, 103))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    save(figure, path)


def draw_ways(axes, rows):
    """Draw one panel of draw_sweep: for each number of shots a line of ours and a line of pixel 1-NN, and chance."""
    ways = sorted({row["way"] for row in rows})  # evenly spaced
    styles = ("o-", "s--", "^:", "D-.", "v-", "P--")
    for i, shot in enumerate(sorted({row["shot"] for row in rows})):
        line = sorted((row for row in rows if row["shot"] == shot), key=lambda row: row["way"])
        x, style = [ways.index(row["way"]) for row in line], styles[i % len(styles)]
        ours, low, high, pixels = (
            np.array([row[key] for row in line], float) * 100 for key in ("accuracy", "low", "high", "pixels")
        )
        bars = np.maximum([ours - low, high - ours], 0)
        axes.plot(x, ours, style, color=OURS, markersize=5, label=f"ours, {shot}-shot")
        axes.errorbar(x, ours, bars, fmt="none", color=OURS, capsize=3)
        axes.plot(x, pixels, style, color=PIXELS, markersize=4, label=f"pixel 1-NN, {shot}-shot")
    chance = {row["way"]: 100 * row["chance"] for row in rows}
    axes.plot(range(len(ways)), [chance[way] for way in ways], ".-", color=CHANCE, label="chance")
    axes.set_xticks(range(len(ways)), ways)
    axes.margins(x=0.1)


# Verification ---------------------------------------------------------------------------------------------------------


def draw_verification(logits, same, threshold, curve, mistakes, path):
    """Draw what a net says of pairs: both kinds' logits, the ROC curve, and its most confident mistakes.

    logits, same: (n,) the net's logits, and whether the pairs are of one character
    threshold: the logit above which a pair is called the same; a logit that is not a number is a mistake
    curve: false-positive and true-positive rates, (m,) each, the area under the curve and the equal error rate, 0..1
    mistakes: up to 12 of (image, image, logit, same), the images (H, W), 1 = ink
    """
    figure = new_figure(9.5, 5.6)
    (histogram, roc), below = figure.subplots(2, 2, height_ratios=(3.2, 1.7))
    draw_logits(histogram, logits, same, threshold)
    called = logits > threshold
    wrong = np.where(same, ~called, ~(logits <= threshold))
    draw_roc(roc, (called[~same].mean(), called[same].mean()), *curve)
    kinds = (True, SAME, "the same character, called different"), (False, DIFFERENT, "different, called the same")
    for axes, (kind, colour, title) in zip(below, kinds):
        of_kind = same == kind
        axes.set_title(f"{title}: {wrong[of_kind].sum():,} of {of_kind.sum():,}", fontsize=10, loc="left")
        draw_pairs(axes, [pair for pair in mistakes if bool(pair[3]) == kind], colour)
    save(figure, path)


def draw_pairs(axes, pairs, colour):
    """Draw up to six pairs in two rows, (image, image, logit, ...) each, framed, with the logit above."""
    from matplotlib.patches import Rectangle

    axes.set(xlim=(0, 3), ylim=(2, 0))
    axes.axis("off")
    for i, (image1, image2, logit, *_) in enumerate(pairs):
        x, y = i % 3, i // 3
        for image, left in ((image1, x), (image2, x + 0.44)):
            axes.imshow(image, extent=(left, left + 0.4, y + 0.9, y + 0.3), cmap="gray_r", vmin=0, vmax=1)
            axes.add_patch(Rectangle((left, y + 0.3), 0.4, 0.6, fill=False, edgecolor=colour, linewidth=1.8))
        axes.text(x + 0.42, y + 0.24, f"logit {logit:.1f}", fontsize=7.5, ha="center")
    axes.set_aspect("auto")


def draw_logits(axes, logits, same, threshold):
    """Draw the histograms of both kinds of pairs, each 100 % in all; logits that are not finite are left out."""
    finite = np.isfinite(logits)
    edges = np.histogram_bin_edges(np.append(logits[finite], threshold), 50)
    for kind, colour, name in ((False, DIFFERENT, "different"), (True, SAME, "same")):
        drawn = logits[finite & (same == kind)]
        share = np.full(len(drawn), 100 / max(len(drawn), 1))  # percent
        axes.hist(drawn, edges, weights=share, color=colour, alpha=0.65, label=f"{len(drawn):,} {name}")
    axes.axvline(threshold, color=INK, linestyle="--", linewidth=1, label=f"threshold {threshold:.2f}")
    label(axes, "logit (no unit)", "pairs of the kind (%)", "logits of the pairs")
    axes.legend(fontsize=8)


def draw_roc(axes, point, false_positive, true_positive, area, equal_error_rate):
    """Draw the ROC curve, the point of the threshold and the diagonal of guessing; all are fractions."""
    axes.plot([0, 100], [0, 100], ":", color=CHANCE, label="chance")
    axes.plot(100 * np.asarray(false_positive), 100 * np.asarray(true_positive), color=OURS, label="ours")
    axes.plot(100 * point[0], 100 * point[1], "o", color=INK, label="at the threshold", clip_on=False, zorder=3)
    title = f"area under the curve {area:.4f}, equal error rate {100 * equal_error_rate:.1f} %"
    label(axes, "different pairs called the same (%)", "same pairs called the same (%)", title)
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.legend(loc="lower right", fontsize=8)


# A course -------------------------------------------------------------------------------------------------------------

STATES = {  # of a task: its colour and the sign in its cell
    "too slow": (PIXELS, "s"), "not written": (FRAME, "-"), "cannot be imported": (DIFFERENT, "!"),
}  # fmt: skip


def draw_marks(cells, points, tasks, path):
    """Draw what each submission has right of each task, a row a submission and a column a task.

    cells: {name: [(fraction of the task's cases, state as in STATES or "right" or "wrong"), or None where it was not
        handed in]}; points: {name: number}; tasks: the columns' names
    """
    from matplotlib.patches import Patch, Rectangle

    names, height = list(cells), 1.9 + 0.24 * len(cells)
    figure = new_figure(2.6 + 0.46 * len(tasks), height)
    axes = figure.subplots()
    axes.set(xlim=(-0.5, len(tasks) - 0.5), ylim=(len(names) - 0.5, -0.5))
    for y, x in np.ndindex(len(names), len(tasks)):
        share, state = cells[names[y]][x] or (None, "")
        colour, sign = STATES.get(state, (RIGHT, ""))
        strength = 0 if not state else 0.75 if state in STATES else share
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, alpha=strength, edgecolor="none"))
        if state and state != "right":
            text = sign if state in STATES and not share else f"{100 * share:.0f}{sign}"
            white = state == "cannot be imported" or state == "wrong" and share > 0.6
            axes.text(x, y, text, fontsize=6.5, ha="center", va="center", color="white" if white else INK)
    axes.set_xticks(range(len(tasks)), tasks, rotation=40, ha="right", fontsize=7.5)
    rows = [f"{name[:24]}  {points[name]:g}" for name in names]
    axes.set_yticks(range(len(names)), rows, fontsize=7.5, parse_math=False)
    axes.vlines(np.arange(len(tasks) - 1) + 0.5, -0.5, len(names) - 0.5, "white", linewidth=1)
    axes.hlines(np.arange(len(names) - 1) + 0.5, -0.5, len(tasks) - 0.5, "white", linewidth=1)
    axes.tick_params(length=0)
    axes.set_ylabel("submission, points", fontsize=9)
    wrong = Patch(facecolor=RIGHT, alpha=0.4, label="wrong: % of its cases right")
    kinds = [Patch(facecolor=RIGHT, label="right"), wrong]
    kinds += [Patch(facecolor=colour, alpha=0.75, label=f"{sign}  {name}") for name, (colour, sign) in STATES.items()]
    figure.legend(handles=kinds, loc="outside upper center", ncols=3, fontsize=7.5, frameon=False)
    save(figure, path)


def draw_class_report(lines, shares, points, most, path):
    """Draw a page about a course: what was wrong, the tasks by the share right, the distribution of points.

    lines: {heading: [line, ...]} of text; shares: {task: fraction of all cases right}; points: of the submissions
    most: the points that one can have
    """
    import textwrap

    figure = new_figure(9, 11.5)
    page, charts = figure.subfigures(2, 1, height_ratios=(7, 4))
    y = 0.985
    for heading, below in lines.items():
        page.text(0.02, y, heading, fontsize=11, weight="bold", va="top")
        y -= 0.04
        for line in below[:10]:
            wrapped = textwrap.wrap(line, 135, subsequent_indent="   ", max_lines=4, placeholder=" ... (report.md)")
            page.text(0.02, y, "\n".join(wrapped), fontsize=8.5, va="top", linespacing=1.25, parse_math=False)
            y -= 0.0225 * len(wrapped) + 0.007
        y -= 0.02
    bars, histogram = charts.subplots(1, 2, width_ratios=(1.4, 1))
    names = sorted(shares, key=shares.get, reverse=True)  # the lowest on top, as barh counts upwards
    bars.barh(range(len(names)), [100 * shares[name] for name in names], color=RIGHT)
    bars.set_yticks(range(len(names)), names, fontsize=7.5)
    label(bars, "cases right, of all submissions (%)", "", "tasks", xlim=(0, 100))
    histogram.hist(points, np.arange(0, most + 10, 10), color=OURS, edgecolor="white")
    label(histogram, "points", "submissions", "points", xlim=(0, most))
    histogram.yaxis.get_major_locator().set_params(integer=True)
    save(figure, path)
