"""Pictures of your own: every format, the ink's polarity, folders and zips, and what is refused before any training."""

import functools
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import koch


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


def read(path, ink="auto"):
    """Read a picture: (105, 105) float32, paper 0 and the darkest ink 1."""
    image = koch.read_picture(path, str(path), ink)
    assert image.shape == (105, 105) and image.dtype == np.float32 and image.min() == 0 and image.max() == 1
    return image


def problem(load, *arguments):
    """Return the message of the UserError that is raised: one line without Python's words."""
    with pytest.raises(koch.UserError) as caught:
        load(*arguments)
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message and "PosixPath" not in message and "  " not in message
    return message


@pytest.fixture
def own(tmp_path):
    """A folder of three classes with two pictures each."""
    for c, name in enumerate("abc"):
        for d in range(2):
            save(grey(drawing(100 * c + d)), tmp_path / "own" / name / f"{d}.png")
    return tmp_path / "own"


# Formats --------------------------------------------------------------------------------------------------------------

LOSSLESS = {"png": {}, "pgm": {}, "ppm": {}, "bmp": {}, "gif": {}, "TIFF": {"compression": "tiff_lzw"}}
LOSSLESS |= {"webp": {"lossless": True}}


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
@pytest.mark.parametrize("suffix", LOSSLESS)
def test_a_drawing_comes_back_pixel_by_pixel_from_every_lossless_format(tmp_path, suffix, mode):
    pixels = drawing(1)
    path = save(grey(pixels).convert(mode), tmp_path / f"x.{suffix}", **LOSSLESS[suffix])
    assert path.name.lower().endswith(koch.SUFFIXES) and np.array_equal(read(path), pixels)


def test_omniglots_black_and_white_stays_in_whole_numbers(tmp_path):
    path = save(grey(drawing(1)).convert("1"), tmp_path / "x.png")
    image = koch.read_picture(path, "x", "dark")
    assert image.dtype == np.uint8 and np.array_equal(image, drawing(1))


@pytest.mark.parametrize("suffix", ["jpg", "JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_comes_back_nearly(tmp_path, mode, suffix):
    image = read(save(grey(drawing(1)).convert(mode), tmp_path / f"x.{suffix}", quality=95))
    assert abs(image - drawing(1)).max() < 0.2 and abs(image - drawing(1)).mean() < 0.02


@pytest.mark.parametrize("suffix, dtype", [("png", "<u2"), ("pgm", "i4"), ("tiff", "<u2"), ("tiff", ">u2")])
def test_16_bits_are_scaled_and_not_clipped_to_white(tmp_path, suffix, dtype):
    pixels = drawing(1).astype(float)
    pixels[pixels == 1] = np.linspace(0.5, 1, int(pixels.sum()))  # nothing here is below 255, where clipping begins
    picture = Image.fromarray((60000 - 50000 * pixels).astype(dtype))
    assert np.abs(read(save(picture, tmp_path / f"x.{suffix}")) - pixels).max() < 1e-4


def test_colours_count_by_their_luminance(tmp_path):
    pixels = np.full((105, 105, 3), 255, np.uint8)
    pixels[20:30, 20:30] = 0
    pixels[50:60, 50:60] = 255, 0, 0
    image = read(save(Image.fromarray(pixels), tmp_path / "x.png"))
    assert image[25, 25] == 1 and abs(image[55, 55] - (1 - 0.299)) < 0.005 and image[40, 40] == 0


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_turn_that_a_camera_notes_is_applied(tmp_path, turn):
    """turn: EXIF's eight orientations; the camera stores the picture turned the other way."""
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[turn]  # Pillow's transpositions
    stored = grey(drawing(1)) if undo is None else grey(drawing(1)).transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = turn
    assert np.array_equal(read(save(stored, tmp_path / "x.png", exif=exif)), drawing(1))


# Transparency ---------------------------------------------------------------------------------------------------------


def test_where_a_picture_is_transparent_there_is_white_paper(tmp_path):
    for mode, shade in (("RGBA", 0), ("RGBA", 90), ("LA", 0)):
        picture = grey(drawing(1), shade, shade).convert(mode)  # opaque strokes; the hidden colour is theirs
        picture.putalpha(grey(drawing(1), 255, 0))
        assert np.array_equal(read(save(picture, tmp_path / "x.png")), drawing(1))


def test_half_transparent_is_half_ink(tmp_path):
    picture, alpha = grey(drawing(1), 0, 0).convert("RGBA"), np.zeros((105, 105), np.uint8)
    alpha[10:20, 10:20], alpha[40:50, 40:50] = 255, 51
    picture.putalpha(Image.fromarray(alpha))
    image = read(save(picture, tmp_path / "x.png"))
    assert image[15, 15] == 1 and abs(image[45, 45] - 0.2) < 0.01 and image[30, 30] == 0


# Size and contrast ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [2, 3, 8])
def test_a_larger_drawing_shrinks_by_averaging_areas(tmp_path, times):
    picture = grey(np.kron(drawing(1), np.ones((times, times), np.uint8)))
    assert np.array_equal(read(save(picture, tmp_path / "x.png")), drawing(1))
    dots = np.zeros((210, 210), np.uint8)
    dots[100:102, 100:102] = dots[50, 50] = dots[21, 20] = dots[20, 21] = 1
    image = read(save(grey(dots), tmp_path / "dots.png"))
    assert np.allclose(image[[50, 25, 10], [50, 25, 10]], [1, 0.25, 0.5], atol=1e-6) and abs(image.sum() - 1.75) < 1e-5


def test_a_small_drawing_grows_bilinearly(tmp_path):
    pixels = np.zeros((20, 20), np.uint8)
    pixels[5:10, 5:15] = 1
    image = read(save(grey(pixels), tmp_path / "x.png"))
    assert abs(image.mean() - pixels.mean()) < 0.002 and len(np.unique(image)) > 4
    assert image[30:50, 30:75].min() == 1 and image[:20].max() == image[60:].max() == 0


@pytest.mark.parametrize("height, width", [(40, 300), (300, 40), (7, 20), (104, 105), (90, 105)])
def test_a_picture_that_is_no_square_is_padded_with_paper_and_keeps_its_shape(tmp_path, height, width):
    pixels = np.zeros((height, width), np.uint8)
    top, left = height // 4, width // 4
    pixels[top : height - top, left : width - left] = 1  # in the middle
    image = read(save(grey(pixels), tmp_path / "x.png"))
    y, x = np.nonzero(image > 0.5)
    scale = 105 / max(height, width)
    assert abs(y.mean() - 52) <= 1 and abs(x.mean() - 52) <= 1
    assert abs(np.ptp(y) + 1 - scale * (height - 2 * top)) < 2
    assert abs(np.ptp(x) + 1 - scale * (width - 2 * left)) < 2


@pytest.mark.parametrize("ink, paper", [(190, 220), (0, 10), (254, 255), (30, 10), (255, 0)])
def test_a_faint_pencil_is_ink_dark_or_light(tmp_path, ink, paper):
    assert np.array_equal(read(save(grey(drawing(1), ink, paper), tmp_path / "x.png")), drawing(1))


def test_neither_grain_nor_a_highlight_makes_the_paper_grey(tmp_path, draw):
    values = np.where(drawing(1), 100.0, 200.0) + draw.normal(0, 2, (105, 105))
    values[3:6, 95:100] = 230
    image = read(save(Image.fromarray(values.round().astype(np.uint8)), tmp_path / "x.png"))
    assert image[drawing(1) == 0].mean() < 0.02 and image[drawing(1) == 1].min() > 0.85


def test_a_png_whose_last_rows_are_damaged_is_refused(tmp_path):
    path = save(grey(drawing(1)).convert("1"), tmp_path / "x.png")
    content = bytearray(path.read_bytes())
    content[content.rindex(b"IEND") - 16] ^= 16  # in what was compressed, which decodes all the same
    path.write_bytes(content)
    with pytest.raises(koch.UserError, match="x.png cannot be read"):
        read(path, "dark")


def test_a_zip_whose_directory_lost_a_name_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("A/1.png", "B/1.png", "C/1.png"):
            archive.write(save(grey(drawing(1)), tmp_path / "1.png"), name)
    content = (tmp_path / "x.zip").read_bytes()
    lost = content.rindex(b"C/1.png")  # in the directory
    (tmp_path / "x.zip").write_bytes(content[:lost] + bytes(7) + content[lost + 7 :])
    with pytest.raises(koch.UserError, match="x.zip is no data set"):
        koch.read_classes(tmp_path / "x.zip")


def test_each_picture_is_read_with_its_own_ink_or_with_the_one_given(tmp_path):
    dark = save(grey(drawing(1)), tmp_path / "a" / "dark.png")
    light = save(ImageOps.invert(grey(drawing(1))), tmp_path / "b" / "light.png")
    for path, other in ((dark, "light"), (light, "dark")):
        assert np.array_equal(read(path), drawing(1)) and np.array_equal(read(path, path.stem), drawing(1))
        assert np.array_equal(read(path, other), 1 - drawing(1))
    assert all(np.array_equal(image, drawing(1)) for (image,) in koch.read_classes(tmp_path).values())
    given = koch.read_classes(tmp_path, functools.partial(koch.read_picture, ink="light"))
    assert np.array_equal(given[tmp_path.name, "a"][0], 1 - drawing(1))


# Layouts --------------------------------------------------------------------------------------------------------------


def zipped(folder):
    """Return the path of a zip with what a folder holds, in it the folder's name, as most programs make it."""
    path = folder.with_name(f"{folder.name}-zip") / f"{folder.name}.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder))
    return path


def test_a_folder_of_classes_is_one_alphabet(own):
    save(grey(drawing(9)), own / "b" / "10.png")
    drawings = koch.as_drawings(koch.read_classes(str(own) + "/"))
    assert drawings.images.shape == (3, 3, 105, 105) and drawings.images.dtype == torch.float32
    assert drawings.counts.tolist() == [2, 3, 2] and drawings.counts.dtype == drawings.alphabet.dtype == torch.int64
    assert drawings.names == ("own",) and drawings.alphabet.tolist() == [0, 0, 0] and not drawings.by_drawer
    assert drawings.characters == ("a", "b", "c")
    assert np.array_equal(drawings.images[1], [drawing(100), drawing(101), drawing(9)])  # 0.png, 1.png, 10.png
    assert drawings.images[0, 2].max() == drawings.images[2, 2].max() == 0


def test_grey_pictures_after_a_black_and_white_one_stay_grey(tmp_path):
    for name in ("a", "b"):
        save(grey(drawing(1)).convert("1"), tmp_path / name / "0.png")
        save(grey(drawing(2)), tmp_path / name / "1.png")
    drawings = koch.as_drawings(koch.read_classes(tmp_path, functools.partial(koch.read_picture, ink="dark")))
    assert drawings.images.dtype == torch.float32
    assert np.array_equal(drawings.images[0], [drawing(1), drawing(2)])


def test_folders_of_classes_are_alphabets(own, tmp_path):
    for path in list(own.iterdir()):
        path.rename(own / f"Runes-{path.name}")
        (own / "Runes").mkdir(exist_ok=True)
        (own / f"Runes-{path.name}").rename(own / "Runes" / path.name)
    for d in range(3):
        save(grey(drawing(300 + d)), own / "Kana" / "a" / f"{d}.png")
    drawings = koch.as_drawings(koch.read_classes(own))
    assert drawings.names == ("Kana", "Runes") and drawings.alphabet.tolist() == [0, 1, 1, 1]
    assert drawings.characters == ("a", "a", "b", "c") and drawings.counts.tolist() == [3, 2, 2, 2]
    assert np.array_equal(drawings.images[2, 1], drawing(101)) and np.array_equal(drawings.images[0, 2], drawing(302))


def test_a_zip_is_read_like_the_folder_that_it_was_made_of(own):
    for name in (".DS_Store", "__MACOSX/a/0.png", "a/._0.png", "notes.txt", "b/x.heic"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text("no picture")
    for support in (False, True):
        folder, archive = koch.read_classes(own, support=support), koch.read_classes(zipped(own), support=support)
        assert list(folder) == list(archive) == [("own", "a"), ("own", "b"), ("own", "c")]
        assert all(np.array_equal(folder[name], archive[name]) and len(folder[name]) == 2 for name in folder)
        (own.with_name("own-zip") / "own.zip").unlink(), own.with_name("own-zip").rmdir()


def test_a_support_has_pictures_and_folders_of_pictures(own):
    save(grey(drawing(7)), own / "d.png")
    (own / "b" / "0.png").unlink()
    drawings = koch.as_drawings(koch.read_classes(own, support=True))
    assert sorted(drawings.characters) == ["a", "b", "c", "d"]
    found = {name: (row[0], int(n)) for name, row, n in zip(drawings.characters, drawings.images, drawings.counts)}
    for name, seed, n in (("a", 0, 2), ("b", 101, 1), ("c", 200, 2), ("d", 7, 1)):
        assert np.array_equal(found[name][0], drawing(seed)) and found[name][1] == n


def test_a_data_set_may_be_a_folder_or_a_zip_of_yours_with_the_ink_that_you_say(own):
    archive = zipped(own)
    for source in (own, archive):
        drawings, name = koch.load_data(koch.Config(data=str(source), ink="light"))
        assert name == str(source) and np.array_equal(drawings.images[0, 0], 1 - drawing(0))


# What is refused ------------------------------------------------------------------------------------------------------


def test_what_is_no_data_set_is_refused_with_the_reason(own, tmp_path):
    (tmp_path / "empty").mkdir()
    layout, folder = r"lay the pictures out as [ALPHABET/]CHARACTER/PICTURE", tmp_path / "one"
    save(grey(drawing(1)), folder / "a" / "x.png")
    assert "none is no data set, and no folder or zip" in problem(koch.read_classes, tmp_path / "none")
    assert "x.png is no data set" in problem(koch.read_classes, folder / "a" / "x.png")
    assert layout in problem(koch.read_classes, tmp_path / "empty")
    assert "fewer than two characters" in problem(koch.read_classes, folder)
    archive = zipped(own)
    archive.write_bytes(archive.read_bytes()[:500])
    assert "own.zip is no data set" in problem(koch.read_classes, archive)


def test_pictures_at_mixed_or_wrong_depths_are_refused(own, tmp_path):
    for name in ("x.png", "Runes/a/x.png"):
        path = save(grey(drawing(9)), own / name)
        assert "lay the pictures out as [ALPHABET/]CHARACTER/PICTURE" in problem(koch.read_classes, own)
        path.unlink()
    save(grey(drawing(9)), own / "Runes" / "a" / "x.png")
    assert "lay the pictures out as CHARACTER.png or" in problem(koch.read_classes, own, koch.read_picture, True)


def test_a_class_with_a_single_picture_is_in_no_pair_and_no_minibatch(own):
    save(grey(drawing(9)), own / "v" / "0.png")
    drawings = koch.as_drawings(koch.read_classes(own))
    assert drawings.counts.tolist() == [2, 2, 2, 1]
    pairs = koch.draw_pairs(drawings, 100, torch.Generator().manual_seed(0))
    assert set(torch.cat([pairs.first, pairs.second]).tolist()) == set(range(6))
    assert koch.enough_drawings(drawings, koch.Config(characters=2, drawings=2)).characters == drawings.characters[:3]


@pytest.mark.parametrize("content", [b"", b"no picture", b"P5 x 5 255\n", b"II*\0\x08\0\0\0", None])
def test_a_file_that_is_no_picture_or_breaks_off_is_refused_by_its_name(own, content):
    whole = (own / "a" / "0.png").read_bytes()
    (own / "b" / "x.png").write_bytes(whole[: len(whole) // 2] if content is None else content)
    for source in (own, zipped(own)):
        message = problem(koch.read_classes, source)
        assert message.startswith(f"{source}: b/x.png cannot be read; replace or delete it (")
    assert problem(read, own / "y.png").startswith(f"{own}/y.png cannot be read; replace or delete it (No such file")
    assert problem(read, own).startswith(f"{own} cannot be read; replace or delete it (Is a directory")


@pytest.mark.parametrize("error", [TypeError("no"), KeyError(256), EOFError(), MemoryError(), ValueError("a\nb")])
def test_whatever_pillow_raises_is_one_line_with_the_files_name(own, monkeypatch, error):
    def raise_it(*_):
        raise error

    monkeypatch.setattr(ImageOps, "exif_transpose", raise_it)
    assert problem(read, own / "a" / "0.png").startswith(f"{own}/a/0.png cannot be read; replace or delete it (")


def test_a_huge_picture_is_refused_by_its_header_and_a_large_one_read_without_a_warning(own, recwarn, monkeypatch):
    path = own / "b" / "x.pgm"
    path.write_bytes(b"P5 20000 20000 255\n")
    assert problem(koch.read_classes, own).startswith(f"{own}: b/x.pgm cannot be read; replace or delete it (")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)  # Pillow warns from here on and refuses twice as many
    assert np.array_equal(read(own / "a" / "0.png"), drawing(0)) and not recwarn


@pytest.mark.parametrize("shade", [0, 77, 255])
@pytest.mark.parametrize("size", [(105, 105), (331, 217), (1, 1)])
def test_a_picture_of_one_colour_is_refused(own, shade, size):
    path = save(Image.new("L", size, shade), own / "b" / "x.png")
    assert problem(read, path) == f"{path} cannot be read; replace or delete it (it is all of one colour)"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_are_refused(tmp_path, value):
    pixels = drawing(1, 210, 210).astype(np.float32)
    pixels[7, 7] = value
    assert "x.tiff cannot be read" in problem(read, save(Image.fromarray(pixels), tmp_path / "x.tiff"))
