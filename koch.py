"""koch.py: Siamese Neural Networks for One-shot Image Recognition (Koch, Zemel, Salakhutdinov 2015).

Of Lake's 400 one-shot trials, 20-way, within one alphabet, two CPU cores get 96.6 % right after 70 s (five seeds),
98.95 % after ten minutes (five); the paper has 92.0, people 95.5, pixels 21.75. --recipe paper trains as §3.2 does.

    python koch.py train        train the twin net, then answer the test pairs and Lake's 400 one-shot trials
    python koch.py oneshot      answer the test pairs and the one-shot trials with a trained net
    python koch.py classify     which class of a folder does a picture belong to? are two pictures the same?

This file stands alone. Read it beside the paper, by the sections in the banners; below § 4.3 stands what its reader can
skip; § 4.4 is tutorials/mnist.py. "deviates" in a comment: the paper has it otherwise; "ours": the paper is silent.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import math
import os
import re
import signal
import sys
import time
import urllib.request
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

# § 3.1 Model ----------------------------------------------------------------------------------------------------------
SIZES = (35, 51, 105)  # pixels: §4.1 has 105; §4.4 shrinks them; ours: to 51 where there are ten minutes

def paper_twin():
    """Return the layers of the paper's twin: (N, 1, 105, 105) -> (N, 4096) in 0..1 (§3.1, figure 4)."""
    return nn.Sequential(  # the comments give the output's shape for one image
        nn.Conv2d(1, 64, 10), nn.ReLU(), nn.MaxPool2d(2),  # (64, 96, 96) -> (64, 48, 48)
        nn.Conv2d(64, 128, 7), nn.ReLU(), nn.MaxPool2d(2),  # (128, 42, 42) -> (128, 21, 21)
        nn.Conv2d(128, 128, 4), nn.ReLU(), nn.MaxPool2d(2),  # (128, 18, 18) -> (128, 9, 9)
        nn.Conv2d(128, 256, 4), nn.ReLU(),  # (256, 6, 6)
        nn.Flatten(), nn.Linear(9216, 4096), nn.Sigmoid(),  # (9216,) -> (4096,)
    )  # fmt: skip

def reduced_twin(size):
    """Return the layers of the reduced twin: (N, 1, size, size) -> (N, 512), any real number; size: 35 or 51.
    §4.4 has "a reduced version of our model" and does not print it: this one is ours, made for speed on a CPU."""
    return nn.Sequential(  # the comments give the shapes at size 35
        nn.Conv2d(1, 32, 4, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(32), nn.ReLU(),  # (32, 32, 32) -> (32, 16, 16)
        nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),  # (64, 16, 16)
        nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(64), nn.ReLU(),  # (64, 8, 8)
        nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),  # (64, 8, 8)
        nn.Conv2d(64, 128, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(128), nn.ReLU(),  # (128, 4, 4)
        nn.Conv2d(128, 256, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(256), nn.ReLU(),  # (256, 2, 2)
        nn.Flatten(), nn.Linear(256 * (size // 16) ** 2, 512), nn.BatchNorm1d(512),  # (1024,) -> (512,)
    )  # fmt: skip

class SiameseNet(nn.Module):
    """Join two twins that share all their weights (§3.1): there is one in memory, and both images go through it.
    size: pixels; 105: the paper's net (38,951,745 parameters); 35 or 51: the reduced net (988,865 or 1,644,225)"""
    def __init__(self, size=105):
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"size is one of {SIZES}, not {size}")
        self.size, self.precision = size, "float32"  # the twin computes in "float32" or "bfloat16"
        self.twin = paper_twin() if size == 105 else reduced_twin(size)
        n_features = self.twin[-2].out_features  # 4096 or 512
        # §3.1: p = sigmoid(sum_j alpha_j |h1_j - h2_j|). The printed formula has no bias, so that two equal images
        # would get p = 0.5; every implementation adds one, and it does not change which candidate wins.
        self.join = nn.Linear(n_features, 1)
        self.scale, self.shift = 1.0, 0.0  # of the logits; in a finished net they are its calibration (§4.2)
        if size == 105:
            for parameter in self.twin.parameters():
                if parameter.ndim > 1:  # deviates: He's; --recipe paper draws §3.2's instead
                    nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        nn.init.constant_(self.join.weight, -4 / n_features)  # deviates: from the start, far apart means not the same
        self.n_parameters = sum(parameter.numel() for parameter in self.parameters())
        self.to(memory_format=torch.channels_last)

    def features(self, images):
        """Compute one twin's features: (N, 1, size, size) float, 0..1, 1 = ink -> (N, 4096); (N, 512) if reduced."""
        x = images.to(self.join.weight.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            h = self.twin(x)
        return h.to(images.dtype)

    def logit(self, h1, h2):
        """Return the log-odds that h1 and h2 are of one character: (N, D), (N, D) -> (N,); leading axes broadcast.
        Where h1 and h2 hold several looks at each image, (N, n_looks * D), it is the mean over the looks."""
        differences = (h1 - h2).abs().unflatten(-1, (-1, self.join.in_features)).mean(-2)
        return self.scale * self.join(differences).squeeze(-1) + self.shift

    def logits_within(self, h):
        """Return logit, of a net in training, of all pairs within each group: (A, n, D) -> (A, n, n).
        sum_j alpha_j |h1_j - h2_j| is a Manhattan distance of alpha_j h_j, for which torch needs no (A, n, n, D)."""
        alpha = self.join.weight  # one that is exactly 0 gets no gradient here
        nearer, farther = h * alpha.clamp_min(0), h * alpha.clamp_max(0)  # a difference counts for, or against
        return self.join.bias + torch.cdist(nearer, nearer, p=1) - torch.cdist(farther, farther, p=1)

# § 3.2 Learning -------------------------------------------------------------------------------------------------------
def paper_initialisation(net):
    """Draw a net's weights as §3.2 does; batch normalisation, which the paper's net does not have, stays as it is."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):  # N(mean, standard deviation)
            nn.init.normal_(module.weight, 0.0, 0.01 if isinstance(module, nn.Conv2d) else 0.2)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0.5, 0.01)

def to_input(images, size):
    """Turn drawings into a net's input: (N, H, W) uint8 or float, 1 = ink -> (N, 1, size, size) float in [0, 1].
    Larger images shrink by averaging areas, 105 -> 35; smaller ones grow bilinearly, 28 -> 35 (ours; §4.4: sizes)."""
    x = images[:, None].float()
    if min(x.shape[-2:]) < size:
        return F.interpolate(x, (size, size), mode="bilinear", align_corners=False)
    return x if x.shape[-1] == x.shape[-2] == size else F.adaptive_avg_pool2d(x, size)

def draw_distortions(n, rng, strength=1.0):
    """Draw n distortions T = (theta, rho_x, rho_y, s_x, s_y, t_x, t_y) (§3.2): (n, 7) float on rng's device.
    theta in [-10, 10] degrees, as radians; shear rho in [-0.3, 0.3]; scale s in [0.8, 1.2], as its difference from 1;
    shift t in [-2, 2] pixels of 105, in halves of a side; each is present with probability 0.5, else 0.
    rng: torch.Generator; strength: factor of all ranges"""
    ranges = torch.tensor([math.radians(10), 0.3, 0.3, 0.2, 0.2, 2 * 2 / 105, 2 * 2 / 105], device=rng.device)
    draw = torch.rand(n, 7, generator=rng, device=rng.device) * 2 - 1
    present = torch.rand(n, 7, generator=rng, device=rng.device) < 0.5
    return draw * present * ranges * strength

def distort(images, distortions, bends=None):
    """Distort each image by the affine map of its row (§3.2); what comes in from outside is paper.
    images: (N, 1, H, W) float in [0, 1], 1 = ink; distortions: (N, 7), as draw_distortions gives them
    bends: deviates: (N, 2, 4, 4), how far the points of a 4x4 grid move besides, in halves of a side"""
    theta, rho_x, rho_y, s_x, s_y, t_x, t_y = distortions.T  # 7 of (N,)
    rotation = torch.stack([theta.cos(), -theta.sin(), theta.sin(), theta.cos()], 1).view(-1, 2, 2)
    scale_shear = torch.stack([1 + s_x, rho_x, rho_y, 1 + s_y], 1).view(-1, 2, 2)
    # The map goes from the new image's pixels to the old one's, in grid_sample's units: -1..1 from edge to edge.
    affine = torch.cat([rotation @ scale_shear, torch.stack([t_x, t_y], 1)[:, :, None]], 2)  # (N, 2, 3)
    grid = F.affine_grid(affine, images.shape, align_corners=False)  # (N, H, W, 2)
    if bends is not None:
        grid = grid + F.interpolate(bends, grid.shape[1:3], mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)

@functools.lru_cache(1)  # drawn anew for each step, it would take an eighth of the time
def epoch_order(n_pairs, epoch, config):
    """Return pairs 0, 1, ... in the order of an epoch, which its number and the seed decide, split into minibatches."""
    rng = torch.Generator().manual_seed(1_000_003 * config.seed + epoch)
    return torch.randperm(n_pairs, generator=rng).split(config.batch * N_PROCESSES)

def paper_minibatch(drawings, pairs, step, config, rng):
    """Take the minibatch of a step 0, 1, ... from the paper's pairs (§3.2), drawn before the training; rng is not used.
    Returns x (2 * batch, 1, size, size), the first drawings, then the second, and same (batch,) float, 1 = same."""
    n_copies = 9 if config.distort else 1  # each pair as it was drawn and, with --distort, eight distorted copies
    epoch, place = divmod(step, epoch_steps(config))
    chosen = epoch_order(n_copies * len(pairs.same), epoch, config)[place][RANK::N_PROCESSES].to(pairs.same.device)
    number, pair = chosen // len(pairs.same), chosen % len(pairs.same)  # number of the copy, 0: as it was drawn
    x = to_input(drawings.images.flatten(0, 1)[torch.cat([pairs.first[pair], pairs.second[pair]])], config.size)
    if config.distort:
        x = distort(x, pairs.distortions[:, number, pair].flatten(0, 1))
    return x, pairs.same[pair].float()

def cross_entropy(net, h, same):
    """Return the mean cross-entropy of pairs, in nats (§3.2); h: (2 * batch, D), twin by twin; same: (batch,) float."""
    return F.binary_cross_entropy_with_logits(net.logit(*h.chunk(2)), same)

def fast_minibatch(drawings, pairs, step, config, rng):
    """Draw a minibatch of whole alphabets, each drawing distorted by itself; pairs and step are not used.
    deviates: §3.2 has 128 pairs. Here features are computed once and scored in all pairs of their alphabet.
    Returns x (A * n, 1, size, size), of A alphabets n drawings each, and characters (A, n) int64."""
    images, characters = draw_alphabets(drawings, config, rng)
    x = to_input(images.flatten(0, 1), config.size)
    distortions = draw_distortions(len(x), rng, config.distortion)  # each drawing's own
    bends = 0.04 * config.distortion * torch.randn(len(x), 2, 4, 4, generator=rng, device=rng.device)
    return distort(x, distortions, bends), characters

def draw_alphabets(drawings, config, rng):
    """Draw A alphabets, which may repeat, K characters of each and M drawings of each character, which do not.
    drawings: of enough_drawings; rng: torch.Generator, on their device; config: A alphabets, K characters, M drawings
    Returns images (A, K * M, H, W) and their characters (A, K * M) int64."""
    A, K, M, device = config.alphabets, config.characters, config.drawings, drawings.images.device
    n_characters, n_drawers = drawings.images.shape[:2]
    alphabets = torch.randint(len(drawings.names), (A, 1), generator=rng, device=device)
    order = torch.rand(A, n_characters, generator=rng, device=device)  # the K largest of those allowed are chosen
    characters = order.masked_fill(drawings.alphabet != alphabets, -1).topk(K).indices  # (A, K)
    order = torch.rand(A, K, n_drawers, generator=rng, device=device)
    missing = torch.arange(n_drawers, device=device) >= drawings.counts[characters][:, :, None]
    drawers = order.masked_fill(missing, -1).topk(M).indices  # (A, K, M)
    images = drawings.images[characters[:, :, None], drawers].flatten(1, 2)  # (A, K * M, H, W)
    if config.turns:
        images = turn(images, torch.rand(3, A, generator=rng, device=device) < 0.5)
    return images, characters.repeat_interleave(M, 1)

def enough_drawings(drawings, config):
    """Return the Drawings of the alphabets that have K characters with M drawings. Raises UserError if none has."""
    K, M = config.characters, config.drawings
    enough = drawings.counts >= M
    enough &= (drawings.alphabet[enough].bincount(minlength=len(drawings.names)) >= K)[drawings.alphabet]
    if not enough.any():
        raise UserError(f"no alphabet has {K} characters with {M} drawings; lower --characters or --drawings")
    return only_characters(drawings, enough)

def turn(images, coins):
    """Turn and mirror whole alphabets (A, n, H, H), by coins (3, A) bool for transposing, mirroring, upside down.
    A turned alphabet is another alphabet: all its drawings turn alike, so that no character gets a mirrored twin."""
    transposed, mirrored, upside_down = coins[:, :, None, None, None]
    images = torch.where(transposed, images.transpose(-1, -2), images)
    images = torch.where(mirrored, images.flip(-1), images)
    return torch.where(upside_down, images.flip(-2), images)

def softmax_loss(net, h, characters):
    """Return a softmax cross-entropy, in nats: each drawing asks, of one that is the same, which of all is it?
    The sum goes over that same one and all different drawings of the alphabet; the mean over all ordered same pairs.
    deviates: §3.2 has the cross-entropy of single pairs. A trial asks which of many is the same; so does this loss.
    h: (A * n, D) features; characters: (A, n) int64"""
    logits = net.logits_within(h.view(*characters.shape, -1))  # (A, n, n)
    same = characters[:, :, None] == characters[:, None]  # (A, n, n)
    different = logits.masked_fill(same, -math.inf).logsumexp(2, keepdim=True)  # (A, n, 1)
    losses = F.softplus(different - logits)  # -log(e^logit / (e^logit + sum of e^different))
    same = same & ~torch.eye(len(characters[0]), dtype=torch.bool, device=h.device)  # not with itself
    return (losses * same).sum() / same.sum()

def layers(net):
    """Return each layer's parameters, from the first to the join; batch normalisation counts to the layer before it."""
    found = []
    for module in [*net.twin, net.join]:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            found.append([])
        found[-1].extend(module.parameters())
    return found

def make_optimizers(net, config):
    """Return a recipe's optimizers; a group's "highest" and "mu" are what set_rates works from.
    paper: §3.2's SGD, each layer with its learning rate eta_j, momentum mu_j and L2 penalty lambda_j; biases have none
    fast: deviates: Muon for the weights of the twin's layers, AdamW for biases, batch normalisation and the join. The
        paper's fully connected weights go to AdamW too: 4096 singular values would cost three times the step itself."""
    found, groups = layers(net), []
    values = [by_layer(text, len(found)) for text in (config.learning_rates, config.momenta, config.penalties)]
    if config.recipe == "paper":
        for layer, eta, mu, l2 in zip(found, *values, strict=True):
            weights, rest = [p for p in layer if p.ndim > 1], [p for p in layer if p.ndim == 1]
            groups.append({"params": weights, "highest": eta, "mu": mu, "weight_decay": 2 * l2})  # the slope of l2 w^2
            groups.append({"params": rest, "highest": eta, "mu": mu, "weight_decay": 0.0})
        return [torch.optim.SGD(groups, lr=0.0, momentum=0.5)]
    weights = [p for p in net.twin.parameters() if p.ndim > 1 and len(p) <= 1024]  # rows: not the 4096
    rest = [p for p in net.parameters() if not any(p is weight for weight in weights)]
    muon = {"params": weights, "highest": config.learning_rate}
    adam = {"params": rest, "highest": 3e-4 if net.size == 105 else 2e-3}
    how = {"weight_decay": 0.01, "momentum": 0.95, "dtype": getattr(torch, net.precision)}
    return [Muon([muon], how), torch.optim.AdamW([adam], weight_decay=0.0, fused=True)]

def epoch_steps(config):
    """Return the steps from validation to validation: in the paper's recipe an epoch, once through all pairs (§3.2)."""
    if config.recipe == "fast":
        return math.ceil(config.steps / config.validations)
    n = config.pairs * (9 if config.distort else 1)
    return (n - N_PROCESSES) // (config.batch * N_PROCESSES) + 1  # the rest is a step if all processes get some

def set_rates(optimizers, step, config):
    """Set the learning rates of a step 0, 1, ... and the momenta of SGD: the paper's by the epoch (§3.2). ours: with
    --steps a training goes through the schedule of all epochs too; in so few the rates would hardly have fallen."""
    epoch = config.epochs * step // config.steps
    if config.recipe == "paper":
        factor = 0.99**epoch  # §3.2: -1 % an epoch
    else:  # ours: up in a line for a tenth of the steps, down to 0 along a cosine
        rising = min(1, (step + 1) / max(1, 0.1 * config.steps))
        factor = rising * 0.5 * (1 + math.cos(math.pi * step / config.steps))
    for group in itertools.chain(*(optimizer.param_groups for optimizer in optimizers)):
        group["lr"] = group["highest"] * factor
        if "mu" in group:
            group["momentum"] = 0.5 + min(1, epoch / 5) * (group["mu"] - 0.5)  # §3.2: a line; ours: five epochs long

def step_rng(step, config):
    """Return the source of a step's random draws: they depend on the seed, the step 0, 1, ... and the process alone."""
    return torch.Generator(config.device).manual_seed(1_000_003 * (step * N_PROCESSES + RANK) + config.seed)

def average(tensors):
    """Average tensors over the processes that torchrun started, in place; ours: §3.2 has one."""
    if N_PROCESSES > 1:
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)
            tensor /= N_PROCESSES

RANK, N_PROCESSES = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # torchrun sets them
RECIPES = {"fast": (fast_minibatch, softmax_loss), "paper": (paper_minibatch, cross_entropy)}

def training_loop(run, drawings, pairs, trials, config):
    """Train run.net, yielding after each step its loss (a tensor) and its validation accuracy, None where not taken.
    run: Run (below), with net, optimizers, step, improved (the step of the last better validation) and best
    drawings: training Drawings; pairs: their Pairs (paper) or None (fast); trials: validation Trials"""
    draw_minibatch, loss_function = RECIPES[config.recipe]
    weights, statistics = list(run.net.parameters()), [b for b in run.net.buffers() if b.is_floating_point()]
    patience = config.patience * epoch_steps(config) if config.recipe == "paper" else config.steps  # §3.2: 20 epochs
    while run.step < config.steps and run.step - run.improved < patience:
        x, target = draw_minibatch(drawings, pairs, run.step, config, step_rng(run.step, config))
        h = run.net.features(x)  # both twins at once: one set of weights
        loss = loss_function(run.net, h, target)
        run.net.zero_grad()
        loss.backward()  # the gradients of both twins add in the shared weights
        average(weight.grad for weight in weights)
        set_rates(run.optimizers, run.step, config)
        for optimizer in run.optimizers:
            optimizer.step()
        run.step += 1
        accuracy = None
        if run.step % epoch_steps(config) == 0 or run.step == config.steps:  # §3.2: 320 trials choose the best weights
            average(statistics)  # of batch normalisation
            accuracy = one_shot_accuracy(run.net.eval(), trials)
            run.net.train()
            if accuracy > run.best:
                run.improved = run.step
            if accuracy >= run.best or config.recipe == "fast":  # deviates: fast: the last, when all rates are near 0
                run.best, run.best_step = accuracy, run.step
                run.best_weights = {name: tensor.clone() for name, tensor in run.net.state_dict().items()}
        yield loss.detach(), accuracy

# § 4.1 The Omniglot Dataset -------------------------------------------------------------------------------------------
DRAWERS = {"training": slice(0, 12), "validation": slice(12, 16), "test": slice(16, 20)}  # §4.2: 12, 4 and 4 of 20
# The paper does not say which drawers and alphabets are which. Here the training's alphabets are those of
# images_background, the test's those of Lake's runs (two each, in this order), the validation's the other ten.
TEST_ALPHABETS = "Atlantean Ge_ez Glagolitic Gurmukhi Kannada Malayalam Manipuri Old_Church_Slavonic_(Cyrillic)".split()
TEST_ALPHABETS += ["Tengwar", "Tibetan"]
SIDE, N_CHARACTERS = 105, 1623  # pixels of a drawing; characters, each by 20 drawers

class Drawings(NamedTuple):
    """Hold the drawings of many characters."""
    images: torch.Tensor  # (characters, drawers, H, W) uint8, 0 or 1, or float32 in [0, 1]; 1 = ink, 0 = paper
    alphabet: torch.Tensor  # (characters,) int64, each character's alphabet, an index into names
    counts: torch.Tensor  # (characters,) int64, how many drawings each character has; they stand first in its row
    names: tuple  # of the alphabets
    characters: tuple  # their names, or none
    by_drawer: bool = False  # whether column d holds what drawer d + 1 drew, of every character, as Omniglot's does
    def to(self, device):
        """Return Drawings with their tensors on a device."""
        return self._replace(**{name: getattr(self, name).to(device) for name in ("images", "alphabet", "counts")})

def load_omniglot(data_dir=""):
    """Load Omniglot's 50 alphabets: Drawings of (1623, 20, 105, 105) uint8, kept as omniglot.npz. Raises UserError.
    data_dir: folder of the zips; "" for $KOCH_DATA, else data/. Training alphabets come first, test alphabets last."""
    paths = [data_file(data_dir, f"images_{part}.zip") for part in ("background", "evaluation")]
    def read():
        background, evaluation = (read_classes(path, functools.partial(read_picture, ink="dark")) for path in paths)
        classes = background | evaluation  # {(alphabet, character): drawings}
        kinds = {(len(images), str(np.result_type(*images))) for images in classes.values()}  # uint8: of two values
        if len(classes) != N_CHARACTERS or kinds != {(20, "uint8")}:
            raise UserError(f"{paths[0]} and {paths[1].name} do not hold 20 drawings of {N_CHARACTERS} characters")
        order = sorted(classes, key=lambda name: (name in evaluation, name[0] in TEST_ALPHABETS, name))
        return as_drawings({name: classes[name] for name in order})._replace(by_drawer=True)
    return kept(paths[0].with_name("omniglot.npz"), Drawings, read)

def split(drawings):
    """Split drawings into training, validation and test Drawings, which share no character (§4.2). Raises UserError.
    Of Omniglot and of invented alphabets the first 30, the next 10 and the last 10; of others three fifths, one fifth
    and one fifth of the alphabets or, where there are fewer than five, of the characters."""
    if drawings.by_drawer:  # Omniglot's alphabets or invented ones, in this order
        place = torch.tensor([0] * 30 + [1] * 10 + [2] * 10)[drawings.alphabet]
    else:
        order = drawings.alphabet if len(drawings.names) >= 5 else torch.arange(len(drawings.images))
        place = torch.tensor([0, 0, 0, 1, 2])[order % 5]
    parts = [only_characters(drawings, place == part) for part in range(3)]
    if min(len(part.images) for part in parts) < 2:
        raise UserError("to train on some characters and test on others takes 10 of them, or 5 alphabets of two")
    return parts

def only_characters(drawings, mask):
    """Return the drawings of some characters, and the alphabets that they are of; mask: (characters,) bool."""
    found, alphabet = drawings.alphabet[mask].unique(return_inverse=True)
    names = tuple(drawings.names[a] for a in found)
    characters = tuple(name for name, chosen in zip(drawings.characters, mask) if chosen)
    return Drawings(drawings.images[mask], alphabet, drawings.counts[mask], names, characters, drawings.by_drawer)

def only_drawers(drawings, part):
    """Return what the drawers of "training", "validation" or "test" drew (§4.2); all where nobody says who drew."""
    if not drawings.by_drawer:
        return drawings
    images = drawings.images[:, DRAWERS[part]].contiguous()  # else flattening it would copy it, in every minibatch
    return drawings._replace(images=images, counts=torch.full_like(drawings.counts, images.shape[1]))

# § 4.2 Verification ---------------------------------------------------------------------------------------------------
N_PAIRS = 10_000  # §4.2: of validation; ours: they choose the threshold, and there are as many test pairs
TRIALS_SEED = 2015  # ours: all runs have the same validation and test pairs and trials

class Pairs(NamedTuple):
    """Hold pairs of drawings: are the two of one character?"""
    first: torch.Tensor  # (n,) int64, indices into the drawings' images.flatten(0, 1)
    second: torch.Tensor  # (n,) int64
    same: torch.Tensor  # (n,) bool
    distortions: torch.Tensor = None  # (2, 9, n, 7) float, of each twin and copy, none in copy 0; None: no copies

def draw_pairs(drawings, n_pairs, rng):
    """Draw Pairs, equal numbers of each alphabet (§4.2), never a drawing with itself. rng: torch.Generator on the CPU
    ours: both drawings are of one alphabet, and every other pair is of one character; the paper prints neither.
    Characters of one drawing and alphabets of one character are left out; UserError when no alphabet is left."""
    alphabet, counts = drawings.alphabet.cpu(), drawings.counts.cpu()
    usable = torch.where(counts >= 2)[0]
    usable = usable[alphabet[usable].argsort(stable=True)]  # alphabet after alphabet
    n_characters = alphabet[usable].bincount(minlength=len(drawings.names))
    large = torch.where(n_characters >= 2)[0]
    if not len(large):
        raise UserError("pairs take an alphabet with two characters of two drawings each, and there is none")
    def random(below):  # (n,) int64: one number each in 0..below - 1
        return (torch.rand(n_pairs, generator=rng, dtype=torch.float64) * below).long()
    i = torch.arange(n_pairs)
    same, a = i % 2 == 0, large[i // 2 % len(large)]  # a: each pair's alphabet
    start, place = (n_characters.cumsum(0) - n_characters)[a], random(n_characters[a])
    first = usable[start + place]
    # Drawn directly: another character, or another drawing, is so many places further round.
    other = usable[start + (place + 1 + random(n_characters[a] - 1)) % n_characters[a]]
    second = torch.where(same, first, other)
    drawer1 = random(counts[first])
    other_drawer = (drawer1 + 1 + random(counts[second] - 1)) % counts[second]
    drawer2 = torch.where(same, other_drawer, random(counts[second]))
    n_drawers, device = drawings.images.shape[1], drawings.images.device
    return Pairs(*(part.to(device) for part in (first * n_drawers + drawer1, second * n_drawers + drawer2, same)))

def training_pairs(drawings, config):
    """Draw the training's pairs and, with config.distort, the eight distortions of each drawing of a pair (§3.2)."""
    rng = torch.Generator().manual_seed(config.seed)
    pairs = draw_pairs(drawings, config.pairs, rng)
    if not config.distort:
        return pairs
    drawn = draw_distortions(2 * 8 * config.pairs, rng, config.distortion).view(2, 8, config.pairs, 7)
    drawn = F.pad(drawn, (0, 0, 0, 0, 1, 0))  # in front a copy of zeros: as it was drawn
    return pairs._replace(distortions=drawn.to(pairs.same.device))

@torch.no_grad()
def pair_logits(model, drawings, pairs, h=None):
    """Return the logits of pairs, (n,) float64 on the CPU; h: (n_images, D) features of the drawings, if known."""
    h = image_features(model, drawings.images.flatten(0, 1)) if h is None else h
    first, second = pairs.first.split(100), pairs.second.split(100)  # pairs at a time: at size 105 all take 5 GB
    return torch.cat([model.logit(h[i], h[j]) for i, j in zip(first, second)]).double().cpu()

@torch.no_grad()
def calibration(net, validation):
    """Return (scale, shift): sigmoid(scale * logit + shift) is the probability p that a pair is the same.
    On 10,000 pairs of validation Drawings by their drawers (§4.2) calling those with p > 0.5 the same makes the fewest
    mistakes. ours: the scale, by linear discriminant analysis: a softmax's logits are no odds of a pair's."""
    drawings = only_drawers(validation, "validation")
    pairs = draw_pairs(drawings, N_PAIRS, torch.Generator().manual_seed(TRIALS_SEED))
    logits, same = pair_logits(net, drawings, pairs), pairs.same.cpu()
    false, missed, thresholds = error_rates(logits, same)
    threshold = float(thresholds[(false + missed).argmin()])  # there are as many pairs of either kind
    high, low = logits[same], logits[~same]
    scale = float(2 * (high.mean() - low.mean()).clamp_min(1e-6) / (high.var() + low.var()).clamp_min(1e-9))
    return scale, -scale * threshold

def verify(net, test, h):
    """Say of 10,000 pairs of test Drawings by the test drawers whether they are the same, p > 0.5 (§4.2).
    h: (n_images, D), test's features. Returns {n, right, accuracy, interval, equal_error_rate}; NaN is a mistake."""
    features = only_drawers(test._replace(images=h.unflatten(0, test.images.shape[:2])), "test")  # in the images' place
    pairs = draw_pairs(features, N_PAIRS, torch.Generator().manual_seed(TRIALS_SEED + 1))
    logits, same = pair_logits(net, features, pairs, features.images.flatten(0, 1)), pairs.same.cpu()
    false, missed, _ = error_rates(logits, same)
    equal = int((false - missed).abs().argmin())  # as many of each kind are mistaken there
    correct = torch.where(same, logits > 0, logits <= 0)
    return counted(correct) | {"equal_error_rate": float(false[equal] + missed[equal]) / 2}

# § 4.3 One-shot Learning ----------------------------------------------------------------------------------------------
N_VALIDATION = 320  # §3.2: one-shot trials that choose the best weights
LOOKS = torch.tensor(list(itertools.product((False, True), repeat=3))).T  # (3, 8), ours: coins of turn, first no turn
N_FRESH = 2000  # ours: test trials beside Lake's 400, within an alphabet and across

class Trials(NamedTuple):
    """Hold one-shot trials: which of n_way support images is of the test image's character?"""
    images: torch.Tensor  # (n, H, W), 1 = ink: the drawings that trials point into
    test: torch.Tensor  # (n_trials,) int64, the test images, as indices into images
    support: torch.Tensor  # (n_trials, n_way) int64, the support images, one of each character
    answers: torch.Tensor  # (n_trials,) int64, the right position in support, 0..n_way - 1
    alphabets: tuple  # (n_trials,) the names of the test images' alphabets

def one_shot_trials(drawings, n_way, n_trials, rng, within_alphabet=True):
    """Draw one-shot trials: n_way different characters by one drawer, a test image of one of them by another drawer.
    drawings: Drawings; where characters were not drawn by the same drawers, each takes the first of the trial's order
        of drawers who drew it. n_way: None for 20, or as many as the largest alphabet has characters
    within_alphabet: take a trial's characters from one alphabet, the alphabets in turn, those with fewer than n_way
        characters left out; else from all alphabets. rng: torch.Generator on the CPU
    Returns Trials, the right answer at a random position. Raises UserError if there are too few drawings."""
    n_drawers, alphabet, counts = drawings.images.shape[1], drawings.alphabet.cpu(), drawings.counts.cpu()
    n_way = n_way or min(20, int(alphabet[counts > 1].bincount(minlength=1).max()))
    groups = torch.where(counts > 1, alphabet if within_alphabet else 0, -1)
    pools = [torch.where(groups == group)[0] for group in groups[groups >= 0].unique()]
    pools = [pool for pool in pools if len(pool) >= n_way]
    if not pools or n_way < 2:
        raise UserError(f"no {n_way}-way trial can be drawn: it takes {max(2, n_way)} characters of two drawings each")
    test, support, answers = [], [], []
    for pool in itertools.islice(itertools.cycle(pools), n_trials):
        characters = pool[torch.randperm(len(pool), generator=rng)[:n_way]]  # (n_way,)
        drawers = torch.randperm(n_drawers, generator=rng)
        answer = torch.randint(n_way, (), generator=rng)
        absent = drawers >= counts[characters][:, None]  # (n_way, n_drawers)
        present_first = drawers[absent.byte().argsort(dim=1, stable=True)]  # (n_way, n_drawers), who drew it in front
        support.append(characters * n_drawers + present_first[:, 0])
        test.append(characters[answer] * n_drawers + present_first[answer, 1])
        answers.append(answer)
    alphabets = tuple(drawings.names[alphabet[i // n_drawers]] for i in test)
    return Trials(drawings.images.flatten(0, 1), *map(torch.stack, (test, support, answers)), alphabets)

@torch.no_grad()
def image_features(model, images):
    """Compute images' features, of each by itself: (n, H, W) -> (n, n_looks * D). ours: a finished net that was trained
    on turned alphabets takes 8 looks at an image, turned and mirrored. model: SiameseNet, not in training mode, or any
    object with size (pixels), features and logit as it has them, and n_looks if it is not 1"""
    if getattr(model, "training", False):
        raise ValueError("in training mode an image's features depend on the others: call model.eval() first")
    parts, n_looks = [], getattr(model, "n_looks", 1)
    for part in images.split(128 // n_looks):
        x = to_input(part, model.size)[:, 0].expand(n_looks, -1, -1, -1)  # (n_looks, n, size, size)
        h = model.features(turn(x, LOOKS[:, :n_looks].to(x.device)).flatten(0, 1)[:, None])  # (n_looks * n, D)
        parts.append(torch.as_tensor(h).view(n_looks, len(part), -1).transpose(0, 1).flatten(1))
    return torch.cat(parts)

@torch.no_grad()
def one_shot_answers(model, trials, h=None):
    """Answer every trial alone: the position of the support image that is most likely the test image's character.
    model: as in image_features; h: (n, D) features of trials.images, where they are known
    Returns (n_trials,) int64 on the CPU; -1 where the best logit is shared or any logit is not a number."""
    places = torch.cat([trials.test[:, None], trials.support], 1)  # (n_trials, 1 + n_way)
    if h is None:
        used, places = places.unique(return_inverse=True)
        h = image_features(model, trials.images[used])
    # Logits, not probabilities: a float32 sigmoid is exactly 1 from logit 16.7 on, and makes ties.
    few = places.split(10)  # trials at a time, so that they stay in the processor's cache
    logits = torch.cat([torch.as_tensor(model.logit(h[p[:, :1]], h[p[:, 1:]])) for p in few]).float().cpu()
    clear = ((logits == logits.amax(1, keepdim=True)).sum(1) == 1) & ~logits.isnan().any(1)
    return torch.where(clear, logits.argmax(1), -1)

def one_shot_accuracy(model, trials, h=None):
    """Return the fraction of trials answered right, 0..1. A tie and a logit that is not a number are wrong answers."""
    return (one_shot_answers(model, trials, h) == trials.answers).double().mean().item()

class PixelNearestNeighbour:
    """Compare drawings by the cosine of their pixels (1-NN, §4.3), with the interface of a SiameseNet."""
    size = SIDE
    def features(self, images):
        """Return each image's pixels as a vector of length one: (N, 1, H, W) -> (N, H * W); a blank image's are 0."""
        return F.normalize(images.flatten(1))

    def logit(self, h1, h2):
        """Return the cosine, 0..1: (N, D), (N, D) -> (N,); leading axes broadcast."""
        return torch.einsum("...d,...d->...", h1, h2)

# Statistics and Muon, the first of what a reader of the paper can skip ------------------------------------------------
def counted(correct):
    """Count answers, (n,) bool: {n, right, accuracy, interval}; this is Wilson's 95 % interval, (low, high) in 0..1."""
    n, right, z = len(correct), int(correct.sum()), 1.96
    p, centre = right / n, (right + z * z / 2) / (n + z * z)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return {"n": n, "right": right, "accuracy": p, "interval": (max(0.0, centre - half), min(1.0, centre + half))}

def error_rates(logits, same):
    """Return the fractions of different pairs called the same and of same pairs called different, and the thresholds.
    logits: (n,) float64, NaN is the lowest; same: (n,) bool, with both kinds. All three are (thresholds,) float64, from
    the threshold that calls all pairs the same to the one that calls none, half-way between two logits."""
    logits = logits.nan_to_num(nan=-1e9).clamp(-1e9, 1e9)
    values = logits.unique()  # sorted
    thresholds = torch.cat([values[:1] - 1, (values[1:] + values[:-1]) / 2, values[-1:]])
    # How many of either kind lie at or below each threshold: they are called different.
    right, missed = (torch.searchsorted(logits[kind].sort().values, thresholds, right=True) for kind in (~same, same))
    return 1 - right / (~same).sum(dtype=torch.float64), missed / same.sum(dtype=torch.float64), thresholds

class Muon(torch.optim.Optimizer):
    """Step along the momentum with all its singular values made equal, so that no direction of a layer lags behind.
    deviates: §3.2 has plain momentum. Idea and coefficients: Keller Jordan, github.com/KellerJordan/Muon.
    A group holds weights of two axes or more, (n_out, ...), lr, weight_decay, momentum, and the dtype to compute in."""
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
    Three iterations bring those above a fiftieth of the norm to 0.7..1.2."""
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(3):
        square = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
        change = 2.0315 * square @ square - 4.7750 * square
        x = 3.4445 * x + (change @ x if x.shape[0] <= x.shape[1] else x @ change)
    return x

# Files ----------------------------------------------------------------------------------------------------------------
OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
FILES = {  # file in the data folder: (its folder there, checksum of the official file)
    "images_background.zip": ("", "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640"),
    "images_evaluation.zip": ("", "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee"),
    "all_runs.zip": ("one-shot-classification/", "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325"),
}
SUFFIXES = (".png", ".jpg", ".jpeg", ".pgm", ".ppm", ".pbm", ".bmp", ".gif", ".tif", ".tiff", ".webp")

class UserError(Exception):
    """Say in one line what is wrong and what to do; the command line prints it and exits with status 2."""

@contextlib.contextmanager
def explained(text):
    """Turn any error in a block that reads foreign files into a UserError: text, and the reason in brackets."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Pillow, NumPy and torch raise whatever a damaged file makes them stumble over
        reason = str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)
        raise UserError(f"{text} ({reason.splitlines()[0] if reason else type(error).__name__})") from error

def write_whole(path, content):
    """Write bytes to a file that is whole or is not there; its folder is made if need be. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)

def sound(path):
    """Open a zip, as .npz and .pt are too. Raises zipfile's errors, and ValueError if a member is damaged or lost."""
    archive, end = zipfile.ZipFile(path), Path(path).read_bytes().rpartition(b"PK\5\6")[2]
    if archive.testzip() is not None or min(len(archive.namelist()), 65535) != int.from_bytes(end[6:8], "little"):
        raise ValueError("it is not as it was written")
    return archive

def data_file(data_dir, name, download=True):
    """Return the path of a file in data_dir, else $KOCH_DATA, else data/, downloaded if need be. Raises UserError."""
    path = Path(data_dir or os.environ.get("KOCH_DATA") or "data") / name
    if download and not path.is_file():  # one that is there is taken by what it holds, whatever its checksum
        folder, checksum = FILES[name]
        with explained(f"{path} is not there and cannot be downloaded; put it there"):
            content = urllib.request.urlopen(OMNIGLOT + folder + name, timeout=20).read()
            if hashlib.sha256(content).hexdigest() != checksum:
                raise ValueError("what came is not the official file: its checksum differs")
        write_whole(path, content)
    return path

def read_grey(file, name):
    """Decode a picture: (H, W) float32, larger is lighter, the longer side 105 pixels; Omniglot's as uint8, 0 or 1.
    file: a path, or a file that is open; name: what an error calls it. Raises UserError."""
    with explained(f"{name} cannot be read; replace or delete it"), warnings.catch_warnings(action="ignore"):
        Image.open(file).verify()  # a PNG's checksums, which decoding leaves out
        picture = ImageOps.exif_transpose(Image.open(file))
        if picture.mode[0] not in "1IF":  # two values, 16 bits or floats, which "L" would clip
            picture = picture.convert("RGBA")  # transparent parts are white paper
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("L")
        size = tuple(max(1, round(side * SIDE / max(picture.size))) for side in picture.size)
        resample = Image.Resampling.BOX if max(picture.size) > SIDE else Image.Resampling.BILINEAR
        omniglots = picture.mode == "1" and picture.size == (SIDE, SIDE)
        values = np.asarray(picture, np.uint8) if omniglots else np.asarray(picture.convert("F").resize(size, resample))
        if not np.ptp(values) > 1e-4 * abs(values).max():  # averages of one value may differ in the last digit
            raise ValueError("it is all of one colour")
    return values

def read_picture(file, name, ink="auto"):
    """Read all of a picture: (105, 105) float32 in [0, 1], 1 = ink; Omniglot's: uint8. Raises UserError.
    file, name: as for read_grey; ink: "dark", "light" or "auto". Paper fills what the picture leaves of the square."""
    values = read_grey(file, name)
    return 1 - values if values.dtype == np.uint8 and ink == "dark" else centred(inked(values, ink)[0])

def inked(values, ink="auto"):
    """Return an image in 0..1, 1 = ink, and whether its ink is dark: (H, W), larger is lighter -> (H, W) float32, bool.
    ink: "dark", "light" or "auto": the border is paper, so ink is dark if the border is nearer to the lightest pixel"""
    values, low, high = np.float32(values), float(values.min()), float(values.max())
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    dark = ink == "dark" or ink == "auto" and bool(np.median(border) >= (low + high) / 2)
    if dark:
        values, low, high = -values, -high, -low
    paper = np.median(values[values <= (low + high) / 2])  # a median, so that neither a highlight nor grain moves it
    return np.clip((values - paper) / (high - paper), 0, 1, dtype=np.float32), dark

def centred(image):
    """Put an image (H, W) of at most 105x105 pixels in the middle of paper: (105, 105)."""
    top, left = (SIDE - image.shape[0]) // 2, (SIDE - image.shape[1]) // 2
    return np.pad(image, ((top, SIDE - image.shape[0] - top), (left, SIDE - image.shape[1] - left)))

def read_symbol(file, name, ink, found):
    """Read a picture of a symbol on any paper as if it were Omniglot's: (105, 105) float32 in [0, 1], 1 = ink.
    Only the ink is taken, and its longer side becomes 66 pixels. A 105x105 picture of two greys stays as it is.
    file, name, ink: as for read_picture; found: a list that gets {"ink": "dark" or "light", "box": [left, top, right,
    bottom] of the ink, as fractions of width and height}. Raises UserError."""
    values = read_grey(file, name)
    image, dark = inked(off_paper(values), ink)
    solid = Image.fromarray(np.uint8(image > 0.5)).filter(ImageFilter.RankFilter(3, 6))  # 3 of 9 pixels: no specks
    (H, W), (left, top, right, bottom) = image.shape, solid.getbbox() or (0, 0, *solid.size)
    found.append({"ink": "dark" if dark else "light", "box": [left / W, top / H, right / W, bottom / H]})
    if values.shape == (SIDE, SIDE) and len(np.unique(values)) == 2:
        return inked(values, "dark" if dark else "light")[0]
    cut = Image.fromarray(np.clip(2 * image - 0.5, 0, 1)[top:bottom, left:right])
    return centred(np.asarray(ImageOps.contain(cut, (66, 66), Image.Resampling.BILINEAR)))

def off_paper(values):
    """Return how much lighter than the paper around it each pixel is: (H, W) -> (H, W) float64, 0 = paper.
    Light on paper is a quadratic surface here, fitted to the border and then, again and again, to all near it."""
    (H, W), grey = values.shape, np.float64(values).ravel()
    y, x = (place.ravel() for place in np.mgrid[-1 : 1 : H * 1j, -1 : 1 : W * 1j])
    terms, paper = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1), np.maximum(abs(x), abs(y)) > 0.85
    for _ in range(8):
        contrast = grey - terms @ np.linalg.lstsq(terms[paper], grey[paper], rcond=None)[0]
        paper = abs(contrast) <= 4.5 * np.median(abs(contrast[paper])) + 0.005 * np.ptp(grey)
    return contrast.reshape(H, W)

def read_classes(source, read=read_picture, support=False):
    """Read the pictures of a folder or a zip: Omniglot's, AT&T's faces, your own. read: read_picture, or one like it
    Returns {(alphabet, character): [(105, 105), ...]} of [ALPHABET/]CHARACTER/PICTURE or, for a support, of
    CHARACTER.png and CHARACTER/PICTURE, in the order of the names, never the disk's. Raises UserError."""
    with explained(f"{source} is no data set, and no folder or zip that can be read"):
        if Path(source).is_dir():
            files = {path.relative_to(source).parts: path.read_bytes for path in Path(source).rglob("*")}
        else:
            archive = sound(source)
            files = {tuple(name.split("/")): functools.partial(archive.read, name) for name in archive.namelist()}
        shown = (parts for parts in files if not any(part.startswith((".", "__MACOSX")) for part in parts))
        pictures = [parts for parts in shown if parts[-1].lower().endswith(SUFFIXES)]
        pictures.sort(key=lambda parts: (parts[:-1] or (Path(parts[0]).stem,), parts))  # class by class
        depths = {len(parts) for parts in pictures}
        if not (depths <= {1, 2} if support else len(depths) == 1 and min(depths) > 1):
            layout = "CHARACTER.png or CHARACTER/PICTURE" if support else "[ALPHABET/]CHARACTER/PICTURE"
            raise ValueError(f"lay the pictures out as {layout}")
        classes = {}
        for parts in pictures:
            alphabet = parts[-3] if len(parts) > 2 else Path(source).stem
            character = parts[-2] if len(parts) > 1 else Path(parts[0]).stem
            image = read(io.BytesIO(files[parts]()), f"{source}: {'/'.join(parts)}")
            classes.setdefault((alphabet, character), []).append(image)
        if len(classes) < 2:
            raise ValueError("it has pictures of fewer than two characters")
    return classes

def as_drawings(classes):
    """Return the Drawings of {(alphabet, character): [(H, W), ...]}, as read_classes returns them."""
    counts = torch.tensor([len(images) for images in classes.values()])
    (H, W), dtypes = next(iter(classes.values()))[0].shape, {np.result_type(*images) for images in classes.values()}
    rows = np.zeros((len(classes), int(counts.max()), H, W), np.result_type(*dtypes))
    for row, images in zip(rows, classes.values()):
        row[: len(images)] = images
    names = list(dict.fromkeys(alphabet for alphabet, _ in classes))
    alphabet = torch.tensor([names.index(alphabet) for alphabet, _ in classes])
    return Drawings(torch.from_numpy(rows), alphabet, counts, tuple(names), tuple(name for _, name in classes))

def kept(path, kind, make):
    """Return the Drawings or Trials (kind) that a .npz file keeps or, where there is none, keep and return make().
    The file holds images as bits, 14 bytes for a row of 105. If its folder cannot be written, it is kept in data/."""
    if not path.is_file() and path.parent.is_dir() and not os.access(path.parent, os.W_OK):
        path = Path("data") / path.name
    if path.is_file():
        with explained(f"{path} is damaged; delete it and start again"):
            arrays = dict(np.load(sound(path).filename))
            fields = {"images": torch.from_numpy(np.unpackbits(arrays.pop("bits"), axis=-1, count=SIDE))}
            for name, array in arrays.items():
                if array.dtype.kind == "U" or not array.size:
                    fields[name] = tuple(array.tolist())
                else:
                    fields[name] = torch.from_numpy(array) if array.ndim else array.item()
            return kind(*(fields[name] for name in kind._fields))
    record, content = make(), io.BytesIO()
    arrays = {name: np.asarray(value) for name, value in record._asdict().items()}
    np.savez(content, bits=np.packbits(arrays.pop("images"), axis=-1), **arrays)
    write_whole(path, content.getvalue())
    return record

def lake_trials(data_dir=""):
    """Load Lake's 20 runs (§4.3): 400 Trials, 20-way, over 800 images, kept as lake.npz. Raises UserError."""
    path = data_file(data_dir, "all_runs.zip")
    def read():
        classes, archive, answers = read_classes(path, functools.partial(read_picture, ink="dark")), sound(path), []
        for run in range(1, 21):
            words = archive.read(f"run{run:02}/class_labels.txt").decode().split()
            answers.extend(int(name[-6:-4]) - 1 for name in words[1::2])  # of each item run01/training/class07.png
        images = torch.from_numpy(np.array(list(classes.values()))).flatten(0, 1)  # by run, test or training, number
        test, support = torch.arange(800).view(20, 2, 20).unbind(1)  # (20 runs, 20)
        alphabets = tuple(np.repeat(TEST_ALPHABETS, 40).tolist())
        return Trials(images, test.flatten(), support.repeat_interleave(20, 0), torch.tensor(answers), alphabets)
    with explained(f"{path} does not hold Lake's 20 runs; delete it"):
        return kept(path.with_name("lake.npz"), Trials, read)

def load_data(config):
    """Load the Drawings that config.data names, or invented ones where nobody named any and Omniglot cannot be had."""
    if config.data in ("auto", "omniglot"):
        try:
            data_file(config.data_dir, "all_runs.zip")  # now rather than after the training
            return load_omniglot(config.data_dir), "omniglot"
        except UserError as error:
            if config.data == "omniglot" or config.data_dir or os.environ.get("KOCH_DATA"):
                raise UserError(f"{error}; or use --data invented") from error
            print(f"Omniglot is not here: {error}.\nInvented alphabets take its place; no real drawing is among them.")
    if config.data in ("auto", "invented"):
        return kept(Path("data/invented.npz"), Drawings, lambda: invent_alphabets(0)), "invented"
    return as_drawings(read_classes(config.data, functools.partial(read_picture, ink=config.ink))), config.data

# Invented alphabets ---------------------------------------------------------------------------------------------------
# For a machine without data and network: strokes that look like Omniglot's at a glance. A stroke is (knots, curved): 2
# to 7 points (n, 2), and whether a curve joins them or lines. Whoever changes this deletes data/invented.npz.
def spline(n_knots, roundness):
    """Return a matrix (120, n_knots) that turns knots into points of lines (roundness 0), of a curve (1) or between."""
    place = np.linspace(0, n_knots - 1, 120)
    first = np.minimum(place.astype(int), n_knots - 2)
    f = (place - first)[:, None]
    knots = np.eye(n_knots)[np.clip(np.arange(-1, n_knots + 1), 0, n_knots - 1)]  # (n_knots + 2, n_knots): ends twice
    a, b, c, d = (knots[first + k] for k in range(4))  # of each point the four knots around it
    lines = b + f * (c - b)
    curve = b + f * (c - a + f * (2 * a - 5 * b + 4 * c - d + f * (3 * b - a - 3 * c + d))) / 2  # Catmull and Rom's
    return lines + roundness * (curve - lines)

def invent_stroke(rng, curves):
    """Invent a stroke: a walk that mostly turns to the same side again, as hooks and loops do. curves: their share"""
    n = rng.choice([1, 2, 3, 4, 5, 6], p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.1])
    turns = rng.choice([0, 45, 90, 135], n, p=[0.1, 0.3, 0.5, 0.1]) * np.cumprod(rng.choice([1, -1], n, p=[0.8, 0.2]))
    heading = np.radians(rng.choice([0, 45, 90]) + np.cumsum(turns) - turns[0])
    walk = np.cumsum([0, *(rng.choice([0.5, 1], n, p=[0.25, 0.75]) * np.exp(1j * heading))])  # points x + iy
    knots = np.stack([walk.real, walk.imag], 1) * rng.uniform(0.4, 1, 2)
    size = 0.1 if rng.random() < 0.08 else rng.uniform(0.4, 1)  # now and then a dot
    return knots * size / np.ptp(knots, axis=0).max(), rng.random() < curves

def invent_character(rng, n_strokes, curves):
    """Invent a character: a list of strokes, of which most touch an earlier one."""
    strokes = []
    for _ in range(n_strokes):
        knots, curved = invent_stroke(rng, curves)
        if strokes:
            other, _ = strokes[rng.integers(len(strokes))]
            place = spline(len(other), 0)[rng.choice([0, 59, 119])] @ other  # its begin, middle or end
            knots += place - rng.choice(knots) + rng.normal(0, rng.choice([0, 0.4], p=[0.75, 0.25]), 2)
        strokes.append((knots, curved))
    return strokes

def draw_by_hands(rng, hands, strokes):
    """Draw a character by n hands: (n, 105, 105) uint8, 1 = ink. hands: (n, 5, 2), how a drawer bends all characters"""
    n, paths = len(hands), []
    for knots, curved in strokes:
        drawn = (knots - knots.mean(0)) * rng.lognormal(0, 0.2, (n, 1, 2)) + knots.mean(0)  # wide, high
        drawn += rng.normal(0, 0.05, (n, 1, 2)) + rng.normal(0, 0.05, drawn.shape)  # the stroke's place, each knot's
        paths.append(spline(len(knots), rng.normal(curved, 0.3, (n, 1, 1)).clip(0, 1)) @ drawn)
    points = np.concatenate(paths, 1)  # (n, points, 2)
    points = (points - points.mean(1, keepdims=True)) / np.ptp(points, axis=1, keepdims=True).max(2, keepdims=True)
    x, y = points[..., :1], points[..., 1:]
    points += np.concatenate([x, y, x * x, x * y, y * y], -1) @ (hands + rng.normal(0, 0.05, hands.shape))
    points -= (points.max(1, keepdims=True) + points.min(1, keepdims=True)) / 2  # no place gives a character away
    reach = rng.lognormal(np.log(33) + rng.normal(0, 0.2), 0.15, (n, 1, 1)).clip(10, 48)  # pixels from the middle
    points *= reach / np.abs(points).max((1, 2), keepdims=True)
    points += 52 + rng.normal(0, 5, (n, 1, 2)).clip(reach - 49, 49 - reach)  # nothing leaves the paper
    nib = np.array([(x, y) for x in range(-3, 4) for y in range(-3, 4) if x * x + y * y < 12])  # (37, 2): a round pen
    pens = rng.lognormal(np.log(0.65), 0.2, (n, 1, 1, 1)).clip(0.4, 1)  # fine and broad
    dots = np.rint(points[:, :, None] + pens * nib).astype(int)  # (n, points, 37, 2)
    images = np.zeros((n, SIDE, SIDE), np.uint8)
    images[np.arange(n)[:, None, None], dots[..., 1], dots[..., 0]] = 1
    return images

def invent_alphabets(seed, n_alphabets=50, n_drawers=20):
    """Invent alphabets of 14 to 40 characters by n_drawers each: Drawings, the same for the same seed."""
    rng, classes = np.random.default_rng(seed), {}
    for a in range(n_alphabets):
        hands, busy, curves = rng.normal(0, 0.14, (n_drawers, 5, 2)), rng.uniform(1.5, 3.5), rng.uniform(0.3, 0.9)
        for c in range(rng.integers(14, 41)):
            strokes = invent_character(rng, 1 + min(rng.poisson(busy), 5), curves)
            classes[f"Invented{a + 1:02}", f"{c + 1:02}"] = draw_by_hands(rng, hands, strokes)
    return as_drawings(classes)._replace(by_drawer=True)

# Pictures -------------------------------------------------------------------------------------------------------------
GREY, BLUE, GREEN, RED = "#bbbbbb", "#0072b2", "#009e73", "#d55e00"  # hues that all kinds of colour vision tell apart

def draw_page(path, title, cells):
    """Write a PNG of cells: (column, row, image (H, W) in 0..1 with 1 = ink, colour of its frame, text below)."""
    columns, rows = (1 + max(cell[axis] for cell in cells) for axis in (0, 1))
    page = Image.new("RGB", (max(440, 12 + 92 * columns), 28 + 100 * rows), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    pen.text((10, 6), title, "black", font)
    for column, row, image, colour, text in cells:
        x, y = 12 + 92 * column, 30 + 100 * row
        grey = Image.fromarray(np.uint8(255 * (1 - np.asarray(image, float))))
        page.paste(ImageOps.pad(grey, (70, 70), color=255), (x, y))
        pen.rectangle((x - 2, y - 2, x + 71, y + 71), outline=colour, width=1 if colour == GREY else 2)
        pen.text((x, y + 74), text[:13], "black", font)
    content = io.BytesIO()
    page.quantize(64).save(content, "PNG", optimize=True)
    write_whole(path, content.getvalue())

def draw_trials(trials, answers, path):
    """Draw the first of Trials and, to its right, 20 that were answered wrong: test, chosen and right image."""
    images, wrong = trials.images.cpu(), torch.where(answers != trials.answers)[0].tolist()
    cells = [(0, 0, images[trials.test[0]], "black", "test")]
    for way, place in enumerate(trials.support[0].tolist()):
        colour, text = (GREEN, "right") if way == trials.answers[0] else (GREY, "")
        cells.append((1 + way % 4, way // 4, images[place], colour, text))
    for i, trial in enumerate(wrong[:20]):
        column, row, support = 6 + i // 5 * 3, i % 5, trials.support[trial]
        cells.append((column, row, images[trials.test[trial]], "black", "test"))
        if answers[trial] >= 0:
            cells.append((column + 1, row, images[support[answers[trial]]], RED, "chosen"))
        cells.append((column + 2, row, images[support[trials.answers[trial]]], GREEN, "right"))
    draw_page(path, f"a trial of {trials.alphabets[0]}, and {len(wrong)} wrong answers of {len(answers)}", cells)

# Training and testing, around the loop --------------------------------------------------------------------------------
RUNS = Path("runs")
WEIGHTS = Path(__file__).resolve().parent / "tutorials" / "weights" / "reduced.pt"  # of --minutes 10
TITLES = dict(verification="10,000 pairs, half of them the same", lake="Lake's 400 one-shot trials, within an alphabet")
TITLES |= dict(within="2,000 fresh trials, within an alphabet", across="2,000 fresh trials, across alphabets")
SAVED = dict(step=int, improved=int, best=float, best_step=int, rows=list, loss=float, seconds=float)  # in last.pt
SWALLOWED = []  # interrupts that came within a destructor, where an exception ends nothing: train looks here

class Run:
    """Hold what a training changes: net, optimizers, how far it is, its log; state: what save left, to go on from."""
    def __init__(self, config, state=None):
        torch.manual_seed(config.seed)  # of the initial weights; every later draw comes from step_rng
        self.net = SiameseNet(config.size)
        if config.recipe == "paper":
            paper_initialisation(self.net)
        if config.from_ and not state:
            with explained(f"the weights in {config.from_} are not those of a net of size {config.size}"):
                self.net.load_state_dict(load_state(config.from_)["net"])
        self.net.to(config.device).train().precision = config.precision
        self.optimizers = make_optimizers(self.net, config)
        self.step, self.improved = 0, 0  # steps taken; the step of the last better validation
        self.best, self.best_step, self.best_weights = -1.0, 0, None  # of the validations
        self.rows, self.loss, self.seconds = [], 0.0, 0.0  # the log; the sum of the losses since its last row
        if state:
            with explained("what last.pt holds is not the state of a training"):
                self.net.load_state_dict(state["net"])
                for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                    optimizer.load_state_dict(saved)
            vars(self).update({name: state[name] for name in SAVED})

    def log(self, loss, accuracy, config):
        """Add a step's loss; at each hundredth of the steps and each validation, a row of the log; print the latter."""
        self.loss = self.loss + loss  # a tensor: nothing waits for it
        if accuracy is not None or self.step % math.ceil(config.steps / 100) == 0:
            mean = float(self.loss) / (self.step - (self.rows[-1]["step"] if self.rows else 0))
            if not math.isfinite(mean):
                raise UserError(f"the loss is {mean} at step {self.step}; lower the learning rates, see train --help")
            self.rows.append({"step": self.step, "loss": mean, "validation": accuracy})
            self.loss = 0.0
        if accuracy is not None:
            text, left = f"step {self.step:,} of {config.steps:,}", (config.steps / self.step - 1) * self.seconds
            print(f"{text}: loss {mean:.3f}, {100 * accuracy:.1f} % of validation right, {left:.0f} s left", flush=True)

    def save(self, folder, config):
        """Save last.pt, from which the training can go on, and best.pt if the best weights are those of this step."""
        if self.best_weights and self.best_step == self.step:
            save_checkpoint(folder / "best.pt", self.best_weights, config, step=self.step, validation=self.best)
        self.loss = float(self.loss)
        state = {name: vars(self)[name] for name in SAVED} | {"optimizers": [o.state_dict() for o in self.optimizers]}
        save_checkpoint(folder / "last.pt", self.net.state_dict(), config, **state)

def train(config, resume=None):
    """Train a net, keep the weights that are best on the validation trials (fast: the last), and test them.
    resume: folder of a stopped run, to go on with its own config as if it had not been stopped
    Returns the results, as in results.json. Raises UserError, and KeyboardInterrupt with the command that goes on."""
    if resume and config != Config():
        raise UserError("--resume goes on with the run's own options and takes no others")
    state = load_state(Path(resume) / "last.pt", **SAVED) if resume else None
    config = settle(state["config"] if resume else config)
    join_processes(config)
    drawings, data = load_data(config)
    config = dataclasses.replace(config, data=data)  # going on with this run will insist on the same data
    training, validation, test = (part.to(config.device) for part in split(drawings))
    draw_pairs(test, 2, torch.Generator())  # what would fail at the end fails here, before anything is written
    counts = ", ".join(f"{len(part.images)} {name}" for part, name in zip((training, validation, test), DRAWERS))
    if config.recipe == "fast":  # deviates: all 20 drawers; §4.2 trains on 12 and validates on 4
        training, watched, pairs = enough_drawings(training, config), validation, None
    else:
        training, watched = only_drawers(training, "training"), only_drawers(validation, "validation")
        pairs = training_pairs(training, config)
    if config.size < SIDE:  # once, and not in each minibatch
        training = training._replace(images=torch.stack([to_input(row, config.size)[:, 0] for row in training.images]))
    trials = one_shot_trials(watched, None, N_VALIDATION, torch.Generator().manual_seed(TRIALS_SEED))
    run = Run(config, state)
    folder = Path(resume) if resume else new_folder(config)
    print(f"{data}: {counts} characters; results go to {folder}/")
    print(f"{run.net.n_parameters:,} parameters, {config.size}x{config.size} pixels, {config.precision}", flush=True)
    started, saved = time.perf_counter() - run.seconds, run.seconds
    try:
        run.save(folder, config)  # from the first moment on the folder can be gone on with
        for loss, accuracy in training_loop(run, training, pairs, trials, config):
            run.seconds = time.perf_counter() - started
            run.log(loss, accuracy, config)
            if SWALLOWED:  # by stop
                raise KeyboardInterrupt
            if accuracy is not None or run.seconds > saved + 60:
                run.save(folder, config)
                saved = run.seconds
        return finish(run, config, folder, validation, test) if RANK == 0 else None
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"go on with: python koch.py train --resume {folder}") from error

def join_processes(config):
    """Join the processes that torchrun started, if it did; only the first prints results and writes the run's files."""
    if N_PROCESSES > 1:
        if config.device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl" if config.device == "cuda" else "gloo")
    sys.stdout = sys.stdout if RANK == 0 else io.StringIO()

def new_folder(config):
    """Make the folder of a new run, runs/NAME, which no other process makes. Raises UserError if it is taken."""
    folder = RUNS / (config.name or f"{config.recipe}-{Path(config.data).stem}-{config.size}-seed{config.seed}")
    numbered = (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))
    for path in itertools.chain([folder], [] if config.name else numbered):
        with contextlib.suppress(FileExistsError):
            if RANK == 0:
                path.mkdir(parents=True)
            return path
    raise UserError(f"{folder}/ is there already; take another --name, delete it, or go on with --resume {folder}")

def finish(run, config, folder, validation, test):
    """Calibrate the best checkpoint on validation pairs, answer the test pairs and trials once, write the results."""
    net = load_checkpoint(folder / "best.pt", config)
    if not net.calibrated:  # else the run was finished before, and says the same again
        net.scale, net.shift = calibration(net, validation)
        more = {"step": net.step, "validation": net.validation, "calibration": (net.scale, net.shift)}
        save_checkpoint(folder / "best.pt", net.state_dict(), config, **more)
    for part in folder.glob("*.part"):  # of a process that was killed
        part.unlink()
    results, trials, answers = evaluate(net, test, config)
    results |= {"config": dataclasses.asdict(config), "torch": torch.__version__, "seconds": run.seconds}
    results |= {"best_step": net.step, "validation": net.validation, "log": run.rows}
    write_whole(folder / "results.json", json.dumps(results, indent=1).encode())
    draw_trials(trials, answers, folder / "trials.png")
    print(f"in {folder}/: " + ", ".join(sorted(path.name for path in folder.iterdir())))
    if config.data == "omniglot" and (longer := [n for n in BUDGETS if BUDGETS[n]["steps"] > config.steps]):
        print(f"python koch.py train --minutes {longer[0]} trains longer and gets more of them right")
    return results

def evaluate(net, test, config):
    """Answer the pairs and the trials of the test Drawings of config.data with a net of load_checkpoint; print results.
    Returns {"verification": as verify, "lake", "within", "across": as counted}, and the first Trials and answers."""
    drawn, rng = {}, torch.Generator().manual_seed(TRIALS_SEED)
    lakes = data_file(config.data_dir, "all_runs.zip", download=False)
    if config.data == "omniglot" or config.data == "invented" and lakes.is_file():
        drawn["lake"] = lake_trials(config.data_dir)
    drawn["within"] = one_shot_trials(test, None, N_FRESH, rng)
    if len(test.names) > 1:
        drawn["across"] = one_shot_trials(test, None, N_FRESH, rng, within_alphabet=False)
    print(f"\npercent right, trained on {Path(net.config.data).name:24.24}this net   95 % interval  pixel 1-NN  chance")
    nearest, answers = PixelNearestNeighbour(), {}
    h, h_nearest = (image_features(model, test.images.flatten(0, 1)) for model in (net, nearest))
    results = {"verification": verify(net, test, h) | {"chance": 0.5}}
    for key, trials in drawn.items():
        fresh = key != "lake"  # of the drawings in test, whose features are there
        answers[key] = one_shot_answers(net, trials, h if fresh else None)
        results[key] = counted(answers[key] == trials.answers) | {"chance": 1 / trials.support.shape[1]}
        results[key]["pixels"] = one_shot_accuracy(nearest, trials, h_nearest if fresh else None)
    for key, result in results.items():
        low, high = result["interval"]
        pixels = f"{100 * result['pixels']:.2f}" if "pixels" in result else ""
        print(f"  {TITLES[key]:<48}{100 * result['accuracy']:8.2f}{100 * low:8.1f} .. {100 * high:4.1f}", end="")
        print(f"{pixels:>12}{100 * result['chance']:8.1f}")
    if config.data == "omniglot":
        print("The paper: 93.42 of its pairs, 92.0 (88.9 .. 94.3) of Lake's trials. People: 95.5 of Lake's trials.")
    return results, *next(zip(drawn.values(), answers.values()))

def save_checkpoint(path, weights, config, **more):
    """Save a net's state_dict, how it was trained, and more; path is whole or is not there; one process writes."""
    content = io.BytesIO()  # writing this to a full disk is an OSError; torch's own writing is not
    torch.save({"net": weights, "config": dataclasses.asdict(config)} | more, content)
    if RANK == 0:
        write_whole(path, content.getvalue())

def load_state(path, **more):
    """Load a checkpoint as a dict; more: {key: type} of what it must hold besides net, config and step.
    Raises UserError when it is missing, damaged or not koch.py's."""
    with explained(f"{path} is not a checkpoint of koch.py, or damaged; name another or delete it"):
        state = {"validation": 0.0} | torch.load(sound(path).filename, map_location="cpu", weights_only=True, mmap=True)
        wanted = {"net": dict, "config": dict, "step": int, "validation": float} | more
        if wrong := [name for name, kind in wanted.items() if not isinstance(state.get(name), kind)]:
            raise ValueError(f"it has no {', '.join(wrong)}")
        types = {field.name: field.type for field in dataclasses.fields(Config)}
        if wrong := [str(name) for name, value in state["config"].items() if type(value) is not types.get(name)]:
            raise ValueError(f"its config has {', '.join(wrong)}, which this version does not know, or not so")
        return state | {"config": Config(**state["config"])}

def load_checkpoint(path, settings=None):
    """Load a trained net for evaluation, on the CPU in float32 or as a settled Config says. Raises UserError.
    Its attributes say how it was trained: config, step, calibrated and validation accuracy, 0.0 if not known."""
    state = load_state(path)
    with explained(f"the weights in {path} are not those of a net of its size; name another one"):
        net = SiameseNet(state["config"].size)
        net.load_state_dict(state["net"])  # half precision becomes float32
        net.scale, net.shift = map(float, state.get("calibration", (1.0, 0.0)))
    net.config, net.step, net.validation = state["config"], state["step"], state["validation"]
    net.calibrated = "calibration" in state
    if settings:
        net.to(settings.device).precision = settings.precision
    net.n_looks = len(LOOKS[0]) if net.config.recipe == "fast" and net.config.turns else 1
    return net.eval()

def choose_net(checkpoint, config):
    """Load the named checkpoint, else the best on validation of those trained on the same data as the newest of runs/:
    of runs/ and the project's own. Prints which. Raises UserError."""
    newest_first = sorted(RUNS.glob("*/best.pt"), key=os.path.getmtime, reverse=True)
    paths = [Path(checkpoint)] if checkpoint else [path for path in (*newest_first, WEIGHTS) if path.is_file()]
    if not paths:
        raise UserError(f"there is no trained net in {RUNS}/; python koch.py train makes one")
    states = {path: load_state(path) for path in paths}
    data = states[paths[0]]["config"].data
    rivals = [path for path in paths if states[path]["config"].data == data]
    path = max(rivals, key=lambda path: states[path]["validation"])
    net, known = load_checkpoint(path, config), 100 * states[path]["validation"]
    print(f"{os.path.relpath(path)}, best of {len(rivals)} trained on {data}: {known:.1f} % of validation right")
    if not net.calibrated:  # it is of a training that was stopped
        _, validation, _ = split(load_data(dataclasses.replace(net.config, data_dir=config.data_dir))[0])
        net.scale, net.shift = calibration(net, validation)
    return net

# Configuration and command line ---------------------------------------------------------------------------------------
BUDGETS = {  # --minutes of two CPU cores
    1: {"steps": 400, "size": 35, "learning_rate": 0.03, "learning_rates": "0.0738"},
    10: {"steps": 3200, "size": 51, "learning_rate": 0.02, "learning_rates": "0.0738"},
}
FULL = {"steps": 4000, "size": 105, "learning_rate": 0.01, "learning_rates": "0.003"}  # a minute of a data centre's GPU
CHOICES = {"recipe": ("fast", "paper"), "ink": ("auto", "dark", "light"), "device": ("auto", "cpu", "cuda")}
CHOICES |= {"minutes": tuple(BUDGETS), "size": (0, *SIZES), "precision": ("auto", "float32", "bfloat16")}
LEAST = dict(characters=2, drawings=2, pairs=2, alphabets=1, validations=1, batch=1, epochs=1, patience=1)

@dataclasses.dataclass(frozen=True)
class Config:
    """Say all that decides a training. The comments give each value's source and are what --help shows."""
    # data
    data: str = "auto"  # omniglot (§4.1), invented, or a folder or zip of pictures (ours); auto: omniglot, if at hand
    data_dir: str = ""  # ours: folder of the data files, which are downloaded if missing; else $KOCH_DATA, else data
    ink: str = "auto"  # ours: whether the ink in your own pictures is dark or light; auto: what the border is not
    # net
    size: int = 0  # pixels: 105 (§3.1), 35 (§4.4: the reduced net) or 51 (ours); 0: by --minutes, but 105 on cuda for 1
    device: str = "auto"  # ours: what computes; auto: cuda if there is one
    precision: str = "auto"  # ours: of the twin net's numbers; auto: bfloat16 if the device computes in it
    # output
    name: str = ""  # ours: the results go to runs/NAME; else named by recipe, data, size and seed
    # training
    from_: str = ""  # ours: checkpoint whose weights to start from, and whose size is taken; else they are drawn
    minutes: int = 1  # ours: about how long to train on two CPU cores, which decides steps, size and more
    recipe: str = "fast"  # ours: fast trains as one would today; paper trains as §3.2 does
    steps: int = 0  # ours: minibatches to train on; 0: by --minutes, or all epochs of the paper's recipe
    seed: int = 0  # ours: of the training's random draws; validation and test have their own
    alphabets: int = 4  # deviates: fast: alphabets in a minibatch; §3.2 has 128 pairs of any
    characters: int = 10  # deviates: fast: characters of each alphabet in a minibatch
    drawings: int = 3  # deviates: fast: drawings of each character in a minibatch
    turns: bool = True  # deviates: fast: turned and mirrored alphabets are alphabets too
    learning_rate: float = 0.0  # deviates: fast: Muon's highest, for the layers' weights; 0: by --minutes
    validations: int = 5  # ours: fast: how often the 320 validation trials (§3.2) are answered
    distortion: float = 1.0  # ours: factor of the ranges of §3.2's distortions and, in fast, of its bends
    # the paper's recipe
    pairs: int = 150_000  # §4.2: training pairs: 30000, 90000 or 150000
    distort: bool = False  # §3.2: add eight distorted copies of each pair; fast distorts every drawing anyway
    batch: int = 128  # §3.2: pairs in a minibatch
    epochs: int = 200  # §3.2: times through all pairs, at most
    patience: int = 20  # §3.2: epochs without a better validation, after which training stops
    learning_rates: str = ""  # §3.2: eta_j, one for all layers or each, by commas; ours: 0.0738, or 0.003 at size 105
    momenta: str = "0.948"  # §3.2: mu_j, likewise; the paper prints no value of the three; ours were found at size 35
    penalties: str = "1e-3"  # §3.2: lambda_j of the L2 penalty, likewise

def settle(config):
    """Check a configuration and fill in what it leaves open: device, size, precision, steps. Raises UserError."""
    for name, value in dataclasses.asdict(config).items():
        if not isinstance(value, str) and not LEAST.get(name, 0) <= value < 2**40:
            raise UserError(f"--{name.replace('_', '-')} is at least {LEAST.get(name, 0)}, below 2**40, not {value}")
        if name in CHOICES and value not in CHOICES[name]:
            raise UserError(f"--{name} is one of {CHOICES[name]}, not {value!r}")
    if not re.fullmatch(r"(\w[\w.,=+-]*)?", config.name):
        raise UserError(f"--name is the name of a folder in {RUNS}/, not {config.name!r}")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no CUDA device here; use --device cpu, or go on where the run began")
    device = config.device.replace("auto", "cuda" if torch.cuda.is_available() else "cpu")
    # A device with bfloat16 units multiplies matrices about 2.5 times as fast in it as in float32.
    units = torch.cuda.is_bf16_supported(False) if device == "cuda" else torch.cpu._is_avx512_bf16_supported()
    minutes = config.minutes if config.recipe == "fast" else 1
    size = load_state(config.from_)["config"].size if config.from_ and not config.size else config.size
    full = size == 105 or size == 0 and device == "cuda" and minutes == 1
    found = dict(FULL if full else BUDGETS[minutes], device=device, precision="bfloat16" if units else "float32")
    found["size"] = size or found["size"]
    if config.recipe == "paper":
        found["steps"] = config.epochs * epoch_steps(config)
    still_open = {name: value for name, value in found.items() if getattr(config, name) == getattr(Config, name)}
    return dataclasses.replace(config, **still_open)

def by_layer(text, n_layers):
    """Return a number for each of a net's layers, of which "0.1" gives the same to all. Raises UserError."""
    words = text.split(",")
    if len(words) not in (1, n_layers) or not all(re.fullmatch(r"\d*\.?\d+(e-?\d+)?", word) for word in words):
        raise UserError(f"layers take one number for all or {n_layers}, by commas, not {text!r}; see train --help")
    return [float(word) for word in words] * (n_layers // len(words))

class Parser(argparse.ArgumentParser):
    """Parse a command line; an error is one line and exit status 2."""
    def error(self, message):
        self.exit(2, f"koch.py: {message}; {self.prog} --help lists what there is\n")

def add_options(parser, *names):
    """Give a parser options for the named fields of Config, or all, with its comments as groups and as help."""
    source = Path(__file__).read_text(encoding="utf-8").partition("\nclass Config:")[2].partition("\ndef ")[0]
    types = {field.name: field.type for field in dataclasses.fields(Config)}
    for title, name, text in re.findall(r"^    (?:# ([a-z' ]+)$|(\w+): .*?  # (.*))", source, re.MULTILINE):
        if title:
            group = parser.add_argument_group(title)
        elif name in names or not names:
            how = {"type": types[name], "default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
            how |= {"choices": CHOICES[name]} if name in CHOICES else {"metavar": types[name].__name__.upper()}
            if types[name] is bool:
                how = {"action": argparse.BooleanOptionalAction, "default": argparse.SUPPRESS, "help": text}
            if getattr(Config, name) not in ("", "auto", 0):
                how["help"] += f" (default: {getattr(Config, name)})"
            group.add_argument("--" + name.strip("_").replace("_", "-"), dest=name, **how)

def oneshot(checkpoint, **options):
    """Answer the test pairs and one-shot trials with a trained net (§4.2, §4.3)."""
    config = settle(Config(**options))
    net = choose_net(checkpoint, config)
    if config.data == "auto" and net.config.data != "omniglot":
        config = dataclasses.replace(config, data=net.config.data, ink=net.config.ink)
    test, data = load_data(config)
    if test.by_drawer or Path(data).resolve() == Path(net.config.data).resolve():  # others are a test set as a whole
        _, _, test = split(test)
    evaluate(net, test, dataclasses.replace(config, data=data))

@torch.no_grad()
def classify(support, images, checkpoint, as_json, picture, **options):
    """Say which class of a folder each picture shows, if any or, if support is a picture, whether it shows the same.
    Each picture is read by itself: as a symbol, or all of it by a net that was trained on pictures of your own."""
    config, seen = settle(Config(**options)), []  # what read_symbol found
    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        net = choose_net(checkpoint, config)
        read = functools.partial(read_picture, ink=config.ink)
        if net.config.data in ("omniglot", "invented"):
            read = functools.partial(read_symbol, ink=config.ink, found=seen)
        if support.lower().endswith(SUFFIXES):
            drawings = as_drawings({("", Path(support).stem): [read(support, support)]})
        else:
            drawings = as_drawings(read_classes(support, read, support=True))
        queries = torch.from_numpy(np.stack([read(image, image) for image in images]))
    logits, h, cells, answers = [], image_features(net, queries), [], []
    for shown, n in zip(drawings.images, drawings.counts):  # a class's logit is the mean over its pictures
        logits.append(net.logit(h[:, None], image_features(net, shown[:n])).mean(1))
    logits = torch.stack(logits, 1).float().cpu()  # (queries, classes)
    in_order = iter(seen)
    pictures = [list(itertools.islice(in_order, n)) for n in drawings.counts.tolist()]  # of each class
    for row, (image, p) in enumerate(zip(images, logits.sigmoid().tolist())):
        known = max(p) > (0.75 if len(p) > 1 else 0.5)  # ours: of many classes one is near by chance
        order = sorted(range(len(p)), key=lambda i: -logits[row, i])
        ranking = [{"class": drawings.characters[i], "p": p[i], "pictures": pictures[i]} for i in order]
        answers.append({"image": image, "same": known, **next(in_order, {}), "answers": ranking})
        if row < 20:
            cells.append((0, row, queries[row], "black", Path(image).name))
            for rank, i in enumerate(order[:7]):
                colour = BLUE if known and rank == 0 else GREY
                cells.append((1 + rank, row, drawings.images[i, 0], colour, f"{p[i]:.2f} {drawings.characters[i]}"))
        if not as_json:
            nearest = ", ".join(f"{answer['class']} (p = {answer['p']:.3f})" for answer in ranking[:5])
            before = "none of these; the nearest: " if len(p) > 1 and not known else ""
            after = (", the same" if known else ", not the same") if len(p) == 1 else ""
            print(f"{image}: {before}{nearest}{after}")
    draw_page(picture, "what the net sees: left the picture, right the classes by p, the answer in blue", cells)
    print(json.dumps(answers, indent=1, ensure_ascii=False) if as_json else f"picture: {picture}")

def stop(*_):
    """End what runs by a KeyboardInterrupt; a second signal does not disturb the way to main's line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.unraisablehook = SWALLOWED.append
    raise KeyboardInterrupt

def main(arguments=None):
    """Run the command line; return the exit status: 0, 2 for bad input, 130 when stopped by Ctrl-C or SIGTERM."""
    parser = Parser(prog="koch.py", description=__doc__.splitlines()[0])
    exact = functools.partial(Parser, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command", parser_class=exact)
    command = commands.add_parser("train", help="train the twin net, then answer the test pairs and trials")
    add_options(command)
    command.add_argument("--resume", metavar="FOLDER", help="go on with a stopped run as if it had not been stopped")
    named = "best.pt or last.pt (default: the best on validation of the nets trained on the newest one's data)"
    command = commands.add_parser("oneshot", help="answer the test pairs and one-shot trials with a trained net")
    command.add_argument("checkpoint", nargs="?", help=named)
    add_options(command, "data", "data_dir", "ink", "device", "precision")
    command = commands.add_parser("classify", help="which class of a folder does a picture belong to?")
    command.add_argument("--support", required=True, metavar="FOLDER", help="CLASS.png or CLASS/PICTURE; or a picture")
    command.add_argument("images", nargs="+", metavar="PICTURE", help="the pictures to classify")
    command.add_argument("--checkpoint", help=named)
    command.add_argument("--json", action="store_true", dest="as_json", help="answers as JSON, with ink and box")
    command.add_argument("--picture", default=RUNS / "classify.png", type=Path, help="(default: %(default)s)")
    add_options(command, "data_dir", "ink", "device", "precision")
    options = vars(parser.parse_args(arguments))
    command, resume = options.pop("command"), options.pop("resume", None)
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # a shell's background jobs ignore Ctrl-C
                signal.signal(number, stop)
        functions = {"train": lambda **how: train(Config(**how), resume), "oneshot": oneshot, "classify": classify}
        functions[command](**options)
        return 0
    except KeyboardInterrupt as error:
        print("\nkoch.py: " + "; ".join(("stopped", *error.args)), file=sys.stderr)
        return 130
    except UserError as error:
        print(f"koch.py: {error}", file=sys.stderr)
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"koch.py: {error.filename or 'a file'} cannot be read or written ({error.strerror})", file=sys.stderr)
    return 2

if __name__ == "__main__":
    sys.exit(main())
