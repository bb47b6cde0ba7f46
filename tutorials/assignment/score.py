"""Score submissions' own nets on the same one-shot trials: mark.py SUBMISSIONS/ --model net:Net, or --model best.pt.

A net is whatever koch.one_shot_answers takes: an object with size (pixels), features(images) and logit(h1, h2), made
by calling a class without arguments, or a checkpoint of koch.py. It may import torch and koch. The right answers stay
on the marker's side: the submission's process gets test and support images and says which it chooses.
"""

import numpy as np
import torch

import koch
from reference_numpy.data import Trials
from tutorials import common
from tutorials.assignment import report
from tutorials.assignment.sandbox import HERE, Failure, Sandbox

N_FRESH = 1000  # trials, the first of those that koch.py draws
SECONDS = 600  # for a net's answers to one set of trials


def draw_trials():
    """Return {name: Trials}: Lake's 400, where they are at hand, and fresh ones within an alphabet."""
    drawings, data = koch.load_data(koch.Config())
    _, _, test = koch.split(drawings)
    drawn = {"lake": koch.lake_trials()} if data == "omniglot" else {}
    drawn["within"] = koch.one_shot_trials(test, None, N_FRESH, torch.Generator().manual_seed(koch.TRIALS_SEED))
    return {key: Trials(*(tensor.numpy() for tensor in trials[:4])) for key, trials in drawn.items()}


def score(folder, name, trials):
    """Score one net. Returns {"parameters", and for each of trials what counted returns}, or {"failure": why}."""
    with Sandbox(folder, SECONDS, 3 * SECONDS, torch=True) as net:
        net.hand(HERE)
        try:
            row = {"parameters": int(net.ask("load_net", (name,))[0])}
            for key, drawn in trials.items():
                order = np.random.default_rng().permutation(len(drawn.images))  # an image's place tells its character
                places, images = order.argsort(), drawn.images[order]
                answers, seconds = net.ask("net_answers", (images, places[drawn.test], places[drawn.support]))
                if not isinstance(answers, np.ndarray) or answers.shape != drawn.answers.shape:
                    raise Failure("it does not give an answer to each trial")
                row |= counted(key, answers, drawn, seconds)
            return row
        except (Failure, TypeError, ValueError) as failure:
            return {"failure": str(failure)}


def counted(key, answers, trials, seconds=""):
    """Count the right answers to trials: {"KEY n", "KEY right"}, and KEY with accuracy, low, high and seconds."""
    found = koch.counted(torch.from_numpy(answers == trials.answers))
    low, high = found.pop("interval")
    found |= {"low": low, "high": high, "seconds": seconds}
    return {f"{key} {field}": value for field, value in found.items()}


def score_folder(submissions, name, for_all, out=None):
    """Score the nets of submissions beside the project's weights and pixel 1-NN.

    submissions, for_all: as mark.find_submissions gives them, and mark.for_all
    """
    out = out or common.new_folder("scores")
    out.mkdir(parents=True, exist_ok=True)
    trials, project = draw_trials(), koch.load_checkpoint(koch.WEIGHTS)
    ours = {"the project's weights": project, "pixel 1-NN (cosine)": koch.PixelNearestNeighbour()}
    rows = {title: {"parameters": 0} for title in ours}
    rows["the project's weights"]["parameters"] = sum(p.numel() for p in project.parameters())
    for title, net in ours.items():
        for key, drawn in trials.items():
            tensors = koch.Trials(*map(torch.from_numpy, drawn), alphabets=())
            with torch.no_grad():
                rows[title] |= counted(key, koch.one_shot_answers(net, tensors).numpy(), drawn)
    rows |= for_all(submissions, lambda _, copy: score(copy, name, trials))
    print_scores(rows, trials)
    report.write_csv([{"student": name} | row for name, row in rows.items()], out / "scores.csv")
    print(f"\nresults: {out}/scores.csv")


def print_scores(rows, trials):
    """Print one row a net: its trials right with the interval, parameters and seconds, each set of trials in turn."""
    width = max(map(len, rows))
    for key, drawn in trials.items():
        what = "Lake's 400 trials" if key == "lake" else f"{len(drawn.answers):,} fresh trials within an alphabet"
        print(f"\n{what}, {drawn.support.shape[1]}-way\n{'':{width}}  right   95 % interval    parameters  seconds")
        for name, row in rows.items():
            if "failure" in row:
                print(f"{name:{width}}  {row['failure']}")
                continue
            right, low, high = (100 * row[f"{key} {field}"] for field in ("accuracy", "low", "high"))
            seconds = row[f"{key} seconds"] and f"{row[f'{key} seconds']:9.1f}"
            print(f"{name:{width}} {right:6.2f}  {low:5.1f} .. {high:5.1f}  {row['parameters']:>12,}{seconds}")
