"""koch.py: Siamese Neural Networks for One-shot Image Recognition (Koch, Zemel, Salakhutdinov 2015).

Lake's 400 one-shot trials, 20-way, within an alphabet, on two CPU cores, means of three seeds:
96.7 % right after 4:32..4:52 minutes (the default), 97.8 % after 12:24..14:17 (--steps 6000).
The paper has 92.0, people 95.5, pixel 1-NN 21.75, chance 5.0.

    python koch.py train        train the twin net, then take the test pairs and Lake's 400 one-shot trials
    python koch.py verify       are two drawings of one character? the test pairs, or two images of yours
    python koch.py oneshot      take one-shot trials: Lake's, MNIST's, of faces, of your own pictures
    python koch.py classify     which class of a folder does a picture belong to?

Read it beside the paper: the banners carry the paper's section numbers. Reading files is reference_numpy/files.py's
work, drawing pictures tutorials/pictures.py's.
"""

import csv
import dataclasses
import functools
import io
import json
import math
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from reference_numpy import files, measures, tables, terminal
from reference_numpy.files import Drawings, Trials
from reference_numpy.terminal import RUNS, UserError

PAPER_PARAMETERS = 38_951_745  # §3.1: 6,464 + 401,536 + 262,272 + 524,544 + 37,752,832 + 4,097
SIZES = (35, 105)  # pixels: §4.1 has 105; §4.4 shrinks them by 3
DRAWERS = {"training": (0, 12), "validation": (12, 16), "test": (16, 20)}  # §4.2: 12, 4 and 4 of 20, whose pairs count
N_VALIDATION = 320  # §3.2: one-shot trials that choose the best checkpoint
N_PAIRS = 10_000  # §4.2: validation pairs, which choose the threshold, and as many test pairs
N_FRESH = 2000  # ours: trials from the test alphabets beside Lake's, within an alphabet and across
TRIALS_SEED = 2015  # ours: every run takes the same trials and pairs
CHOICES = {
    "recipe": ("fast", "paper"), "loss": ("auto", "softmax", "bce", "contrastive"),
    "optimizer": ("auto", "muon", "sgd", "adamw"), "ink": ("auto", "dark", "light"), "device": ("auto", "cpu", "cuda"),
    "size": (0, *SIZES), "precision": ("auto", "float32", "bfloat16"),
}  # fmt: skip
RATES = {"muon": "--learning-rate", "adamw": "--adam-learning-rate", "sgd": "--learning-rates"}
AUTO = {"fast": {"loss": "softmax", "optimizer": "muon"}, "paper": {"loss": "bce", "optimizer": "sgd"}}
BASELINES = {"pixels": "PixelNearestNeighbour", "hausdorff": "ModifiedHausdorff"}  # of reference_numpy/baselines.py
# §3.2 searches for eta_j, mu_j and lambda_j and does not print what it found. Ours are what tutorials/search.py found
# for the net of size 35, the same for every layer; with the paper's net they were not measured.
LAYERWISE = {"learning_rates": "0.0738", "momenta": "0.948", "penalties": "1.92e-6"}
N_LAYERS = {35: 8, 105: 6}  # with weights, the join among them
LEAST = {"characters": 2, "drawings": 2, "pairs": 2} | dict.fromkeys(("alphabets", "validations", "batch", "epochs"), 1)


@dataclasses.dataclass(frozen=True)
class Config:
    """Say all that decides a training. Each comment gives the value's source and becomes its line of --help."""

    recipe: str = "fast"  # ours: the paper's task and net, with the training of today; or paper: §3.2, as printed
    loss: str = "auto"  # bce (§3.2), contrastive or softmax (deviates); auto: bce in the paper's recipe, else softmax
    optimizer: str = "auto"  # sgd (§3.2), adamw or muon (deviates); auto: sgd in the paper's recipe, else muon
    data: str = "auto"  # omniglot (§4.1), invented, faces or a folder of pictures (ours); auto: omniglot, else invented
    data_dir: str = ""  # ours: where the data files are; else $KOCH_DATA, else data/
    ink: str = "auto"  # ours: in a folder of pictures ink is dark or light; auto: by the pictures' borders
    name: str = ""  # ours: results go to runs/NAME; else made from the data, the size and the seed
    device: str = "auto"  # ours: cpu or cuda; auto: cuda when there is one
    size: int = 0  # 105 (§3.1) or 35 pixels (§4.4: the reduced net); 0: 105 on cuda, 35 on cpu
    precision: str = "auto"  # ours: float32 or bfloat16; auto: bfloat16 where the device computes in it
    seed: int = 0  # ours: of every random draw
    steps: int = 0  # ours: minibatches at most; 0: 2200, or all epochs in the paper's recipe
    alphabets: int = 4  # deviates: fast: alphabets in a minibatch; §3.2 has 128 pairs of any
    characters: int = 10  # deviates: fast: characters of each alphabet in a minibatch
    drawings: int = 3  # deviates: fast: drawings of each character in a minibatch
    learning_rate: float = 0.02  # deviates: Muon's, of weights, at its highest; §3.2 has layer-wise eta_j and mu_j
    adam_learning_rate: float = 0.0  # deviates: AdamW's, of all else, at its highest; 0: 3e-4 at size 105, 2e-3 at 35
    weight_decay: float = 0.01  # deviates: Muon's: weights shrink by it, times the learning rate; §3.2 has lambda_j
    warmup: int = 200  # ours: fast: steps to the highest learning rates, which then fall to 0 along a cosine
    lr_step: int = 0  # ours: epochs after which learning rates fall to a tenth, again and again; 0: the recipe's way
    distortion: float = 1.0  # §3.2: the affine distortions' ranges, times this
    turns: bool = True  # deviates: fast: turned and mirrored alphabets are new alphabets
    validations: int = 8  # ours: fast: epochs, after each of which the 320 validation trials (§3.2) are taken
    pairs: int = 150_000  # §4.2: paper: training pairs: 30,000, 90,000 or 150,000
    distort: bool = False  # §3.2: paper: eight distorted copies of each pair beside it
    batch: int = 128  # §3.2: paper: pairs in a minibatch
    epochs: int = 200  # §3.2: paper: times through all pairs, at most
    patience: int = 20  # §3.2: paper: epochs without a better validation, after which training stops
    learning_rates: str = ""  # §3.2: sgd: eta_j of each layer, by commas; else as found by a search (ours)
    momenta: str = ""  # §3.2: sgd: mu_j of each layer, by commas; else as found by a search (ours)
    penalties: str = ""  # §3.2: sgd: lambda_j of each layer's L2 penalty, by commas; else as found by a search (ours)
    momentum_epochs: int = 5  # ours: sgd: epochs in which the momentum rises from 0.5 to mu_j; §3.2 does not say
    margin: float = 1.0  # ours: contrastive: the distance from which on different pairs cost nothing


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
    by_distance: join by the features' distance instead of the paper's weighted sum, for the contrastive loss
    Raises ValueError for another size.
    """

    def __init__(self, size=105, by_distance=False):
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"size is one of {SIZES}, not {size}")
        self.size, self.by_distance = size, by_distance
        self.precision = "float32"  # of the twin: "float32" or "bfloat16"
        self.twin = paper_twin() if size == 105 else reduced_twin()
        n_features = 1 if by_distance else 4096 if size == 105 else 512
        # §3.1: p = sigmoid(sum_j alpha_j |h1_j - h2_j|). The printed formula has no bias, so that two equal images
        # would get p = 0.5; every implementation adds one, and it does not change which candidate wins.
        self.join = nn.Linear(n_features, 1)
        for parameter in self.twin.parameters() if size == 105 else ():  # batch normalisation makes it needless at 35
            if parameter.ndim > 1:  # deviates: He's initialisation; §3.2 has N(0, 0.01) and N(0, 0.2)
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        nn.init.constant_(self.join.weight, -4 / n_features)  # deviates: from the start, far apart means not the same
        self.n_parameters = sum(parameter.numel() for parameter in self.parameters())
        assert size != 105 or by_distance or self.n_parameters == PAPER_PARAMETERS
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
        apart = distance(h1, h2)[..., None] if self.by_distance else (h1 - h2).abs()
        return self.join(apart).squeeze(-1)


def distance(h1, h2):
    """Return the root of the mean squared difference of features: (N, D), (N, D) -> (N,); leading axes broadcast."""
    return (h1 - h2).square().mean(-1).clamp_min(1e-12).sqrt()  # the root of 0 has no slope


# § 3.2 Learning -------------------------------------------------------------------------------------------------------


def paper_initialisation(net):
    """Draw a net's weights as §3.2 does; batch normalisation, which the paper's net has not, stays as it is."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):  # N(mean, standard deviation)
            nn.init.normal_(module.weight, 0.0, 0.01 if isinstance(module, nn.Conv2d) else 0.2)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0.5, 0.01)


def to_input(images, size):
    """Turn drawings into a net's input: (N, H, W) uint8 or float, 1 = ink -> (N, 1, size, size) float in [0, 1].

    Larger images shrink by averaging areas, 105 -> 35 is the mean of 3x3 pixels; smaller ones grow along straight
    lines, 28 -> 35 (§4.4).
    """
    x = images[:, None].float()
    if min(x.shape[-2:]) < size:
        return F.interpolate(x, (size, size), mode="bilinear", align_corners=False)
    return x if x.shape[-1] == x.shape[-2] == size else F.adaptive_avg_pool2d(x, size)


def draw_distortions(n, rng, strength=1.0):
    """Draw n distortions T = (theta, rho_x, rho_y, s_x, s_y, t_x, t_y) (§3.2).

    rng: torch.Generator; strength: factor on every range
    Returns (n, 7) float on rng's device: theta in [-10, 10] degrees, as radians; shear rho in [-0.3, 0.3]; scale s in
    [0.8, 1.2], as its difference from 1; shift t in [-2, 2] pixels of 105, in halves of a side; each component is
    present with probability 0.5, else 0.
    """
    device = rng.device
    ranges = torch.tensor([math.radians(10), 0.3, 0.3, 0.2, 0.2, 2 * 2 / 105, 2 * 2 / 105], device=device)
    draw = torch.rand(n, 7, generator=rng, device=device) * 2 - 1
    present = torch.rand(n, 7, generator=rng, device=device) < 0.5
    return draw * present * ranges * strength


def distort(images, distortions):
    """Distort each image by an affine map of its own (§3.2); what comes in from outside is paper.

    images: (N, 1, H, W) float in [0, 1], 1 = ink; distortions: (N, 7), as draw_distortions gives them
    Returns images of the same shape.
    """
    theta, rho_x, rho_y, s_x, s_y, t_x, t_y = distortions.T  # 7 of (N,)
    cos, sin = theta.cos(), theta.sin()
    turn = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    scale_shear = torch.stack([1 + s_x, rho_x, rho_y, 1 + s_y], 1).view(-1, 2, 2)
    # The map goes from the new image's pixels to the old one's, in grid_sample's units: -1..1 from edge to edge.
    affine = torch.cat([turn @ scale_shear, torch.stack([t_x, t_y], 1)[:, :, None]], 2)  # (N, 2, 3)
    grid = F.affine_grid(affine, images.shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def draw_batch(drawings, config, rng):
    """Draw the fast recipe's minibatch: A alphabets, K characters of each, M drawings of each character: all different.

    drawings: Drawings, on the device; rng: torch.Generator on the same device
    config: A, K, M are its alphabets, characters and drawings
    Returns images (A, K * M, H, W) and their characters (A, K * M) int64. Raises UserError if there are too few.
    """
    a, k, m, device = config.alphabets, config.characters, config.drawings, drawings.images.device
    n_characters, n_drawers = drawings.images.shape[:2]
    enough = drawings.counts >= m
    large = torch.where(drawings.alphabet[enough].bincount() >= k)[0]
    if not len(large):
        raise UserError(f"no alphabet has {k} characters with {m} drawings; lower --characters or --drawings")
    alphabets = large[torch.randint(len(large), (a, 1), generator=rng, device=device)]  # (A, 1)
    order = torch.rand(a, n_characters, generator=rng, device=device)
    characters = order.masked_fill((drawings.alphabet != alphabets) | ~enough, -1).topk(k).indices  # (A, K)
    order = torch.rand(a, k, n_drawers, generator=rng, device=device)
    missing = torch.arange(n_drawers, device=device) >= drawings.counts[characters][:, :, None]
    drawers = order.masked_fill(missing, -1).topk(m).indices  # (A, K, M)
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


def pair_losses(net, h1, h2, same, config):
    """Return each pair's loss: its cross-entropy (§3.2), in nats, or the contrastive loss of Hadsell et al. (2006).

    h1, h2: (N, D); same: (N,) float, 1 = same; leading axes broadcast
    """
    if config.loss == "bce":
        return F.binary_cross_entropy_with_logits(net.logit(h1, h2), same, reduction="none")
    apart = distance(h1, h2)
    return (same * apart**2 + (1 - same) * (config.margin - apart).clamp_min(0) ** 2) / 2


def softmax_loss(net, h, characters):
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


def fast_loss(net, drawings, config, rng):
    """Draw a minibatch and return its loss, over all pairs inside an alphabet."""
    images, characters = draw_batch(drawings, config, rng)
    x = to_input(images.flatten(0, 1), net.size)  # (A * n, 1, size, size)
    x = distort(x, draw_distortions(len(x), rng, config.distortion))  # §3.2: each twin by itself
    h = net.features(x).view(*characters.shape, -1)  # (A, n, D)
    if config.loss == "softmax":
        return softmax_loss(net, h, characters)
    same = characters[:, :, None] == characters[:, None]  # (A, n, n)
    losses = pair_losses(net, h[:, :, None], h[:, None], same.float(), config)
    itself = torch.eye(h.shape[1], dtype=torch.bool, device=h.device)
    return (losses[same & ~itself].mean() + losses[~same].mean()) / 2  # same and different ones weigh alike


def paper_loss(net, drawings, pairs, step, config):
    """Take a step's minibatch of the paper's pairs and return its mean loss (§3.2); step: 0, 1, ..."""
    epoch, place = divmod(step, epoch_steps(config))
    n = len(pairs.same)
    chosen = epoch_order(9 * n if config.distort else n, config.seed, epoch)[place * config.batch :][: config.batch]
    copy, pair = (part.to(drawings.images.device) for part in (chosen // n, chosen % n))  # copy 0: as it was drawn
    images = drawings.images.flatten(0, 1)[torch.cat([pairs.first[pair], pairs.second[pair]])]  # (2 * batch, H, W)
    x = to_input(images, net.size)
    if config.distort:
        x = distort(x, pairs.distortions[:, copy, pair].flatten(0, 1))
    h1, h2 = net.features(x).chunk(2)
    return pair_losses(net, h1, h2, pairs.same[pair].float(), config).mean()


@functools.lru_cache(maxsize=1)
def epoch_order(n, seed, epoch):
    """Return the order in which an epoch goes through n pairs, the same whenever it is asked for."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))


def epoch_steps(config):
    """Return an epoch's steps: once through all pairs (§3.2); in the fast recipe, from validation to validation."""
    if config.recipe == "fast":
        return math.ceil(config.steps / config.validations)
    return math.ceil(config.pairs * (9 if config.distort else 1) / config.batch)


class Muon(torch.optim.Optimizer):
    """Step along the momentum with all its singular values made equal, so that no direction of a layer lags behind.

    deviates: §3.2 has plain momentum. Idea and coefficients: Keller Jordan, github.com/KellerJordan/Muon.
    groups: weights of two axes or more, (n_out, ...); dtype: torch.float32 or bfloat16, to compute in
    """

    def __init__(self, groups, lr, weight_decay=0.0, dtype=torch.float32, momentum=0.95):
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "dtype": dtype, "momentum": momentum})

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


def layers(net):
    """Return each layer's parameters, from the first to the join; batch normalisation counts to the layer before it."""
    found = []
    for module in [*net.twin, net.join]:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            found.append([])
        if own := list(module.parameters()):
            found[-1] += own
    return found


def make_optimizers(net, config):
    """Return the optimizers of a settled configuration; a group's "highest" and "mu" are what set_rates works from.

    sgd: §3.2, each layer with its own learning rate, momentum and L2 penalty, which biases are free of
    muon: for the weights of the twin's layers, and AdamW for biases, batch normalisation and the join. The paper's
        fully connected weights go to AdamW too: 4096 singular values would cost three times the step itself.
    """
    if config.optimizer == "sgd":
        groups, values = [], (map(float, getattr(config, name).split(",")) for name in LAYERWISE)
        for layer, eta, mu, l2 in zip(layers(net), *values, strict=True):
            for decays in (True, False):  # lambda_j |w|^2 has the slope 2 lambda_j w
                own = [p for p in layer if (p.ndim > 1) == decays]
                groups.append({"params": own, "highest": eta, "mu": mu, "weight_decay": 2 * l2 * decays})
        return [torch.optim.SGD(groups, lr=0.0, momentum=0.5)]
    muon = [p for p in net.twin.parameters() if p.ndim > 1 and len(p) <= 1024] if config.optimizer == "muon" else []
    adam = [p for p in net.parameters() if not any(p is other for other in muon)]
    group = {"params": adam, "highest": config.adam_learning_rate}
    optimizers = [torch.optim.AdamW([group], 0.0, weight_decay=0.0, fused=True)]
    if muon:
        group = {"params": muon, "highest": config.learning_rate}
        optimizers.insert(0, Muon([group], 0.0, config.weight_decay, getattr(torch, net.precision)))
    return optimizers


def schedule(step, config):
    """Return the learning rates' factor at a step 0, 1, ...

    §3.2: -1 % an epoch. The fast recipe's goes up in a line and down along a cosine; --lr-step's falls in stairs.
    """
    if config.lr_step:
        return 0.1 ** (step // epoch_steps(config) // config.lr_step)
    if config.recipe == "paper":
        return 0.99 ** (step // epoch_steps(config))
    return min(1, (step + 1) / max(1, config.warmup)) * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def set_rates(optimizers, step, config):
    """Set every learning rate, and SGD's momenta, which rise by the epoch from 0.5 to mu_j (§3.2)."""
    risen = min(1, step // epoch_steps(config) / config.momentum_epochs) if config.momentum_epochs else 1
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = group["highest"] * schedule(step, config)
        if "mu" in group:
            group["momentum"] = 0.5 + risen * (group["mu"] - 0.5)


def training_step(net, optimizers, drawings, step, config, rng, pairs=None):
    """Take a step 0, 1, ... and return its loss (a tensor on the device, so that nothing waits for it)."""
    if config.recipe == "fast":
        loss = fast_loss(net, drawings, config, rng)
    else:
        loss = paper_loss(net, drawings, pairs, step, config)
    net.zero_grad()
    loss.backward()  # the gradients of both twins add in the shared weights
    set_rates(optimizers, step, config)
    for optimizer in optimizers:
        optimizer.step()
    return loss.detach()


# § 4.1 The Omniglot Dataset -------------------------------------------------------------------------------------------


def as_tensors(record, device="cpu"):
    """Turn the arrays of Drawings or Trials into tensors on a device; what files.Drawings says of them holds here too.

    Drawings: images (characters, drawers, H, W) uint8, 0 or 1, or float in [0, 1], 1 = ink; alphabet (characters,)
    int64, indices into names; counts (characters,) int64, how many of its row's drawings each character has.
    """
    if isinstance(record, Drawings) and record.counts is None:
        record = record._replace(counts=np.full(record.images.shape[0], record.images.shape[1]))
    tensors = (torch.as_tensor(f) if isinstance(f, (np.ndarray, torch.Tensor)) else f for f in record)
    return type(record)(*(f.to(device) if isinstance(f, torch.Tensor) else f for f in tensors))


def as_arrays(record):
    """Turn the tensors of Drawings, Trials or Pairs into arrays."""
    return type(record)(*(f.cpu().numpy() if isinstance(f, torch.Tensor) else f for f in record))


def load_data(config):
    """Load the drawings that a configuration names, split by alphabet, or people, or classes.

    Returns training, validation and test Drawings (30, 10 and 10 alphabets of Omniglot) on the configuration's device,
    and their data set's name. When nobody named a data set or a folder, and Omniglot cannot be had, alphabets are
    invented. Raises UserError when the data set that was named cannot be had.
    """
    *splits, data = files.load_splits(config.data, config.data_dir, config.ink)
    return *(as_tensors(drawings, config.device.replace("auto", "cpu")) for drawings in splits), data


def by_drawers(drawings, part):
    """Return what the drawers of "training", "validation" or "test" drew (§4.2); all where nobody says who drew."""
    return as_tensors(drawings.by(*DRAWERS[part]), drawings.images.device)


# § 4.2 Verification ---------------------------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """Hold pairs of drawings: are the two of one character?

    first, second: (n,) int64, indices into the drawings' images.flatten(0, 1); same: (n,) bool
    distortions: (2, 9, n, 7) float, the first and the second twin's, none in copy 0; None where there are no copies
    """

    first: torch.Tensor
    second: torch.Tensor
    same: torch.Tensor
    distortions: torch.Tensor = None


def draw_pairs(drawings, n_pairs, rng):
    """Draw pairs within alphabets, equal numbers of each alphabet, every other pair the same character (§4.2).

    drawings: Drawings, whose characters of one drawing and alphabets of one character are left out
    rng: torch.Generator on the CPU
    Returns Pairs on drawings' device: never a drawing with itself. ours: "different" stays within an alphabet.
    Raises UserError when no alphabet is left.
    """
    alphabet, counts = drawings.alphabet.cpu(), drawings.counts.cpu()
    usable = torch.where(counts >= 2)[0]
    usable = usable[alphabet[usable].argsort(stable=True)]  # alphabet after alphabet
    size = alphabet[usable].bincount(minlength=len(drawings.names))
    large = torch.where(size >= 2)[0]
    if not len(large):
        raise UserError(f"{', '.join(drawings.names[:3])}: pairs take two characters of an alphabet, two drawings each")

    def random(below):  # (n,) int64: one number each in 0..below - 1
        return (torch.rand(n_pairs, generator=rng, dtype=torch.float64) * below).long()

    i = torch.arange(n_pairs)
    same, a = i % 2 == 0, large[i // 2 % len(large)]  # a: each pair's alphabet
    start, place = (size.cumsum(0) - size)[a], random(size[a])
    first = usable[start + place]
    # §4.2: drawn directly: another character, or another drawing, is so many steps further round.
    other = usable[start + (place + 1 + random(size[a] - 1)) % size[a]]
    second = torch.where(same, first, other)
    drawer = random(counts[first])
    another = torch.where(same, (drawer + 1 + random(counts[second] - 1)) % counts[second], random(counts[second]))
    row, device = drawings.images.shape[1], drawings.images.device
    return Pairs((first * row + drawer).to(device), (second * row + another).to(device), same.to(device))


def training_pairs(drawings, config):
    """Draw the training's pairs and, with config.distort, the eight distortions of each drawing of a pair (§3.2)."""
    rng = torch.Generator().manual_seed(config.seed)
    pairs = draw_pairs(drawings, config.pairs, rng)
    if not config.distort:
        return pairs
    drawn = draw_distortions(2 * 8 * config.pairs, rng, config.distortion).view(2, 8, config.pairs, 7)
    return pairs._replace(distortions=F.pad(drawn, (0, 0, 0, 0, 1, 0)).to(pairs.same.device))


@torch.no_grad()
def pair_logits(model, drawings, pairs):
    """Return the logits of pairs, (n,) float64 on the CPU; each drawing's features are computed once."""
    used, where = torch.cat([pairs.first, pairs.second]).unique(return_inverse=True)
    h = image_features(model, drawings.images.flatten(0, 1)[used])
    both = zip(where[: len(pairs.same)].split(1000), where[len(pairs.same) :].split(1000))
    return torch.cat([torch.as_tensor(model.logit(h[i], h[j])).double().cpu() for i, j in both])


def settle_threshold(net, validation):
    """Choose net.threshold, a logit, on 10,000 validation pairs (§4.2), calibrating the net if its loss needs that."""
    drawings = by_drawers(validation, "validation")
    pairs = draw_pairs(drawings, N_PAIRS, torch.Generator().manual_seed(TRIALS_SEED))
    same, logits = pairs.same.cpu(), pair_logits(net, drawings, pairs)
    if net.config.loss != "bce":
        # ours: the softmax of many pairs and the contrastive loss say nothing of the odds of one pair, as §3.2's does:
        # a scale and an offset, which change no answer of a trial, go into the join.
        scale, offset = measures.fit_log_odds(logits, same)
        net.join.weight.data.mul_(scale)
        net.join.bias.data.mul_(scale).add_(offset)
        logits = pair_logits(net, drawings, pairs)
    net.threshold = measures.choose_threshold(logits, same)


def verify(net, test):
    """Say of 10,000 test pairs whether they are the same, at the threshold chosen on validation pairs (§4.2).

    net: from load_checkpoint, with its threshold; test: Drawings
    Returns the results {n, right, accuracy, interval, area, equal_error_rate, threshold}, and for a picture the pairs'
    Drawings, the Pairs and their logits. A logit that is not a number is a mistake.
    """
    drawings = by_drawers(test, "test")
    pairs = draw_pairs(drawings, N_PAIRS, torch.Generator().manual_seed(TRIALS_SEED + 1))
    logits, same = pair_logits(net, drawings, pairs), pairs.same.cpu()
    right = int((torch.where(same, logits > net.threshold, logits <= net.threshold)).sum())
    area, equal = measures.area_and_equal_error(*measures.roc(logits, same)[:2])
    results = {"n": N_PAIRS, "right": right, "accuracy": right / N_PAIRS, "area": area, "equal_error_rate": equal}
    results |= {"interval": measures.wilson_interval(right, N_PAIRS), "threshold": net.threshold}
    return results, (drawings, pairs, logits)


# § 4.3 One-shot Learning ----------------------------------------------------------------------------------------------


def one_shot_trials(drawings, n_way, n_trials, rng, within_alphabet=True, n_shot=1):
    """Draw one-shot trials: n_way different characters by one drawer, a test image of one of them by another drawer.

    drawings: Drawings with more than n_shot drawers; where characters were not drawn by the same drawers, each takes
        the first of the trial's order of drawers who drew it
    rng: torch.Generator on the CPU
    within_alphabet: take a trial's characters from one alphabet, the alphabets in turn, those with fewer than n_way
        characters left out; else from all alphabets
    Returns Trials, the right answer at a random position: images (n, H, W), the drawings'; test (n_trials,) and
    support (n_trials, n_way), or (n_trials, n_way, n_shot) where n_shot is not 1, indices into images; answers
    (n_trials,), the right position; alphabets, the test image's. Raises UserError if there are too few.
    """
    n_drawers, alphabet, counts = drawings.images.shape[1], drawings.alphabet.cpu(), drawings.counts.cpu()
    groups = torch.where(counts > n_shot, alphabet if within_alphabet else 0, -1)
    pools = [torch.where(groups == group)[0] for group in groups[groups >= 0].unique()]
    pools = [pool for pool in pools if len(pool) >= n_way]
    if not pools or n_way < 2 or n_shot < 1:
        raise UserError(
            f"no {n_way}-way {n_shot}-shot trial can be drawn: it takes {max(2, n_way)} characters with "
            f"{max(1, n_shot) + 1} drawings each"
        )
    test, support, answers = [], [], []
    for trial in range(n_trials):
        pool = pools[trial % len(pools)]
        characters = pool[torch.randperm(len(pool), generator=rng)[:n_way]]  # (n_way,)
        drawers = torch.randperm(n_drawers, generator=rng)
        answer = torch.randint(n_way, (), generator=rng)
        absent = drawers >= counts[characters][:, None]  # (n_way, n_drawers)
        drawers = drawers[absent.byte().argsort(dim=1, stable=True)[:, : n_shot + 1]]  # (n_way, n_shot + 1)
        support.append(characters[:, None] * n_drawers + drawers[:, :n_shot])
        test.append(characters[answer] * n_drawers + drawers[answer, n_shot])
        answers.append(answer)
    test, support, answers = torch.stack(test), torch.stack(support), torch.stack(answers)
    alphabets = tuple(drawings.names[alphabet[i]] for i in test // n_drawers)
    images = drawings.images.flatten(0, 1)
    return Trials(images, test, support.squeeze(2) if n_shot == 1 else support, answers, alphabets)


@torch.no_grad()
def image_features(model, images):
    """Compute images' features, once each, undistorted: (n, H, W) -> (n, D), with a net that is not training.

    model: any object with size (pixels), features and logit as SiameseNet has them, over tensors or arrays
    """
    training = getattr(model, "training", False)
    if training:
        model.eval()
    images = images if isinstance(model, nn.Module) else images.cpu()  # the baselines compute in NumPy
    h = torch.cat([torch.as_tensor(model.features(to_input(some, model.size))) for some in images.split(128)])
    if training:
        model.train()
    return h


@torch.no_grad()
def one_shot_answers(model, trials, h=None):
    """Answer every trial alone: the position of the support image that is most likely the test image's character.

    model: as in image_features; h: the features of trials.images, where they are known
    Returns (n_trials,) int64 on the CPU; -1 where the best logit is shared or any logit is not a number. Where a
    character has several support images, its logit is their mean.
    """
    both = torch.cat([trials.test[:, None], trials.support.flatten(1)], 1)  # (n_trials, 1 + n_way * n_shot)
    if h is None:
        used, both = both.unique(return_inverse=True)
        h = image_features(model, trials.images[used])
    test, support, answers = both[:, 0], both[:, 1:].view(trials.support.shape), []
    for one, many in zip(test.split(10), support.split(10)):  # few: they stay in the cache
        h1 = h[one].repeat_interleave(many[0].numel(), 0)  # (10 * n_way * n_shot, D)
        # Logits, not probabilities: a float32 sigmoid is exactly 1 from logit 16.7 on, and makes ties.
        logits = torch.as_tensor(model.logit(h1, h[many.flatten()])).view(*many.shape[:2], -1).float().cpu().mean(2)
        clear = ((logits == logits.amax(1, keepdim=True)).sum(1) == 1) & ~logits.isnan().any(1)
        answers.append(torch.where(clear, logits.argmax(1), -1))
    return torch.cat(answers)


def one_shot_accuracy(model, trials, h=None):
    """Return the fraction of trials answered right, 0..1. A tie and a logit that is not a number are wrong answers."""
    return (one_shot_answers(model, trials, h) == trials.answers.cpu()).double().mean().item()


def load_baseline(name):
    """Return a scorer that learns nothing, "pixels" or "hausdorff", for one_shot_answers."""
    from reference_numpy import baselines  # with Numba, which takes time

    return getattr(baselines, BASELINES[name])()


def take_trials(model, trials):
    """Answer trials with a model and with pixel 1-NN, and count.

    Returns {n, right, accuracy, interval (low, high) and chance in 0..1, pixels (1-NN), alphabets {name: [right, n]}}.
    """
    correct = one_shot_answers(model, trials) == trials.answers.cpu()
    right, n = int(correct.sum()), len(correct)
    hits = [name for name, hit in zip(trials.alphabets, correct.tolist()) if hit]
    return {
        "n": n, "right": right, "accuracy": right / n, "interval": measures.wilson_interval(right, n),
        "chance": 1 / trials.support.shape[1], "pixels": one_shot_accuracy(load_baseline("pixels"), trials),
        "alphabets": {a: [hits.count(a), trials.alphabets.count(a)] for a in dict.fromkeys(trials.alphabets)},
    }  # fmt: skip


def widest(drawings):
    """Return the ways of the paper's trials, 20, or as many as the largest alphabet has characters."""
    return min(20, int(drawings.alphabet[drawings.counts > 1].bincount().max()))


def draw_test_trials(test, data, data_dir=""):
    """Draw the fresh trials of a test set, and load Lake's where they belong: {"lake", "within", "across": Trials}.

    Lake's are missing after a training on invented alphabets if the file is not at hand.
    """
    rng = torch.Generator().manual_seed(TRIALS_SEED)
    kinds = ("within", "across") if len(test.names) > 1 else ("within",)
    trials = {key: one_shot_trials(test, widest(test), N_FRESH, rng, key == "within") for key in kinds}
    at_hand = (files.data_folder(data_dir) / "all_runs.zip").is_file()
    if data == "omniglot" or data == "invented" and at_hand:
        trials = {"lake": as_tensors(files.lake_runs(data_dir))} | trials
    return trials


# § 4.4 MNIST One-shot Trial -------------------------------------------------------------------------------------------


def take_mnist(net, data_dir=""):
    """Take five draws of 400 10-way trials of MNIST's test digits, with a net that has seen none (§4.4).

    Returns {n, draws (5 accuracies), accuracy (their mean), interval, wrong_polarity, pixels}; fractions in 0..1.
    """
    digits = as_tensors(files.load_mnist(data_dir))
    draws = [one_shot_trials(digits, 10, 400, torch.Generator().manual_seed(TRIALS_SEED + i)) for i in range(5)]
    exchanged = [trials._replace(images=1 - trials.images) for trials in draws]
    ours, wrong = ([one_shot_accuracy(net, trials) for trials in each] for each in (draws, exchanged))
    pixels = [one_shot_accuracy(load_baseline("pixels"), trials) for trials in draws]
    results = {"n": 400, "draws": ours, "interval": measures.wilson_interval(round(sum(ours) * 400), 2000)}
    means = {"accuracy": ours, "wrong_polarity": wrong, "pixels": pixels}
    return results | {key: sum(each) / 5 for key, each in means.items()}


# Results --------------------------------------------------------------------------------------------------------------


def name_of(net):
    return f"this net, {net.size}x{net.size}, {tables.SEEN.get(net.config.data, f'trained on {net.config.data}')}"


def evaluate(net, test, data, data_dir="", pairs_alone=False):
    """Take the test pairs and the test trials with a net from load_checkpoint; print them beside the paper's figures.

    test, data: the test Drawings and their data set's name, from load_data
    Returns {"verification": as verify, "lake": ..., "within": ..., "across": ... as take_trials counts}, and what is
    worth drawing: the first Trials and what verify gives for a picture.
    """
    verification, pairs = verify(net, test)
    tables.print_verification(verification, name_of(net), data)
    if pairs_alone:
        return {"verification": verification}, (None, *pairs)
    trials = draw_test_trials(test, data, data_dir)
    results = {key: take_trials(net, drawn) for key, drawn in trials.items()}
    tables.print_trials(results, name_of(net), data)
    return {"verification": verification} | results, (next(iter(trials.values())), *pairs)


# Training -------------------------------------------------------------------------------------------------------------


def settle(config):
    """Check a configuration and replace each "auto", 0 and "" by what it stands for here. Raises UserError."""
    terminal.check_values(config, CHOICES, LEAST)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no CUDA device here; use --device cpu")
    if config.recipe == "paper" and config.loss == "softmax":
        raise UserError("the paper's recipe has single pairs, and --loss softmax takes many; use bce or contrastive")
    device = config.device.replace("auto", "cuda" if torch.cuda.is_available() else "cpu")
    # A CPU with bfloat16 units multiplies matrices about 2.5 times as fast in it as in float32.
    units = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    fast = device == "cuda" or any(getattr(torch.cpu, name, bool)() for name in units)
    size = config.size or (105 if device == "cuda" else 35)
    found = {"device": device, "size": size}
    found["precision"] = config.precision.replace("auto", "bfloat16" if fast else "float32")
    found["adam_learning_rate"] = config.adam_learning_rate or (3e-4 if size == 105 else 2e-3)
    found |= {name: getattr(config, name).replace("auto", own) for name, own in AUTO[config.recipe].items()}
    n = N_LAYERS[size]
    for name, value in LAYERWISE.items():
        found[name] = text = getattr(config, name) or ",".join([value] * n)
        if not re.fullmatch(rf"((\d+\.?\d*|\.\d+)(e-?\d+)?(,|$)){{{n}}}", text) or text.endswith(","):
            raise UserError(f"--{name.replace('_', '-')} is {n} numbers by commas, one for each layer, not {text!r}")
    config = dataclasses.replace(config, **found)
    if not config.steps:
        steps = 2200 if config.recipe == "fast" else config.epochs * epoch_steps(config)
        config = dataclasses.replace(config, steps=steps)
    return config


def draw_training(training, validation, test, config):
    """Return the drawings to train on, the paper's recipe's Pairs of them, else None, and the validation trials."""
    for part in (validation, test):  # what would fail after the training fails before it
        draw_pairs(part, 2, torch.Generator())
    pairs = None
    if config.recipe == "paper":
        training, validation = by_drawers(training, "training"), by_drawers(validation, "validation")
        pairs = training_pairs(training, config)
    rng = torch.Generator().manual_seed(TRIALS_SEED)
    return training, pairs, one_shot_trials(validation, widest(validation), N_VALIDATION, rng)


def train(config, resume=None):
    """Train a net, keep the checkpoint that is best on the validation trials, and take the test trials with it.

    config: Config
    resume: folder of a stopped run, to go on with as if it had not been stopped (config is then the run's own)
    Returns the results, as in runs/NAME/results.json beside best.pt, last.pt, log.csv and the pictures; or the number
    of the signal that stopped it: last.pt then holds all that going on needs. Raises UserError.
    """
    state = load_state(Path(resume) / "last.pt", "optimizers", "rng", "run") if resume else None
    config = settle(Config(**state["config"]) if resume else config)
    if not resume:
        terminal.new_folder(config.name, "")  # a name that will not do is said at once
    *splits, data = load_data(config)
    config = dataclasses.replace(config, data=data)  # going on with this run will insist on the same data
    training, pairs, trials = draw_training(*splits, config)
    torch.manual_seed(config.seed)  # of the initial weights; every later draw comes from rng
    rng = torch.Generator(config.device).manual_seed(config.seed)
    net = SiameseNet(config.size, config.loss == "contrastive")
    if config.recipe == "paper":
        paper_initialisation(net)
    net, net.precision = net.to(config.device), config.precision
    optimizers = make_optimizers(net, config)
    run = {"step": 0, "seconds": 0.0, "rows": [], "best": -1.0, "improved": 0, "loss": 0.0}  # loss: since the last row
    if resume:
        net.load_state_dict(state["net"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        rng.set_state(state["rng"])
        run = state["run"]
    otherwise = f"{config.recipe}-{Path(data).name}-{config.size}-seed{config.seed}"
    folder = Path(resume) if resume else terminal.new_folder(config.name, otherwise)
    print(f"twin net of {net.n_parameters:,} parameters on {net.size}x{net.size} pixels in {config.precision}")
    counts = ", ".join(f"{len(d.images)} {name}" for d, name in zip(splits, ("training", "validation", "test")))
    print(f"{data}: {counts} characters; {machine(config.device)['device']}; results go to {folder}/", flush=True)
    per_epoch = epoch_steps(config)
    log_every, patience = math.ceil(config.steps / 100), config.patience * per_epoch
    loss, started = torch.tensor(run["loss"], device=config.device), time.perf_counter() - run["seconds"]
    net.train()
    with terminal.noted_signals() as signals:
        for step in range(run["step"] + 1, config.steps + 1):
            loss += training_step(net, optimizers, training, step - 1, config, rng, pairs)
            run["step"], run["seconds"] = step, time.perf_counter() - started
            validating = step % per_epoch == 0 or step == config.steps
            if validating or step % log_every == 0:
                mean = loss.item() / (step - (run["rows"][-1]["step"] if run["rows"] else 0))
                if not math.isfinite(mean):
                    raise UserError(f"the loss is {mean} at step {step}; lower {RATES[config.optimizer]}")
                rate = optimizers[0].param_groups[0]["lr"]
                run["rows"].append({"step": step, "learning_rate": rate, "loss": mean, "validation": None})
                loss.zero_()
            if validating:  # §3.2: watch the one-shot error on 320 validation trials, keep the best
                run["rows"][-1]["validation"] = accuracy = one_shot_accuracy(net, trials)
                run["improved"] = step if accuracy > run["best"] else run["improved"]
                if accuracy >= run["best"]:  # of equals the later one
                    run["best"] = accuracy
                    save_checkpoint(folder / "best.pt", net, config, step)
            if validating or signals:
                run["loss"] = loss.item()
                more = {"optimizers": [o.state_dict() for o in optimizers], "rng": rng.get_state(), "run": run}
                save_checkpoint(folder / "last.pt", net, config, step, **more)
            said = f"loss {run['rows'][-1]['loss']:.3f}, " if run["rows"] else ""
            said += f"best validation {100 * run['best']:.1f} %, " if run["best"] >= 0 else ""
            said += f"{step / run['seconds']:.1f} steps/s"
            terminal.progress("training", step, config.steps, said, run["seconds"], keep=validating)
            if signals and step < config.steps:
                print(f"\nstopped at step {step} of {config.steps}; go on with: python koch.py train --resume {folder}")
                return signals[0]
            if config.recipe == "paper" and step - run["improved"] >= patience:  # §3.2: 20 epochs without a better one
                print(f"\nno better validation in {config.patience} epochs: training ends at step {step}")
                break
    return finish(run, config, folder, *splits[1:])


def finish(run, config, folder, validation, test):
    """Choose the threshold, take the test pairs and trials once, with the best checkpoint, and write the results."""
    net = load_checkpoint(folder / "best.pt", config.device)
    net.precision = config.precision
    settle_threshold(net, validation)
    save_checkpoint(folder / "best.pt", net, config, net.step, threshold=net.threshold)
    results, to_draw = evaluate(net, test, config.data, config.data_dir)
    about = {"config": dataclasses.asdict(config), "parameters": net.n_parameters, **machine(config.device)}
    about |= {"seconds": run["seconds"], "epochs": run["step"] / epoch_steps(config)}
    about |= {"validation": run["best"], "best_step": net.step}
    from tutorials import pictures, uses

    pictures.draw_curves(run["rows"], folder / "curves.png")
    uses.draw_results(net, *to_draw, folder)
    with terminal.written_whole(folder / "log.csv") as file, io.TextIOWrapper(file, newline="") as text:
        writer = csv.DictWriter(text, run["rows"][0])
        writer.writeheader()
        writer.writerows(run["rows"])
    with terminal.written_whole(folder / "results.json") as file:
        file.write(json.dumps(about | results, indent=1).encode())
    print(f"\nin {folder}/: " + ", ".join(sorted(path.name for path in folder.iterdir())))
    return about | results


def machine(device):
    """Say what computes: the device's name and the versions."""
    cpu = f"{torch.get_num_threads()} threads of {terminal.processor()}"
    name = cpu if device == "cpu" else torch.cuda.get_device_name()
    return {"device": name, "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}


def save_checkpoint(path, net, config, step, **more):
    """Save a net, how it was trained, and more; path is whole or is not there."""
    state = {"net": net.state_dict(), "config": dataclasses.asdict(config), "step": step} | more
    buffer = io.BytesIO()  # writing this to a full disk is an OSError; torch's own writing is not
    torch.save(state, buffer)
    with terminal.written_whole(Path(path)) as file:
        file.write(buffer.getbuffer())


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
        why = terminal.reason(error)
        raise UserError(f"{path} is not a checkpoint of koch.py ({why}); name another one") from error


def load_checkpoint(path, device="cpu"):
    """Load a trained net, the SiameseNet of a best.pt, last.pt or reference_numpy's best.npz, for evaluation.

    Its attributes config (a Config) and step say how it was trained; threshold is the logit above which a pair is
    called the same, None where it was not chosen yet.
    Raises UserError when the file is missing, damaged, not one of koch.py's, or its weights do not fit its size.
    """
    state = load_state(path)
    net = SiameseNet(state["config"]["size"], state["config"].get("loss") == "contrastive")
    try:
        net.load_state_dict(state["net"])  # half precision becomes float32
    except RuntimeError as error:
        raise UserError(f"the weights in {path} are not those of a net of size {net.size}; name another one") from error
    net.config, net.step, net.threshold = Config(**state["config"]), state["step"], state.get("threshold")
    return net.to(device).eval()


# The command line -----------------------------------------------------------------------------------------------------


def command_train(resume, **options):
    """Train, or go on with a stopped training."""
    if resume and options:
        raise UserError("--resume goes on with the run's own options and takes no others")
    results = train(Config(**options), resume)
    return 0 if isinstance(results, dict) else 128 + results


def main(arguments=None):
    """Run the command line; return the exit status: 0, 2 for bad input, 128 + the signal's number when stopped."""
    parser = terminal.Parser(prog="koch.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def add(name, text, *options):
        command = commands.add_parser(name, help=text)
        terminal.add_options(command, Config, CHOICES, *options)
        return command

    command = add("train", "train the twin net, then take the test pairs and trials")
    command.add_argument("--resume", metavar="FOLDER", help="go on with a stopped run as if it had not been stopped")
    common = ("data_dir", "ink", "device", "precision")
    checkpoint = "best.pt, last.pt or best.npz (default: the newest best of runs/, else the project's own)"
    command = add("verify", "are two drawings of one character?", "data", *common)
    command.add_argument("files", nargs="*", metavar="FILE", help=f"{checkpoint}; two images to compare")
    command = add("oneshot", "take one-shot trials with a checkpoint", "data", *common)
    command.add_argument("checkpoint", nargs="?", help=checkpoint)
    numbers = {"type": terminal.whole_numbers, "metavar": "N,N,..."}
    command.add_argument("--way", **numbers, help="take fresh trials of so many ways each")
    command.add_argument("--shot", **numbers, help="and of so many support images a character each")
    command.add_argument("--baseline", choices=BASELINES, help="take the trials without a net")
    command = add("classify", "which class of a folder does a picture belong to?", *common)
    command.add_argument("--support", required=True, metavar="FOLDER", help="with CLASS.png or CLASS/*.png")
    command.add_argument("images", nargs="+", metavar="IMAGE", help="the pictures to classify")
    command.add_argument("--checkpoint", help=checkpoint)
    command.add_argument("--json", action="store_true", dest="as_json", help="print all answers as JSON")
    command.add_argument("--picture", default=str(RUNS / "classify.png"), metavar="FILE", help="(default: %(default)s)")
    options = vars(parser.parse_args(arguments))
    from tutorials import uses

    run = {"train": command_train, "verify": uses.verify, "oneshot": uses.oneshot, "classify": uses.classify}
    return terminal.guarded("koch.py", lambda: run[options.pop("command")](**options))


if __name__ == "__main__":
    sys.modules["koch"] = sys.modules["__main__"]  # for tutorials/uses.py, which would import it a second time
    status = main()
    sys.stdout.flush()
    os._exit(status)  # at once: to take torch down in good order takes Python half a second
