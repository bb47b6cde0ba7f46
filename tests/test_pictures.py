"""The pictures: whole, small and opaque, in the named colours, and right where their figures can be read back."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

import koch
from tutorials import curves, pictures


def strokes(*shape, side=35):
    """Drawings of a few thick lines, (*shape, side, side) uint8, 1 = ink."""
    draw, images = np.random.default_rng(0), np.zeros((int(np.prod(shape)), side, side), np.uint8)
    for image in images:
        for a, b in draw.integers(2, side - 4, (3, 2)):
            image[a : a + 2, min(a, b) : max(a, b) + 2] = 1
            image[min(a, b) : max(a, b) + 2, b : b + 2] = 1
    return images.reshape(*shape, side, side)


def some_pairs(n=200):
    """Logits, same, a threshold, an ROC curve of three points and four mistakes."""
    draw, images = np.random.default_rng(0), strokes(8)
    same = np.arange(n) % 2 == 0
    logits = draw.normal(np.where(same, 3, -3), 2)
    curve = np.array([0, 0.1, 1]), np.array([0, 0.8, 1]), 0.85, 0.15
    return logits, same, 0.5, curve, [(images[i], images[i + 1], 6.0 - i, i % 2 == 1) for i in range(4)]


def sweep_rows(kinds=("within", "across"), ways=(2, 5, 20), shots=(1, 5)):
    one = {"accuracy": 0.9, "low": 0.85, "high": 0.93, "pixels": 0.3}
    return [{"where": k, "way": w, "shot": s, "chance": 1 / w} | one for k in kinds for w in ways for s in shots]


EXAMPLES = {
    pictures.draw_verification: some_pairs(),
    pictures.draw_sweep: (sweep_rows(),),
}
every_picture = pytest.mark.parametrize("function", EXAMPLES, ids=lambda function: function.__name__)


def look(path):
    """Return a picture's size and its colours; it is a small opaque PNG on white, and not blank."""
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG" and "transparency" not in image.info
        page = image.convert("RGB")
    assert 1_000 < path.stat().st_size < 80_000
    counts = {colour: n for n, colour in page.getcolors(page.width * page.height)}
    assert max(counts, key=counts.get) == page.getpixel((0, 0)) == (255, 255, 255)
    assert counts[255, 255, 255] < 0.98 * page.width * page.height
    return page.size, set(counts)


def has(colours, *names):
    return all(ImageColor.getrgb(name) in colours for name in names)


@pytest.fixture
def figure(monkeypatch):
    """A function that draws and returns the Matplotlib figure that would be written."""

    def drawn(function, *arguments):
        figures = []
        with monkeypatch.context() as patch:
            patch.setattr(pictures, "save", lambda figure, path: figures.append(figure))
            function(*arguments, Path("unused.png"))
        return figures[0]

    return drawn


def points(axes, marker=None):
    """The (n, 2) places of the lines in axes, or of those with one marker only."""
    lines = [line.get_xydata() for line in axes.lines if marker in (None, line.get_marker())]
    return np.concatenate([np.empty((0, 2)), *lines])


def titles(axes):
    return [text.get_text() for text in axes.texts]


# Files ----------------------------------------------------------------------------------------------------------------


@every_picture
def test_every_picture_is_a_small_opaque_png(function, tmp_path):
    function(*EXAMPLES[function], tmp_path / "new" / "picture.png")
    (width, height), _ = look(tmp_path / "new" / "picture.png")
    assert 400 <= width <= 1600 and 150 <= height <= 1500


@every_picture
def test_a_picture_that_cannot_be_written_leaves_the_old_one(function, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(koch.os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        function(*EXAMPLES[function], path)
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"] and path.read_bytes() == b"old"


# Sweeps and pairs -----------------------------------------------------------------------------------------------------


def test_a_sweep_has_a_line_for_each_number_of_shots_and_bars(figure):
    panels = figure(pictures.draw_sweep, sweep_rows()).axes
    assert [axes.get_title() for axes in panels] == ["within one alphabet", "across alphabets"]
    for axes in panels:
        labels = axes.get_legend_handles_labels()[1]
        assert labels == ["ours, 1-shot", "pixel 1-NN, 1-shot", "ours, 5-shot", "pixel 1-NN, 5-shot", "chance"]
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2", "5", "20"]
        bars = axes.collections[0].get_segments()  # 1-shot
        assert np.allclose([bar[:, 1] for bar in bars], [[85, 93]] * 3)
        assert np.allclose(axes.lines[-1].get_ydata(), [50, 20, 5])


@pytest.mark.parametrize("rows", [sweep_rows(["across"]), sweep_rows(["within"], [20], [1])], ids=["across", "one row"])
def test_a_sweep_of_one_kind_is_one_panel(rows, tmp_path, figure):
    assert len(figure(pictures.draw_sweep, rows).axes) == 1
    pictures.draw_sweep(rows, tmp_path / "sweep.png")
    _, colours = look(tmp_path / "sweep.png")
    assert has(colours, pictures.OURS, pictures.CHANCE)


# Verification ---------------------------------------------------------------------------------------------------------


def test_the_threshold_is_marked_on_the_curve(figure):
    logits, same = np.array([0.5, 0.6, 2.0, np.nan]), np.array([False, False, True, True])
    curve = np.array([0, 1]), np.array([0, 1]), 0.5, 0.5
    axes = figure(pictures.draw_verification, logits, same, 0.5, curve, []).axes
    assert points(axes[1], "o").tolist() == [[50, 50]]  # above the threshold they are called the same
    assert axes[1].get_title() == "area under the curve 0.5000, equal error rate 50.0 %"
    below = [panel.get_title("left") for panel in axes[2:]]
    assert below == ["the same character, called different: 1 of 2", "different, called the same: 1 of 2"]


def test_both_kinds_of_pairs_make_100_percent_each(figure):
    logits, same, *rest = some_pairs()
    logits[:2] = np.nan, np.inf
    histogram = figure(pictures.draw_verification, logits, same, *rest).axes[0]
    for container in histogram.containers:
        assert sum(bar.get_height() for bar in container) == pytest.approx(100)
    said = histogram.get_legend_handles_labels()[1]
    assert {"99 different", "99 same", "threshold 0.50"} == set(said)


@pytest.mark.parametrize("kinds", [[], [True] * 12, [False] * 5 + [True]], ids=["0", "12", "6"])
def test_mistakes_stand_in_the_panel_of_their_kind(kinds, tmp_path, figure):
    *rest, _ = some_pairs()
    mistakes = [(image, image[::-1], -1.5, kind) for image, kind in zip(strokes(12), kinds)]
    same, different = figure(pictures.draw_verification, *rest, mistakes).axes[2:]
    assert len(same.images) == 2 * sum(kinds) and len(different.images) == 2 * (len(kinds) - sum(kinds))
    assert set(titles(same)) <= {"logit -1.5", ""}
    pictures.draw_verification(*rest, mistakes, tmp_path / "verification.png")
    (width, height), colours = look(tmp_path / "verification.png")
    assert 900 < width < 1100 and 400 < height < 900 and has(colours, pictures.OURS)
    assert has(colours, *(pictures.SAME if kind else pictures.DIFFERENT for kind in kinds))


def test_the_curves_of_a_run_are_drawn_beside_its_results(tmp_path, monkeypatch, capsys):
    log = [{"step": step, "loss": 3 / step, "validation": 0.1 * step if step % 2 else None} for step in range(1, 8)]
    (tmp_path / "results.json").write_text(json.dumps({"log": log}))
    monkeypatch.setattr(sys, "argv", ["curves.py", str(tmp_path)])
    assert curves.main() == 0
    (width, height), colours = look(tmp_path / "curves.png")
    assert width > 2 * height and has(colours, pictures.OURS)
    monkeypatch.setattr(sys, "argv", ["curves.py", str(tmp_path / "nowhere")])
    assert curves.main() == 2 and "nowhere is not the folder of a finished run" in capsys.readouterr().err
