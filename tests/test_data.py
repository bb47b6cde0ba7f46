"""§4.1: loading, checking, caching and inventing drawings, and the split by alphabet."""

import gzip
import io
import random
import zipfile

import numpy as np
import pytest
import torch
from conftest import random_drawings
from PIL import Image

import koch
from reference_numpy import files
from reference_numpy import invented as invented_module


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).convert("1").save(file, "PNG")
    return file.getvalue()


def small_zip(path, damage=None, n_characters=3, order=None):
    """Write an Omniglot of one alphabet; character c's drawing d has c + 1 ink pixels in row d."""
    files = {}
    for c in range(n_characters):
        for d in range(20):
            pixels = np.full((105, 105), 255, np.uint8)
            pixels[d, : c + 1] = 0  # ink is 0 in the files
            files[f"images_background/Runes/character{c + 1:02}/{c + 1:04}_{d + 1:02}.png"] = png(pixels)
    if damage:
        name = list(files)[25]
        files[name] = damage(files[name])
    names = list(files)
    if order:
        random.Random(order).shuffle(names)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, files[name])


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setitem(files.N_CHARACTERS, "background", 3)
    small_zip(tmp_path / "images_background.zip")
    return tmp_path


def test_ink_is_1_and_paper_is_0(small):
    drawings = files.load_omniglot(small)
    assert drawings.images.shape == (3, 20, 105, 105) and drawings.images.dtype == np.uint8
    assert drawings.images[2, 7, 7].tolist() == [1, 1, 1] + [0] * 102 and drawings.images[2, 7].sum() == 3
    assert drawings.names == ("Runes",) and drawings.alphabet.tolist() == [0, 0, 0]


def test_the_order_of_the_files_in_the_zip_changes_nothing(small):
    first = files.load_omniglot(small)
    (small / "images_background.npz").unlink()
    small_zip(small / "images_background.zip", order=5)
    assert np.array_equal(files.load_omniglot(small).images, first.images)


def test_the_second_time_the_drawings_come_from_the_cache(small, monkeypatch):
    first = files.load_omniglot(small)
    assert (small / "images_background.npz").is_file()
    monkeypatch.setattr(files, "decode", lambda *a: pytest.fail("decoded again"))
    second = files.load_omniglot(small)
    assert np.array_equal(first.images, second.images) and np.array_equal(first.alphabet, second.alphabet)
    assert first.names == second.names


def test_a_stale_cache_is_made_again(small):
    files.load_omniglot(small)
    pixels = np.full((105, 105), 255, np.uint8)
    small_zip(small / "images_background.zip", damage=lambda _: png(pixels))
    assert files.load_omniglot(small).images[1, 5].sum() == 0


@pytest.mark.parametrize("content", [b"", b"no numpy file", None])
def test_a_broken_cache_is_made_again(small, content):
    first, cache = files.load_omniglot(small), small / "images_background.npz"
    whole = cache.read_bytes()
    cache.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert np.array_equal(files.load_omniglot(small).images, first.images)
    assert cache.read_bytes() == whole


def test_a_folder_that_cannot_be_written_does_without_a_cache(small, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    assert len(files.load_omniglot(small).images) == 3
    assert [path.name for path in small.iterdir()] == ["images_background.zip"]


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda data: b"GIF?" + data, "0002_06.png is damaged"),
        (lambda data: data[:60], "0002_06.png is damaged"),
        (lambda data: png(np.zeros((28, 30), np.uint8)), r"0002_06.png is damaged \(it has 30x28 pixels, not 105x105\)"),
    ],
)
def test_a_damaged_drawing_is_named_in_one_line(small, damage, said):
    small_zip(small / "images_background.zip", damage=damage)
    with pytest.raises(koch.UserError, match=said) as error:
        files.load_omniglot(small)
    assert "\n" not in str(error.value) and not (small / "images_background.npz").exists()


def test_a_zip_with_a_character_too_few_is_refused(small):
    small_zip(small / "images_background.zip", n_characters=2)
    with pytest.raises(koch.UserError, match="2 characters, not 3"):
        files.load_omniglot(small)


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_damaged_zip_is_named_in_one_line(small, keep):
    path = small / "images_background.zip"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(koch.UserError, match=r"images_background.zip is damaged .*; delete it"):
        files.load_omniglot(small)


def test_another_part_is_a_value_error():
    with pytest.raises(ValueError, match="backround"):
        files.load_omniglot("", "backround")


def test_a_missing_file_is_downloaded_and_checked(tmp_path, monkeypatch):
    source = tmp_path / "all_runs.zip"
    source.write_bytes(b"x" * 200_000)
    address, right = tmp_path.as_uri() + "/", files.hashlib.sha256(b"x" * 200_000).hexdigest()
    monkeypatch.setitem(files.FILES, "all_runs.zip", (address, "sha256 " + right[::-1]))
    with pytest.raises(koch.UserError, match="checksum"):  # not the official file: nothing is kept
        files.data_file(tmp_path / "data", "all_runs.zip")
    assert list((tmp_path / "data").iterdir()) == []
    monkeypatch.setitem(files.FILES, "all_runs.zip", (address, "sha256 " + right))
    assert files.data_file(tmp_path / "data", "all_runs.zip").read_bytes() == source.read_bytes()


def test_an_interrupted_download_leaves_nothing(tmp_path, monkeypatch):
    class Broken(io.BytesIO):
        headers = {"Content-Length": "1000000"}

        def read(self, n):
            if self.tell():
                raise TimeoutError("timed out")
            self.seek(1)
            return b"x" * n

    monkeypatch.setattr(files.urllib.request, "urlopen", lambda *a, **k: Broken())
    with pytest.raises(koch.UserError, match="timed out"):
        files.data_file(tmp_path, "all_runs.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_taken_without_the_network_whatever_its_checksum(small, monkeypatch):
    monkeypatch.setattr(files.urllib.request, "urlopen", lambda *a, **k: pytest.fail("asked the network"))
    assert files.data_file(small, "images_background.zip") == small / "images_background.zip"


def test_only_keeps_the_named_alphabets(drawings):
    drawings = koch.as_arrays(drawings)
    some = drawings.only(["Alphabet2", "Alphabet0"])
    assert some.names == ("Alphabet0", "Alphabet2") and some.alphabet.tolist() == [0] * 21 + [1] * 5
    assert np.array_equal(some.images, np.concatenate([drawings.images[:21], drawings.images[43:]]))
    with pytest.raises(ValueError):
        drawings.only(["Klingon"])


def test_named_data_that_cannot_be_had_is_an_error_and_says_which_files_to_put_where(tmp_path, no_network):
    for config in (koch.Config(data="omniglot", data_dir=str(tmp_path)), koch.Config(data_dir=str(tmp_path))):
        with pytest.raises(koch.UserError) as error:
            koch.load_data(config)
        said = str(error.value)
        assert all(name in said for name in (*files.OMNIGLOT_FILES, str(tmp_path))) and "\n" not in said


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise files.urllib.error.URLError("no network")

    monkeypatch.setattr(files.urllib.request, "urlopen", refuse)
    monkeypatch.delenv("KOCH_DATA", raising=False)


def test_without_data_and_network_three_lines_say_that_alphabets_are_invented(no_network, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "invent_alphabets", lambda seed: koch.as_arrays(random_drawings([14] * 50, 20, 15)))
    *splits, data = koch.load_data(koch.Config())
    assert data == "invented" and [len(split.names) for split in splits] == [30, 10, 10]
    assert len(capsys.readouterr().out.strip().splitlines()) == 3
    names = [name for split in splits for name in split.names]
    assert len(names) == len(set(names)) == 50


def test_invented_alphabets_have_omniglots_layout(invented):
    n = torch.bincount(invented.alphabet)
    assert len(n) == len(set(invented.names)) == 50 and 14 <= n.min() and n.max() <= 40
    assert invented.images.shape == (len(invented.alphabet), 20, 105, 105) and invented.images.dtype == torch.uint8
    assert invented.images.max() == 1 and (invented.alphabet.diff() >= 0).all()


def test_invented_drawings_have_omniglots_ink(invented):
    ink = invented.images.float().mean(dim=(2, 3))
    assert 0.065 < ink.mean() < 0.095 and ink.min() > 0.005 and ink.max() < 0.3


def test_no_two_invented_drawings_of_a_character_are_alike(invented):
    for drawings in invented.images[::100]:
        assert len({drawing.numpy().tobytes() for drawing in drawings}) == 20


def test_the_same_seed_invents_the_same_alphabets_and_another_seed_others(invented, monkeypatch):
    monkeypatch.setattr(invented_module, "N_INVENTED", 2)
    first, again, other = files.invent_alphabets(0), files.invent_alphabets(0), files.invent_alphabets(1)
    assert np.array_equal(first.images, again.images) and first.names == again.names
    assert np.array_equal(first.images, invented.images[: len(first.images)].numpy())
    assert not np.array_equal(first.images, other.images)


def test_omniglot_is_whole_and_its_ink_is_1(data_dir):
    sets = [files.load_omniglot(data_dir, part) for part in ("background", "evaluation")]
    assert [s.images.shape for s in sets] == [(964, 20, 105, 105), (659, 20, 105, 105)]
    assert [len(s.names) for s in sets] == [30, 20]
    for s in sets:
        assert np.bincount(s.alphabet).min() >= 14 and 0.04 < s.images.mean() < 0.1
    braille = sets[0].only(["Braille"]).images[0]
    assert np.array_equal(braille[2], braille[18])  # the one duplicate: drawers 03 and 19


def test_training_validation_and_test_share_no_alphabet(data_dir):
    *splits, data = koch.load_data(koch.Config(data="omniglot", data_dir=data_dir))
    names = [set(split.names) for split in splits]
    assert data == "omniglot" and [len(n) for n in names] == [30, 10, 10] and len(set.union(*names)) == 50
    assert names[1] == set(files.VALIDATION_ALPHABETS) and names[2] == set(files.TEST_ALPHABETS)
    assert [len(split.images) for split in splits] == [964, 277, 382]


# MNIST, faces, folders ------------------------------------------------------------------------------------------------


def idx(array, kind):
    header = b"\0\0\x08" + bytes([kind]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return gzip.compress(header + array.tobytes(), 1)


@pytest.fixture
def digits(tmp_path):
    """MNIST's two files with 10,000 digits: digit d, of which there are 991..1009, has d + 1 columns of ink."""
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
    mnist = files.load_mnist(digits)
    assert mnist.characters == tuple("0123456789") and mnist.counts.tolist() == [999] + [999] * 8 + [1009]
    assert mnist.images.shape == (10, 1009, 28, 28) and mnist.images.dtype == np.float32 and mnist.images.max() == 1
    for digit in range(10):
        some = mnist.images[digit, : mnist.counts[digit]]
        assert (some[:, 5].sum(1) == digit + 1).all() and not mnist.images[digit, mnist.counts[digit] :].any()
    order = mnist.images[3, :999, 0, 0]
    assert not (np.diff(order) > 0).all() and np.array_equal(order, files.load_mnist(digits).images[3, :999, 0, 0])


def test_mnist_trials_are_ten_way_and_the_exchanged_polarity_is_the_lesson(digits):
    class Columns:
        size = 35

        def features(self, images):
            return images[:, :, 10].mean(2)  # the share of ink columns in a row

        def logit(self, h1, h2):
            return -(h1 - h2).abs().sum(1)

    result = koch.take_mnist(Columns(), digits)
    assert result["accuracy"] == 1.0 and result["draws"] == [1.0] * 5 and result["n"] == 400
    assert result["interval"] == files_interval(2000, 2000) and 0 <= result["pixels"] <= 1

    class Ink(Columns):
        def logit(self, h1, h2):
            return -(h1 - h2).abs().sum(1) * (h1.sum() < 0.5 * len(h1)).float()  # is lost where most is ink

    assert koch.take_mnist(Ink(), digits)["wrong_polarity"] < 0.5


def files_interval(right, n):
    from reference_numpy.measures import wilson_interval

    return wilson_interval(right, n)


@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_a_damaged_mnist_file_is_named_in_one_line(digits, name):
    whole = (digits / name).read_bytes()
    (digits / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(koch.UserError, match=f"{name} is damaged .*; delete it"):
        files.load_mnist(digits)
    (digits / name).write_bytes(gzip.compress(b"x" * 500))
    with pytest.raises(koch.UserError, match="do not hold 10,000 digits"):
        files.load_mnist(digits)


def pgm(value):
    return b"P5\n92 112\n255\n" + bytes([value]) * (92 * 112)


def test_faces_are_40_people_split_by_person(tmp_path):
    with zipfile.ZipFile(tmp_path / "att_faces.zip", "w") as archive:
        archive.writestr("att_faces/README", "no picture")
        for person in range(40):
            for number in range(10):
                archive.writestr(f"att_faces/s{person + 1}/{number + 1}.pgm", pgm(5 * person + number % 5))
    faces = files.load_faces(tmp_path)
    assert faces.images.shape == (40, 10, 105, 105) and faces.images.dtype == np.float32
    people = [round(255 * float(row[0, 0, 0])) // 5 + 1 for row in faces.images]
    assert [f"s{person}" for person in people] == list(faces.characters)
    *splits, name = files.load_splits("faces", tmp_path)
    assert name == "faces" and [len(split.images) for split in splits] == [24, 8, 8]
    assert len(set().union(*(split.characters for split in splits))) == 40


def test_faces_that_are_not_whole_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "att_faces.zip", "w") as archive:
        archive.writestr("att_faces/s1/1.pgm", pgm(3))
    with pytest.raises(koch.UserError, match="ten photographs of each of 40 people"):
        files.load_faces(tmp_path)
    with zipfile.ZipFile(tmp_path / "att_faces.zip", "w") as archive:
        archive.writestr("att_faces/s1/1.pgm", pgm(3)[:50])
    with pytest.raises(koch.UserError, match="s1/1.pgm is damaged"):
        files.load_faces(tmp_path)


def test_drawings_without_a_split_are_split_by_alphabet_or_else_by_class():
    by_alphabet = files.split(koch.as_arrays(random_drawings((3,) * 7, 2, 5)))
    assert [part.names for part in by_alphabet] == [
        ("Alphabet0", "Alphabet1", "Alphabet2", "Alphabet5", "Alphabet6"), ("Alphabet3",), ("Alphabet4",),
    ]  # fmt: skip
    by_class = files.split(koch.as_arrays(random_drawings((10, 5), 2, 5)))
    assert [len(part.images) for part in by_class] == [9, 3, 3]
    with pytest.raises(koch.UserError, match="9 classes are too few"):
        files.split(koch.as_arrays(random_drawings((9,), 2, 5)))


def test_real_mnist_faces_and_omniglot_are_what_they_should_be(data_dir):
    try:
        mnist, faces = files.load_mnist(data_dir), files.load_faces(data_dir)
    except koch.UserError as error:
        pytest.skip(str(error))
    assert mnist.counts.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert 0.1 < mnist.images.sum() / mnist.counts.sum() / 28**2 < 0.2  # ink is high, and little of it
    assert faces.images.shape == (40, 10, 105, 105) and 0.3 < faces.images.mean() < 0.6
