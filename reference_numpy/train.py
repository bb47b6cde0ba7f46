"""Train the reduced net (35x35 pixels) without torch: koch.py's fast recipe, less its bends and looks (§3.2)."""

import csv
import json
import os
import re
import time
from pathlib import Path

import numpy as np

from . import baselines, data, layers, learning, network
from .data import UserError

SIZE = 35  # pixels
ALPHABETS, CHARACTERS, DRAWINGS = 4, 10, 3  # in a minibatch: 120 images, every two of an alphabet a pair
MUON_RATE, ADAMW_RATE, WEIGHT_DECAY = 0.02, 2e-3, 0.01  # of the twin's weights; of all else; Muon's
WARMUP = 200  # steps to the highest rates
N_VALIDATION, VALIDATIONS = 320, 8  # §3.2: one-shot trials that choose the best checkpoint, taken so many times
TRIALS_SEED = 2015  # every run takes the same trials

def loss_and_gradients(parameters, images, characters):
    """Compute the default recipe's loss and its gradients on one minibatch.

    images: (A * n, 1, size, size) float, in [0, 1], 1 = ink; characters: (A, n) int64
    Returns the loss in nats, {name: gradient}, and the parameters with new running statistics.
    """
    h, twin = network.features_forward(parameters, images, training=True)
    h = h.reshape(*characters.shape, -1)  # (A, n, D): computed once, used in every pair
    weights = parameters["join.weight"], parameters["join.bias"]
    logits, join = layers.l1_join_forward(h[:, :, None], h[:, None], *weights)  # (A, n, n)
    same = characters[:, :, None] == characters[:, None]
    loss, cache = layers.softmax_cross_entropy_forward(logits, same)
    dlogits = layers.softmax_cross_entropy_backward(1.0, cache)
    dh1, dh2, dalpha, dbias = layers.l1_join_backward(dlogits, join)
    dh = dh1[:, :, 0] + dh2[:, 0]  # an image is the first of some pairs and the second of others, and the slopes add
    gradients = network.features_backward(dh.reshape(len(images), -1), twin)
    gradients |= {"join.weight": dalpha, "join.bias": dbias}
    return loss, gradients, network.running_statistics(parameters, twin)

def training_step(parameters, state, images, characters, factor):
    """Take one step: Muon for the twin's weights, AdamW for all else.

    state: {"muon": {}, "adamw": {}} at first; factor: of both learning rates, 0..1; the rest as in loss_and_gradients
    Returns the new parameters, the new state and the loss.
    """
    loss, gradients, parameters = loss_and_gradients(parameters, images, characters)
    weights = {n: g for n, g in gradients.items() if n.startswith("twin") and learning.decays(n, g)}
    rest = {n: g for n, g in gradients.items() if n not in weights}
    parameters, velocity = learning.muon(parameters, weights, state["muon"], MUON_RATE * factor, WEIGHT_DECAY)
    parameters, moments = learning.adamw(parameters, rest, state["adamw"], ADAMW_RATE * factor)
    return parameters, {"muon": velocity, "adamw": moments}, loss

def answers(parameters, trials):
    """Answer one-shot trials with a net, as data.one_shot_answers does."""
    size, weights = network.size_of(parameters), (parameters["join.weight"], parameters["join.bias"])
    return data.one_shot_answers(
        lambda images: network.features_forward(parameters, data.to_input(images, size))[0],
        lambda h1, h2: layers.l1_join_forward(h1, h2, *weights)[0],
        trials,
    )

def training_loop(training, n_steps, seed):
    """Draw minibatches and take steps; yield the parameters and the loss after each."""
    rng = np.random.default_rng(seed)
    parameters, state = network.initial_parameters(SIZE, rng), {"muon": {}, "adamw": {}}
    for step in range(n_steps):
        images, characters = data.draw_batch(training, ALPHABETS, CHARACTERS, DRAWINGS, rng)
        x = data.distort(data.to_input(images.reshape(-1, *images.shape[2:]), SIZE), rng)
        factor = learning.warmup_cosine(step, n_steps, WARMUP)
        parameters, state, loss = training_step(parameters, state, x, characters, factor)
        yield parameters, float(loss)

def train(data_set="auto", data_dir="", steps=1200, seed=0, name=""):
    """Train a net, keep the checkpoint that is best on the validation trials, and answer Lake's 400 trials with it.

    data_set, data_dir: as in data.load_splits; steps: minibatches; seed: of all draws; name: results go to runs/NAME
    Returns the fraction right. Leaves best.npz (for load_checkpoint), log.csv and curves.png. Raises UserError.
    """
    if steps < 1:
        raise UserError(f"--steps is at least 1, not {steps}")
    if seed < 0:
        raise UserError(f"--seed is at least 0, not {seed}")
    if not re.fullmatch(r"(\w[\w.,=+-]*)?", name):
        raise UserError(f"--name is the name of a folder in runs/, not {name!r}")
    training, validation, test, data_set = data.load_splits(data_set, data_dir)
    final = final_trials(test, data_set, data_dir)  # what would fail at the end fails here
    run = new_folder(name or f"reference-{data_set}-{SIZE}-seed{seed}")
    trials = data.one_shot_trials(validation, 20, N_VALIDATION, np.random.default_rng(TRIALS_SEED))
    counts = f"{len(training.images)} training, {len(validation.images)} validation characters"
    print(f"the reduced net, NumPy and Numba alone; {data_set}: {counts}; to {run}/")
    config = {"data": data_set, "device": "cpu", "size": SIZE, "precision": "float32", "seed": seed, "steps": steps}
    rows, best, started = [], -1.0, time.perf_counter()
    for step, (parameters, loss) in enumerate(training_loop(training, steps, seed), 1):
        if not np.isfinite(loss):
            raise UserError(f"the loss is {loss} at step {step}; take another --seed")
        rows.append({"step": step, "loss": loss, "validation": None})
        if step % -(-steps // VALIDATIONS) == 0 or step == steps:
            rows[-1]["validation"] = accuracy = float((answers(parameters, trials) == trials.answers).mean())
            if accuracy >= best:  # of equals the later one
                best = accuracy
                save_checkpoint(run / "best.npz", parameters, {"config": config, "step": step, "validation": best})
            left = (time.perf_counter() - started) / step * (steps - step)
            right = f"{100 * accuracy:.1f} % of the validation trials right"
            print(f"step {step:,} of {steps:,}: loss {loss:.3f}, {right}, {left:.0f} s left", flush=True)
    parameters, _ = load_checkpoint(run / "best.npz")
    accuracy = report(parameters, data_set, *final)
    write_log(rows, run)
    print(f"\nin {run}/: best.npz, curves.png, log.csv")
    return accuracy

def new_folder(name):
    """Make and return runs/NAME, with a number where that is taken."""
    folder, n = Path("runs", name), 1
    while folder.exists():
        n += 1
        folder = Path("runs", f"{name}-{n}")
    folder.mkdir(parents=True)
    return folder

def write_log(rows, run):
    """Write the loss and the validation accuracy of all steps to log.csv, and draw them as curves.png."""
    from matplotlib.figure import Figure  # takes half a second

    with open(run / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    figure = Figure((9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([row["step"] for row in rows], [row["loss"] for row in rows], linewidth=0.5)
    left.set(xlabel="step", ylabel="training loss (nats)", yscale="log")
    validated = [row for row in rows if row["validation"] is not None]
    right.plot([row["step"] for row in validated], [100 * row["validation"] for row in validated], ".-")
    right.set(xlabel="step", ylabel="validation trials right (%)")
    figure.savefig(run / "curves.png", dpi=110)

def final_trials(test, data_set, data_dir):
    """Return a title, the Trials that end a training, Lake's or 400 of invented alphabets, and what others get."""
    if data_set == "omniglot" or data.find_arrays("lake.npz", data_dir):
        others = [("people", 0.955, None), ("the paper's convolutional siamese net", 0.92, 400)]
        return "Lake's 400 one-shot trials, within one alphabet", data.load_lake(data_dir), others
    trials = data.one_shot_trials(test, 20, 400, np.random.default_rng(TRIALS_SEED))
    return "400 one-shot trials within invented alphabets", trials, []

def report(parameters, data_set, title, trials, others):
    """Answer trials, print the fraction right below what others get of them, and return it."""
    right = float((answers(parameters, trials) == trials.answers).mean())
    pixels = baselines.PixelNearestNeighbour()
    ours = (f"this net, trained on {data_set}", right, 400), (pixels.name, baselines.accuracy(pixels, trials), 400)
    data.print_trials(title, [*others, *ours, ("chance (20-way)", 1 / 20, None)])
    return right

# Files ----------------------------------------------------------------------------------------------------------------

def save_checkpoint(path, parameters, about):
    """Save a net for load_checkpoint: its parameters by name, and a dict of how it was trained; whole or not at all."""
    part = path.with_suffix(".part.npz")
    np.savez(part, about=np.array(json.dumps(about)), **parameters)
    os.replace(part, path)

def load_checkpoint(path):
    """Load a net: {name: array} and {"config": {...}, "step": n}. Raises UserError when it is none."""
    try:
        with data.open_sound(path) as kept:
            return {name: kept[name] for name in kept.files if name != "about"}, json.loads(str(kept["about"]))
    except Exception as error:  # NumPy raises whatever its reader stumbles over
        raise UserError(f"{path} is not a checkpoint of reference_numpy ({error}); name another one") from error
