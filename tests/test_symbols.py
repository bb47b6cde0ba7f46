"""A picture of a symbol on any paper is read as if it were one of Omniglot's drawings."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

import koch


def page(scale=1.0, place=(0.5, 0.5), side=210, paper=230, ink=40):
    """A picture of a symbol without any symmetry; place: where its box lies in what the page leaves free, 0..1."""
    points = np.array([(0, 0), (0, 100), (60, 100), (20, 55), (20, 20), (80, 0)]) * scale
    free = side - points.max(0)
    points = points + free * place
    picture = Image.new("L", (side, side), paper)
    ImageDraw.Draw(picture).line([tuple(point) for point in points], ink, round(10 * scale), "curve")
    return picture


def read(picture, tmp_path, ink="auto"):
    """Return the image that koch.py reads, and the ink and box that it found."""
    found = []
    picture.save(tmp_path / "x.png")
    image = koch.read_symbol(tmp_path / "x.png", "x.png", ink, found)
    assert image.shape == (105, 105) and image.min() >= 0 and image.max() <= 1 and len(found) == 1
    return image, found[0]


def overlap(image, other):
    """Return the share of the ink of two images that both have, 0..1; strokes are thin: a pixel aside costs a quarter."""
    return np.minimum(image, other).sum() / np.maximum(image, other).sum()


def in_light(picture, angle):
    """The same picture lit from one side, where it is more than twice as light as on the other."""
    y, x = np.mgrid[-1 : 1 : picture.height * 1j, -1 : 1 : picture.width * 1j]
    light = 0.7 + 0.3 * (np.cos(angle) * x + np.sin(angle) * y) / 1.42
    return Image.fromarray(np.uint8(np.asarray(picture) * light))


def on_rough_paper(picture):
    grain = np.random.default_rng(0).normal(0, 12, (picture.height, picture.width))
    return Image.fromarray(np.uint8((np.asarray(picture) + grain).clip(0, 255)))


PAGES = {
    "small": page(0.6),
    "large": page(1.9),
    "in a corner": page(0.9, (0.02, 0.98)),
    "light on dark": page(paper=30, ink=200),
    "faint": page(paper=140, ink=110),
    "lit from the left": in_light(page(), np.pi),
    "lit from above, light on dark": in_light(page(paper=60, ink=240), -np.pi / 2),
    "on rough paper": on_rough_paper(page()),
    "in a photograph of 900 pixels": page(4, side=900),
    "in 64 pixels": page(0.5, side=64),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_symbol_looks_the_same_however_it_was_drawn_or_photographed(name, tmp_path):
    image, _ = read(PAGES[name], tmp_path)
    assert overlap(image, read(page(), tmp_path)[0]) > 0.65
    assert overlap(image, read(page().transpose(Image.Transpose.FLIP_LEFT_RIGHT), tmp_path)[0]) < 0.4


def test_the_ink_is_in_the_middle_and_66_pixels_long(tmp_path):
    image, _ = read(page(0.7, (0, 1)), tmp_path)
    rows, columns = np.flatnonzero(image.max(1) > 0.5), np.flatnonzero(image.max(0) > 0.5)
    assert abs(rows[-1] - rows[0] + 1 - 66) <= 2 and columns[-1] - columns[0] + 1 < 60
    assert abs(rows[0] + rows[-1] - 104) <= 2 and abs(columns[0] + columns[-1] - 104) <= 2


@pytest.mark.parametrize("paper, ink, said", [(230, 40, "dark"), (30, 200, "light")])
def test_the_ink_and_its_box_are_said(paper, ink, said, tmp_path):
    _, found = read(page(1, (0.25, 0.75), paper=paper, ink=ink), tmp_path)
    left, top = (210 - 80) * 0.25 - 5, (210 - 100) * 0.75 - 5  # the pen is 10 pixels wide
    box = [left / 210, top / 210, (left + 90) / 210, (top + 110) / 210]
    assert found == {"ink": said, "box": pytest.approx(box, abs=0.025)}


def test_the_ink_that_was_named_is_taken(tmp_path):
    assert read(page(), tmp_path, "light")[1]["ink"] == "light"
    assert overlap(read(page(paper=30, ink=200), tmp_path, "light")[0], read(page(), tmp_path, "dark")[0]) > 0.95


def test_specks_of_dust_do_not_widen_the_box(tmp_path):
    picture = page(0.6)
    for x, y in ((4, 4), (200, 12), (9, 190), (180, 180)):
        picture.putpixel((x, y), 0)
        picture.putpixel((x + 1, y), 0)
    assert read(picture, tmp_path)[1] == read(page(0.6), tmp_path)[1]


@pytest.mark.parametrize("mode", ["1", "L"])
@pytest.mark.parametrize("ink", [0, 255])
def test_a_drawing_of_two_greys_with_omniglots_size_stays_as_it_is(mode, ink, tmp_path):
    picture = page(0.5, (0.1, 0.1), 105, 255 - ink, ink).point(lambda value: 255 * (value > 127)).convert(mode)
    image, found = read(picture, tmp_path)
    assert np.array_equal(image, np.asarray(picture.convert("L")) == ink)
    assert found["ink"] == ("light" if ink else "dark")


def test_omniglots_drawings_stay_as_they_are(data_dir, tmp_path):
    images = koch.load_omniglot(data_dir).images[::40, ::7].flatten(0, 1).numpy()
    for image in images:
        seen, found = read(Image.fromarray(1 - image).point(lambda value: 255 * value).convert("1"), tmp_path)
        assert np.array_equal(seen, image) and found["ink"] == "dark"


@pytest.mark.parametrize("size", [(1, 2), (3, 1), (300, 2), (2, 300), (20, 20)])
def test_the_smallest_pictures_can_be_read_too(size, tmp_path):
    picture = Image.new("L", size, 255)
    picture.putpixel((0, 0), 0)
    for page_of_it in (picture, picture.point(lambda value: 255 - value)):
        image, found = read(page_of_it, tmp_path)
        assert image.max() > 0.5 and found["box"][0] < found["box"][2] and found["box"][1] < found["box"][3]


def test_a_picture_of_one_colour_is_refused(tmp_path):
    with pytest.raises(koch.UserError, match="it is all of one colour"):
        read(Image.new("L", (50, 50), 200), tmp_path)
