"""What is done with a trained net: the commands verify, oneshot and classify of koch.py."""

import contextlib
import dataclasses
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch

import koch
from koch import RUNS, UserError
from reference_numpy import files, folders, measures, tables
from tutorials import pictures

WEIGHTS = Path(__file__).resolve().parent / "weights" / "reduced.pt"  # what the default command trains, with seed 0
N_SWEEP = 2000  # trials for each number of ways and shots


def choose_net(checkpoint, config):
    """Load the named checkpoint, else the newest of runs/, else the weights that come with the project; say which.

    Returns the SiameseNet and the folder for pictures: its run's, else runs/. Raises UserError.
    """
    found = sorted([*RUNS.glob("*/best.pt"), *RUNS.glob("*/best.npz")], key=lambda path: path.stat().st_mtime)
    path = Path(checkpoint or (found[-1] if found else WEIGHTS))
    net = koch.load_checkpoint(path, config.device)
    net.precision = config.precision
    which = f"no checkpoint in {RUNS}/, so the project's own, tutorials/weights/{path.name}"
    trained = f"{net.n_parameters:,} parameters, trained on {net.config.data}"
    print(f"{which if path == WEIGHTS else path}: {trained}", flush=True)
    return net, path.parent if RUNS.resolve() in path.resolve().parents else RUNS


def own_data(net):
    """Return the data set to load for a net: its own, or "auto": invented alphabets where Omniglot cannot be had."""
    return "auto" if net.config.data == "omniglot" else net.config.data


def see_to_threshold(net, config):
    """Choose a net's threshold on its own data set's validation pairs if its checkpoint has none."""
    if net.threshold is None:
        _, validation, *_ = koch.load_data(dataclasses.replace(config, data=own_data(net)))
        koch.settle_threshold(net, validation)


def load_test(net, config):
    """Load what a net is tested on: test Drawings of the named data set, else of the net's own, and their name.

    A folder of pictures that the net was not trained on is a test set as a whole. Raises UserError.
    """
    data = own_data(net) if config.data == "auto" else config.data
    if data not in ("auto", *files.DATA_SETS, net.config.data):
        return koch.as_tensors(files.load_own(data, config.ink), config.device), data
    *_, test, data = koch.load_data(dataclasses.replace(config, data=data))
    return test, data


def probability(logit):
    """Return the sigmoid of a logit."""
    return 1 / (1 + math.exp(-min(700.0, max(-700.0, logit))))


def draw_results(net, trials, drawings, pairs, logits, folder):
    """Draw what koch.evaluate returned to draw: trials.png, if there are trials, and verification.png."""
    if trials:
        pictures.draw_trials(koch.as_arrays(trials), koch.one_shot_answers(net, trials).numpy(), folder / "trials.png")
    logits, (first, second, same, _), drawings = logits.numpy(), koch.as_arrays(pairs), koch.as_arrays(drawings)
    images = drawings.images.reshape(-1, *drawings.images.shape[2:])
    mistakes = {}  # the most confident first, no two drawings twice
    for i in np.argsort(-np.abs(logits - net.threshold), kind="stable"):
        if (logits[i] > net.threshold) != same[i]:
            both = min(first[i], second[i]), max(first[i], second[i])
            mistakes.setdefault(both, (images[first[i]], images[second[i]], logits[i], same[i]))
    mistakes = [[pair for pair in mistakes.values() if pair[3] == kind][:6] for kind in (True, False)]
    false, true, _ = measures.roc(logits, same)
    curve = (false, true, *measures.area_and_equal_error(false, true))
    pictures.draw_verification(logits, same, net.threshold, curve, sum(mistakes, []), folder / "verification.png")


# verify ---------------------------------------------------------------------------------------------------------------


def verify(files, **options):
    """Take the test pairs with a checkpoint (§4.2), or say of two images whether they show the same character.

    files: [], [checkpoint], [image, image] or [checkpoint, image, image]; options: fields of koch.Config
    """
    config = koch.settle(koch.Config(**options))
    checkpoint, images = (files[0], files[1:]) if files and files[0].endswith((".pt", ".npz")) else (None, files)
    if len(images) not in (0, 2):
        raise UserError("verify takes a checkpoint, or two images, or a checkpoint and two images")
    pair = torch.from_numpy(folders.load_pictures(images, config.ink)) if images else None
    net, folder = choose_net(checkpoint, config)
    see_to_threshold(net, config)
    if images:
        compare(net, pair)
        return 0
    test, data = load_test(net, config)
    _, to_draw = koch.evaluate(net, test, data, config.data_dir, pairs_alone=True)
    draw_results(net, *to_draw, folder)
    print(f"\npicture: {folder / 'verification.png'}")
    return 0


@torch.no_grad()
def compare(net, pair):
    """Print whether two images, (2, H, W) float, 1 = ink, show the same character, with the probability."""
    h1, h2 = koch.image_features(net, pair)
    logit, itself = float(net.logit(h1, h2)), float(net.logit(h1, h1))
    answer = "the same character" if logit > net.threshold else "different characters"
    p, identical, threshold = map(probability, (logit, itself, net.threshold))
    print(f"{answer}: p = {p:.4f}; two images are called the same above p = {threshold:.4f}")
    print(f"Identical images are at no distance, which leaves them p = sigmoid(bias) = {identical:.4f}, not 1.")


# oneshot --------------------------------------------------------------------------------------------------------------


def oneshot(checkpoint=None, way=None, shot=None, baseline=None, **options):
    """Take one-shot trials with a checkpoint or a baseline (§4.3), MNIST's (§4.4), or a sweep of ways and shots."""
    config = koch.settle(koch.Config(**options))
    if baseline:
        model, results = koch.load_baseline(baseline), {}
        *_, test, data = koch.load_data(config)
        for key, trials in koch.draw_test_trials(test, data, config.data_dir).items():
            results[key] = koch.take_trials(model, trials)
        tables.print_trials(results, model.name, data)
        return 0
    net, folder = choose_net(checkpoint, config)
    if config.data == "mnist":
        tables.print_mnist(koch.take_mnist(net, config.data_dir), koch.name_of(net))
        return 0
    test, data = load_test(net, config)
    if way or shot:
        rows = sweep(net, test, way or [koch.widest(test)], shot or [1])
        tables.print_sweep(rows)
        pictures.draw_sweep(rows, folder / "sweep.png")
        print(f"\npicture: {folder / 'sweep.png'}")
        return 0
    see_to_threshold(net, config)
    koch.evaluate(net, test, data, config.data_dir)
    return 0


def sweep(net, test, ways, shots):
    """Take fresh trials of every number of ways and of shots, within an alphabet and across.

    Returns rows {where, way, shot, n, accuracy, low, high, pixels, chance}; fractions in 0..1. Raises UserError when
    there are too few characters or drawings for one of them.
    """
    rows, drawn = [], []
    for where in ("within", "across")[: min(2, len(test.names))]:
        for way, shot in itertools.product(sorted(set(ways)), sorted(set(shots))):
            rng = torch.Generator().manual_seed(koch.TRIALS_SEED)
            rows.append({"where": where, "way": way, "shot": shot, "n": N_SWEEP, "chance": 1 / way})
            drawn.append(koch.one_shot_trials(test, way, N_SWEEP, rng, where == "within", shot))
    models = {"accuracy": net, "pixels": koch.load_baseline("pixels")}
    features = {key: koch.image_features(model, test.images.flatten(0, 1)) for key, model in models.items()}
    for row, trials in zip(rows, drawn):
        row |= {key: koch.one_shot_accuracy(model, trials, features[key]) for key, model in models.items()}
        row["low"], row["high"] = measures.wilson_interval(round(row["accuracy"] * N_SWEEP), N_SWEEP)
    return rows


# classify -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def rank(net, support, queries):
    """Rank the classes of a support folder for each query.

    support: koch.Drawings of one alphabet, its characters the classes' names; queries: (n, H, W) float, 1 = ink
    Returns for each query [(class, logit), ...], the likeliest first; the logit is the mean over the class's pictures.
    """
    present = torch.arange(support.images.shape[1]) < support.counts[:, None]  # (classes, most)
    h, h_queries = (koch.image_features(net, images) for images in (support.images[present], queries))
    rankings = []
    for query in h_queries:
        logits = torch.zeros(present.shape, dtype=torch.float64)
        logits[present] = net.logit(query, h).double().cpu()
        means = (logits.sum(1) / support.counts).tolist()
        rankings.append(sorted(zip(support.characters, means), key=lambda item: (-item[1], item[0])))
    return rankings


def classify(support, images, checkpoint=None, as_json=False, picture=RUNS / "classify.png", **options):
    """Say which class of a folder each image belongs to, ranked, with the probability of being the same character."""
    config = koch.settle(koch.Config(**options))
    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        drawings, ink = folders.load_support(support, config.ink)
        queries = torch.from_numpy(folders.load_pictures(images, ink))
        net, _ = choose_net(checkpoint, config)
        see_to_threshold(net, config)  # and with it that p means something
    rankings = rank(net, koch.as_tensors(drawings), queries)
    answers = [[(name, probability(logit)) for name, logit in ranking] for ranking in rankings]
    first = dict(zip(drawings.characters, drawings.images[:, 0]))
    pictures.draw_ranking(list(zip(images, queries.numpy(), answers)), first, Path(picture))
    if as_json:
        ranked = ([{"class": name, "p": p} for name, p in each] for each in answers)
        said = [{"image": name, "answers": each} for name, each in zip(images, ranked)]
        print(json.dumps(said, indent=1, ensure_ascii=False))
        return 0
    for name, each in zip(images, answers):
        more = f", and {len(each) - 5} more" if len(each) > 5 else ""
        print(f"{name}: " + ", ".join(f"{c} (p = {p:.3f})" for c, p in each[:5]) + more)
    print(f"picture: {picture}")
    return 0
