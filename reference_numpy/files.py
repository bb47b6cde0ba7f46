"""Where drawings come from: Omniglot and Lake's runs (§4.1, §4.3), MNIST (§4.4), faces, folders, invented alphabets.

Files are looked for in the folder that is named, else in $KOCH_DATA, else in data/, and downloaded if they are missing.
"""

import contextlib
import gzip
import hashlib
import http.client
import io
import os
import re
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .terminal import UserError, progress, reason, written_whole

OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FILES = {  # file in the data folder: (address, checksum of the official file as far as one is known)
    "images_background.zip": (OMNIGLOT, "sha256 ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640"),
    "images_evaluation.zip": (OMNIGLOT, "sha256 1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee"),
    "all_runs.zip": (
        OMNIGLOT + "one-shot-classification/",
        "sha256 437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
    ),
    "t10k-images-idx3-ubyte.gz": (MNIST, "md5 9fb629c4189551a2d022fa330f9573f3"),
    "t10k-labels-idx1-ubyte.gz": (MNIST, "md5 ec29112dd5afa0611ce80d1b7f02629c"),
    "att_faces.zip": ("http://www.cl.cam.ac.uk/Research/DTG/attarchive/pub/data/", ""),
}
OMNIGLOT_FILES = tuple(FILES)[:3]
DATA_SETS = ("omniglot", "invented", "mnist", "faces")
N_CHARACTERS, N_DRAWERS = {"background": 964, "evaluation": 659}, 20  # §4.1
# §4.1 does not say which alphabets are which. The test set is the ten of Lake's runs, two runs each in this order; the
# validation set is the other ten of images_evaluation.
TEST_ALPHABETS = (
    "Atlantean Ge_ez Glagolitic Gurmukhi Kannada Malayalam Manipuri Old_Church_Slavonic_(Cyrillic) Tengwar Tibetan"
).split()
VALIDATION_ALPHABETS = (
    "Angelic Atemayar_Qelisayer Aurek-Besh Avesta Keble Mongolian Oriya Sylheti Syriac_(Serto) ULOG"
).split()
SIDE = 105  # pixels: Omniglot's drawings; faces and your own pictures are brought to it


class Drawings(NamedTuple):
    """Hold the drawings of many characters.

    images: (characters, drawers, H, W) uint8, 0 or 1, or float32 in [0, 1]; 1 = ink, 0 = paper
    alphabet: (characters,) int64, each character's alphabet, an index into names
    names: the alphabets' names
    counts: (characters,) int64, how many drawings each character has, the first of its row; None: a full row each
    characters: each character's name, where it has one
    """

    images: np.ndarray
    alphabet: np.ndarray
    names: tuple
    counts: np.ndarray | None = None
    characters: tuple = ()

    def by(self, first, last):
        """Return what the drawers first..last - 1 of Omniglot's 20 drew; all, where nobody says who drew them."""
        if self.images.shape[1] != N_DRAWERS or self.counts is not None and (self.counts != N_DRAWERS).any():
            return self
        return self._replace(images=self.images[:, first:last], counts=None)

    def only(self, names):
        """Return the drawings of the named alphabets, in this set's order. Raises ValueError for an unknown name."""
        return self.where(np.isin(self.alphabet, [self.names.index(name) for name in names]))

    def where(self, mask):
        """Return the drawings of some characters; mask: (characters,) bool."""
        chosen, kept = np.flatnonzero(mask), np.unique(self.alphabet[mask])
        names = tuple(self.names[a] for a in kept)
        counts = None if self.counts is None else self.counts[mask]
        characters = tuple(self.characters[i] for i in chosen) if self.characters else ()
        return Drawings(self.images[mask], np.searchsorted(kept, self.alphabet[mask]), names, counts, characters)


class Trials(NamedTuple):
    """Hold one-shot trials: which of n_way support images is of the test image's character?

    images: (n, H, W), 1 = ink: the drawings that trials point into
    test: (n_trials,) int64, the test images, as indices into images
    support: (n_trials, n_way) int64, the support images, one of each character; or (n_trials, n_way, n_shot)
    answers: (n_trials,) int64, the right position in support, 0..n_way - 1
    alphabets: the name of each trial's alphabet
    """

    images: np.ndarray
    test: np.ndarray
    support: np.ndarray
    answers: np.ndarray
    alphabets: tuple = ()


# Files ----------------------------------------------------------------------------------------------------------------


def data_folder(data_dir=""):
    """Return the folder that data files are in: data_dir, else $KOCH_DATA, else data/."""
    return Path(data_dir or os.environ.get("KOCH_DATA") or "data")


def data_file(data_dir, name):
    """Return the path of a data file, downloaded if need be. Raises UserError."""
    path = data_folder(data_dir) / name
    if path.is_file():  # whatever its checksum: what counts is what it holds
        return path
    folder, checksum = FILES[name]
    kind, _, official = checksum.partition(" ")
    try:
        with urllib.request.urlopen(folder + name, timeout=20) as answer, written_whole(path) as file:
            total, digest = int(answer.headers.get("Content-Length") or 0), hashlib.new(kind or "md5")
            while block := answer.read(1 << 16):
                file.write(block)
                digest.update(block)
                progress(f"downloading {name}", file.tell(), total)
            if official and digest.hexdigest() != official or total and file.tell() != total:
                raise OSError("what came is not the official file: its checksum differs")
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{path} is not there and cannot be downloaded ({reason(error)})") from error
    return path


def read_zip(path):
    """Return the files of a zip, {name: bytes} in the names' order. Raises UserError when it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in sorted(archive.namelist()) if not name.endswith("/")}
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({reason(error)}); delete it and start again") from error


def decode(png, name):
    """Decode a drawing from a PNG's bytes: (105, 105) uint8, 1 = ink. Raises UserError, with its name, when damaged."""
    try:
        paper = np.asarray(Image.open(io.BytesIO(png)).convert("1"))  # in the files ink is 0 and paper 1
        if paper.shape != (SIDE, SIDE):
            raise ValueError(f"it has {paper.shape[1]}x{paper.shape[0]} pixels, not 105x105")
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three
        raise UserError(f"{name} is damaged ({reason(error)}); delete the zip and start again") from error
    return (~paper).astype(np.uint8)


def cached(path, source, make):
    """Return the Drawings kept in a file, or those that make() gives, kept for the next time.

    source: bytes that the drawings are made from; drawings of other bytes are stale and made again, as are broken files
    make: () -> images (characters, drawers, H, W) uint8 0 or 1, alphabet (characters,) and names
    """
    key = hashlib.sha256(source).hexdigest()
    try:
        with np.load(path) as kept:
            if kept["key"] != key:
                raise ValueError("stale")
            images = np.unpackbits(kept["bits"], count=kept["shape"].prod()).reshape(kept["shape"])
            alphabet, names = kept["alphabet"], kept["names"].tolist()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        images, alphabet, names = make()
        with contextlib.suppress(OSError), written_whole(path) as file:  # a folder that is read-only costs time alone
            bits = np.packbits(images)  # 8 pixels a byte: all of Omniglot in 45 MB
            np.savez(file, key=key, bits=bits, shape=images.shape, alphabet=alphabet, names=np.array(names))
    return Drawings(images, alphabet, tuple(names))


# Data sets ------------------------------------------------------------------------------------------------------------


def load_omniglot(data_dir="", part="background"):
    """Load Omniglot's background set (30 alphabets, 964 characters) or evaluation set (20 alphabets, 659 characters).

    data_dir: folder of the zip files; "" for $KOCH_DATA, else data/
    part: "background" or "evaluation"; ValueError for another
    Returns Drawings of (characters, 20, 105, 105). Raises UserError when the file cannot be had or is damaged.
    """
    if part not in N_CHARACTERS:
        raise ValueError(f"part is one of {tuple(N_CHARACTERS)}, not {part!r}")
    path = data_file(data_dir, f"images_{part}.zip")

    def read():
        characters = {}  # (alphabet, character): drawings; by the sorted names, never in the order of a disk or a zip
        for name, png in read_zip(path).items():
            if found := re.fullmatch(r"images_\w+/(.+)/(character\d+)/\d+_\d+\.png", name):
                characters.setdefault(found.groups(), []).append(decode(png, f"{path}: {name}"))
        if len(characters) != N_CHARACTERS[part] or {len(d) for d in characters.values()} != {N_DRAWERS}:
            wanted = f"{N_CHARACTERS[part]} with {N_DRAWERS} drawings each"
            raise UserError(f"{path} has {len(characters)} characters, not {wanted}; delete it and start again")
        names = sorted({alphabet for alphabet, _ in characters})
        return np.array(list(characters.values())), np.array([names.index(a) for a, _ in characters]), names

    return cached(path.with_suffix(".npz"), path.read_bytes(), read)


def invent_alphabets(seed):
    """Invent 50 alphabets of 14..40 characters, each by 20 drawers, in Omniglot's layout and with strokes like its own.

    Returns Drawings of (characters, 20, 105, 105), the same for the same seed. How: invented.py.
    """
    from . import invented

    source = Path(invented.__file__).read_bytes() + b"%d %d" % (seed, invented.N_INVENTED)
    return cached(Path("data") / f"invented{seed}.npz", source, lambda: invented.invent(seed))


def lake_runs(data_dir=""):
    """Load Lake's 20 runs of 20 trials, 20-way, each within one alphabet by two drawers (§4.3).

    Returns Trials: 400 of them over 800 images. Raises UserError when all_runs.zip cannot be had or is damaged.
    """
    path = data_file(data_dir, "all_runs.zip")
    files = read_zip(path)
    images, test, support, answers = [], [], [], []
    try:
        for run in range(20):
            pairs = [line.split() for line in files[f"run{run + 1:02}/class_labels.txt"].decode().splitlines()]
            names = sorted(right for _, right in pairs)  # run01/training/class01.png, ...
            first = len(images)
            images += [decode(files[name], f"{path}: {name}") for name in names + [name for name, _ in pairs]]
            test += range(first + 20, first + 40)
            support += [list(range(first, first + 20))] * 20
            answers += [names.index(right) for _, right in pairs]
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} does not hold Lake's 20 runs ({reason(error)}); delete it and start again") from error
    alphabets = tuple(TEST_ALPHABETS[i // 40] for i in range(400))
    return Trials(np.array(images), np.array(test), np.array(support), np.array(answers), alphabets)


def load_mnist(data_dir=""):
    """Load the 10,000 digits of MNIST's test set (§4.4), which is ink-high as it is.

    Returns Drawings of (10, 1135, 28, 28) float32 with counts, one alphabet. Each digit's drawings are shuffled, always
    alike: the file goes by writers, and drawings of one place in their rows would be by one. Raises UserError.
    """
    names = [name for name in FILES if name.startswith("t10k")]
    contents = []
    for name, header in zip(names, (16, 8)):
        path = data_file(data_dir, name)
        try:
            contents.append(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header))
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is damaged ({reason(error)}); delete it and start again") from error
    if [len(content) for content in contents] != [10_000 * 28 * 28, 10_000] or contents[1].max() > 9:
        raise UserError(f"{', '.join(names)} do not hold 10,000 digits; delete them and start again")
    images, digits = contents[0].reshape(-1, 28, 28), contents[1]
    counts = np.bincount(digits, minlength=10)
    rows = np.zeros((10, counts.max(), 28, 28), np.float32)
    rng = np.random.default_rng(0)
    for digit in range(10):
        rows[digit, : counts[digit]] = images[rng.permutation(np.flatnonzero(digits == digit))] / np.float32(255)
    return Drawings(rows, np.zeros(10, np.int64), ("MNIST",), counts, tuple("0123456789"))


def load_faces(data_dir=""):
    """Load AT&T's faces: 40 people, ten photographs each of 92x112 pixels, brought to 105x105; light = 1.

    Returns Drawings of (40, 10, 105, 105) float32, one alphabet. Raises UserError.
    """
    path = data_file(data_dir, "att_faces.zip")
    people = {}
    for name, pgm in read_zip(path).items():
        if found := re.fullmatch(r"(?:.*/)?(s\d+)/\d+\.pgm", name):
            try:
                photograph = Image.open(io.BytesIO(pgm)).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            except (OSError, SyntaxError, ValueError) as error:
                raise UserError(f"{path}: {name} is damaged ({reason(error)}); delete it and start again") from error
            people.setdefault(found[1], []).append(np.asarray(photograph, np.float32) / 255)
    if len(people) != 40 or {len(photographs) for photographs in people.values()} != {10}:
        raise UserError(f"{path} does not hold ten photographs of each of 40 people; delete it and start again")
    return Drawings(np.array(list(people.values())), np.zeros(40, np.int64), ("faces",), None, tuple(people))


# Training, validation and test ----------------------------------------------------------------------------------------


def load_own(folder, ink="auto"):
    """Load a folder of pictures of your own, see folders.py. Raises UserError, also when there is no such folder."""
    from .folders import load_folder

    if not Path(folder).is_dir():
        raise UserError(f"there is no data set or folder {folder}; name a folder of pictures or {', '.join(DATA_SETS)}")
    return load_folder(folder, ink)[0]


def split(drawings):
    """Split drawings without a split of their own: of five alphabets, or else characters, the last two are kept apart.

    Returns training, validation and test Drawings. Raises UserError when there are too few.
    """
    by_alphabet = len(drawings.names) >= 5
    place = (drawings.alphabet if by_alphabet else np.arange(len(drawings.images))) % 5
    parts = [drawings.where(mask) for mask in (place < 3, place == 3, place == 4)]
    if min(len(part.images) for part in parts) < 2:
        had = f"{len(drawings.images)} classes"
        raise UserError(f"{had} are too few to train on some and test on others; it takes 10, or 5 alphabets of two")
    return parts


def load_splits(data="auto", data_dir="", ink="auto"):
    """Load a data set's training, validation and test Drawings, which share no character.

    data: "omniglot" or "invented" (30, 10 and 10 alphabets), "faces" (24, 8 and 8 people), or a folder of your own;
        "auto": omniglot, or invented when it cannot be had and nobody named a folder of data files
    ink: polarity of your own pictures: "dark", "light", or "auto", see folders.py
    Returns the three and the data set's name. Raises UserError when the data set that was named cannot be had.
    """
    if data == "mnist":
        raise UserError("mnist is here a test set alone: train on another, then python koch.py oneshot --data mnist")
    if data == "faces":
        return *split(load_faces(data_dir)), data
    if data not in ("auto", "omniglot", "invented"):
        return *split(load_own(data, ink)), data
    if data != "invented":
        try:
            for name in OMNIGLOT_FILES:
                data_file(data_dir, name)
        except UserError as error:
            advice = f"put {', '.join(OMNIGLOT_FILES)} into {data_folder(data_dir)}/"
            if data == "omniglot" or data_dir or os.environ.get("KOCH_DATA"):
                raise UserError(f"{error}; {advice}, or use --data invented") from error
            print(f"Omniglot is not here: {error}.")
            print("Invented alphabets take its place; no real drawing is among them.")
            print(f"For Omniglot {advice} and start again.")
        else:
            background, evaluation = (load_omniglot(data_dir, part) for part in N_CHARACTERS)
            return background, evaluation.only(VALIDATION_ALPHABETS), evaluation.only(TEST_ALPHABETS), "omniglot"
    every = invent_alphabets(0)
    return *(every.only(every.names[a:b]) for a, b in ((0, 30), (30, 40), (40, 50))), "invented"
