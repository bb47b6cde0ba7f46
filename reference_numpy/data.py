"""Drawings, minibatches and one-shot trials as koch.py has them, in NumPy (§3.2, §4.1, §4.3)."""

import io
import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .invented import invent

# The ten alphabets of Lake's runs, two runs each in this order, are the test set; the other ten of images_evaluation
# are the validation set (§4.1 does not say which are which; koch.py has the same).
TEST_ALPHABETS = (
    "Atlantean Ge_ez Glagolitic Gurmukhi Kannada Malayalam Manipuri Old_Church_Slavonic_(Cyrillic) Tengwar Tibetan"
).split()
N_CHARACTERS = {"background": 964, "evaluation": 659}  # §4.1: of 20 drawings each
FILES = ("images_background.zip", "images_evaluation.zip", "all_runs.zip")


class UserError(Exception):
    """Say in one line what is wrong and what to do; the command line prints it and exits with status 2."""


class Drawings(NamedTuple):
    """Hold the drawings of many characters.

    images: (characters, drawers, H, W) uint8, 1 = ink, 0 = paper
    alphabet: (characters,) int64, each character's alphabet, an index into names
    """

    images: np.ndarray
    alphabet: np.ndarray
    names: tuple

    def only(self, names):
        """Return the drawings of the named alphabets, in this set's order."""
        kept = sorted(self.names.index(name) for name in names)
        characters = np.concatenate([np.flatnonzero(self.alphabet == a) for a in kept])
        alphabet = np.searchsorted(kept, self.alphabet[characters])
        return Drawings(self.images[characters], alphabet, tuple(self.names[a] for a in kept))


class Trials(NamedTuple):
    """Hold one-shot trials: which of n_way support images is of the test image's character?

    images: (n, H, W) uint8, 1 = ink; test: (n_trials,) and support: (n_trials, n_way), indices into images
    answers: (n_trials,) int64, the right position in support
    """

    images: np.ndarray
    test: np.ndarray
    support: np.ndarray
    answers: np.ndarray


# § 4.1 The Omniglot Dataset -------------------------------------------------------------------------------------------


def read_zip(path):
    """Return the files of a zip, {name: bytes} in the names' order. Raises UserError when it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in sorted(archive.namelist()) if not name.endswith("/")}
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it, python koch.py train fetches it again") from error


def decode(png, name):
    """Decode a drawing: (105, 105) uint8, 1 = ink (in the files ink is 0). Raises UserError when it is damaged."""
    try:
        paper = np.asarray(Image.open(io.BytesIO(png)).convert("1"))
        if paper.shape != (105, 105):
            raise ValueError(f"it has {paper.shape[1]}x{paper.shape[0]} pixels, not 105x105")
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three
        raise UserError(f"{name} is damaged ({error}); delete it, python koch.py train fetches it again") from error
    return (~paper).astype(np.uint8)


def load_omniglot(folder, part):
    """Load Omniglot's "background" or "evaluation" set from images_PART.zip in a folder. Raises UserError."""
    path, characters = Path(folder) / f"images_{part}.zip", {}
    for name, png in read_zip(path).items():  # in the order of the sorted names, never of the zip
        if found := re.fullmatch(r"images_\w+/(.+)/(character\d+)/\d+_\d+\.png", name):
            characters.setdefault(found.groups(), []).append(decode(png, f"{path}: {name}"))
    if len(characters) != N_CHARACTERS[part] or {len(images) for images in characters.values()} != {20}:
        raise UserError(f"{path} has not {N_CHARACTERS[part]} characters with 20 drawings each; delete it")
    names = sorted({alphabet for alphabet, _ in characters})
    alphabet = np.array([names.index(name) for name, _ in characters])
    return Drawings(np.array(list(characters.values())), alphabet, tuple(names))


def load_data(data="auto", folder=""):
    """Load the training, validation and test Drawings (30, 10 and 10 alphabets).

    data: "omniglot", "invented", or "auto": Omniglot if its files are there, else invented alphabets
    folder: where the files are; "" for $KOCH_DATA, else data/
    Returns the three and which it is, "omniglot" or "invented". Raises UserError.
    """
    folder = Path(folder or os.environ.get("KOCH_DATA") or "data")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if data == "omniglot" and missing:
        raise UserError(f"{folder / missing[0]} is not there; python koch.py train fetches it, or use --data invented")
    if data == "invented" or missing:
        every = Drawings(*invent(0))
        return *(every.only(every.names[a:b]) for a, b in ((0, 30), (30, 40), (40, 50))), "invented"
    background, evaluation = (load_omniglot(folder, part) for part in N_CHARACTERS)
    validation = evaluation.only([name for name in evaluation.names if name not in TEST_ALPHABETS])
    return background, validation, evaluation.only(TEST_ALPHABETS), "omniglot"


# § 3.2 Learning: what a minibatch is ----------------------------------------------------------------------------------


def to_input(images, size):
    """Turn drawings into a net's input: (N, 105, 105) uint8 -> (N, 1, size, size) float32 in [0, 1]; means of areas."""
    factor = images.shape[-1] // size
    means = images.reshape(len(images), 1, size, factor, size, factor).mean((3, 5), dtype=np.float32)
    return np.ascontiguousarray(means)


def distort(images, rng, strength=1.0):
    """Distort each image by an affine map of its own (§3.2); what comes in from outside is paper.

    images: (N, 1, H, W) float32; rng: numpy.random.Generator; strength: factor on every range
    T = (theta, rho_x, rho_y, s_x, s_y, t_x, t_y): theta in [-10, 10] degrees, shear rho in [-0.3, 0.3], scale s in
    [0.8, 1.2], shift t in [-2, 2] pixels of 105; each present with probability 0.5.
    """
    ranges = np.array([np.radians(10), 0.3, 0.3, 0.2, 0.2, 2 * 2 / 105, 2 * 2 / 105])
    draw = rng.uniform(-1, 1, (len(images), 7)) * (rng.random((len(images), 7)) < 0.5) * ranges * strength
    return affine(images, *draw.T)


def affine(images, theta, rho_x, rho_y, s_x, s_y, t_x, t_y):
    """Map images by numbers of distort, (N,) each: each new pixel is read from the old image between four pixels.

    theta in radians; t_x, t_y in halves of the image's sides.
    """
    N, _, H, W = images.shape
    cos, sin = np.cos(theta), np.sin(theta)
    # The map goes from the new image's places to the old one's: turn @ scale_shear, on -1..1 from edge to edge.
    xx, xy = cos * (1 + s_x) - sin * rho_y, cos * rho_x - sin * (1 + s_y)
    yx, yy = sin * (1 + s_x) + cos * rho_y, sin * rho_x + cos * (1 + s_y)
    x, y = (np.arange(W) * 2 + 1) / W - 1, ((np.arange(H) * 2 + 1) / H - 1)[:, None]
    column = lambda number: number[:, None, None]  # noqa: E731
    old_x = ((column(xx) * x + column(xy) * y + column(t_x) + 1) * W - 1) / 2  # (N, H, W) in pixels
    old_y = ((column(yx) * x + column(yy) * y + column(t_y) + 1) * H - 1) / 2
    left, top = np.floor(old_x).astype(int), np.floor(old_y).astype(int)
    padded = np.zeros((N, H + 2, W + 2), images.dtype)  # a margin of paper
    padded[:, 1:-1, 1:-1] = images[:, 0]
    n, out = np.arange(N)[:, None, None], 0
    for dy, share_y in ((0, top + 1 - old_y), (1, old_y - top)):
        for dx, share_x in ((0, left + 1 - old_x), (1, old_x - left)):
            read = padded[n, np.clip(top + dy + 1, 0, H + 1), np.clip(left + dx + 1, 0, W + 1)]
            out = out + read * (share_y * share_x).astype(images.dtype)
    return out[:, None]


def draw_batch(drawings, n_alphabets, n_characters, n_drawings, rng):
    """Draw a minibatch: of each of some alphabets some characters, of each character some drawings, all different.

    Each alphabet is turned and mirrored as a whole, by chance: one of the square's eight symmetries (deviates).
    Returns images (A, n, H, W) uint8 and their characters (A, n) int64, n = n_characters * n_drawings.
    Raises UserError if there are too few.
    """
    n_drawers = drawings.images.shape[1]
    large = np.flatnonzero(np.bincount(drawings.alphabet) >= n_characters)
    if not len(large) or n_drawings > n_drawers:
        raise UserError(f"no alphabet has {n_characters} characters with {n_drawings} drawings")
    images, characters = [], []
    for a in rng.choice(large, n_alphabets):
        chosen = rng.permutation(np.flatnonzero(drawings.alphabet == a))[:n_characters].repeat(n_drawings)
        drawers = np.concatenate([rng.permutation(n_drawers)[:n_drawings] for _ in range(n_characters)])
        turned = drawings.images[chosen, drawers]
        transposed, mirrored, on_head = rng.random(3) < 0.5
        turned = turned.swapaxes(-1, -2) if transposed else turned
        turned = turned[..., ::-1] if mirrored else turned
        images.append(turned[..., ::-1, :] if on_head else turned)
        characters.append(chosen)
    return np.stack(images), np.stack(characters)


# § 4.3 One-shot Learning ----------------------------------------------------------------------------------------------


def one_shot_trials(drawings, n_way, n_trials, rng):
    """Draw trials within one alphabet: n_way different characters by one drawer, a test image of one by another.

    Alphabets take turns; those with fewer than n_way characters are left out. Raises UserError if all are.
    """
    pools = [np.flatnonzero(drawings.alphabet == a) for a in range(len(drawings.names))]
    pools = [pool for pool in pools if len(pool) >= n_way]
    n_drawers = drawings.images.shape[1]
    if not pools or n_drawers < 2:
        raise UserError(f"no {n_way}-way trial can be drawn: it needs {n_way} characters of two drawers")
    test, support, answers = [], [], []
    for trial in range(n_trials):
        characters = rng.permutation(pools[trial % len(pools)])[:n_way]
        drawer, test_drawer = rng.permutation(n_drawers)[:2]
        answers.append(rng.integers(n_way))
        support.append(characters * n_drawers + drawer)
        test.append(characters[answers[-1]] * n_drawers + test_drawer)
    images = drawings.images.reshape(-1, *drawings.images.shape[2:])
    used, where = np.unique(np.column_stack([test, support]), return_inverse=True)
    where = where.reshape(n_trials, 1 + n_way)
    return Trials(images[used], where[:, 0], where[:, 1:], np.array(answers))


def lake_runs(folder=""):
    """Load Lake's 400 trials, 20 runs of 20, from all_runs.zip; folder as in load_data. Raises UserError."""
    path = Path(folder or os.environ.get("KOCH_DATA") or "data") / "all_runs.zip"
    files = read_zip(path)
    images, test, support, answers = [], [], [], []
    try:
        for run in range(1, 21):
            pairs = [line.split() for line in files[f"run{run:02}/class_labels.txt"].decode().splitlines()]
            names = sorted(right for _, right in pairs)
            first = len(images)
            images += [decode(files[name], f"{path}: {name}") for name in [*names, *(name for name, _ in pairs)]]
            test += range(first + 20, first + 40)
            support += [range(first, first + 20)] * 20
            answers += [names.index(right) for _, right in pairs]
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} does not hold Lake's 20 runs ({error}); delete it") from error
    return Trials(np.array(images), np.array(test), np.array(support), np.array(answers))


def one_shot_answers(features, logit, trials):
    """Answer every trial alone: the position of the support image that is most likely the test image's character.

    features: (n, H, W) uint8 -> (n, D); logit: (n, D), (n, D) -> (n,)
    Returns (n_trials,) int64; -1 where the best logit is shared or any logit is not a number: those are wrong answers.
    """
    h = np.concatenate([features(trials.images[i : i + 100]) for i in range(0, len(trials.images), 100)])  # each once
    answers = np.empty(len(trials.test), np.int64)
    for i, (test, support) in enumerate(zip(trials.test, trials.support)):
        logits = logit(np.repeat(h[test][None], len(support), 0), h[support])  # (n_way,)
        clear = not np.isnan(logits).any() and (logits == logits.max()).sum() == 1
        answers[i] = logits.argmax() if clear else -1
    return answers


def pixel_answers(trials):
    """Answer trials by the largest cosine of pixels: the baseline that learns nothing, 21.75 % of Lake's trials."""

    def unit(images):
        pixels = images.reshape(len(images), -1).astype(np.float32)
        return pixels / np.maximum(np.sqrt((pixels * pixels).sum(1, keepdims=True)), 1e-12)

    return one_shot_answers(unit, lambda h1, h2: (h1 * h2).sum(-1), trials)


def wilson_interval(n_right, n, z=1.96):
    """Return Wilson's 95 % interval of a fraction, (low, high) in 0..1: 368 right of 400 give 0.889..0.943."""
    p, centre = n_right / n, (n_right + z * z / 2) / (n + z * z)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))
