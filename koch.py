"""koch.py: Siamese Neural Networks for One-shot Image Recognition (Koch, Zemel, Salakhutdinov 2015).

@@HEADLINE@@

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
import importlib
import inspect
import io
import itertools
import json
import math
import os
import pickle
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
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image, ImageDraw

# The figures of the paper that ours stand beside: Lake's 400 trials, 20-way, percent right (§4.3, table 2).
PAPER_LAKE, PEOPLE_LAKE, N_LAKE = 92.0, 95.5, 400
PAPER_PARAMETERS = 38_951_745  # §3.1: 6,464 + 401,536 + 262,272 + 524,544 + 37,752,832 + 4,097
N_DRAWERS = 20  # §4.1: every character is drawn once by each of 20 people
SIZES = (35, 105)  # pixels; §4.1 has 105, §4.4 shrinks by 3

OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
FILES = {  # file in the data folder: (address, sha256 of the official file)
    "images_background.zip": (
        OMNIGLOT + "images_background.zip",
        "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    ),
    "images_evaluation.zip": (
        OMNIGLOT + "images_evaluation.zip",
        "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
    ),
    "all_runs.zip": (
        OMNIGLOT + "one-shot-classification/all_runs.zip",
        "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
    ),
}
N_CHARACTERS = {"background": 964, "evaluation": 659}
# §4.1 does not say which alphabets are which. The ten of Lake's runs are the test set (two runs each, in this order)
# and the other ten of images_evaluation the validation set.
TEST_ALPHABETS = (
    "Atlantean", "Ge_ez", "Glagolitic", "Gurmukhi", "Kannada", "Malayalam", "Manipuri",
    "Old_Church_Slavonic_(Cyrillic)", "Tengwar", "Tibetan",
)  # fmt: skip
VALIDATION_ALPHABETS = (
    "Angelic", "Atemayar_Qelisayer", "Aurek-Besh", "Avesta", "Keble", "Mongolian", "Oriya", "Sylheti",
    "Syriac_(Serto)", "ULOG",
)  # fmt: skip


N_VALIDATION = 320  # §3.2: one-shot trials that choose the best checkpoint
N_FRESH = 2000  # ours: trials of the test alphabets beside Lake's, within an alphabet and across
TRIALS_SEED = 2015  # the same trials for every run
RUNS = Path("runs")
CHOICES = {
    "recipe": ("fast",),
    "data": ("auto", "omniglot", "invented"),
    "device": ("auto", "cpu", "cuda"),
    "size": (0, *SIZES),
    "precision": ("auto", "float32", "bfloat16"),
}
LEAST = {  # the smallest value of each number
    "seed": 0, "steps": 1, "alphabets": 1, "characters": 2, "drawings": 2, "learning_rate": 0.0, "weight_decay": 0.0,
    "warmup": 0, "distortion": 0.0, "validations": 1,
}  # fmt: skip


class UserError(Exception):
    """Say in one line what is wrong and what to do; the command line prints it and exits with status 2."""


@dataclass(frozen=True)
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
    steps: int = 2400  # ours: minibatches; the paper stops by the validation error, after 200 epochs at most
    alphabets: int = 4  # deviates: alphabets in a minibatch; §3.2 has 128 pairs of any
    characters: int = 10  # deviates: characters of each alphabet in a minibatch
    drawings: int = 3  # deviates: drawings of each character in a minibatch
    learning_rate: float = 1e-3  # deviates: AdamW's eta at its highest; §3.2 has momentum and layer-wise eta_j
    weight_decay: float = 0.01  # deviates: AdamW's, on weights alone; §3.2 has layer-wise L2 penalties lambda_j
    warmup: int = 200  # ours: steps to the highest learning rate, which then falls to 0 along a cosine
    distortion: float = 1.0  # §3.2: the affine distortions' ranges, times this
    turns: bool = True  # deviates: turned and mirrored alphabets are new alphabets
    validations: int = 10  # ours: times that the 320 validation trials (§3.2) are taken

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
        pooled = [nn.MaxPool2d(2)] if pool else []
        return [nn.Conv2d(n_in, n_out, kernel, padding=padding, bias=False), *pooled, nn.BatchNorm2d(n_out), nn.ReLU()]

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
        for layer in self.twin:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):  # deviates: He's initialisation, zero biases
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.constant_(self.join.weight, -4 / n_features)  # deviates: far apart is unlikely the same, from the start
        nn.init.zeros_(self.join.bias)
        self.to(memory_format=torch.channels_last)

    @property
    def device(self):
        return self.join.weight.device

    def features(self, images):
        """Compute one twin's features.

        images: (N, 1, size, size) float in [0, 1], 1 = ink, on any device
        Returns (N, D) of images' dtype on the net's device; D is 4096 at size 105 and 512 at size 35.
        """
        x = images.to(self.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            h = self.twin(x)
        return h.to(images.dtype)

    def logit(self, h1, h2):
        """Return the log-odds that h1 and h2 come from one character: (N, D), (N, D) -> (N,). Leading axes broadcast."""
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
    Returns images of the same shape. T = (theta, rho_x, rho_y, s_x, s_y, t_x, t_y): theta in [-10, 10] degrees, shear rho
    in [-0.3, 0.3], scale s in [0.8, 1.2], shift t in [-2, 2] pixels of 105; each present with probability 0.5.
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


class Sampler:
    """Draw minibatches whose drawings come as whole groups of one alphabet, so that every pair inside can be scored.

    drawings: Drawings to train on; they stay on their device as uint8
    config: alphabets, characters and drawings per minibatch, turns
    Raises UserError when no alphabet has enough characters.
    """

    def __init__(self, drawings, config):
        members = [torch.where(drawings.alphabet == a)[0] for a in drawings.alphabet.unique()]
        members = [m for m in members if len(m) >= config.characters]
        if not members:
            raise UserError(f"no alphabet has {config.characters} characters; lower --characters")
        if config.drawings > drawings.images.shape[1]:
            raise UserError(f"--drawings {config.drawings}: characters have {drawings.images.shape[1]} drawings")
        self.drawings, self.config = drawings, config
        self.members = nn.utils.rnn.pad_sequence(members, batch_first=True, padding_value=-1)  # (alphabets, most)

    def draw(self, rng):
        """Draw one minibatch of A alphabets with K characters of M drawings each, all different.

        rng: torch.Generator on the drawings' device
        Returns images (A, K * M, H, W) uint8 and their characters (A, K * M) int64.
        """
        a, k, m = self.config.alphabets, self.config.characters, self.config.drawings
        device = self.members.device
        members = self.members[torch.randint(len(self.members), (a,), generator=rng, device=device)]
        order = torch.rand(members.shape, generator=rng, device=device).masked_fill(members < 0, -1)
        characters = members.gather(1, order.topk(k).indices)  # (A, K)
        n_drawers = self.drawings.images.shape[1]
        drawers = torch.rand(a, k, n_drawers, generator=rng, device=device).topk(m).indices  # (A, K, M)
        images = self.drawings.images[characters[:, :, None], drawers].flatten(1, 2)  # (A, K * M, H, W)
        if self.config.turns:
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
    # -log(e^logit / (e^logit + sum of e^different)) = softplus(different - logit)
    losses = F.softplus(different - logits)
    itself = torch.eye(h.shape[1], dtype=torch.bool, device=h.device)
    return losses[same & ~itself].mean()


def learning_rate(step, config):
    """Return the learning rate of a step (0, 1, ...): up in a line, then down to 0 along a cosine. §3.2: -1 % an epoch."""
    rise = min(1, (step + 1) / config.warmup) if config.warmup else 1
    return config.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def make_optimizer(net, config):
    """Return AdamW with weight decay on the weights of layers, not on biases, normalisation or the join's alpha."""
    decayed = [p for p in net.twin.parameters() if p.ndim > 1]
    others = [p for p in net.twin.parameters() if p.ndim <= 1] + list(net.join.parameters())
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def training_step(net, optimizer, sampler, step, config, rng):
    """Take one step and return its loss (a tensor on the device, so that nothing waits for it)."""
    images, characters = sampler.draw(rng)
    x = distort(to_input(images.flatten(0, 1), net.size), rng, config.distortion)  # §3.2: each twin by itself
    h = net.features(x).view(*characters.shape, -1)  # (A, n, D)
    loss = pair_loss(net, h, characters)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    optimizer.zero_grad()
    loss.backward()  # the gradients of both twins add in the shared weights
    optimizer.step()
    return loss.detach()

# § 4.1 The Omniglot Dataset -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawings:
    """Hold the drawings of many characters.

    images: (characters, drawers, H, W) uint8, 1 = ink, 0 = paper
    alphabet: (characters,) int64, each character's alphabet: an index into names
    names: the alphabets' names
    """

    images: torch.Tensor
    alphabet: torch.Tensor
    names: tuple

    def only(self, names):
        """Return the drawings of these alphabets. Raises KeyError for a name that is not there."""
        missing = set(names) - set(self.names)
        if missing:
            raise KeyError(f"no alphabet {', '.join(sorted(missing))}")
        kept = [i for i, name in enumerate(self.names) if name in set(names)]
        characters = torch.isin(self.alphabet.cpu(), torch.tensor(kept))
        alphabet = torch.searchsorted(torch.tensor(kept), self.alphabet.cpu()[characters])
        return Drawings(self.images[characters], alphabet, tuple(self.names[i] for i in kept))

    def to(self, device):
        return Drawings(self.images.to(device), self.alphabet.to(device), self.names)


@contextlib.contextmanager
def written_whole(path):
    """Yield a temporary file to write; it becomes path at the end, so that path is whole or is not there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def data_folder(data_dir=""):
    """Return the folder of the data files: data_dir, else $KOCH_DATA, else data/."""
    return Path(data_dir or os.environ.get("KOCH_DATA") or "data")


def data_file(data_dir, name):
    """Return the path of a data file, downloaded if it is not there. Raises UserError when it cannot be had."""
    path = data_folder(data_dir) / name
    if path.is_file():
        return path
    address, checksum = FILES[name]
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(address, timeout=20) as answer, written_whole(path) as file:
            total = int(answer.headers.get("Content-Length") or 0)
            while block := answer.read(1 << 16):
                file.write(block)
                digest.update(block)
                progress(f"downloading {name}", file.tell(), total, f"{file.tell() / 1e6:.1f} MB")
            if digest.hexdigest() != checksum:
                raise OSError("what came is not the official file (its checksum differs)")
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError is an OSError
        raise UserError(f"{path} is not there and cannot be downloaded: {reason(error)}") from error
    return path


def ink(data, where):
    """Decode a drawing: the bytes of a PNG -> (105, 105) uint8, 1 = ink. The files have ink 0 on paper 1.

    where: what to call the file in the UserError raised when it is damaged
    """
    try:
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("1"))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three
        raise UserError(f"{where} is damaged ({reason(error)}); delete the zip file and start again") from error
    if pixels.shape != (105, 105):
        raise UserError(f"{where} has {pixels.shape[1]}x{pixels.shape[0]} pixels, not 105x105")
    return (~pixels).astype(np.uint8)


def read_zip(path):
    """Return the files of a zip as a dict of name to bytes, names in order. Raises UserError when it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in sorted(archive.namelist()) if not name.endswith("/")}
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({reason(error)}); delete it and start again") from error


def load_omniglot(data_dir="", part="background"):
    """Load Omniglot's background set (30 alphabets, 964 characters) or evaluation set (20 alphabets, 659 characters).

    data_dir: folder of the zip files; "" for $KOCH_DATA, else data/
    part: "background" or "evaluation"
    Returns Drawings of (characters, 20, 105, 105).
    Raises UserError when the file cannot be had or is damaged, ValueError for another part.
    """
    if part not in N_CHARACTERS:
        raise ValueError(f"part is one of {tuple(N_CHARACTERS)}, not {part!r}")
    path = data_file(data_dir, f"images_{part}.zip")

    def decode():
        files = read_zip(path)
        characters = {}  # (alphabet, character): its drawings in the drawers' order; sorted, never in the disk's order
        for name in files:
            found = re.fullmatch(r"images_\w+/(.+)/(character\d+)/\d+_\d+\.png", name)
            if found:
                characters.setdefault(found.groups(), []).append(ink(files[name], f"{path}: {name}"))
        if len(characters) != N_CHARACTERS[part] or any(len(d) != N_DRAWERS for d in characters.values()):
            raise UserError(
                f"{path} has {len(characters)} characters, not {N_CHARACTERS[part]} with {N_DRAWERS} drawings each; "
                "delete it and start again"
            )
        names = sorted({alphabet for alphabet, _ in characters})
        return np.array(list(characters.values())), np.array([names.index(a) for a, _ in characters]), names

    return cached(path.with_suffix(".npz"), hashlib.sha256(path.read_bytes()).hexdigest(), decode)


def cached(path, key, make):
    """Return the Drawings kept in a file under this key, or those that make() gives, then kept for the next time.

    make: () -> images (characters, drawers, H, W) uint8 0 or 1, alphabet (characters,), names
    A stale (another key) or broken file is made again; a folder that cannot be written costs only the time.
    """
    try:
        with np.load(path) as kept:
            if str(kept["key"]) != key:
                raise ValueError("stale")
            shape = kept["shape"]
            images = np.unpackbits(kept["bits"], count=shape.prod()).reshape(shape)
            alphabet, names = kept["alphabet"], kept["names"].tolist()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        images, alphabet, names = make()
        with contextlib.suppress(OSError), written_whole(path) as file:
            bits = np.packbits(images)  # 8 pixels a byte: 358 MB of images in 45 MB
            np.savez(file, key=key, bits=bits, shape=images.shape, alphabet=alphabet, names=np.array(names))
    return Drawings(torch.from_numpy(images), torch.from_numpy(alphabet), tuple(names))


ALPHABETS, DRAWERS, SIDE = 50, 20, 105
STEPS = 120            # points drawn along one stroke
BODY = 60              # usual size of a character, in pixels
NIB = np.array([(x, y) for x in (-1.5, -0.5, 0.5, 1.5) for y in (-1.5, -0.5, 0.5, 1.5) if abs(x * y) < 2])  # (12, 2)
# Spreads, in units of the character's size: of a drawer's hand, of one drawing, of one stroke.
HAND, DRAWING, STROKE = 0.08, 0.05, 0.09
KNOT = 0.035           # how far a drawer misses a knot of a stroke
SHIFT = 0.03           # how far a whole stroke slips
ENDS = 0.12            # over- and undershoot of both ends, as a share of the end piece


def invent_name(rng):
    """Return a pronounceable name of two or three syllables drawn with the generator `rng`."""
    syllables = [rng.choice(list("bdfghklmnprstvz")) + rng.choice(list("aeiou"))
                 for _ in range(rng.integers(2, 4))]
    return ("".join(syllables) + rng.choice(["", "n", "r", "sh"])).capitalize()


def spline_bases(knots):
    """Return two (STEPS, knots) matrices that turn knots into a polyline and a Catmull-Rom curve."""
    place = np.linspace(0, knots - 1, STEPS)
    first = np.minimum(place.astype(int), knots - 2)
    f = (place - first)[:, None]                                           # (STEPS, 1)
    unit = np.eye(knots)[np.clip(np.arange(-1, knots + 1), 0, knots - 1)]  # (knots + 2, knots)
    a, b, c, d = (unit[first + k] for k in range(4))                       # (STEPS, knots) each
    curve = b + f * (c - a + f * (2 * a - 5 * b + 4 * c - d + f * (3 * b - a - 3 * c + d))) / 2
    return b + f * (c - b), curve


BASES = {knots: spline_bases(knots) for knots in range(2, 10)}


def random_style(rng):
    """Return the habits of one alphabet as a dict; its anchors are points (n, 2) in -0.5..0.5."""
    columns, rows = (np.linspace(-0.5, 0.5, rng.integers(2, 5)) for _ in range(2))
    grid = np.stack(np.meshgrid(columns * rng.uniform(0.6, 1), rows), -1).reshape(-1, 2)  # (n, 2)
    return {"anchors": grid + rng.normal(0, 0.07, grid.shape),
            "kinds": rng.dirichlet([1.6, 0.6, 0.8, 1.2, 0.6, 0.6, 0.2]),
            "upright": rng.uniform(0, 0.9), "strokes": rng.uniform(0.3, 2.2), "attach": rng.uniform(0.5, 0.95),
            "kin": rng.uniform(0.1, 0.5), "round": rng.uniform(0, 0.4), "size": rng.uniform(0.8, 1.1)}


def random_stroke(rng, style, strokes):
    """Invent a stroke that may start or end on an earlier one.

    style: dict of `random_style`; strokes: list of earlier (knots, roundness) of the character.
    Returns (knots, roundness): knots (k, 2), 2 <= k <= 9, about -0.5..0.5; roundness 0..1,
    0 for straight pieces between the knots and 1 for a smooth curve through them.
    """
    kind = rng.choice(["line", "bent", "curve", "arc", "wave", "loop", "dot"], p=style["kinds"])
    points = rng.permutation(style["anchors"])[:4]                         # (4, 2)
    for end in (0, 1):
        if strokes and rng.random() < style["attach"] / (1 + end):
            knots, _ = strokes[rng.integers(len(strokes))]
            points[end] = BASES[len(knots)][1][rng.choice([0, STEPS // 2, rng.integers(STEPS)])] @ knots
    start, chord = points[0], points[1] - points[0]
    if np.hypot(*chord) < 0.3:
        chord = np.array([1, -1]) * rng.permutation([0.1, 0.6])
    if kind == "line":
        if rng.random() < style["upright"]:
            chord = np.where(np.abs(chord) < np.abs(chord).max(), 0, chord)
        return np.stack([start, start + chord]), style["round"]
    if kind == "wave":
        t = np.arange(rng.integers(4, 8))[:, None]                         # (n, 1)
        across = rng.choice([-1, 1]) * rng.uniform(0.2, 0.5) * chord[::-1] * [1, -1]
        return start + t / (len(t) - 1) * chord + t % 2 * across, rng.choice([style["round"], 1.0])
    if kind == "arc":
        t = np.linspace(0, 1, 5)[:, None]                                  # (5, 1)
        bulge = rng.choice([-1, 1]) * rng.uniform(0.3, 0.8) * chord[::-1] * [1, -1]
        return start + t * chord + np.sin(np.pi * t) * bulge, 1.0
    if kind in ("loop", "dot"):
        t = rng.uniform(0, 7) + np.linspace(0, rng.choice([-1, 1]) * 2 * np.pi, 9)[:, None]  # (9, 1)
        radius = 0.05 if kind == "dot" else rng.uniform(0.12, 0.35, 2)
        return start + radius * np.hstack([np.cos(t) - np.cos(t[0]), np.sin(t) - np.sin(t[0])]), 1.0
    points = points[:rng.integers(3, 5)]
    return points, style["round"] if kind == "bent" else 1.0


def clearance(stroke, strokes):
    """Return the mean distance of a stroke (knots, roundness) to the nearest of `strokes`, at most 0.15."""
    path, *others = [BASES[len(knots)][1][::6] @ knots for knots, _ in [stroke, *strokes]]
    if not others:
        return 0
    apart = np.hypot(*(path[:, None] - np.concatenate(others)).transpose(2, 0, 1))  # (20, n)
    return np.minimum(apart.min(1), 0.15).mean()


def random_character(rng, style, earlier):
    """Invent the strokes of a character, afresh or by changing one stroke of an earlier one."""
    if earlier and rng.random() < style["kin"]:
        strokes = list(earlier[rng.integers(len(earlier))])
        if len(strokes) > 1 and rng.random() < 0.6:
            strokes.pop(rng.integers(len(strokes)))
        wanted = len(strokes) + 1
    else:
        strokes, wanted = [], 1 + min(rng.poisson(style["strokes"]), 4)
    while len(strokes) < wanted:
        tries = [random_stroke(rng, style, strokes) for _ in range(4)]
        strokes.append(max(tries, key=lambda stroke: clearance(stroke, strokes)))
    every = np.concatenate([knots for knots, _ in strokes])                # (k, 2)
    low, high = every.min(0), every.max(0)
    scale = style["size"] * rng.uniform(0.85, 1.1) / (high - low).max()
    return [((knots - (low + high) / 2) * scale, roundness) for knots, roundness in strokes]


def random_hands(rng):
    """Return the habits of DRAWERS drawers, kept over an alphabet, as a dict of arrays (DRAWERS, ...)."""
    return {"map": np.eye(2) * np.exp(rng.normal(0, 0.09, (DRAWERS, 1, 1))) + rng.normal(0, HAND, (DRAWERS, 2, 2)),
            "bend": rng.normal(0, HAND, (DRAWERS, 3, 2)), "round": rng.uniform(-0.1, 0.6, (DRAWERS, 1, 1)),
            "wobble": rng.uniform(0.01, 0.03, (DRAWERS, 1, 1)), "place": rng.normal(SIDE / 2 - 2, 4, (DRAWERS, 1, 2)),
            "pen": rng.uniform(0.9, 1.15, (DRAWERS, 1, 1, 1))}


def draw_character(rng, hands, strokes):
    """Draw one character by every hand; return uint8 images (DRAWERS, SIDE, SIDE), 1 = ink."""
    curves = []
    for knots, roundness in strokes:
        line, curve = BASES[len(knots)]
        drawn = knots + rng.normal(0, KNOT, (DRAWERS, *knots.shape))       # (DRAWERS, k, 2)
        drawn[:, [0, -1]] += rng.normal(0, ENDS, (DRAWERS, 2, 1)) * (knots[[0, -1]] - knots[[1, -2]])
        smooth = np.clip(roundness + hands["round"], 0, 1)
        path = (1 - smooth) * (line @ drawn) + smooth * (curve @ drawn)    # (DRAWERS, STEPS, 2)
        path += BASES[7][1] @ rng.normal(0, 1, (DRAWERS, 7, 2)) * hands["wobble"] * np.ptp(knots)
        middle = path.mean(1, keepdims=True) + rng.normal(0, SHIFT, (DRAWERS, 1, 2))
        turn = np.eye(2) + rng.normal(0, STROKE, (DRAWERS, 2, 2))
        curves.append(middle + (path - path.mean(1, keepdims=True)) @ turn)
    points = np.concatenate(curves, 1)                                     # (DRAWERS, n, 2)
    x, y = points[..., :1], points[..., 1:]
    bend = hands["bend"] + rng.normal(0, DRAWING, (DRAWERS, 3, 2))
    points = points + np.concatenate([x * x, x * y, y * y], -1) @ bend
    points = BODY * points @ (hands["map"] + rng.normal(0, DRAWING, (DRAWERS, 2, 2)))
    low, high = points.min(1, keepdims=True), points.max(1, keepdims=True)
    points *= np.minimum(1, (SIDE - 8) / (high - low).max(2, keepdims=True))
    points += hands["place"] + rng.normal(0, 3, (DRAWERS, 1, 2))
    points += np.maximum(0, 3 - points.min(1, keepdims=True))
    points -= np.maximum(0, points.max(1, keepdims=True) - (SIDE - 4))
    dots = np.rint(points[:, :, None] + NIB * hands["pen"]).astype(int)    # (DRAWERS, n, 12, 2)
    images = np.zeros((DRAWERS, SIDE, SIDE), np.uint8)
    images[np.arange(DRAWERS)[:, None, None], dots[..., 1], dots[..., 0]] = 1
    return images


def invent_alphabets(seed):
    """Invent ALPHABETS handwritten alphabets from an integer seed.

    Returns images (characters, DRAWERS, SIDE, SIDE) uint8, 1 = ink, 0 = paper; alphabet
    (characters,) int64, ascending 0..ALPHABETS - 1; names: list of ALPHABETS unique names.
    """
    rng = np.random.default_rng(seed)
    images, alphabet, names = [], [], []
    while len(names) < ALPHABETS:
        name = invent_name(rng)
        if name in names:
            continue
        style, hands, characters = random_style(rng), random_hands(rng), []
        for _ in range(rng.integers(14, 41)):
            characters.append(random_character(rng, style, characters))
            images.append(draw_character(rng, hands, characters[-1]))
            alphabet.append(len(names))
        names.append(name)
    return Drawings(torch.from_numpy(np.stack(images)), torch.tensor(alphabet), tuple(names))



def load_data(config):
    """Load the drawings that a configuration names and split them by alphabet.

    Returns train, validation and test Drawings (30, 10 and 10 alphabets) and the data set's name, "omniglot" or
    "invented". With data "auto" and no folder named, alphabets are invented when Omniglot cannot be had.
    Raises UserError when the data set that was named cannot be had.
    """
    named = config.data == "omniglot" or config.data_dir or os.environ.get("KOCH_DATA")
    if config.data != "invented":
        try:
            for name in FILES:
                data_file(config.data_dir, name)
            train, evaluation = (load_omniglot(config.data_dir, part) for part in N_CHARACTERS)
            return train, evaluation.only(VALIDATION_ALPHABETS), evaluation.only(TEST_ALPHABETS), "omniglot"
        except UserError as error:
            if named:
                folder = data_folder(config.data_dir)
                raise UserError(f"{error}. Put {', '.join(FILES)} into {folder}/, or use --data invented") from error
            print(f"Omniglot is not here: {error}.")
            print("So this run trains on alphabets that it invents: strokes like Omniglot's, and no real drawing among them.")
            print(f"For the real thing put {', '.join(FILES)} into data/ and start again.")
    everything = invent_alphabets(0)
    splits = (everything.only(everything.names[a:b]) for a, b in ((0, 30), (30, 40), (40, 50)))
    return *splits, "invented"

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
            images += [ink(files[name], f"{path}: {name}") for name in names + [name for name, _ in pairs]]
            test += range(first + 20, first + 40)
            support += [list(range(first, first + 20))] * 20
            answers += [names.index(right) for _, right in pairs]
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} does not hold Lake's 20 runs ({reason(error)}); delete it and start again") from error
    alphabets = tuple(TEST_ALPHABETS[i // 40] for i in range(N_LAKE))
    return Trials(torch.from_numpy(np.array(images)), *map(torch.tensor, (test, support, answers)), alphabets)


def one_shot_trials(drawings, n_way, n_trials, rng, within_alphabet=True):
    """Draw one-shot trials: n_way different characters by one drawer, a test image of one of them by another drawer.

    drawings: Drawings with at least two drawers
    rng: torch.Generator on the CPU
    within_alphabet: take a trial's characters from one alphabet, the alphabets in turn, those with fewer than n_way
        characters left out; else from all alphabets
    Returns Trials, the right answer at a random position. Raises UserError when there are too few characters or drawers.
    """
    n_characters, n_drawers = drawings.images.shape[:2]
    alphabet = drawings.alphabet.cpu()
    pools = [torch.where(alphabet == a)[0] for a in alphabet.unique()] if within_alphabet else [torch.arange(n_characters)]
    pools = [pool for pool in pools if len(pool) >= n_way]
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
    images = drawings.images.flatten(0, 1)[used.to(drawings.images.device)]
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
    was_training = getattr(model, "training", False)
    if was_training:
        model.eval()
    h = torch.cat([model.features(to_input(images, model.size)) for images in trials.images.split(128)])  # each image once
    answers = []
    for test, support in zip(trials.test.split(100), trials.support.split(100)):
        h1 = h[test].repeat_interleave(support.shape[1], 0)  # (100 * n_way, D)
        # Logits, not probabilities: a float32 sigmoid is exactly 1 from logit 16.7 on, and makes ties.
        logits = model.logit(h1, h[support.flatten()]).view(support.shape).float().cpu()
        best = logits.max(1, keepdim=True).values
        clear = ((logits == best).sum(1) == 1) & ~logits.isnan().any(1)
        answers.append(torch.where(clear, logits.argmax(1), -1))
    if was_training:
        model.train()
    return torch.cat(answers)


def one_shot_accuracy(model, trials):
    """Return the fraction of trials answered right, 0..1. A tie and a logit that is not a number are wrong answers."""
    return (one_shot_answers(model, trials) == trials.answers.cpu()).float().mean().item()


def wilson_interval(n_right, n, z=1.96):
    """Return Wilson's 95 % interval of a fraction, (low, high) in 0..1: 368 right of 400 give 0.889..0.943."""
    p, centre = n_right / n, (n_right + z * z / 2) / (n + z * z)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def take_trials(model, trials):
    """Answer trials with a model and with pixel 1-NN, and count.

    Returns a dict: n, right, accuracy and interval (low, high) in 0..1, chance, pixels (1-NN's accuracy) and
    alphabets {name: [right, n]}.
    """
    correct = one_shot_answers(model, trials) == trials.answers
    right, n = int(correct.sum()), len(correct)
    alphabets = {name: [0, 0] for name in dict.fromkeys(trials.alphabets)}
    for name, hit in zip(trials.alphabets, correct.tolist()):
        alphabets[name][0] += hit
        alphabets[name][1] += 1
    return {
        "n": n, "right": right, "accuracy": right / n, "interval": wilson_interval(right, n),
        "chance": 1 / trials.support.shape[1], "pixels": one_shot_accuracy(PixelNearestNeighbour(), trials),
        "alphabets": alphabets,
    }  # fmt: skip


def evaluate(net, test, data, data_dir=""):
    """Take the test trials with a net from load_checkpoint and print them beside the paper's figures.

    test, data: the test Drawings and their data set's name, from load_data
    Returns {"lake": ..., "within": ..., "across": ...} as take_trials counts them, and the Trials to draw. Lake's runs are
    taken after a training on invented alphabets too if the file is at hand; "lake" is missing if it is not.
    """
    rng = torch.Generator().manual_seed(TRIALS_SEED)
    trials = {key: one_shot_trials(test, 20, N_FRESH, rng, key == "within") for key in ("within", "across")}
    if data == "omniglot" or (data_folder(data_dir) / "all_runs.zip").is_file():
        trials = {"lake": lake_runs(data_dir)} | trials
    results = {key: take_trials(net, drawn) for key, drawn in trials.items()}
    print_results(results, net, data)
    return results, next(iter(trials.values()))


# Results ----------------------------------------------------------------------------------------------------------------


def print_results(results, net, data):
    """Print what evaluate returned. The paper's figures stand beside those on Lake's trials and no others."""

    def row(name, accuracy, interval=None):
        low_high = f"{100 * interval[0]:8.1f} .. {100 * interval[1]:.1f}" if interval else ""
        print(f"  {name:<58}{100 * accuracy:6.2f} %{low_high}")

    where = "the ten test alphabets" if data == "omniglot" else "ten invented alphabets"
    seen = {"omniglot": "trained on Omniglot", "invented": "no real data: trained on invented alphabets"}
    net_name = f"this net, {net.size}x{net.size}, {seen[net.checkpoint['data']]}"
    titles = {
        "lake": "Lake's 400 one-shot trials, within one alphabet",
        "within": f"{N_FRESH:,} fresh trials of {where}, within one alphabet",
        "across": f"{N_FRESH:,} fresh trials of {where}, across alphabets",
    }
    for key, result in results.items():
        print(f"\n{titles[key]:<60}  right   95 % interval")
        if key == "lake":
            row("people", PEOPLE_LAKE / 100)
            row("the paper's convolutional siamese net", PAPER_LAKE / 100, wilson_interval(368, 400))
        row(net_name, result["accuracy"], result["interval"])
        row("pixel 1-NN (cosine)", result["pixels"])
        row("chance (20-way)", result["chance"])
    print("\nright by alphabet" + " " * 24 + "".join(f"{key:>11}" for key in results))
    for name in results["within"]["alphabets"]:
        counts = [result["alphabets"].get(name, (0, 0)) for result in results.values()]
        print(f"  {name:<39}" + "".join(f"{f'{right}/{n}':>11}" for right, n in counts))


def draw_curves(rows, path):
    """Draw the loss and the validation accuracy over the steps; rows as in the log."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.plot([r["step"] for r in rows], [r["loss"] for r in rows], color="tab:blue")
    left.set(xlabel="step", ylabel="training loss (nats)", yscale="log")
    taken = [(r["step"], 100 * r["validation"]) for r in rows if r["validation"] is not None]
    right.plot(*zip(*taken), "o-", color="tab:orange")
    right.set(xlabel="step", ylabel=f"right of {N_VALIDATION} validation trials (%)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def draw_trials(answers, trials, path):
    """Draw the first trial as the paper's figure 1 does, and the first trials answered wrong: test, chosen, right image."""
    wrong = torch.where(answers != trials.answers)[0].tolist()
    figure = pyplot().figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.6))
    cells = left.subplots(5, 5, gridspec_kw={"hspace": 0.1})
    for i, axes in enumerate(cells.flat):  # the first column: the test image; the others: its support
        way = 4 * (i // 5) + i % 5 - 1
        colour = "tab:green" if way == trials.answers[0] else "tab:red" if way == answers[0] else "lightgray"
        image = trials.test[0] if i == 0 else trials.support[0, way] if i % 5 else None
        show(axes, trials, image, "test" if i == 0 else "", "black" if i == 0 else colour)
    left.suptitle(f"which is the test image's character? ({trials.alphabets[0]}; green: the answer)", fontsize=9)
    for i, axes in enumerate(right.subplots(5, 12).flat):  # four mistakes a row
        mistake, part = i // 3, i % 3
        trial = wrong[mistake] if mistake < len(wrong) else None
        if trial is None or (part == 1 and answers[trial] < 0):  # no more mistakes; a tie chose nothing
            show(axes, trials, None)
            continue
        image = (trials.test[trial], trials.support[trial, answers[trial]], trials.support[trial, trials.answers[trial]])[part]
        show(axes, trials, image, ("test", "chosen", "right")[part], ("black", "tab:red", "tab:green")[part])
    right.suptitle(f"{len(wrong)} of {len(answers)} answered wrong; the first {min(20, len(wrong))}", fontsize=9)
    save_figure(figure, path)


def show(axes, trials, image, title="", colour="lightgray"):
    """Show one image of trials (an index; None for an empty place), ink dark on paper, in a coloured frame."""
    axes.set(xticks=[], yticks=[], frame_on=image is not None)
    if image is not None:
        axes.imshow(trials.images[image].cpu(), cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(title, fontsize=7, color=colour, pad=2)
        for side in axes.spines.values():
            side.set(color=colour, linewidth=1.5 if title or colour != "lightgray" else 0.5)


def pyplot():
    """Import matplotlib, which takes a second, only when there is something to draw, and open no window."""
    import matplotlib

    matplotlib.use("Agg")
    return importlib.import_module("matplotlib.pyplot")


def save_figure(figure, path):
    with written_whole(path) as file:
        figure.savefig(file, format="png", dpi=100, facecolor="white")
    pyplot().close(figure)


def progress(label, done, total, note="", seconds=0.0, keep=False):
    """Show a bar with the time left on one line that is written over; into a file only the lines to keep."""
    left = f"  {clock(seconds / done * (total - done))} left" if seconds and done < total else f"  {clock(seconds)}"
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        line = f"{label} [{'#' * (20 * done // max(total, 1)):.<20}] {done / max(total, 1):4.0%}  {note}{left}"
        print(f"\r{line[:width]:<{width}}", end="\n" if done >= total else "", flush=True)
    elif keep or done >= total:
        print(f"{label} {done:,} of {total:,}  {note}{left}", flush=True)


def clock(seconds):
    """Write a time as minutes:seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def machine(config):
    """Say what computes: the device and the versions."""
    name = torch.cuda.get_device_name() if config.device == "cuda" else platform.processor() or platform.machine()
    with contextlib.suppress(OSError, AttributeError):
        name = name if config.device == "cuda" else re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    device = name if config.device == "cuda" else f"{torch.get_num_threads()} threads of {name}"
    return {"device": device, "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}


# Training ---------------------------------------------------------------------------------------------------------------


def settle(config):
    """Check a configuration and replace each "auto" by what it stands for. Raises UserError."""
    for name, allowed in CHOICES.items():
        if getattr(config, name) not in allowed:
            raise UserError(f"--{name} is one of {', '.join(map(str, allowed))}, not {getattr(config, name)}")
    for name, least in LEAST.items():
        if not least <= getattr(config, name) < math.inf:
            raise UserError(f"--{name.replace('_', '-')} is at least {least}, not {getattr(config, name)}")
    if not re.fullmatch(r"(\w[\w.,=+-]*)?", config.name):
        raise UserError(f"--name is the name of a folder in {RUNS}/, not {config.name!r}")
    cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        raise UserError("torch sees no CUDA device here; use --device cpu")
    device = config.device if config.device != "auto" else "cuda" if cuda else "cpu"
    fast = "bfloat16" if device == "cuda" or cpu_has_bfloat16() else "float32"
    precision = fast if config.precision == "auto" else config.precision
    size = config.size or (105 if device == "cuda" else 35)
    return dataclasses.replace(config, device=device, precision=precision, size=size)


def cpu_has_bfloat16():
    """Tell whether the CPU multiplies in bfloat16, which is then about 2.5 times as fast as float32."""
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


class StopSignals:
    """Note Ctrl-C and SIGTERM in a with block instead of dying of them; the second one ends the program at once."""

    number = 0

    def __enter__(self):
        in_main = threading.current_thread() is threading.main_thread()  # Python has handlers nowhere else
        self.before = {n: signal.signal(n, self.note) for n in (signal.SIGINT, signal.SIGTERM) if in_main}
        return self

    def note(self, number, frame):
        self.number = number
        self.__exit__()

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def train(config, resume=None):
    """Train a net, keep the checkpoint that is best on the validation trials, and take the test trials with it.

    config: Config
    resume: folder of a run that was stopped, to go on with as if it had not been (config is then the run's own)
    Returns the results as written to runs/NAME/results.json, beside best.pt, last.pt, log.csv, curves.png and trials.png; or,
    when Ctrl-C or SIGTERM stopped it, the signal's number: last.pt then holds all that going on needs. Raises UserError.
    """
    state = load_state(Path(resume) / "last.pt", "optimizer", "rng", "run") if resume else None
    if resume:
        config = Config(**state["config"])
    config = settle(config)
    *splits, data = load_data(config)
    training, validation, test = (drawings.to(config.device) for drawings in splits)
    trials = one_shot_trials(validation, 20, N_VALIDATION, torch.Generator().manual_seed(TRIALS_SEED))
    sampler = Sampler(training, config)

    torch.manual_seed(config.seed)  # of the initial weights; every later draw comes from rng
    rng = torch.Generator(config.device).manual_seed(config.seed)
    net = SiameseNet(config.size).to(config.device)
    net.precision = config.precision
    optimizer = make_optimizer(net, config)
    run = {"step": 0, "seconds": 0.0, "rows": [], "best": -1.0, "loss": 0.0}  # loss: summed since the last row
    if resume:
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        rng.set_state(state["rng"])
        run = state["run"]
    folder = Path(resume) if resume else new_folder(config, data)
    print(f"twin net {net.size}x{net.size}, {n_parameters(net):,} parameters, {config.precision} on {machine(config)['device']}")
    n_characters = ", ".join(f"{len(d.images)} {name}" for d, name in zip(splits, ("training", "validation", "test")))
    print(f"{data}: {n_characters} characters; seed {config.seed}; results go to {folder}/", flush=True)

    def save(name, **more):
        weights = {"net": net.state_dict(), "config": dataclasses.asdict(config), "data": data, "step": run["step"]}
        save_state(folder / name, weights | more)

    def save_last():
        save("last.pt", optimizer=optimizer.state_dict(), rng=rng.get_state(), run=run)

    log_every, validate_every = (math.ceil(config.steps / n) for n in (100, config.validations))
    loss, started = torch.tensor(run["loss"], device=config.device), time.perf_counter() - run["seconds"]
    net.train()
    with StopSignals() as stop:
        for step in range(run["step"] + 1, config.steps + 1):
            loss += training_step(net, optimizer, sampler, step - 1, config, rng)
            run["step"], run["seconds"] = step, time.perf_counter() - started
            validating = step % validate_every == 0 or step == config.steps
            if validating or step % log_every == 0:
                add_row(run, loss, config)
                loss.zero_()
            if validating:  # §3.2: watch the one-shot error on 320 validation trials, keep the best
                run["rows"][-1]["validation"] = accuracy = one_shot_accuracy(net, trials)
                if accuracy >= run["best"]:  # of equals the later one
                    run["best"] = accuracy
                    save("best.pt")
            if validating or stop.number:
                run["loss"] = loss.item()
                save_last()
            progress("training", step, config.steps, say(run, config), run["seconds"], keep=validating)
            if stop.number and step < config.steps:
                print(f"\nstopped at step {step} of {config.steps}; go on with: python koch.py train --resume {folder}")
                return stop.number
    return finish(run, config, folder, test, data)


def add_row(run, loss, config):
    """Add a row to the log: the mean loss since the last one. Raises UserError when it is not a number."""
    step = run["step"]
    mean = loss.item() / (step - (run["rows"][-1]["step"] if run["rows"] else 0))
    if not math.isfinite(mean):
        raise UserError(f"the loss is {mean} at step {step}; lower --learning-rate")
    rate = learning_rate(step - 1, config)
    run["rows"].append({"step": step, "seconds": run["seconds"], "learning_rate": rate, "loss": mean, "validation": None})


def say(run, config):
    """Say in a few words how a training goes."""
    rows = run["rows"]
    taken = [row["validation"] for row in rows if row["validation"] is not None]
    images = run["step"] * config.alphabets * config.characters * config.drawings
    parts = [f"loss {rows[-1]['loss']:.3f}"] * bool(rows) + [f"validation {100 * taken[-1]:.1f} %" for _ in taken[-1:]]
    return "  ".join([*parts, f"{images / run['seconds']:,.0f} images/s"])


def finish(run, config, folder, test, data):
    """Take the test trials once with the best checkpoint and write the results, the log and the pictures."""
    best = load_checkpoint(folder / "best.pt", config.device)
    best.precision = config.precision
    results, trials = evaluate(best, test, data, config.data_dir)
    about = {"data": data, "config": dataclasses.asdict(config), "parameters": n_parameters(best), **machine(config)}
    figures = {"seconds": run["seconds"], "validation": run["best"], "best_step": best.checkpoint["step"]}
    draw_curves(run["rows"], folder / "curves.png")
    draw_trials(one_shot_answers(best, trials), trials, folder / "trials.png")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, run["rows"][0])
    writer.writeheader()
    writer.writerows(run["rows"])
    for name, content in (("log.csv", text.getvalue()), ("results.json", json.dumps(about | figures | results, indent=1))):
        with written_whole(folder / name) as file:
            file.write(content.encode())
    print(f"\nin {folder}/: " + ", ".join(sorted(path.name for path in folder.iterdir())))
    return about | figures | results


def n_parameters(net):
    return sum(p.numel() for p in net.parameters())


def new_folder(config, data):
    """Return a new run's folder, made when its first file is written. Raises UserError when its name is taken."""
    name = config.name or f"{config.recipe}-{data}-{config.size}-seed{config.seed}"
    if config.name and (RUNS / name).exists():
        raise UserError(f"{RUNS / name}/ is there already; take another --name or go on with --resume {RUNS / name}")
    numbered = (RUNS / (name + (f"-{i}" if i > 1 else "")) for i in itertools.count(1))
    return next(folder for folder in numbered if not folder.exists())


def save_state(path, state):
    """Save tensors, numbers and texts; the file is whole or not there."""
    buffer = io.BytesIO()  # writing this to a full disk is an OSError; torch's own writing is not
    torch.save(state, buffer)
    with written_whole(path) as file:
        file.write(buffer.getbuffer())


def load_state(path, *keys):
    """Load what save_state wrote. Raises UserError when the file is missing, damaged or no checkpoint of koch.py."""
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}; python koch.py train makes one")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"net", "config", "data", "step", *keys} - set(state)
        if missing:
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
        Config(**state["config"])
        return state
    except (OSError, EOFError, RuntimeError, ValueError, TypeError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is not a checkpoint of koch.py ({reason(error)}); name another one") from error


def load_checkpoint(path, device="cpu"):
    """Load a trained net: the SiameseNet of a best.pt or last.pt, for evaluation.

    Its attribute checkpoint has "config" (a dict), "data" (the data set's name) and "step".
    Raises UserError when the file is missing, damaged, no checkpoint of koch.py, or its weights do not fit its size.
    """
    state = load_state(path)
    net = SiameseNet(state["config"]["size"])
    try:
        net.load_state_dict(state["net"])
    except RuntimeError as error:
        raise UserError(f"the weights in {path} are not those of a net of size {net.size}; name another one") from error
    net.checkpoint = {key: state[key] for key in ("config", "data", "step")}
    return net.to(device).eval()


def reason(error):
    """Say an error in one line."""
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0]


# The command line -------------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Parse a command line; an error is one line and exit status 2, and no option can be abbreviated."""

    def __init__(self, **how):
        super().__init__(**how, allow_abbrev=False)

    def error(self, message):
        self.exit(2, f"koch.py: {message}; {self.prog} --help lists what there is\n")


def add_options(parser, names):
    """Give a parser options for fields of Config; the comments in Config's source are their help."""
    comments = dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(Config), re.MULTILINE))
    for field in dataclasses.fields(Config):
        if field.name in names:
            how = {"type": field.type, "choices": CHOICES.get(field.name)}
            if field.type is bool:
                how = {"action": argparse.BooleanOptionalAction}
            elif not how["choices"]:
                how["metavar"] = {int: "N", float: "X", str: "TEXT"}[field.type]
            default = f" (default: {field.default})" if field.default != "" else ""
            text = (comments[field.name] + default).replace("%", "%%")
            parser.add_argument(f"--{field.name.replace('_', '-')}", default=argparse.SUPPRESS, help=text, **how)


def command_train(resume, **options):
    """Train, or go on with a stopped training; return the exit status."""
    if resume and options:
        raise UserError("--resume goes on with the run's own options and takes no others")
    results = train(Config(**options), resume)
    return 0 if isinstance(results, dict) else 128 + results


def command_oneshot(checkpoint, **options):
    """Take the test trials with a checkpoint; return the exit status."""
    config = settle(Config(**options))
    found = sorted(RUNS.glob("*/best.pt"), key=lambda path: path.stat().st_mtime)
    if not (checkpoint or found):
        raise UserError(f"there is no checkpoint in {RUNS}/; python koch.py train makes one")
    net = load_checkpoint(checkpoint or found[-1], config.device)
    net.precision = config.precision
    data = net.checkpoint["data"]
    print(f"{checkpoint or found[-1]}: {n_parameters(net):,} parameters, trained on {data}")
    if config.data == "auto":
        config = dataclasses.replace(config, data=data)
    *_, test, data = load_data(config)
    evaluate(net, test, data, config.data_dir)
    return 0


def main(arguments=None):
    """Run the command line; return the exit status: 0, 2 for bad input, 128 + the signal's number when stopped."""
    parser = Parser(prog="koch.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sub = commands.add_parser("train", help="train the twin net, then take the test trials")
    sub.set_defaults(command=command_train)
    add_options(sub, [field.name for field in dataclasses.fields(Config)])
    sub.add_argument("--resume", metavar="FOLDER", help="go on with a stopped run as if it had not been stopped")
    sub = commands.add_parser("oneshot", help="take the test trials with a checkpoint")
    sub.set_defaults(command=command_oneshot)
    add_options(sub, ("data", "data_dir", "device", "precision"))
    sub.add_argument("checkpoint", nargs="?", help="a best.pt or last.pt (default: the newest in runs/)")
    options = vars(parser.parse_args(arguments))
    try:
        return options.pop("command")(**options)
    except UserError as error:
        message = error
    except OSError as error:  # a full disk, a folder that may not be written
        message = f"{error.filename or 'a file'} could not be read or written ({reason(error)}); see to it and start again"
    print(f"koch.py: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
