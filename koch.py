"""koch.py: Siamese Neural Networks for One-shot Image Recognition (Koch, Zemel, Salakhutdinov 2015).

Lake's 400 one-shot trials, 20-way, within an alphabet, on two CPU cores, means of three seeds:
96.7 % right after 4:32..4:52 minutes (the default), 97.8 % after 12:24..14:17 (--steps 6000).
The paper has 92.0, people 95.5, pixel 1-NN 21.75, chance 5.0.

    python koch.py train        train the twin net, then take Lake's 400 one-shot trials
    python koch.py oneshot      take the trials again with the newest checkpoint

Read it beside the paper: the banners carry the paper's section numbers.
"""

import argparse
import contextlib
import csv
import dataclasses
import hashlib
import http.client
import inspect
import io
import itertools
import json
import math
import os
import platform
import re
import shutil
import signal
import sys
import threading
import time
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image

# The paper's figures that ours stand beside, in percent: Lake's 400 trials, 20-way, within an alphabet (§4.3).
PAPER_LAKE, PEOPLE_LAKE = 92.0, 95.5
PAPER_PARAMETERS = 38_951_745  # §3.1: 6,464 + 401,536 + 262,272 + 524,544 + 37,752,832 + 4,097
SIZES = (35, 105)  # pixels: §4.1 has 105; §4.4 shrinks them by 3

OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
FILES = {  # file in the data folder: (address, sha256 of the official file)
    "images_background.zip": (OMNIGLOT, "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640"),
    "images_evaluation.zip": (OMNIGLOT, "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee"),
    "all_runs.zip": (
        OMNIGLOT + "one-shot-classification/", "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
    ),
}  # fmt: skip
N_CHARACTERS, N_DRAWERS = {"background": 964, "evaluation": 659}, 20  # §4.1
# §4.1 does not say which alphabets are which. The test set is the ten of Lake's runs, two runs each in this order; the
# validation set is the other ten of images_evaluation.
TEST_ALPHABETS = (
    "Atlantean Ge_ez Glagolitic Gurmukhi Kannada Malayalam Manipuri Old_Church_Slavonic_(Cyrillic) Tengwar Tibetan"
).split()
VALIDATION_ALPHABETS = (
    "Angelic Atemayar_Qelisayer Aurek-Besh Avesta Keble Mongolian Oriya Sylheti Syriac_(Serto) ULOG"
).split()
N_VALIDATION = 320  # §3.2: one-shot trials that choose the best checkpoint
N_FRESH = 2000  # ours: trials from the test alphabets beside Lake's, within an alphabet and across
TRIALS_SEED = 2015  # ours: every run takes the same trials
RUNS = Path("runs")
CHOICES = {
    "recipe": ("fast",), "data": ("auto", "omniglot", "invented"), "device": ("auto", "cpu", "cuda"),
    "size": (0, *SIZES), "precision": ("auto", "float32", "bfloat16"),
}  # fmt: skip
LEAST = {"steps": 1, "alphabets": 1, "characters": 2, "drawings": 2, "validations": 1}  # of other numbers: 0


@dataclasses.dataclass(frozen=True)
class Config:
    """Say all that decides a training. Each comment gives the value's source and becomes its line of --help."""

    recipe: str = "fast"  # ours: the paper's task and net, with the training of today
    data: str = "auto"  # omniglot (§4.1) or invented (ours); auto: omniglot, or invented when it cannot be had
    data_dir: str = ""  # ours: where the data files are; else $KOCH_DATA, else data/
    name: str = ""  # ours: results go to runs/NAME; else made from the data, the size and the seed
    device: str = "auto"  # ours: cpu or cuda; auto: cuda when there is one
    size: int = 0  # 105 (§3.1) or 35 pixels (§4.4: the reduced net); 0: 105 on cuda, 35 on cpu
    precision: str = "auto"  # ours: float32 or bfloat16; auto: bfloat16 where the device computes in it
    seed: int = 0  # ours: of every random draw
    steps: int = 2200  # ours: minibatches; the paper stops by the validation error, after 200 epochs at most
    alphabets: int = 4  # deviates: alphabets in a minibatch; §3.2 has 128 pairs of any
    characters: int = 10  # deviates: characters of each alphabet in a minibatch
    drawings: int = 3  # deviates: drawings of each character in a minibatch
    learning_rate: float = 0.02  # deviates: Muon's, of weights, at its highest; §3.2 has layer-wise eta_j and mu_j
    adam_learning_rate: float = 0.0  # deviates: AdamW's, of all else, at its highest; 0: 3e-4 at size 105, 2e-3 at 35
    weight_decay: float = 0.01  # deviates: Muon's: weights shrink by it, times the learning rate; §3.2 has lambda_j
    warmup: int = 200  # ours: steps to the highest learning rates, which then fall to 0 along a cosine
    distortion: float = 1.0  # §3.2: the affine distortions' ranges, times this
    turns: bool = True  # deviates: turned and mirrored alphabets are new alphabets
    validations: int = 8  # ours: times that the 320 validation trials (§3.2) are taken


class UserError(Exception):
    """Say in one line what is wrong and what to do; the command line prints it and exits with status 2."""


# § 3.1 Model ----------------------------------------------------------------------------------------------------------


def paper_twin():
    """Return the layers of the paper's twin: (N, 1, 105, 105) -> (N, 4096) in 0..1 (§3.1, figure 4)."""
    return nn.Sequential(  # the comments give the output's shape for one image
        nn.Conv2d(1, 64, 10), nn.ReLU(), nn.MaxPool2d(2),  # (64, 96, 96) -> (64, 48, 48)
        nn.Conv2d(64, 128, 7), nn.ReLU(), nn.MaxPool2d(2),  # (128, 42, 42) -> (128, 21, 21)
        nn.Conv2d(128, 128, 4), nn.ReLU(), nn.MaxPool2d(2),  # (128, 18, 18) -> (128, 9, 9)
        nn.Conv2d(128, 256, 4), nn.ReLU(),  # (256, 6, 6)
        nn.Flatten(), nn.Linear(9216, 4096), nn.Sigmoid(),  # (9216,) -> (4096,)
    )  # fmt: skip


def reduced_twin():
    """Return the layers of the reduced twin: (N, 1, 35, 35) -> (N, 512), any real number.

    §4.4 has "a reduced version of our model" and does not print it: this one is ours, made for speed on a CPU.
    """

    def block(n_in, n_out, kernel, padding, pool=False):
        convolution = nn.Conv2d(n_in, n_out, kernel, padding=padding, bias=False)
        return [convolution, *[nn.MaxPool2d(2)] * pool, nn.BatchNorm2d(n_out), nn.ReLU()]

    return nn.Sequential(
        *block(1, 32, 4, 0, pool=True),  # (32, 32, 32) -> (32, 16, 16)
        *block(32, 64, 3, 1),  # (64, 16, 16)
        *block(64, 64, 3, 1, pool=True),  # (64, 8, 8)
        *block(64, 64, 3, 1),  # (64, 8, 8)
        *block(64, 128, 3, 1, pool=True),  # (128, 4, 4)
        *block(128, 256, 3, 1, pool=True),  # (256, 2, 2)
        nn.Flatten(), nn.Linear(1024, 512), nn.BatchNorm1d(512),  # (512,)
    )  # fmt: skip


class SiameseNet(nn.Module):
    """Join two twins that share all their weights (§3.1).

    size: 105 for the paper's net (38,951,745 parameters) or 35 for the reduced net, in pixels
    Raises ValueError for another size.
    """

    def __init__(self, size=105):
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"size is one of {SIZES}, not {size}")
        self.size = size
        self.precision = "float32"  # of the twin: "float32" or "bfloat16"
        self.twin = paper_twin() if size == 105 else reduced_twin()
        n_features = 4096 if size == 105 else 512
        # §3.1: p = sigmoid(sum_j alpha_j |h1_j - h2_j|). The printed formula has no bias, so that two equal images
        # would get p = 0.5; every implementation adds one, and it does not change which candidate wins.
        self.join = nn.Linear(n_features, 1)
        for parameter in self.twin.parameters() if size == 105 else ():  # batch normalisation makes it needless at 35
            if parameter.ndim > 1:  # deviates: He's initialisation; §3.2 has N(0, 0.01) and N(0, 0.2)
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        nn.init.constant_(self.join.weight, -4 / n_features)  # deviates: from the start, far apart means not the same
        self.n_parameters = sum(parameter.numel() for parameter in self.parameters())
        assert size != 105 or self.n_parameters == PAPER_PARAMETERS
        self.to(memory_format=torch.channels_last)

    def features(self, images):
        """Compute one twin's features.

        images: (N, 1, size, size) float in [0, 1], 1 = ink, on any device
        Returns (N, D) of images' dtype on the net's device; D is 4096 at size 105 and 512 at size 35.
        """
        x = images.to(self.join.weight.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            h = self.twin(x)
        return h.to(images.dtype)

    def logit(self, h1, h2):
        """Return the log-odds that h1 and h2 are of one character: (N, D), (N, D) -> (N,); leading axes broadcast."""
        return self.join((h1 - h2).abs()).squeeze(-1)


# § 3.2 Learning -------------------------------------------------------------------------------------------------------


def to_input(images, size):
    """Turn drawings into a net's input: (N, H, W) uint8, 1 = ink -> (N, 1, size, size) float in [0, 1].

    Larger images shrink by averaging areas: 105 -> 35 is the mean of 3x3 pixels (§4.4).
    """
    x = images[:, None].float()
    return x if x.shape[-1] == x.shape[-2] == size else F.adaptive_avg_pool2d(x, size)


def distort(images, rng, strength=1.0):
    """Distort each image by an affine map of its own (§3.2); what comes in from outside is paper.

    images: (N, 1, H, W) float in [0, 1], 1 = ink
    rng: torch.Generator on images' device
    strength: factor on every range
    Returns images of the same shape. T = (theta, rho_x, rho_y, s_x, s_y, t_x, t_y): theta in [-10, 10] degrees, shear
    rho in [-0.3, 0.3], scale s in [0.8, 1.2], shift t in [-2, 2] pixels of 105; each present with probability 0.5.
    """
    n, device = len(images), images.device
    ranges = torch.tensor([math.radians(10), 0.3, 0.3, 0.2, 0.2, 2 * 2 / 105, 2 * 2 / 105], device=device)
    draw = torch.rand(n, 7, generator=rng, device=device) * 2 - 1
    present = torch.rand(n, 7, generator=rng, device=device) < 0.5
    theta, rho_x, rho_y, s_x, s_y, t_x, t_y = (draw * present * ranges * strength).T  # 7 of (n,)
    cos, sin = theta.cos(), theta.sin()
    turn = torch.stack([cos, -sin, sin, cos], 1).view(n, 2, 2)
    scale_shear = torch.stack([1 + s_x, rho_x, rho_y, 1 + s_y], 1).view(n, 2, 2)
    # The map goes from the new image's pixels to the old one's, in grid_sample's units: -1..1 from edge to edge.
    affine = torch.cat([turn @ scale_shear, torch.stack([t_x, t_y], 1)[:, :, None]], 2)  # (n, 2, 3)
    grid = F.affine_grid(affine, images.shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def draw_batch(drawings, config, rng):
    """Draw a minibatch of A alphabets, K characters of each, M drawings of each character: all different.

    drawings: Drawings, on the device as uint8; rng: torch.Generator on the same device
    config: A, K, M are its alphabets, characters and drawings
    Returns images (A, K * M, H, W) uint8 and their characters (A, K * M) int64. Raises UserError if there are too few.
    """
    a, k, m, device = config.alphabets, config.characters, config.drawings, drawings.images.device
    n_characters, n_drawers = drawings.images.shape[:2]
    large = torch.where(drawings.alphabet.bincount() >= k)[0]
    if not len(large) or m > n_drawers:
        raise UserError(f"no alphabet has {k} characters with {m} drawings; lower --characters or --drawings")
    alphabets = large[torch.randint(len(large), (a, 1), generator=rng, device=device)]  # (A, 1)
    order = torch.rand(a, n_characters, generator=rng, device=device).masked_fill(drawings.alphabet != alphabets, -1)
    characters = order.topk(k).indices  # (A, K): of each alphabet, and no other's
    drawers = torch.rand(a, k, n_drawers, generator=rng, device=device).topk(m).indices  # (A, K, M)
    images = drawings.images[characters[:, :, None], drawers].flatten(1, 2)  # (A, K * M, H, W)
    if config.turns:
        images = turn(images, torch.rand(3, a, generator=rng, device=device) < 0.5)
    return images, characters.repeat_interleave(m, 1)


def turn(images, coins):
    """Turn and mirror whole alphabets: by three coins each, one of the eight symmetries of the square.

    images: (A, n, H, H); coins: (3, A) bool, for transposing, mirroring and standing on the head
    A turned alphabet is another alphabet: all its drawings turn alike, so that no character gets a mirrored twin.
    """
    transposed, mirrored, on_head = coins[:, :, None, None, None]
    images = torch.where(transposed, images.transpose(-1, -2), images)
    images = torch.where(mirrored, images.flip(-1), images)
    return torch.where(on_head, images.flip(-2), images)


def pair_loss(net, h, characters):
    """Return the softmax cross-entropy of each same pair against all different pairs of its first drawing.

    deviates: §3.2 has the cross-entropy of single pairs. A trial asks which of many is the same, and so does this loss;
    features are computed once and scored in every pair of their alphabet.
    h: (A, n, D) features; characters: (A, n) int64
    Returns the mean over all ordered same pairs, a scalar in nats.
    """
    logits = net.logit(h[:, :, None], h[:, None])  # (A, n, n)
    same = characters[:, :, None] == characters[:, None]  # (A, n, n)
    different = logits.masked_fill(same, -math.inf).logsumexp(2, keepdim=True)  # (A, n, 1)
    losses = F.softplus(different - logits)  # -log(e^logit / (e^logit + sum of e^different))
    itself = torch.eye(h.shape[1], dtype=torch.bool, device=h.device)
    return losses[same & ~itself].mean()


class Muon(torch.optim.Optimizer):
    """Step along the momentum with all its singular values made equal, so that no direction of a layer lags behind.

    deviates: §3.2 has plain momentum. Idea and coefficients: Keller Jordan, github.com/KellerJordan/Muon.
    parameters: weights of two axes or more, (n_out, ...); dtype: torch.float32 or bfloat16, to compute in
    """

    def __init__(self, parameters, lr, weight_decay=0.0, dtype=torch.float32, momentum=0.95):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "dtype": dtype, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                velocity.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(velocity, group["momentum"]).flatten(1)  # (n_out, n_in), Nesterov's
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(orthogonal(update.to(group["dtype"])).view_as(p), alpha=-group["lr"])


def orthogonal(matrix):
    """Return a matrix with the same singular vectors and singular values nearer to each other, by Newton and Schulz.

    Three iterations bring those above a fiftieth of the norm to 0.7..1.2; the usual five were slower and no better.
    """
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(3):
        square = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
        change = 2.0315 * square @ square - 4.7750 * square
        x = 3.4445 * x + (change @ x if x.shape[0] <= x.shape[1] else x @ change)
    return x


def make_optimizers(net, config):
    """Return Muon for the weights of the twin's layers and AdamW for biases, batch normalisation and the join.

    The paper's fully connected weights go to AdamW too: 4096 singular values would cost three times the step itself.
    """
    muon = [p for p in net.twin.parameters() if p.ndim > 1 and len(p) <= 1024]
    adam = [p for p in net.parameters() if not any(p is other for other in muon)]
    return [
        Muon(muon, config.learning_rate, config.weight_decay, getattr(torch, net.precision)),
        torch.optim.AdamW(adam, config.adam_learning_rate, weight_decay=0.0, fused=True),
    ]


def schedule(step, config):
    """Return the learning rates' factor at a step 0, 1, ...: up in a line, down along a cosine; §3.2: -1 % an epoch."""
    return min(1, (step + 1) / max(1, config.warmup)) * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def training_step(net, optimizers, drawings, step, config, rng):
    """Take one step and return its loss (a tensor on the device, so that nothing waits for it)."""
    images, characters = draw_batch(drawings, config, rng)
    x = distort(to_input(images.flatten(0, 1), net.size), rng, config.distortion)  # §3.2: each twin by itself
    h = net.features(x).view(*characters.shape, -1)  # (A, n, D)
    loss = pair_loss(net, h, characters)
    net.zero_grad()
    loss.backward()  # the gradients of both twins add in the shared weights
    for optimizer, highest in zip(optimizers, (config.learning_rate, config.adam_learning_rate)):
        for group in optimizer.param_groups:
            group["lr"] = highest * schedule(step, config)
        optimizer.step()
    return loss.detach()


# § 4.1 The Omniglot Dataset -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Drawings:
    """Hold the drawings of many characters.

    images: (characters, drawers, H, W) uint8, 1 = ink, 0 = paper
    alphabet: (characters,) int64, each character's alphabet, an index into names
    names: the alphabets' names
    """

    images: torch.Tensor
    alphabet: torch.Tensor
    names: tuple

    def only(self, names):
        """Return the drawings of the named alphabets, in this set's order. Raises ValueError for an unknown name."""
        kept = sorted(self.names.index(name) for name in names)
        characters = torch.cat([torch.where(self.alphabet == a)[0] for a in kept])
        alphabet = torch.tensor([kept.index(a) for a in self.alphabet[characters]])
        return Drawings(self.images[characters], alphabet, tuple(self.names[a] for a in kept))

    def to(self, device):
        return Drawings(self.images.to(device), self.alphabet.to(device), self.names)


@contextlib.contextmanager
def written_whole(path):
    """Yield a temporary file to write; it becomes path at the end, so that path is whole or is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def data_file(data_dir, name):
    """Return the path of a data file in data_dir, else $KOCH_DATA, else data/, downloaded if need be; or UserError."""
    path = Path(data_dir or os.environ.get("KOCH_DATA") or "data") / name
    if path.is_file():
        return path
    folder, checksum = FILES[name]
    try:
        with urllib.request.urlopen(folder + name, timeout=20) as answer, written_whole(path) as file:
            total, digest = int(answer.headers.get("Content-Length") or 0), hashlib.sha256()
            while block := answer.read(1 << 16):
                file.write(block)
                digest.update(block)
                progress(f"downloading {name}", file.tell(), total)
            if digest.hexdigest() != checksum:
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
        if paper.shape != (105, 105):
            raise ValueError(f"it has {paper.shape[1]}x{paper.shape[0]} pixels, not 105x105")
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three
        raise UserError(f"{name} is damaged ({reason(error)}); delete the zip and start again") from error
    return (~paper).astype(np.uint8)


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
    return Drawings(torch.from_numpy(images), torch.from_numpy(alphabet), tuple(names))


def invent_alphabets(seed):
    """Invent 50 alphabets of 14..40 characters, each by 20 drawers, in Omniglot's layout and with strokes like its own.

    Returns Drawings of (characters, 20, 105, 105), the same for the same seed. How: reference_numpy/invented.py.
    """
    from reference_numpy import invented

    source = Path(invented.__file__).read_bytes() + b"%d %d" % (seed, invented.N_INVENTED)
    return cached(Path("data") / f"invented{seed}.npz", source, lambda: invented.invent(seed))


def load_data(config):
    """Load the drawings that a configuration names and split them by alphabet.

    Returns training, validation and test Drawings (30, 10 and 10 alphabets) and their data set's name, "omniglot" or
    "invented". When nobody named a data set or a folder, and Omniglot cannot be had, alphabets are invented.
    Raises UserError when the data set that was named cannot be had.
    """
    if config.data != "invented":
        try:
            for name in FILES:
                data_file(config.data_dir, name)
        except UserError as error:
            folder = config.data_dir or os.environ.get("KOCH_DATA")
            advice = f"put {', '.join(FILES)} into {folder or 'data'}/"
            if config.data == "omniglot" or folder:
                raise UserError(f"{error}; {advice}, or use --data invented") from error
            print(f"Omniglot is not here: {error}.")
            print("This run trains on alphabets that it invents instead; no real drawing is among them.")
            print(f"For Omniglot {advice} and start again.")
        else:
            background, evaluation = (load_omniglot(config.data_dir, part) for part in N_CHARACTERS)
            return background, evaluation.only(VALIDATION_ALPHABETS), evaluation.only(TEST_ALPHABETS), "omniglot"
    drawings = invent_alphabets(0)
    return *(drawings.only(drawings.names[a:b]) for a, b in ((0, 30), (30, 40), (40, 50))), "invented"


# § 4.3 One-shot Learning ----------------------------------------------------------------------------------------------


class Trials(NamedTuple):
    """Hold one-shot trials: which of n_way support images is of the test image's character?

    images: (n, H, W) uint8, 1 = ink: every image of the trials once
    test: (n_trials,) int64, the test images, as indices into images
    support: (n_trials, n_way) int64, the support images, one of each character
    answers: (n_trials,) int64, the right position in support, 0..n_way - 1
    alphabets: the name of each trial's alphabet (of its test image, where a trial spans several)
    """

    images: torch.Tensor
    test: torch.Tensor
    support: torch.Tensor
    answers: torch.Tensor
    alphabets: tuple


def lake_runs(data_dir=""):
    """Load Lake's 20 runs of 20 trials, 20-way, each within one alphabet by two drawers (§4.3).

    Returns Trials: 400 of them over 800 images. Raises UserError when all_runs.zip cannot be had or is damaged.
    """
    path = data_file(data_dir, "all_runs.zip")
    files = read_zip(path)
    try:
        images, test, support, answers = [], [], [], []
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
    return Trials(torch.from_numpy(np.array(images)), *map(torch.tensor, (test, support, answers)), alphabets)


def one_shot_trials(drawings, n_way, n_trials, rng, within_alphabet=True):
    """Draw one-shot trials: n_way different characters by one drawer, a test image of one of them by another drawer.

    drawings: Drawings with at least two drawers
    rng: torch.Generator on the CPU
    within_alphabet: take a trial's characters from one alphabet, the alphabets in turn, those with fewer than n_way
        characters left out; else from all alphabets
    Returns Trials, the right answer at a random position. Raises UserError if there are too few characters or drawers.
    """
    n_drawers, alphabet = drawings.images.shape[1], drawings.alphabet.cpu()
    groups = alphabet if within_alphabet else torch.zeros_like(alphabet)
    pools = [pool for group in groups.unique() if len(pool := torch.where(groups == group)[0]) >= n_way]
    if not pools or n_way < 2 or n_drawers < 2:
        raise UserError(f"no {n_way}-way trial can be drawn: it needs {n_way} characters of two drawers, and two ways")
    test, support, answers = [], [], []
    for trial in range(n_trials):
        pool = pools[trial % len(pools)]
        characters = pool[torch.randperm(len(pool), generator=rng)[:n_way]]  # (n_way,)
        drawer, test_drawer = torch.randperm(n_drawers, generator=rng)[:2]
        answer = torch.randint(n_way, (), generator=rng)
        support.append(characters * n_drawers + drawer)
        test.append(characters[answer] * n_drawers + test_drawer)
        answers.append(answer)
    test, support, answers = torch.stack(test), torch.stack(support), torch.stack(answers)
    alphabets = tuple(drawings.names[alphabet[i]] for i in test // n_drawers)
    used, where = torch.cat([test[:, None], support], 1).unique(return_inverse=True)  # where: (n_trials, 1 + n_way)
    images = drawings.images[used // n_drawers, used % n_drawers]
    return Trials(images, where[:, 0], where[:, 1:], answers, alphabets)


class PixelNearestNeighbour:
    """Compare pixels by their cosine: the baseline that learns nothing (21.75 % on Lake's runs)."""

    size = 105

    def features(self, images):
        return F.normalize(images.flatten(1), dim=1)  # (N, H * W)

    def logit(self, h1, h2):
        return (h1 * h2).sum(-1)


@torch.no_grad()
def one_shot_answers(model, trials):
    """Answer every trial alone: the position of the support image that is most likely the test image's character.

    model: any object with size (pixels), features and logit as SiameseNet has them; no training, no distortion
    Returns (n_trials,) int64 on the CPU; -1 where the best logit is shared or any logit is not a number.
    """
    training = getattr(model, "training", False)
    if training:
        model.eval()
    h = torch.cat([model.features(to_input(images, model.size)) for images in trials.images.split(128)])  # each once
    answers = []
    for test, support in zip(trials.test.split(10), trials.support.split(10)):  # few: they stay in the cache
        h1 = h[test].repeat_interleave(support.shape[1], 0)  # (10 * n_way, D)
        # Logits, not probabilities: a float32 sigmoid is exactly 1 from logit 16.7 on, and makes ties.
        logits = model.logit(h1, h[support.flatten()]).view(support.shape).float().cpu()
        clear = ((logits == logits.amax(1, keepdim=True)).sum(1) == 1) & ~logits.isnan().any(1)
        answers.append(torch.where(clear, logits.argmax(1), -1))
    if training:
        model.train()
    return torch.cat(answers)


def one_shot_accuracy(model, trials):
    """Return the fraction of trials answered right, 0..1. A tie and a logit that is not a number are wrong answers."""
    return (one_shot_answers(model, trials) == trials.answers.cpu()).double().mean().item()


def wilson_interval(n_right, n, z=1.96):
    """Return Wilson's 95 % interval of a fraction, (low, high) in 0..1: 368 right of 400 give 0.889..0.943."""
    p, centre = n_right / n, (n_right + z * z / 2) / (n + z * z)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def take_trials(model, trials):
    """Answer trials with a model and with pixel 1-NN, and count.

    Returns {n, right, accuracy, interval (low, high) and chance in 0..1, pixels (1-NN), alphabets {name: [right, n]}}.
    """
    correct = one_shot_answers(model, trials) == trials.answers
    right, n = int(correct.sum()), len(correct)
    hits = [name for name, hit in zip(trials.alphabets, correct.tolist()) if hit]
    return {
        "n": n, "right": right, "accuracy": right / n, "interval": wilson_interval(right, n),
        "chance": 1 / trials.support.shape[1], "pixels": one_shot_accuracy(PixelNearestNeighbour(), trials),
        "alphabets": {a: [hits.count(a), trials.alphabets.count(a)] for a in dict.fromkeys(trials.alphabets)},
    }  # fmt: skip


def evaluate(net, test, data, data_dir=""):
    """Take the test trials with a net from load_checkpoint and print them beside the paper's figures.

    test, data: the test Drawings and their data set's name, from load_data
    Returns {"lake": ..., "within": ..., "across": ...} as take_trials counts them, and the Trials to draw. Lake's are
    missing after a training on invented alphabets if the file is not at hand.
    """
    rng = torch.Generator().manual_seed(TRIALS_SEED)
    trials = {key: one_shot_trials(test, 20, N_FRESH, rng, key == "within") for key in ("within", "across")}
    if data == "omniglot" or Path(data_dir or os.environ.get("KOCH_DATA") or "data", "all_runs.zip").is_file():
        trials = {"lake": lake_runs(data_dir)} | trials
    results = {key: take_trials(net, drawn) for key, drawn in trials.items()}
    print_results(results, net, data)
    return results, next(iter(trials.values()))


# Results --------------------------------------------------------------------------------------------------------------


def print_results(results, net, data):
    """Print what evaluate returned. The paper's figures stand beside those on Lake's trials and no others."""

    def row(name, accuracy, interval=None):
        low_high = f"{100 * interval[0]:8.1f} .. {100 * interval[1]:.1f}" if interval else ""
        print(f"  {name:<58}{100 * accuracy:6.2f} %{low_high}")

    where = "the ten test alphabets" if data == "omniglot" else "ten invented alphabets"
    seen = {"omniglot": "trained on Omniglot", "invented": "no real data: trained on invented alphabets"}
    net_name = f"this net, {net.size}x{net.size}, {seen[net.config.data]}"
    for key, result in results.items():
        trials = "Lake's 400 one-shot trials" if key == "lake" else f"{result['n']:,} fresh trials of {where}"
        title = f"{trials}, {'across alphabets' if key == 'across' else 'within one alphabet'}"
        print(f"\n{title:<60}  right   95 % interval")
        if key == "lake":
            row("people", PEOPLE_LAKE / 100)
            row("the paper's convolutional siamese net", PAPER_LAKE / 100, wilson_interval(368, 400))
        row(net_name, result["accuracy"], result["interval"])
        row("pixel 1-NN (cosine)", result["pixels"])
        row("chance (20-way)", result["chance"])
    print("\nright by alphabet" + " " * 24 + "".join(f"{key:>11}" for key in results))
    for name in results["within"]["alphabets"]:
        counts = [result["alphabets"].get(name) for result in results.values()]
        print(f"  {name:<39}" + "".join(f"{f'{c[0]}/{c[1]}' if c else '-':>11}" for c in counts))


def draw_curves(rows, path):
    """Draw the loss and the validation accuracy over the steps into a PNG; rows as in the log."""
    from matplotlib.figure import Figure  # takes half a second: only when there is something to draw

    picture = Figure((9, 3.2), layout="constrained")
    left, right = picture.subplots(1, 2)
    left.plot([row["step"] for row in rows], [row["loss"] for row in rows], color="tab:blue")
    left.set(xlabel="step", ylabel="training loss (nats)", yscale="log")
    taken = [(row["step"], 100 * row["validation"]) for row in rows if row["validation"] is not None]
    right.plot(*zip(*taken), "o-", color="tab:orange")
    right.set(xlabel="step", ylabel=f"right of {N_VALIDATION} validation trials (%)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    with written_whole(path) as file:
        picture.savefig(file, format="png")


def draw_trials(answers, trials, path):
    """Draw the first 20-way trial as the paper's figures do, and the first that were answered wrong, into a PNG."""
    from matplotlib.figure import Figure

    wrong = torch.where(answers != trials.answers)[0].tolist()
    cells = {(0, 0): (trials.test[0], "test", "black")}  # (row, column): image, title, colour of the frame
    for way, image in enumerate(trials.support[0]):
        colour = {int(answers[0]): "tab:red", int(trials.answers[0]): "tab:green"}.get(way, "lightgray")
        cells[way // 4, 1 + way % 4] = (image, "", colour)
    for i, trial in enumerate(wrong[:20]):
        row, column = i // 4, 6 + 3 * (i % 4)
        cells[row, column] = (trials.test[trial], "test", "black")
        if answers[trial] >= 0:  # a tie chose none
            cells[row, column + 1] = (trials.support[trial, answers[trial]], "chosen", "tab:red")
        cells[row, column + 2] = (trials.support[trial, trials.answers[trial]], "right", "tab:green")
    picture = Figure((14, 4.8), layout="constrained")
    task = f"left: a trial of {trials.alphabets[0]}, the right answer in green"
    picture.suptitle(f"{task}     right: the first of {len(wrong)} wrong answers in {len(answers)}", fontsize=9)
    for place, axes in np.ndenumerate(picture.subplots(5, 18)):
        axes.set(xticks=[], yticks=[], frame_on=place in cells)
        if place in cells:
            image, title, colour = cells[place]
            axes.imshow(trials.images[image].cpu().numpy(), cmap="gray_r", vmin=0, vmax=1)
            axes.set_title(title, fontsize=7, color=colour, pad=2)
            for side in axes.spines.values():
                side.set(color=colour, linewidth=0.5 if colour == "lightgray" else 1.5)
    with written_whole(path) as file:
        picture.savefig(file, format="png")


def progress(label, done, total, note="", seconds=0.0, keep=False):
    """Show a bar with the time left on one line that is written over; into a file only the lines to keep."""
    minutes, rest = divmod(int(seconds / done * (total - done) if done < total else seconds), 60)
    left = f"  {minutes}:{rest:02}" + " left" * (done < total) if seconds else ""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        line = f"{label} [{'#' * (20 * done // max(total, 1)):.<20}] {done / max(total, 1):4.0%}  {note}{left}"
        print(f"\r{line[:width]:<{width}}", end="\n" if done == total else "", flush=True)
    elif keep or done == total:
        print(f"{label} {done:,} of {total:,}  {note}{left}", flush=True)


def machine(device):
    """Say what computes: the device's name and the versions."""
    about = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    cpu = (re.findall(r"model name\s*: (.*)", about) or [platform.processor()])[0]
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads of {cpu}"
    return {"device": name, "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}


# Training -------------------------------------------------------------------------------------------------------------


def settle(config):
    """Check a configuration and replace each "auto" and 0 by what it stands for here. Raises UserError."""
    for name, allowed in CHOICES.items():
        if getattr(config, name) not in allowed:
            raise UserError(f"--{name} is one of {', '.join(map(str, allowed))}, not {getattr(config, name)}")
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, (int, float)) and not LEAST.get(name, 0) <= value < 2**63:
            raise UserError(f"--{name.replace('_', '-')} is at least {LEAST.get(name, 0)}, not {value}")
    if not re.fullmatch(r"(\w[\w.,=+-]*)?", config.name):
        raise UserError(f"--name is the name of a folder in {RUNS}/, not {config.name!r}")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no CUDA device here; use --device cpu")
    device = config.device.replace("auto", "cuda" if torch.cuda.is_available() else "cpu")
    # A CPU with bfloat16 units multiplies matrices about 2.5 times as fast in it as in float32.
    units = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    fast = device == "cuda" or any(getattr(torch.cpu, name, bool)() for name in units)
    precision = config.precision.replace("auto", "bfloat16" if fast else "float32")
    size = config.size or (105 if device == "cuda" else 35)
    rate = config.adam_learning_rate or (3e-4 if size == 105 else 2e-3)
    return dataclasses.replace(config, device=device, precision=precision, size=size, adam_learning_rate=rate)


@contextlib.contextmanager
def noted_signals():
    """Yield a list to which Ctrl-C and SIGTERM add their number instead of ending the program, the first time."""
    noted = []

    def note(number, frame):
        noted.append(number)
        signal.signal(number, before[number])

    mine = threading.current_thread() is threading.main_thread()  # Python lets no other thread set handlers
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM) if mine}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(config, resume=None):
    """Train a net, keep the checkpoint that is best on the validation trials, and take the test trials with it.

    config: Config
    resume: folder of a stopped run, to go on with as if it had not been stopped (config is then the run's own)
    Returns the results, as in runs/NAME/results.json beside best.pt, last.pt, log.csv, curves.png, trials.png; or the
    number of the signal that stopped it: last.pt then holds all that going on needs. Raises UserError.
    """
    state = load_state(Path(resume) / "last.pt", "optimizers", "rng", "run") if resume else None
    config = settle(Config(**state["config"]) if resume else config)
    *splits, data = load_data(config)
    config = dataclasses.replace(config, data=data)  # going on with this run will insist on the same data
    training, validation, test = (drawings.to(config.device) for drawings in splits)
    trials = one_shot_trials(validation, 20, N_VALIDATION, torch.Generator().manual_seed(TRIALS_SEED))
    torch.manual_seed(config.seed)  # of the initial weights; every later draw comes from rng
    rng = torch.Generator(config.device).manual_seed(config.seed)
    net = SiameseNet(config.size).to(config.device)
    net.precision = config.precision
    optimizers = make_optimizers(net, config)
    run = {"step": 0, "seconds": 0.0, "rows": [], "best": -1.0, "loss": 0.0}  # loss: summed since the last row
    if resume:
        net.load_state_dict(state["net"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        rng.set_state(state["rng"])
        run = state["run"]
    folder = Path(resume) if resume else new_folder(config)
    print(f"twin net of {net.n_parameters:,} parameters on {net.size}x{net.size} pixels in {config.precision}")
    counts = ", ".join(f"{len(d.images)} {name}" for d, name in zip(splits, ("training", "validation", "test")))
    print(f"{data}: {counts} characters; {machine(config.device)['device']}; results go to {folder}/", flush=True)

    def save(name, **more):
        state = {"net": net.state_dict(), "config": dataclasses.asdict(config), "step": run["step"]}
        buffer = io.BytesIO()  # writing this to a full disk is an OSError; torch's own writing is not
        torch.save(state | more, buffer)
        with written_whole(folder / name) as file:
            file.write(buffer.getbuffer())

    log_every, validate_every = (math.ceil(config.steps / n) for n in (100, config.validations))
    loss, started = torch.tensor(run["loss"], device=config.device), time.perf_counter() - run["seconds"]
    net.train()
    with noted_signals() as signals:
        for step in range(run["step"] + 1, config.steps + 1):
            loss += training_step(net, optimizers, training, step - 1, config, rng)
            run["step"], run["seconds"] = step, time.perf_counter() - started
            validating = step % validate_every == 0 or step == config.steps
            if validating or step % log_every == 0:
                mean = loss.item() / (step - (run["rows"][-1]["step"] if run["rows"] else 0))
                if not math.isfinite(mean):
                    raise UserError(f"the loss is {mean} at step {step}; lower --learning-rate")
                rate = config.learning_rate * schedule(step - 1, config)
                run["rows"].append({"step": step, "learning_rate": rate, "loss": mean, "validation": None})
                loss.zero_()
            if validating:  # §3.2: watch the one-shot error on 320 validation trials, keep the best
                run["rows"][-1]["validation"] = accuracy = one_shot_accuracy(net, trials)
                if accuracy >= run["best"]:  # of equals the later one
                    run["best"] = accuracy
                    save("best.pt")
            if validating or signals:
                run["loss"] = loss.item()
                save("last.pt", optimizers=[o.state_dict() for o in optimizers], rng=rng.get_state(), run=run)
            said = f"loss {run['rows'][-1]['loss']:.3f}, " if run["rows"] else ""
            said += f"best validation {100 * run['best']:.1f} %, " if run["best"] >= 0 else ""
            said += f"{step / run['seconds']:.1f} steps/s"
            progress("training", step, config.steps, said, run["seconds"], keep=validating)
            if signals and step < config.steps:
                print(f"\nstopped at step {step} of {config.steps}; go on with: python koch.py train --resume {folder}")
                return signals[0]
    return finish(run, config, folder, test)


def finish(run, config, folder, test):
    """Take the test trials once, with the best checkpoint, and write the results, the log and the pictures."""
    net = load_checkpoint(folder / "best.pt", config.device)
    net.precision = config.precision
    results, trials = evaluate(net, test, config.data, config.data_dir)
    about = {"config": dataclasses.asdict(config), "parameters": net.n_parameters, **machine(config.device)}
    about |= {"seconds": run["seconds"], "validation": run["best"], "best_step": net.step}
    draw_curves(run["rows"], folder / "curves.png")
    draw_trials(one_shot_answers(net, trials), trials, folder / "trials.png")
    with written_whole(folder / "log.csv") as file, io.TextIOWrapper(file, newline="") as text:
        writer = csv.DictWriter(text, run["rows"][0])
        writer.writeheader()
        writer.writerows(run["rows"])
    with written_whole(folder / "results.json") as file:
        file.write(json.dumps(about | results, indent=1).encode())
    print(f"\nin {folder}/: " + ", ".join(sorted(path.name for path in folder.iterdir())))
    return about | results


def new_folder(config):
    """Return a new run's folder, made when its first file is written. Raises UserError when its name is taken."""
    name = config.name or f"{config.recipe}-{config.data}-{config.size}-seed{config.seed}"
    if config.name and (RUNS / name).exists():
        raise UserError(f"{RUNS / name}/ is there already; take another --name or go on with --resume {RUNS / name}")
    numbered = (RUNS / (name + (f"-{i}" if i > 1 else "")) for i in itertools.count(1))
    return next(folder for folder in numbered if not folder.exists())


def load_state(path, *keys):
    """Load a checkpoint as a dict. Raises UserError when it is missing, damaged or not one of koch.py's."""
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}; python koch.py train makes one")
    try:
        if str(path).endswith(".npz"):  # reference_numpy's: arrays by name, and how they were trained as JSON
            net = {name: torch.from_numpy(array) for name, array in np.load(path).items() if name != "about"}
            state = json.loads(str(np.load(path)["about"])) | {"net": net}
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        if missing := {"net", "config", "step", *keys} - set(state):
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
        Config(**state["config"])
        return state
    except Exception as error:  # torch raises whatever its unpickler stumbles over
        raise UserError(f"{path} is not a checkpoint of koch.py ({reason(error)}); name another one") from error


def load_checkpoint(path, device="cpu"):
    """Load a trained net, the SiameseNet of a best.pt, last.pt or reference_numpy's best.npz, for evaluation.

    Its attributes config (a Config) and step say how it was trained.
    Raises UserError when the file is missing, damaged, not one of koch.py's, or its weights do not fit its size.
    """
    state = load_state(path)
    net = SiameseNet(state["config"]["size"])
    try:
        net.load_state_dict(state["net"])
    except RuntimeError as error:
        raise UserError(f"the weights in {path} are not those of a net of size {net.size}; name another one") from error
    net.config, net.step = Config(**state["config"]), state["step"]
    return net.to(device).eval()


def reason(error):
    """Say an error in one line."""
    error = getattr(error, "reason", None) or error  # what a URLError wraps
    return (str(getattr(error, "strerror", None) or error) or type(error).__name__).splitlines()[0]


# The command line -----------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Parse a command line; an error is one line and exit status 2, and no option can be abbreviated."""

    def __init__(self, **how):
        super().__init__(**how, allow_abbrev=False)

    def error(self, message):
        self.exit(2, f"koch.py: {message}; {self.prog} --help lists what there is\n")


def add_options(parser, *names):
    """Give a parser options for fields of Config (all, if none is named); the comments in its source are their help."""
    comments = dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(Config), re.MULTILINE))
    for field in dataclasses.fields(Config):
        if field.name in names or not names:
            how = {"type": field.type, "choices": CHOICES.get(field.name), "metavar": field.type.__name__.upper()}
            if field.type is bool:
                how = {"action": argparse.BooleanOptionalAction}
            elif how["choices"]:
                del how["metavar"]
            text = (comments[field.name] + f" (default: {field.default})" * (field.default != "")).replace("%", "%%")
            parser.add_argument(f"--{field.name.replace('_', '-')}", default=argparse.SUPPRESS, help=text, **how)


def command_train(resume, **options):
    """Train, or go on with a stopped training."""
    if resume and options:
        raise UserError("--resume goes on with the run's own options and takes no others")
    results = train(Config(**options), resume)
    return 0 if isinstance(results, dict) else 128 + results


def command_oneshot(checkpoint, **options):
    """Take the test trials with a checkpoint, on the data set it was trained on or the one named."""
    config = settle(Config(**options))
    found = sorted([*RUNS.glob("*/best.pt"), *RUNS.glob("*/best.npz")], key=lambda path: path.stat().st_mtime)
    if not checkpoint and not found:
        raise UserError(f"there is no checkpoint in {RUNS}/; python koch.py train makes one")
    net = load_checkpoint(checkpoint or found[-1], config.device)
    net.precision = config.precision
    print(f"{checkpoint or found[-1]}: {net.n_parameters:,} parameters, trained on {net.config.data}")
    config = dataclasses.replace(config, data=config.data.replace("auto", net.config.data))
    *_, test, data = load_data(config)
    evaluate(net, test.to(config.device), data, config.data_dir)
    return 0


def main(arguments=None):
    """Run the command line; return the exit status: 0, 2 for bad input, 128 + the signal's number when stopped."""
    parser = Parser(prog="koch.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("train", help="train the twin net, then take the test trials")
    command.set_defaults(command=command_train)
    add_options(command)
    command.add_argument("--resume", metavar="FOLDER", help="go on with a stopped run as if it had not been stopped")
    command = commands.add_parser("oneshot", help="take the test trials with a checkpoint")
    command.set_defaults(command=command_oneshot)
    add_options(command, "data", "data_dir", "device", "precision")
    command.add_argument("checkpoint", nargs="?", help="best.pt, last.pt or best.npz (default: runs/'s newest best)")
    options = vars(parser.parse_args(arguments))
    try:
        return options.pop("command")(**options)
    except UserError as error:
        print(f"koch.py: {error}", file=sys.stderr)
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"koch.py: {error.filename or 'a file'} cannot be read or written ({reason(error)})", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
