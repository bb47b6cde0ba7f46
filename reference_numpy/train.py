"""Train the reduced net (35x35 pixels) without torch: koch.py's default recipe, with fewer steps (§3.2)."""

import csv
import io
import itertools
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from . import data, layers, learning, network

SIZE = 35  # pixels
ALPHABETS, CHARACTERS, DRAWINGS = 4, 10, 3  # in a minibatch: 120 images, every two of an alphabet a pair
MUON_RATE, ADAMW_RATE, WEIGHT_DECAY = 0.02, 2e-3, 0.01  # of the twin's weights; of all else; Muon's
WARMUP = 200  # steps to the highest rates
N_VALIDATION, VALIDATIONS = 320, 8  # §3.2: one-shot trials that choose the best checkpoint, taken so many times
TRIALS_SEED = 2015  # every run takes the same trials
PAPER_LAKE, PEOPLE_LAKE = 0.92, 0.955  # §4.3, within an alphabet
RUNS = Path("runs")


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


def train(data_set="auto", folder="", steps=1200, seed=0, name=""):
    """Train a net, keep the checkpoint that is best on the validation trials, and take Lake's 400 trials with it.

    data_set, folder: as in data.load_data; steps: minibatches; seed: of every draw; name: results go to runs/NAME
    Returns the fraction right. Leaves best.npz (for load_checkpoint, and for koch.py oneshot), log.csv and curves.png.
    Raises data.UserError.
    """
    training, validation, test, data_set = data.load_data(data_set, folder)
    run = new_folder(name, f"reference-{data_set}-{SIZE}-seed{seed}")
    if data_set == "invented":
        print("no Omniglot: training on alphabets that this run invents (python koch.py train fetches Omniglot)")
    trials = data.one_shot_trials(validation, 20, N_VALIDATION, np.random.default_rng(TRIALS_SEED))
    rng = np.random.default_rng(seed)
    parameters, state = network.initial_parameters(SIZE, rng), {"muon": {}, "adamw": {}}
    counts = ", ".join(f"{len(d.images)} {n}" for d, n in ((training, "training"), (validation, "validation")))
    n_numbers = sum(p.size for n, p in parameters.items() if not n.endswith(network.STATISTICS))
    print(f"twin net of {n_numbers:,} parameters, NumPy and Numba alone; {data_set}: {counts} characters; to {run}/")
    config = {"data": data_set, "device": "cpu", "size": SIZE, "precision": "float32", "seed": seed, "steps": steps}
    rows, best, losses, started = [], -1.0, [], time.perf_counter()
    for step in range(1, steps + 1):
        images, characters = data.draw_batch(training, ALPHABETS, CHARACTERS, DRAWINGS, rng)
        x = data.distort(data.to_input(images.reshape(-1, *images.shape[2:]), SIZE), rng)
        factor = learning.warmup_cosine(step - 1, steps, WARMUP)
        parameters, state, loss = training_step(parameters, state, x, characters, factor)
        losses.append(float(loss))
        if not np.isfinite(loss):
            raise data.UserError(f"the loss is {loss} at step {step}; take another --seed")
        validating = step % -(-steps // VALIDATIONS) == 0 or step == steps
        if validating or step % -(-steps // 100) == 0:
            rows.append({"step": step, "loss": np.mean(losses), "validation": None})
            losses = []
        if validating:
            rows[-1]["validation"] = accuracy = float((answers(parameters, trials) == trials.answers).mean())
            if accuracy >= best:  # of equals the later one
                best = accuracy
                save_checkpoint(run / "best.npz", parameters, config, step)
        seconds = time.perf_counter() - started
        said = f"loss {rows[-1]['loss']:.3f}, " if rows else ""
        said += f"best validation {100 * best:.1f} %, " if best >= 0 else ""
        progress(step, steps, f"{said}{step / seconds:.1f} steps/s", seconds, keep=validating)
    with written_whole(run / "log.csv") as file:
        writer = csv.DictWriter(text := io.StringIO(newline=""), rows[0])
        writer.writeheader()
        writer.writerows(rows)
        file.write(text.getvalue().encode())
    draw_curves(rows, run / "curves.png")
    parameters, _ = load_checkpoint(run / "best.npz")
    accuracy = report(parameters, test, data_set, folder)
    print(f"\nin {run}/: best.npz, curves.png, log.csv; python koch.py oneshot {run}/best.npz reads the net")
    return accuracy


def report(parameters, test, data_set, folder):
    """Take Lake's 400 trials, or 400 drawn from invented alphabets where his are not at hand; print and return."""
    try:
        trials, what = data.lake_runs(folder), "Lake's 400 one-shot trials, within one alphabet"
    except data.UserError:
        if data_set == "omniglot":
            raise
        rng = np.random.default_rng(TRIALS_SEED)
        trials, what = data.one_shot_trials(test, 20, 400, rng), "400 one-shot trials within invented alphabets"
    right = int((answers(parameters, trials) == trials.answers).sum())
    n, pixels = len(trials.answers), (data.pixel_answers(trials) == trials.answers).mean()
    low, high = data.wilson_interval(right, n)
    print(f"\n{what:<56}  right   95 % interval")
    if what.startswith("Lake"):
        print(f"  {'people':<54}{100 * PEOPLE_LAKE:6.2f} %")
        print(f"  {'the paper' + chr(39) + 's convolutional siamese net':<54}{100 * PAPER_LAKE:6.2f} %    88.9 .. 94.3")
    print(f"  {f'this net, trained on {data_set}':<54}{100 * right / n:6.2f} %{100 * low:8.1f} .. {100 * high:.1f}")
    print(f"  {'pixel 1-NN (cosine)':<54}{100 * pixels:6.2f} %")
    print(f"  {'chance (20-way)':<54}{5:6.2f} %")
    return right / n


# Files and progress ---------------------------------------------------------------------------------------------------


def new_folder(name, otherwise):
    """Return the folder of a new run, runs/NAME. Raises data.UserError when it is there already."""
    if name and (not Path(name).name == name or (RUNS / name).exists()):
        raise data.UserError(f"--name is the name of a new folder in {RUNS}/, and {name!r} is none; take another")
    numbered = (RUNS / (otherwise + (f"-{i}" if i > 1 else "")) for i in itertools.count(1))
    return RUNS / name if name else next(folder for folder in numbered if not folder.exists())


class written_whole:
    """Write a file beside its place and move it there at the end, so that it is whole or is not there."""

    def __init__(self, path):
        self.path, self.part = path, path.with_name(f"{path.name}.{os.getpid()}.part")

    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.part, "wb")
        return self.file

    def __exit__(self, kind, error, trace):
        self.file.close()
        if kind is None:
            os.replace(self.part, self.path)
        else:
            self.part.unlink(missing_ok=True)


def save_checkpoint(path, parameters, config, step):
    """Save a net for load_checkpoint and for koch.py: its parameters by name, and how it was trained as JSON."""
    with written_whole(path) as file:
        np.savez(file, about=np.array(json.dumps({"config": config, "step": step})), **parameters)


def load_checkpoint(path):
    """Load a net: {name: array} and {"config": {...}, "step": n}. Raises data.UserError when it is none."""
    try:
        with np.load(path) as kept:
            return {name: kept[name] for name in kept.files if name != "about"}, json.loads(str(kept["about"]))
    except Exception as error:  # NumPy raises whatever its reader stumbles over
        raise data.UserError(f"{path} is not a checkpoint of reference_numpy ({error}); name another one") from error


def progress(step, steps, note, seconds, keep):
    """Show a bar with the time left on one line that is written over; into a file only the lines to keep."""
    minutes, rest = divmod(int(seconds / step * (steps - step) if step < steps else seconds), 60)
    left = f"{minutes}:{rest:02}" + " left" * (step < steps)
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        line = f"training [{'#' * (20 * step // steps):.<20}] {step / steps:4.0%}  {note}  {left}"
        print(f"\r{line[:width]:<{width}}", end="\n" if step == steps else "", flush=True)
    elif keep:
        print(f"training {step:,} of {steps:,}  {note}  {left}", flush=True)


def draw_curves(rows, path):
    """Draw the loss and the validation accuracy over the steps into a PNG."""
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
