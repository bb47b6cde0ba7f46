"""Drawings as koch.py keeps them, and minibatches and one-shot trials as koch.py draws them, in NumPy (§3.2, §4)."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

class UserError(Exception):
    """Say in one line what is wrong and what to do; the command line prints it and exits with status 2."""

# § 4.1 The Omniglot Dataset -------------------------------------------------------------------------------------------

class Drawings(NamedTuple):
    """Hold the drawings of many characters.

    images: (characters, drawers, H, W) uint8, 0 or 1; 1 = ink, 0 = paper
    alphabet: (characters,) int64, each character's alphabet, an index into names
    names: the alphabets' names
    """

    images: np.ndarray
    alphabet: np.ndarray
    names: tuple

class Trials(NamedTuple):
    """Hold one-shot trials: which of n_way support images is of the test image's character?

    images: (n, H, W), 1 = ink: the drawings that trials point into
    test: (n_trials,) int64, the test images, as indices into images
    support: (n_trials, n_way) int64, the support images, one of each character
    answers: (n_trials,) int64, the right position in support, 0..n_way - 1
    """

    images: np.ndarray
    test: np.ndarray
    support: np.ndarray
    answers: np.ndarray

def find_arrays(name, data_dir=""):
    """Return where koch.py keeps arrays: data_dir, else $KOCH_DATA, else data/; then data/. None if it has not yet."""
    paths = Path(data_dir or os.environ.get("KOCH_DATA") or "data", name), Path("data", name)
    return next((path for path in paths if path.is_file()), None)

def open_sound(path):
    """Open a .npz file if all its arrays are there and as written, at which NumPy does not look; else raise an error."""
    kept, end = np.load(path), Path(path).read_bytes().rpartition(b"PK\5\6")[2]
    if kept.zip.testzip() is not None or len(kept.files) != int.from_bytes(end[6:8], "little"):
        raise ValueError("it is not as it was written")
    return kept

def load_arrays(name, fields, data_dir=""):
    """Return named arrays of a .npz file of koch.py as a dict, and its bits unpacked as images. Raises UserError."""
    path = find_arrays(name, data_dir)
    if path is None:
        path = Path(data_dir or os.environ.get("KOCH_DATA") or "data", name)
        option = " --data invented" if name == "invented.npz" else ""
        raise UserError(f"{path} is not there; run python koch.py train{option} first: it keeps its drawings")
    try:
        with open_sound(path) as kept:
            arrays = {field: kept[field] for field in fields}
            return arrays | {"images": np.unpackbits(kept["bits"], axis=-1, count=105)}
    except Exception as error:  # NumPy raises whatever a damaged file makes it stumble over
        raise UserError(f"{path} is damaged; delete it and run python koch.py train") from error

def load_splits(data_set="auto", data_dir=""):
    """Load training, validation and test Drawings (30, 10 and 10 alphabets), and their data set's name.

    data_set: "omniglot", "invented" or "auto", for Omniglot where it is there; data_dir: as in find_arrays
    Raises UserError when they are missing or damaged.
    """
    if data_set == "auto":
        data_set = "omniglot" if find_arrays("omniglot.npz", data_dir) else "invented"
    kept, splits = load_arrays(f"{data_set}.npz", ("alphabet", "names"), data_dir), []
    for first, end in ((0, 30), (30, 40), (40, 50)):
        chosen = (kept["alphabet"] >= first) & (kept["alphabet"] < end)
        names = tuple(kept["names"][first:end].tolist())
        splits.append(Drawings(kept["images"][chosen], kept["alphabet"][chosen] - first, names))
    return *splits, data_set

def load_lake(data_dir=""):
    """Load Lake's 400 one-shot trials, 20-way, each within one alphabet (§4.3). Raises UserError."""
    kept = load_arrays("lake.npz", Trials._fields[1:], data_dir)
    return Trials(*(kept[name] for name in Trials._fields))

def wilson_interval(n_right, n, z=1.96):
    """Return Wilson's 95 % interval of a fraction, (low, high) in 0..1: 368 right of 400 give 0.889..0.943."""
    p, centre = n_right / n, (n_right + z * z / 2) / (n + z * z)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))

# § 3.2 Learning: what a minibatch is ----------------------------------------------------------------------------------

def to_input(images, size):
    """Turn drawings into a net's input: (N, 105, 105) uint8 -> (N, 1, size, size) float32 in [0, 1]; means of areas."""
    side, i = images.shape[-1], np.arange(size)
    first, end = i * side // size, -(-(i + 1) * side // size)  # a new pixel is the mean of lines first .. end
    sums = np.pad(images.cumsum(1, dtype=np.float32).cumsum(2), ((0, 0), (1, 0), (1, 0)))  # of all above and left of it
    rows = sums[:, end] - sums[:, first]
    totals = rows[:, :, end] - rows[:, :, first]  # (N, size, size)
    return np.ascontiguousarray(totals / np.float32(np.outer(end - first, end - first)))[:, None]

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
    xx, xy, yx, yy, t_x, t_y = (number[:, None, None] for number in (xx, xy, yx, yy, t_x, t_y))  # (N, 1, 1) each
    old_x = ((xx * x + xy * y + t_x + 1) * W - 1) / 2  # (N, H, W) in pixels
    old_y = ((yx * x + yy * y + t_y + 1) * H - 1) / 2
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
    """Draw a minibatch: alphabets, which may repeat, characters of each, drawings of each character, which do not.

    drawings: Drawings; rng: numpy.random.Generator
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
    return Trials(images, np.array(test), np.array(support), np.array(answers))

def print_trials(title, rows):
    """Print rows of (name, fraction right, number of trials, or None without an interval) below a title."""
    print(f"\n{title:<60}  right   95 % interval")
    for name, accuracy, n in rows:
        interval = ""
        if n:
            low, high = wilson_interval(accuracy * n, n)
            interval = f"{100 * low:8.1f} .. {100 * high:.1f}"
        print(f"  {name:<58}{100 * accuracy:6.2f} %{interval}")

def one_shot_answers(features, logit, trials):
    """Answer every trial alone: the position of the support image that is most likely the test image's character.

    features: (n, H, W) uint8 -> (n, D); logit: (n, D), (n, D) -> (n,)
    Returns (n_trials,) int64; -1 where the best logit is shared or any logit is not a number: those are wrong answers.
    """
    used, where = np.unique(np.column_stack([trials.test, trials.support]), return_inverse=True)
    where = where.reshape(len(trials.test), -1)  # (n_trials, 1 + n_way)
    h = np.concatenate([features(trials.images[used[i : i + 100]]) for i in range(0, len(used), 100)])  # each once
    answers = np.empty(len(trials.test), np.int64)
    for i, (test, *support) in enumerate(where):
        logits = logit(np.repeat(h[test][None], len(support), 0), h[support])  # (n_way,)
        clear = not np.isnan(logits).any() and (logits == logits.max()).sum() == 1
        answers[i] = logits.argmax() if clear else -1
    return answers
