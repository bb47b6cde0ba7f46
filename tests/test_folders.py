"""Pictures of your own: every format, the ink's polarity, the layouts, and what is refused before any training."""

import io
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageOps

from reference_numpy import folders
from reference_numpy.folders import load_folder, load_pictures, load_support
from reference_numpy.terminal import UserError


def drawing(seed, height=105, width=105):
    """A drawing of few strokes, unlike when turned or mirrored: (height, width) uint8, 1 = ink, none at the border."""
    draw = np.random.default_rng(seed)
    pixels = np.zeros((height, width), np.uint8)
    for _ in range(4):
        top, left = draw.integers(2, height - 5), draw.integers(2, width - 5)
        pixels[top : top + 2, left : -2 if draw.random() < 0.5 else left + 3] = 1
        pixels[top:-2, left : left + 2] = 1
    return pixels


def grey(pixels, ink=0, paper=255):
    return Image.fromarray(np.where(pixels, ink, paper).astype(np.uint8))


def save(picture, path, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **how)
    return path


def fill(folder, classes=("a", "b", "c"), n=2, **shades):
    """Save n PNGs of each class."""
    for c, name in enumerate(classes):
        for d in range(n):
            save(grey(drawing(100 * c + d), **shades), folder / name / f"{d}.png")
    return folder


def problem(load, *arguments):
    """Return the message of the UserError that is raised: one line without Python's words."""
    with pytest.raises(UserError) as caught:
        load(*arguments)
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message and "PosixPath" not in message and "  " not in message
    return message


def one(path, ink="auto"):
    """Load one picture: (105, 105)."""
    (image,) = load_pictures([path], ink)
    assert image.dtype == np.float32 and image.min() == 0 and image.max() == 1
    return image


@pytest.fixture
def own(tmp_path):
    return fill(tmp_path / "own")


# Formats --------------------------------------------------------------------------------------------------------------

EXACT = {
    "png": {},
    "pgm": {},
    "ppm": {},
    "bmp": {},
    "gif": {},
    "tif": {},
    "TIFF": {"compression": "tiff_lzw"},
    "webp": {"lossless": True},
}


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
@pytest.mark.parametrize("suffix", EXACT)
def test_a_drawing_comes_back_pixel_by_pixel_from_every_lossless_format(tmp_path, suffix, mode):
    pixels = drawing(1)
    image = one(save(grey(pixels).convert(mode), tmp_path / f"x.{suffix}", **EXACT[suffix]))
    assert image.shape == (105, 105) and np.array_equal(image, pixels)


def test_a_one_bit_pbm_comes_back_pixel_by_pixel(tmp_path):
    assert np.array_equal(one(save(grey(drawing(1)).convert("1"), tmp_path / "x.pbm")), drawing(1))


@pytest.mark.parametrize("suffix", ["jpg", "JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_comes_back_nearly(tmp_path, mode, suffix):
    image = one(save(grey(drawing(1)).convert(mode), tmp_path / f"x.{suffix}", quality=95))
    assert abs(image - drawing(1)).max() < 0.2 and abs(image - drawing(1)).mean() < 0.02


def test_a_cmyk_tiff_comes_back_pixel_by_pixel(tmp_path):
    assert np.array_equal(one(save(grey(drawing(1)).convert("CMYK"), tmp_path / "x.tif")), drawing(1))


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "i4"])
@pytest.mark.parametrize("suffix", ["png", "pgm", "tiff"])
def test_16_bits_are_scaled_and_not_clipped_to_white(tmp_path, suffix, dtype):
    if (suffix, dtype) in {("png", "i4"), ("pgm", "<u2"), ("pgm", ">u2")}:
        dtype = {"png": "<u2", "pgm": "i4"}[suffix]  # the only one that Pillow writes there
    pixels = drawing(1).astype(float)
    pixels[pixels == 1] = np.linspace(0.5, 1, int(pixels.sum()))  # nothing here is below 255, where clipping begins
    picture = Image.fromarray((60000 - 50000 * pixels).astype(dtype))
    assert np.abs(one(save(picture, tmp_path / f"x.{suffix}")) - pixels).max() < 1e-4


@pytest.mark.parametrize("maxval", [1, 100, 255, 4095, 65535])
def test_a_pgm_of_any_maxval_comes_back_pixel_by_pixel(tmp_path, maxval):
    path, values = tmp_path / "x.pgm", (1 - drawing(1).astype(int)) * maxval
    path.write_bytes(b"P5 105 105 %d\n" % maxval + values.astype(">u2" if maxval > 255 else "u1").tobytes())
    assert np.array_equal(one(path), drawing(1))


def test_a_tiff_of_floats_may_have_any_range(tmp_path):
    picture = Image.fromarray((0.25 - drawing(1) * 0.5).astype(np.float32))
    assert np.array_equal(one(save(picture, tmp_path / "x.tiff")), drawing(1))


def test_colours_count_by_their_luminance(tmp_path):
    pixels = np.full((105, 105, 3), 255, np.uint8)
    pixels[20:30, 20:30] = 0
    pixels[50:60, 50:60] = 255, 0, 0
    image = one(save(Image.fromarray(pixels), tmp_path / "x.png"))
    assert image[25, 25] == 1 and abs(image[55, 55] - (1 - 0.299)) < 0.005 and image[40, 40] == 0


@pytest.mark.parametrize("suffix", ["gif", "tiff", "webp"])
def test_the_first_of_many_frames_counts(tmp_path, suffix):
    frames = [grey(drawing(seed)) for seed in (1, 2, 3)]
    how = {"lossless": True} if suffix == "webp" else {}
    path = save(frames[0], tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:], **how)
    with Image.open(path) as picture:
        assert picture.n_frames == 3
    assert np.array_equal(one(path), drawing(1))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "jpg"])
def test_the_turn_that_a_camera_notes_is_applied(tmp_path, suffix, turn):
    """turn: EXIF's eight orientations; the camera stores the picture turned the other way."""
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[turn]  # Pillow's transpositions
    stored = grey(drawing(1)) if undo is None else grey(drawing(1)).transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = turn
    how = {"lossless": True} if suffix == "webp" else {"quality": 95} if suffix == "jpg" else {}
    image = one(save(stored, tmp_path / f"x.{suffix}", exif=exif, **how))
    assert abs(image - drawing(1)).max() <= (0.2 if suffix == "jpg" else 0)


def test_what_a_file_holds_counts_and_not_its_name(tmp_path):
    path = tmp_path / "x.jpg"
    grey(drawing(1)).save(path, format="PNG")
    assert np.array_equal(one(path), drawing(1))


# Transparency ---------------------------------------------------------------------------------------------------------


def strokes(pixels, shade, mode="RGBA"):
    """Opaque strokes of one shade on transparency, whose hidden colour is that of the strokes."""
    picture = grey(pixels, shade, shade).convert(mode)
    picture.putalpha(grey(pixels, 255, 0))
    return picture


@pytest.mark.parametrize("ink", ["auto", "dark", "light"])
@pytest.mark.parametrize("shade", [0, 90, 200, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_where_a_picture_is_transparent_there_is_paper(tmp_path, mode, shade, ink):
    path = save(strokes(drawing(1), shade, mode), tmp_path / "x.png")
    assert np.array_equal(one(path, ink), drawing(1))
    assert folders.read_picture(path, "auto")[1] == ("light" if shade > 127 else "dark")


def test_half_transparent_is_half_ink(tmp_path):
    picture, alpha = strokes(drawing(1), 0), np.zeros((105, 105), np.uint8)
    alpha[10:20, 10:20], alpha[40:50, 40:50] = 255, 51
    picture.putalpha(Image.fromarray(alpha))
    image = one(save(picture, tmp_path / "x.png"))
    assert image[15, 15] == 1 and abs(image[45, 45] - 0.2) < 1e-6 and image[30, 30] == 0


@pytest.mark.parametrize("suffix", ["png", "gif"])
@pytest.mark.parametrize("shade", [0, 255])
def test_a_palette_may_have_a_transparent_colour(tmp_path, shade, suffix):
    picture = Image.fromarray(drawing(1)).convert("P")  # 0 is transparent, 1 is ink, both of the same shade
    picture.putpalette([shade] * 6)
    assert np.array_equal(one(save(picture, tmp_path / f"x.{suffix}", transparency=0)), drawing(1))


@pytest.mark.parametrize("dtype, shade", [(np.uint8, 40), (np.uint16, 10000)])
def test_a_grey_may_be_the_transparent_one(tmp_path, dtype, shade):
    path = save(Image.fromarray(drawing(1).astype(dtype) * shade), tmp_path / "x.png", transparency=0)
    assert np.array_equal(one(path), drawing(1)) and folders.read_picture(path, "auto")[1] == "dark"


def test_a_card_with_round_corners_brings_its_own_paper(tmp_path):
    picture, alpha = grey(drawing(1)).convert("RGBA"), np.full((105, 105), 255, np.uint8)
    alpha[:9, :9] = alpha[-9:, -9:] = 0
    picture.putalpha(Image.fromarray(alpha))
    expected = drawing(1)
    expected[alpha == 0] = 0
    path = save(picture, tmp_path / "x.png")
    assert np.array_equal(one(path), expected) and np.array_equal(one(path, "light"), 1 - expected)


# Size and contrast ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [2, 3, 8])
def test_a_larger_drawing_shrinks_by_averaging_areas(tmp_path, times):
    picture = grey(np.kron(drawing(1), np.ones((times, times), np.uint8)))
    assert np.array_equal(one(save(picture, tmp_path / "x.png")), drawing(1))
    dots = np.zeros((210, 210), np.uint8)
    dots[100:102, 100:102] = dots[50, 50] = dots[21, 20] = dots[20, 21] = 1
    image = one(save(grey(dots), tmp_path / "dots.png"))
    assert np.allclose(image[[50, 25, 10], [50, 25, 10]], [1, 0.25, 0.5], atol=1e-6) and abs(image.sum() - 1.75) < 1e-5


def test_a_small_drawing_grows_bilinearly(tmp_path):
    pixels = np.zeros((20, 20), np.uint8)
    pixels[5:10, 5:15] = 1
    image = one(save(grey(pixels), tmp_path / "x.png"))
    assert abs(image.mean() - pixels.mean()) < 0.002 and len(np.unique(image)) > 4
    assert image[30:50, 30:75].min() == 1 and image[:20].max() == image[60:].max() == 0


@pytest.mark.parametrize("height, width", [(40, 300), (300, 40), (7, 20), (104, 105), (1, 300), (90, 105)])
def test_a_picture_that_is_no_square_is_padded_with_paper_and_keeps_its_shape(tmp_path, height, width):
    pixels = np.zeros((height, width), np.uint8)
    top, left = height // 4, width // 4
    pixels[top : height - top, left : width - left] = 1  # in the middle
    image = one(save(grey(pixels), tmp_path / "x.png"))
    y, x = np.nonzero(image > 0.5)
    scale = 105 / max(height, width)
    assert abs(y.mean() - 52) <= 1 and abs(x.mean() - 52) <= 1
    assert abs(np.ptp(y) + 1 - scale * (height - 2 * top)) < 2
    assert abs(np.ptp(x) + 1 - scale * (width - 2 * left)) < 2


def test_a_picture_as_wide_as_105_pixels_is_padded_and_not_resized(tmp_path):
    image = one(save(grey(drawing(1, 60, 105)), tmp_path / "x.png"))
    assert np.array_equal(image[22:82], drawing(1, 60, 105)) and image[:22].max() == image[82:].max() == 0


@pytest.mark.parametrize("ink, paper", [(190, 220), (0, 10), (254, 255), (30, 10), (255, 0)])
def test_a_faint_pencil_is_ink(tmp_path, ink, paper):
    assert np.array_equal(one(save(grey(drawing(1), ink, paper), tmp_path / "x.png")), drawing(1))


def test_a_dot_on_a_large_paper_is_ink(tmp_path):
    pixels = np.zeros((1050, 1050), np.uint8)
    pixels[500:510, 700:710] = 1
    image = one(save(grey(pixels, 180, 200), tmp_path / "x.png"))
    assert image[50, 70] == 1 and image.sum() == 1


def test_neither_grain_nor_a_highlight_makes_the_paper_grey(tmp_path, draw):
    values = np.where(drawing(1), 100.0, 200.0) + draw.normal(0, 2, (105, 105))
    values[3:6, 95:100] = 230
    image = one(save(Image.fromarray(values.round().astype(np.uint8)), tmp_path / "x.png"))
    assert image[drawing(1) == 0].mean() < 0.02 and image[drawing(1) == 1].min() > 0.85


def test_a_photograph_with_dark_corners_has_dark_ink(tmp_path):
    y, x = np.mgrid[-1:1:210j, -1:1:210j]
    values = 210 - 40 * np.maximum(abs(x), abs(y)) ** 4
    values[90:120, 60:150] = 40
    path = save(Image.fromarray(values.astype(np.uint8)), tmp_path / "x.png")
    assert folders.read_picture(path, "auto")[1] == "dark" and one(path)[52, 52] > 0.9


# Polarity -------------------------------------------------------------------------------------------------------------


def test_pictures_are_read_each_with_its_own_ink_or_with_the_one_given(tmp_path):
    paths = [save(grey(drawing(1)), tmp_path / "d.png"), save(ImageOps.invert(grey(drawing(1))), tmp_path / "l.png")]
    assert np.array_equal(load_pictures(paths), [drawing(1)] * 2)
    assert np.array_equal(load_pictures(paths, "dark"), [drawing(1), 1 - drawing(1)])
    assert np.array_equal(load_pictures(paths, "light"), [1 - drawing(1), drawing(1)])
    assert load_pictures([], "auto").shape == (0, 105, 105)


@pytest.mark.parametrize("ink, other, shades", [("dark", "light", (0, 255)), ("light", "dark", (255, 0))])
def test_most_pictures_settle_the_ink_of_a_folder(tmp_path, capsys, ink, other, shades):
    own = fill(tmp_path / "own", n=3, ink=shades[0], paper=shades[1])
    odd = save(grey(drawing(7), *shades[::-1]), own / "b" / "odd.png")
    drawings, chosen = load_folder(own)
    assert chosen == ink and np.array_equal(drawings.images[1, 3], 1 - drawing(7))
    assert np.array_equal(drawings.images[0, 0], drawing(0))
    says = f"10 pictures of 3 classes; ink is {ink} in 9 of 10 (not in b/odd.png), so it is taken as {ink}"
    assert capsys.readouterr().out == f"{own}/: {says} (--ink {other} says otherwise)\n"
    odd.unlink()
    load_folder(own)
    assert f"ink is {ink} in 9 of 9, so it is taken as {ink} (--ink {other} " in capsys.readouterr().out


def test_at_most_three_pictures_that_disagree_are_named(own, capsys):
    for d in range(5):
        save(grey(drawing(50 + d), 255, 0), own / "c" / f"odd{d}.png")
    assert load_folder(own)[1] == "dark"
    assert "6 of 11 (not in c/odd0.png, c/odd1.png, c/odd2.png and 2 more), so" in capsys.readouterr().out


def test_the_ink_that_is_given_overrides_the_vote(own, capsys):
    for load in load_folder, load_support:
        drawings, chosen = load(own, "light")
        assert chosen == "light" and np.array_equal(drawings.images[0, 0], 1 - drawing(0))
        assert capsys.readouterr().out == f"{own}/: 6 pictures of 3 classes; ink is light, as given\n"


def test_equal_votes_are_for_dark_ink(tmp_path):
    own = fill(tmp_path / "own", "ab")
    for d in range(2):
        ImageOps.invert(Image.open(own / "b" / f"{d}.png")).save(own / "b" / f"{d}.png")
    assert load_folder(own)[1] == "dark"


def test_strokes_on_transparency_are_ink_whatever_the_vote(own):
    save(strokes(drawing(7), 255), own / "c" / "2.png")
    drawings, ink = load_folder(own)
    assert ink == "dark" and np.array_equal(drawings.images[2, 2], drawing(7))


def test_an_unknown_ink_is_refused(own):
    assert "auto, dark, light, not red" in problem(load_folder, own, "red")


# Layouts --------------------------------------------------------------------------------------------------------------


def test_a_folder_of_classes_is_one_alphabet(own, capsys):
    save(grey(drawing(9)), own / "b" / "10.png")
    drawings, ink = load_folder(str(own) + "/")
    assert drawings.images.shape == (3, 3, 105, 105) and drawings.images.dtype == np.float32 and ink == "dark"
    assert drawings.counts.tolist() == [2, 3, 2] and drawings.counts.dtype == drawings.alphabet.dtype == np.int64
    assert drawings.names == ("own",) and drawings.alphabet.tolist() == [0, 0, 0]
    assert drawings.characters == ("a", "b", "c")
    assert np.array_equal(drawings.images[1], [drawing(100), drawing(101), drawing(9)])
    assert drawings.images[0, 2].max() == drawings.images[2, 2].max() == 0


def test_a_folder_in_the_folder_you_are_in_has_its_name(own, monkeypatch):
    monkeypatch.chdir(own)
    assert load_folder(".")[0].names == load_support(".")[0].names == ("own",)


def test_folders_of_classes_are_alphabets(tmp_path):
    fill(tmp_path / "own" / "Runes", "ba")
    for d in range(3):
        save(grey(drawing(300 + d)), tmp_path / "own" / "Kana" / "a" / f"{d}.png")
    drawings, _ = load_folder(tmp_path / "own")
    assert drawings.names == ("Kana", "Runes") and drawings.alphabet.tolist() == [0, 1, 1]
    assert drawings.characters == ("a", "a", "b") and drawings.counts.tolist() == [3, 2, 2]
    assert np.array_equal(drawings.images[1, 1], drawing(101)) and np.array_equal(drawings.images[0, 2], drawing(302))


def test_the_order_is_that_of_the_names_and_not_of_the_disk(own, monkeypatch):
    first, _ = load_folder(own)
    listed = type(own).iterdir
    monkeypatch.setattr(type(own), "iterdir", lambda folder: iter(sorted(listed(folder), reverse=True)))
    second, _ = load_folder(own)
    assert np.array_equal(first.images, second.images) and first.characters == second.characters


def test_other_and_hidden_files_are_left_out_and_the_others_are_named(own, capsys):
    hidden = [".DS_Store", "a/Thumbs.db", "a/._0.png", "__MACOSX/a/0.png", ".git/x/y/z.png"]
    for name in [*hidden, "notes.txt", "b/x.heic"]:
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text("no picture")
    (own / "empty").mkdir()
    drawings, _ = load_folder(own)
    assert drawings.counts.tolist() == [2, 2, 2]
    assert capsys.readouterr().out.splitlines()[0] == f"{own}/: left out, no pictures: b/x.heic, empty, notes.txt"
    for name in ("zoo.txt", "zoo.doc"):
        (own / name).touch()
    load_support(own)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{own}/: left out, no pictures: b/x.heic, empty, notes.txt and 2 more" and len(out) == 2


def test_a_support_has_pictures_and_folders_of_pictures(own, capsys):
    save(grey(drawing(9)), own / "aa.jpg.png")
    for seed, name in (8, "Z.PNG"), (7, "d.png"), (6, "d!.png"):  # "!" comes before ".", but d before d!
        save(grey(drawing(seed)), own / name)
    (own / "b" / "0.png").unlink()
    drawings, ink = load_support(own)
    assert drawings.characters == ("Z", "a", "aa.jpg", "b", "c", "d", "d!")
    assert drawings.counts.tolist() == [1, 2, 1, 1, 2, 1, 1]
    assert drawings.names == ("own",) and drawings.alphabet.tolist() == [0] * 7 and ink == "dark"
    assert np.array_equal(drawings.images[:, 0], [drawing(s) for s in (8, 0, 9, 101, 200, 7, 6)])
    assert drawings.images.shape == (7, 2, 105, 105) and drawings.images[2, 1].max() == 0


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_folder, load_support])
def test_a_folder_that_is_missing_or_is_none_is_refused(tmp_path, load):
    assert f"{tmp_path}/none cannot be read (No such file" in problem(load, tmp_path / "none")
    path = save(grey(drawing(1)), tmp_path / "x.png")
    assert f"{path} cannot be read (Not a directory)" in problem(load, path)


@pytest.mark.parametrize("load", [load_folder, load_support])
def test_a_folder_without_pictures_is_refused(tmp_path, load, capsys):
    (tmp_path / "own" / "a").mkdir(parents=True)
    (tmp_path / "own" / "a" / "notes.txt").touch()
    message = problem(load, tmp_path / "own")
    assert f"{tmp_path}/own holds no pictures" in message and "own/CLASS/PICTURE" in message
    (tmp_path / "empty").mkdir()
    capsys.readouterr()
    assert "empty holds no pictures" in problem(load, tmp_path / "empty") and capsys.readouterr().out == ""


@pytest.mark.parametrize("load", [load_folder, load_support])
def test_a_single_class_is_refused(tmp_path, load):
    own = fill(tmp_path / "own", "a", n=3)
    assert f"{own} has only one class, a;" in problem(load, own)


def test_a_class_with_a_single_picture_is_refused_for_learning(own):
    for name in "vwxyz":
        save(grey(drawing(ord(name))), own / name / "0.png")
    message = problem(load_folder, own)
    assert f"only one picture in {own}/v, {own}/w, {own}/x and 2 more;" in message
    assert load_support(own)[0].counts.tolist() == [2, 2, 2, 1, 1, 1, 1, 1]


def test_pictures_at_the_wrong_depth_are_refused(own, tmp_path):
    layout = f"{own}/CLASS/PICTURE or, every one, {own}/ALPHABET/CLASS/PICTURE"
    for name in ("x.png", "Runes/a/x.png", "Runes/a/x/x.png", "1/2/3/4/5/x.png"):
        path = save(grey(drawing(9)), own / name)
        assert problem(load_folder, own) == f"wrong depth: {path}; lay out all pictures as {layout}"
        path.unlink()
    fill(tmp_path / "own2" / "Runes")
    path = save(grey(drawing(9)), tmp_path / "own2" / "a" / "x.png")
    assert f"wrong depth: {path};" in problem(load_folder, tmp_path / "own2")
    for d in range(5):
        save(grey(drawing(d)), tmp_path / "flat" / f"{d}.png")
    flat = tmp_path / "flat"
    assert f"wrong depth: {flat}/0.png, {flat}/1.png, {flat}/2.png and 2 more;" in problem(load_folder, flat)


def test_a_support_that_is_too_deep_is_refused(own):
    path = save(grey(drawing(9)), own / "Runes" / "a" / "x.png")
    layout = f"{own}/CLASS.png or {own}/CLASS/PICTURE"
    assert problem(load_support, own) == f"wrong depth: {path}; lay out all pictures as {layout}"


def test_a_class_that_comes_twice_in_a_support_is_refused(own):
    path = save(grey(drawing(9)), own / "b.png")
    assert problem(load_support, own) == f"the class b comes twice: {own}/b, {path}; rename one"
    path = path.rename(own / "d.bmp")
    save(grey(drawing(8)), own / "d.png")
    assert problem(load_support, own) == f"the class d comes twice: {path}, {own}/d.png; rename one"


@pytest.mark.parametrize("load", [load_folder, load_support])
@pytest.mark.parametrize("name", ["a/9.bmp", "c/9.bmp"])
def test_the_same_picture_twice_is_refused(own, load, name):
    save(grey(drawing(100), 10, 240).convert("RGB"), own / name)
    paths = f"{own}/{name} and {own}/b/0.png" if name[0] == "a" else f"{own}/b/0.png and {own}/{name}"
    assert problem(load, own) == f"the same picture twice: {paths}; delete one of the two"


def damaged(kind):
    """Return the bytes of a file that is no whole picture."""
    file = io.BytesIO()
    how = {"compression": "tiff_deflate"} if kind == "tiff" else {}
    noise = np.random.default_rng(0).integers(0, 256, (60, 60)).astype(np.uint8)
    Image.fromarray(noise).save(file, "PPM" if kind == "pgm" else kind, **how)
    return file.getvalue()[: len(file.getvalue()) // 2]


@pytest.mark.parametrize("kind", ["png", "jpeg", "pgm", "bmp", "gif", "tiff", "webp"])
def test_a_file_that_breaks_off_is_refused(own, kind):
    (own / "b" / f"x.{kind}").write_bytes(damaged(kind))
    for load in load_folder, load_support:
        message = problem(load, own)
        assert message.startswith(f"{own}/b/x.{kind} cannot be read (") and message.endswith("; replace or delete it")


NO_PICTURES = [b"", b"no picture", b"%!PS-Adobe-3.0\n", b"\x89PNG\r\n\x1a\n", b"P5 x 5 255\n", b"II*\0\x08\0\0\0"]


@pytest.mark.parametrize("content", NO_PICTURES)
def test_a_file_that_is_no_picture_is_refused(own, content):
    (own / "b" / "x.png").write_bytes(content)
    assert problem(load_folder, own).startswith(f"{own}/b/x.png cannot be read (")


def test_a_picture_of_another_format_is_refused_under_any_name(tmp_path):
    grey(drawing(1)).save(tmp_path / "x.png", format="PCX")
    assert "x.png cannot be read (no picture, or damaged)" in problem(load_pictures, [tmp_path / "x.png"])


def test_a_folder_a_missing_file_and_a_dead_link_are_no_pictures(own, tmp_path):
    (own / "b" / "x.png").symlink_to(tmp_path / "nowhere.png")
    assert problem(load_folder, own).startswith(f"{own}/b/x.png cannot be read (No such file")
    assert problem(load_pictures, [own]).startswith(f"{own} cannot be read (Is a directory)")
    assert problem(load_pictures, [own / "y.png"]).startswith(f"{own}/y.png cannot be read (No such file")


@pytest.mark.parametrize("error", [TypeError("no"), KeyError(256), EOFError(), OverflowError("no"), MemoryError()])
def test_whatever_pillow_raises_is_one_line_with_the_files_name(own, monkeypatch, error):
    def raise_it(*_):
        raise error

    monkeypatch.setattr(ImageOps, "exif_transpose", raise_it)
    assert problem(load_pictures, [own / "a" / "0.png"]).startswith(f"{own}/a/0.png cannot be read (")


@pytest.mark.parametrize("width, height", [(10001, 10000), (20000, 20000), (2_000_000_000, 1)])
def test_a_huge_picture_is_refused_by_its_header(own, recwarn, width, height):
    path = own / "b" / "x.pgm"
    path.write_bytes(b"P5 %d %d 255\n" % (width, height))
    assert problem(load_folder, own) == f"{path} is too large (more than 100 megapixels); replace or delete it"
    assert not recwarn


def test_a_large_picture_is_read_without_pillows_warning(tmp_path, recwarn, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)  # Pillow warns from here on and refuses twice as many
    assert np.array_equal(one(save(grey(drawing(1)), tmp_path / "x.png")), drawing(1)) and not recwarn
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    assert "x.png is too large" in problem(load_pictures, [tmp_path / "x.png"])


@pytest.mark.parametrize("shade", [0, 77, 255])
@pytest.mark.parametrize("size", [(105, 105), (331, 217), (20, 20), (1, 1)])
def test_a_picture_of_one_colour_is_refused(own, shade, size):
    path = save(Image.new("L", size, shade), own / "b" / "x.png")
    assert problem(load_folder, own) == f"{path} is all of one colour; replace or delete it"


def test_a_speck_that_is_hardly_there_is_no_drawing(tmp_path):
    picture = Image.new("L", (2100, 2100), 255)
    picture.putpixel((1000, 1000), 254)
    assert "is all of one colour" in problem(load_pictures, [save(picture, tmp_path / "x.png")])


def test_a_picture_that_is_all_transparent_is_refused(tmp_path):
    path = save(strokes(np.zeros((105, 105)), 0), tmp_path / "x.png")
    assert "is all of one colour" in problem(load_pictures, [path])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_are_refused(tmp_path, value):
    pixels = drawing(1, 210, 210).astype(np.float32)
    pixels[7, 7] = value
    path = save(Image.fromarray(pixels), tmp_path / "x.tiff")
    assert f"{path} cannot be read (pixels that are no numbers)" in problem(load_pictures, [path])


def test_of_many_problems_three_are_named_and_all_are_counted(own):
    for d in range(4):
        (own / "a" / f"x{d}.png").write_bytes(b"")
    save(Image.new("L", (9, 9)), own / "c" / "blank.png")
    message = problem(load_folder, own)
    assert all(f"{own}/a/x{d}.png cannot be read (no picture, or damaged)" in message for d in range(3))
    assert message.endswith(" and 2 more; replace or delete them")


def test_a_name_that_no_terminal_can_print_stays_in_one_line(own):
    (own / "b" / "x\ny\udcff.png").write_bytes(b"")
    assert problem(load_folder, own).startswith(f"{own}/b/x?y?.png cannot be read")
    (own / "b" / "x\ny\udcff.png").unlink()
    (own / "b").rename(own / "b\n")
    assert load_folder(own)[0].characters == ("a", "b?", "c")


def test_pictures_are_loaded_without_torch(own):
    code = "import sys; from reference_numpy.folders import load_folder; load_folder(sys.argv[1]); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code, own], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "reference_numpy.folders" in run.stdout.split() and "torch" not in run.stdout.split()
