"""§4.1: loading, checking, keeping and inventing drawings, and which alphabets and drawers are for what."""

import functools
import gzip
import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_drawings, rng
from PIL import Image

import koch
from tutorials.mnist import load_mnist

in_dark_ink = functools.partial(koch.read_picture, ink="dark")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise koch.urllib.error.URLError("no network")

    monkeypatch.setattr(koch.urllib.request, "urlopen", refuse)
    monkeypatch.delenv("KOCH_DATA", raising=False)


# Omniglot -------------------------------------------------------------------------------------------------------------


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).convert("1").save(file, "PNG")
    return file.getvalue()


def small_zip(path, order=None, damage=None):
    """Write two alphabets in Omniglot's layout; character c's drawing d has c + 1 ink pixels in row d."""
    files = {}
    for c in range(3):
        for d in range(4):
            pixels = np.full((105, 105), 255, np.uint8)
            pixels[d, : c + 1] = 0  # ink is 0 in the files
            files[f"images_x/{'AAB'[c]}/character{c + 1:02}/{c + 1:04}_{d + 1:02}.png"] = png(pixels)
    if damage:
        files["images_x/A/character02/0002_03.png"] = damage
    names = ["images_x/A/", *files]
    if order:
        random.Random(order).shuffle(names)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, files.get(name, b""))
    return path


def test_ink_is_1_and_paper_is_0(tmp_path):
    drawings = koch.as_drawings(koch.read_classes(small_zip(tmp_path / "x.zip"), in_dark_ink))
    assert drawings.images.shape == (3, 4, 105, 105) and drawings.images.dtype == torch.uint8
    assert drawings.images[2, 3, 3].tolist() == [1, 1, 1] + [0] * 102 and drawings.images[2, 3].sum() == 3
    assert drawings.names == ("A", "B") and drawings.alphabet.tolist() == [0, 0, 1]
    assert drawings.counts.tolist() == [4, 4, 4] and drawings.characters[1] == "character02"


def test_neither_the_order_of_the_files_in_a_zip_nor_that_of_the_disk_changes_anything(tmp_path, monkeypatch):
    first = koch.read_classes(small_zip(tmp_path / "x.zip"))
    again = koch.read_classes(small_zip(tmp_path / "x.zip", order=5))
    zipfile.ZipFile(tmp_path / "x.zip").extractall(tmp_path / "folder")
    rglob = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda *how: iter(sorted(rglob(*how), reverse=True)))
    for other in (again, koch.read_classes(tmp_path / "folder")):
        assert list(first) == list(other)
        assert all(np.array_equal(first[name], other[name]) for name in first)


@pytest.fixture
def omniglot(tmp_path, monkeypatch):
    """1,623 characters of 50 alphabets as the zips have them, each drawing of 7x7 pixels, out of the names' order."""
    monkeypatch.setattr(koch, "SIDE", 7)
    names = [f"Training{a:02}" for a in range(30)], [*koch.TEST_ALPHABETS, *"MNOPQRSXYZ"]
    found, draw = {}, np.random.default_rng(0)
    for part, alphabets, n in zip(("background", "evaluation"), names, (964, 659)):
        (tmp_path / f"images_{part}.zip").touch()
        classes = {}
        for c in range(n):
            drawings = (draw.random((20, 7, 7)) < 0.3).astype(np.uint8)
            classes[alphabets[c % len(alphabets)], f"character{c // len(alphabets):02}"] = list(drawings)
        found[f"images_{part}.zip"] = dict(sorted(classes.items()))
    monkeypatch.setattr(koch, "read_classes", lambda path, read: {"dark": found[path.name]}[read.keywords["ink"]])
    return tmp_path, found


def test_training_validation_and_test_share_no_alphabet_and_the_test_alphabets_are_those_of_lakes_runs(omniglot):
    folder, found = omniglot
    drawings = koch.load_omniglot(folder)
    assert drawings.images.shape == (1623, 20, 7, 7) and drawings.by_drawer
    training, validation, test = koch.split(drawings)
    assert training.names == tuple(f"Training{a:02}" for a in range(30)) and len(training.images) == 964
    assert validation.names == tuple("MNOPQRSXYZ") and test.names == tuple(koch.TEST_ALPHABETS)
    theirs = found["images_evaluation.zip"]["Tengwar", "character05"]
    at = [test.names[a] for a in test.alphabet].index("Tengwar") + 5
    assert test.characters[at] == "character05" and np.array_equal(test.images[at], theirs)
    assert [len(part.images) for part in (validation, test)] == [329, 330]


def test_training_validation_and_test_drawers_are_12_4_and_4_others(omniglot):
    drawings = koch.load_omniglot(omniglot[0])
    parts = [koch.only_drawers(drawings, part) for part in ("training", "validation", "test")]
    assert [part.images.shape[1] for part in parts] == [12, 4, 4] == [int(part.counts[7]) for part in parts]
    assert torch.equal(torch.cat([part.images for part in parts], 1), drawings.images)
    nobody_says = drawings._replace(by_drawer=False)
    assert koch.only_drawers(nobody_says, "test") is nobody_says


@pytest.mark.parametrize("damage", ["a character", "a drawing", "greys"])
def test_an_omniglot_that_is_not_whole_is_refused(omniglot, damage):
    folder, found = omniglot
    if damage == "a character":
        found["images_background.zip"].popitem()
    elif damage == "greys":
        found["images_evaluation.zip"]["M", "character00"][3] = np.full((105, 105), 0.5, np.float32)
    else:
        found["images_evaluation.zip"]["M", "character00"].pop()
    with pytest.raises(koch.UserError, match="do not hold 20 drawings of 1,?623 characters"):
        koch.load_omniglot(folder)
    assert not (folder / "omniglot.npz").exists()


@pytest.mark.thorough
def test_the_real_omniglot_is_whole_and_its_ink_is_1(data_dir):
    drawings, name = koch.load_data(koch.Config(data_dir=data_dir))
    training, validation, test = koch.split(drawings)
    assert name == "omniglot" and [len(part.images) for part in (training, validation, test)] == [964, 277, 382]
    assert [len(part.names) for part in (training, validation, test)] == [30, 10, 10]
    assert not set(training.names) & set(validation.names) | set(test.names) & set(validation.names)
    assert test.names == tuple(koch.TEST_ALPHABETS) and drawings.alphabet.bincount().min() == 14
    assert 0.04 < drawings.images.float().mean() < 0.1
    braille = training.images[training.alphabet == training.names.index("Braille")][0]
    assert torch.equal(braille[2], braille[18])  # the one duplicate: drawers 03 and 19
    again, lake = koch.load_omniglot(data_dir), koch.lake_trials(data_dir)  # this time from omniglot.npz
    assert torch.equal(again.images, drawings.images) and torch.equal(again.alphabet, drawings.alphabet)
    assert np.load(Path(data_dir) / "omniglot.npz")["bits"].shape == (1623, 20, 105, 14)
    assert torch.equal(koch.lake_trials(data_dir).images, lake.images)


# The .npz files -------------------------------------------------------------------------------------------------------


def test_drawings_and_trials_are_handed_over_as_bits_in_a_file_that_numpy_reads_alone(tmp_path):
    drawings = random_drawings()._replace(characters=tuple(map(str, range(48))), by_drawer=True)
    trials = koch.one_shot_trials(drawings, 20, 40, rng())
    assert koch.kept(tmp_path / "new" / "omniglot.npz", koch.Drawings, lambda: drawings) is drawings
    koch.kept(tmp_path / "lake.npz", koch.Trials, lambda: trials)
    d, lake = np.load(tmp_path / "new" / "omniglot.npz", allow_pickle=False), np.load(tmp_path / "lake.npz")
    assert set(d) == {"bits", "alphabet", "counts", "names", "characters", "by_drawer"}
    assert d["bits"].shape == (48, 4, 105, 14) and d["bits"].dtype == np.uint8
    assert np.array_equal(np.unpackbits(d["bits"], axis=-1, count=105), drawings.images)
    assert d["alphabet"].dtype == np.int64 and d["alphabet"].tolist() == [0] * 21 + [1] * 22 + [2] * 5
    assert d["names"].tolist() == ["Alphabet0", "Alphabet1", "Alphabet2"] and d["names"].dtype.kind == "U"
    assert d["counts"].tolist() == [4] * 48 and d["characters"][47] == "47" and bool(d["by_drawer"])
    shapes = {"bits": (192, 105, 14), "test": (40,), "support": (40, 20), "answers": (40,), "alphabets": (40,)}
    assert {name: lake[name].shape for name in lake} == shapes and lake["alphabets"].tolist() == list(trials.alphabets)
    assert np.array_equal(lake["support"], trials.support) and lake["support"].dtype == np.int64


@pytest.mark.parametrize("by_drawer", [True, False])
def test_the_second_time_drawings_and_trials_come_from_the_file_just_as_they_were(tmp_path, by_drawer):
    drawings = random_drawings()._replace(by_drawer=by_drawer, characters=tuple("abcdef" * 8))
    trials = koch.one_shot_trials(drawings, 5, 40, rng())
    for record in (drawings, trials):
        path = tmp_path / f"{type(record).__name__}.npz"
        koch.kept(path, type(record), lambda: record)
        again = koch.kept(path, type(record), lambda: pytest.fail("made again"))
        for value, was in zip(again, record):
            assert torch.equal(value, was) and value.dtype == was.dtype if torch.is_tensor(was) else value == was


def test_where_the_data_folder_cannot_be_written_the_file_is_in_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawings, closed = random_drawings(), tmp_path / "closed"
    closed.mkdir()
    monkeypatch.setattr(koch.os, "access", lambda path, mode: mode == koch.os.W_OK and path != closed)
    koch.kept(closed / "x.npz", koch.Drawings, lambda: drawings)
    assert (tmp_path / "data" / "x.npz").is_file() and not list(closed.iterdir())
    again = koch.kept(closed / "x.npz", koch.Drawings, lambda: pytest.fail("made again"))
    assert torch.equal(again.images, drawings.images)
    (tmp_path / "data" / "x.npz").rename(closed / "x.npz")  # one that is there is read, whoever put it there
    assert torch.equal(koch.kept(closed / "x.npz", koch.Drawings, lambda: pytest.fail("again")).images, drawings.images)


@pytest.mark.parametrize("content", [b"", b"no numpy file", None])
def test_a_damaged_npz_is_one_line(tmp_path, content):
    path = tmp_path / "x.npz"
    koch.kept(path, koch.Drawings, random_drawings)
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(koch.UserError, match="x.npz is damaged; delete it and start again") as error:
        koch.kept(path, koch.Drawings, random_drawings)
    assert "\n" not in str(error.value)


def test_a_npz_in_which_one_digit_has_changed_is_damaged(tmp_path):
    path = tmp_path / "x.npz"
    koch.kept(path, koch.Drawings, random_drawings)
    content = path.read_bytes()
    assert content.count(b"'shape': (48, 4, 105, 14)") == 1  # NumPy alone would read 47 and never meet the checksum
    path.write_bytes(content.replace(b"'shape': (48, 4, 105, 14)", b"'shape': (47, 4, 105, 14)"))
    with pytest.raises(koch.UserError, match="x.npz is damaged"):
        koch.kept(path, koch.Drawings, random_drawings)
    without = dict(np.load(io.BytesIO(content)))
    del without["by_drawer"]
    np.savez(path, **without)
    with pytest.raises(koch.UserError, match="x.npz is damaged.*by_drawer"):
        koch.kept(path, koch.Drawings, random_drawings)


def test_a_zip_whose_directory_has_lost_a_picture_is_damaged(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for c in range(2):
            for d in range(3):
                archive.writestr(f"{c}/{d}.png", png(255 * random_drawings((1,), 1, seed=3 * c + d).images[0, 0].numpy()))
    assert [len(images) for images in koch.read_classes(path).values()] == [3, 3]
    content = bytearray(path.read_bytes())
    last = content.rfind(b"PK\1\2")
    before, end = content.rfind(b"PK\1\2", 0, last), content.rfind(b"PK\5\6")
    content[before + 32 : before + 34] = (end - last).to_bytes(2, "little")  # the next entry, taken for a comment
    path.write_bytes(content)
    assert len(zipfile.ZipFile(path).namelist()) == 5
    with pytest.raises(koch.UserError, match="x.zip is no data set.*not as it was written"):
        koch.read_classes(path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    koch.write_whole(tmp_path / "a" / "x", b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(koch.os, "replace", full)
    with pytest.raises(OSError):
        koch.write_whole(tmp_path / "a" / "x", b"new")
    assert [path.read_bytes() for path in (tmp_path / "a").iterdir()] == [b"old"]


# Where data files are, and what is done without them ------------------------------------------------------------------


def test_data_files_are_in_the_named_folder_else_in_koch_data_else_in_data(monkeypatch):
    monkeypatch.setenv("KOCH_DATA", "there")
    assert koch.data_file("here", "x", False) == Path("here/x") and koch.data_file("", "x", False) == Path("there/x")
    monkeypatch.delenv("KOCH_DATA")
    assert koch.data_file("", "x", False) == Path("data/x")


def test_a_missing_file_is_downloaded_and_checked(tmp_path, monkeypatch):
    source = tmp_path / "all_runs.zip"
    source.write_bytes(b"x" * 200_000)
    address, right = tmp_path.as_uri() + "/", koch.hashlib.sha256(b"x" * 200_000).hexdigest()
    monkeypatch.setattr(koch, "OMNIGLOT", address)
    monkeypatch.setitem(koch.FILES, "all_runs.zip", ("", right[::-1]))
    with pytest.raises(koch.UserError, match="checksum"):  # not the official file: nothing is kept
        koch.data_file(tmp_path / "data", "all_runs.zip")
    assert not (tmp_path / "data").exists()
    monkeypatch.setitem(koch.FILES, "all_runs.zip", ("", right))
    assert koch.data_file(tmp_path / "data", "all_runs.zip").read_bytes() == source.read_bytes()


def test_a_file_that_is_there_is_taken_without_the_network_whatever_its_checksum(tmp_path, monkeypatch):
    monkeypatch.setattr(koch.urllib.request, "urlopen", lambda *a, **k: pytest.fail("asked the network"))
    (tmp_path / "all_runs.zip").touch()
    assert koch.data_file(tmp_path, "all_runs.zip") == tmp_path / "all_runs.zip"


def test_named_data_that_cannot_be_had_is_one_line_that_names_the_file(tmp_path, no_network, monkeypatch):
    named = [koch.Config(data="omniglot"), koch.Config(data_dir=str(tmp_path)), koch.Config()]
    monkeypatch.chdir(tmp_path)
    for config in named:
        if config == koch.Config():
            monkeypatch.setenv("KOCH_DATA", str(tmp_path))
        with pytest.raises(koch.UserError, match="all_runs.zip is not there.*no network.*--data invented") as error:
            koch.load_data(config)
        assert "\n" not in str(error.value)


def test_without_data_and_network_alphabets_are_invented_and_kept(no_network, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    world = random_drawings([3] * 50, 20)._replace(by_drawer=True)
    monkeypatch.setattr(koch, "invent_alphabets", lambda seed: {0: world}[seed])
    drawings, data = koch.load_data(koch.Config())
    said = capsys.readouterr().out.strip()
    assert data == "invented" and drawings is world and "no network" in said and "Invented alphabets" in said
    monkeypatch.setattr(koch, "invent_alphabets", lambda seed: pytest.fail("invented again"))
    monkeypatch.setattr(koch.urllib.request, "urlopen", lambda *a, **k: pytest.fail("asked the network"))
    again, _ = koch.load_data(koch.Config(data="invented"))
    assert torch.equal(again.images, world.images) and (tmp_path / "data" / "invented.npz").is_file()
    assert [len(part.names) for part in koch.split(again)] == [30, 10, 10]


# Splits ---------------------------------------------------------------------------------------------------------------


def test_some_characters_keep_their_drawings_alphabets_and_names():
    drawings = random_drawings()._replace(counts=torch.arange(48) % 4 + 1, characters=tuple(map(str, range(48))))
    few = koch.only_characters(drawings, (drawings.alphabet != 1) & (torch.arange(48) != 3))
    assert few.names == ("Alphabet0", "Alphabet2") and few.alphabet.tolist() == [0] * 20 + [1] * 5
    assert torch.equal(few.images, torch.cat([drawings.images[:3], drawings.images[4:21], drawings.images[43:]]))
    assert few.characters[3] == "4" and few.counts.tolist() == [int(name) % 4 + 1 for name in few.characters]


def test_drawings_that_nobody_split_are_split_by_alphabet_or_else_by_character():
    training, validation, test = koch.split(random_drawings((3,) * 7, 2, 5))
    assert training.names == tuple(f"Alphabet{a}" for a in (0, 1, 2, 5, 6))
    assert (validation.names, test.names) == (("Alphabet3",), ("Alphabet4",))
    assert [len(part.images) for part in koch.split(random_drawings((10, 5), 2, 5))] == [9, 3, 3]
    assert [len(part.images) for part in koch.split(random_drawings((10,), 2, 5))] == [6, 2, 2]
    for too_few in ((9,), (1, 1, 1, 1, 2)):
        with pytest.raises(koch.UserError, match="takes 10 of them, or 5 alphabets of two"):
            koch.split(random_drawings(too_few, 2, 5))


# Invented alphabets ---------------------------------------------------------------------------------------------------


def test_invented_alphabets_have_omniglots_layout_and_ink(invented):
    n = invented.alphabet.bincount()
    assert len(n) == len(set(invented.names)) == 6 and 14 <= n.min() and n.max() <= 40 and invented.by_drawer
    assert invented.images.shape == (len(invented.alphabet), 20, 105, 105) and invented.images.dtype == torch.uint8
    assert invented.images.max() == 1 and (invented.alphabet.diff() >= 0).all() and (invented.counts == 20).all()
    ink = invented.images.float().mean(dim=(2, 3))
    assert 0.05 < ink.mean() < 0.1 and ink.min() > 0.005 and ink.max() < 0.3
    for drawings in invented.images[::30]:
        assert len({drawing.numpy().tobytes() for drawing in drawings}) == 20


def test_invented_characters_can_be_told_apart(invented):
    few = koch.only_characters(invented, invented.alphabet < 3)
    trials = koch.one_shot_trials(few, 10, 300, rng())
    assert 0.15 < koch.one_shot_accuracy(koch.PixelNearestNeighbour(), trials) < 0.6  # by pixels; chance is 0.1


def test_the_same_seed_invents_the_same_alphabets_and_another_seed_others(invented):
    again, other = koch.invent_alphabets(0, 1), koch.invent_alphabets(1, 1)
    assert torch.equal(again.images, invented.images[: len(again.images)]) and again.names == ("Invented01",)
    assert len(other.images) != len(again.images) or not torch.equal(other.images, again.images)


# MNIST and faces ------------------------------------------------------------------------------------------------------


def idx(array, kind):
    header = b"\0\0\x08" + bytes([kind]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return gzip.compress(header + array.tobytes(), 1)


@pytest.fixture
def digits(tmp_path):
    """MNIST's two files with 10,000 digits: digit d, of which there are 999 or 1009, has d + 1 columns of ink."""
    labels = (np.arange(10_000) % 10).astype(np.uint8)
    labels[:9] = 9
    images = np.zeros((10_000, 28, 28), np.uint8)
    for digit in range(10):
        images[labels == digit, :, : digit + 1] = 255
    images[:, 0, 0] = np.arange(10_000) % 251
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(idx(images, 3))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(labels, 1))
    return tmp_path


def test_mnist_is_ten_characters_ink_high_with_a_count_of_each(digits):
    mnist = load_mnist(digits)
    assert mnist.characters == tuple("0123456789") and mnist.counts.tolist() == [999] * 9 + [1009]
    assert mnist.images.shape == (10, 1009, 28, 28) and mnist.images.dtype == torch.float32 and mnist.images.max() == 1
    for digit in range(10):
        there = mnist.images[digit, : mnist.counts[digit]]
        assert (there[:, 5].sum(1) == digit + 1).all() and not mnist.images[digit, mnist.counts[digit] :].any()
    order = mnist.images[3, :999, 0, 0]
    assert not (order.diff() > 0).all() and torch.equal(order, load_mnist(digits).images[3, :999, 0, 0])


def test_mnist_makes_ten_way_trials(digits):
    class Columns:
        size = 35

        def features(self, images):
            return images[:, 0, 10].mean(1, keepdim=True)  # the share of ink columns

        def logit(self, h1, h2):
            return -(h1 - h2).abs().sum(-1)

    trials = koch.one_shot_trials(load_mnist(digits), 10, 400, rng())
    assert trials.support.shape == (400, 10) and koch.one_shot_accuracy(Columns(), trials) == 1.0


@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_a_damaged_mnist_file_is_named_in_one_line(digits, name):
    whole = (digits / name).read_bytes()
    for content in (whole[: len(whole) // 2], gzip.compress(b"x" * 500)):
        (digits / name).write_bytes(content)
        with pytest.raises(koch.UserError, match=f"{name} is damaged; delete it") as error:
            load_mnist(digits)
        assert "\n" not in str(error.value)


@pytest.mark.thorough
def test_real_digits_and_faces_are_what_they_should_be(data_dir):
    if not (Path(data_dir) / "att_faces.zip").is_file() or not (Path(data_dir) / "t10k-images-idx3-ubyte.gz").is_file():
        pytest.skip("needs MNIST and att_faces.zip in KOCH_DATA")
    mnist = load_mnist(data_dir)
    assert mnist.counts.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert 0.1 < mnist.images.sum() / mnist.counts.sum() / 28**2 < 0.2  # ink is high, and little of it
    faces, _ = koch.load_data(koch.Config(data=f"{data_dir}/att_faces.zip", ink="dark"))
    assert faces.images.shape == (40, 10, 105, 105) and 0.15 < faces.images.mean() < 0.4
    assert [len(part.images) for part in koch.split(faces)] == [24, 8, 8]
