"""What is each step from the recipe of 2015 to today's worth? python tutorials/ladder.py [--seconds 60] [--seeds 3]

Every rung changes one thing of the rung below and trains for the same time on one core, its rates up in a line and down
along a cosine; where the optimiser is SGD, the rate is the one of RATES that has most of 1,000 validation trials right
with seed 0. Then the net answers Lake's 400 trials and 2,000 fresh ones within an alphabet. Each result is a line of
runs/ladder.jsonl; what is there is not run again. The table and tutorials/figures/ladder.png are made from the lines.
"""

import concurrent.futures
import dataclasses
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn as nn

import koch
from tutorials.common import Parser, guarded
from tutorials.pictures import OURS, PAPER, PIXELS, label, new_figure, save
from tutorials.variants import cross_entropy

RESULTS, PICTURE = koch.RUNS / "ladder.jsonl", Path(__file__).parent / "figures" / "ladder.png"
RUNGS = {  # what changes, from the rung below
    "the paper: single pairs, cross-entropy, SGD": {},
    "batch normalisation, torch's initial weights": {"norm": True},
    "all pairs within whole alphabets, features once": {"alphabets": True},
    "a softmax over the candidates": {"softmax": True},
    "new distortions at every step": {"distort": True},
    "turned and mirrored alphabets": {"turns": True},
    "AdamW instead of SGD": {"optimizer": "adamw"},
    "Muon for the layers' weights": {"optimizer": "muon"},
    "six convolutions instead of four": {"six": True},
    "eight looks, turned and mirrored": {"looks": True},
}
RATES = (0.0738, 0.0185, 0.0046)  # of SGD: that of koch.py's paper recipe, a quarter and a sixteenth
SWITCHES = ("alphabets", "softmax", "distort", "turns", "norm", "six", "looks")  # off on the first rung


def shrunk_twin(norm):
    """Return the paper's twin for 35x35: (N, 1, 35, 35) -> (N, 512) in 0..1 or, with batch normalisation, any."""
    def block(n_in, n_out, side):
        return [nn.Conv2d(n_in, n_out, side), *([nn.BatchNorm2d(n_out)] if norm else []), nn.ReLU()]

    layers = [*block(1, 64, 4), nn.MaxPool2d(2), *block(64, 128, 3), nn.MaxPool2d(2)]  # (64, 16, 16), (128, 7, 7)
    layers += [*block(128, 128, 2), nn.MaxPool2d(2), *block(128, 256, 2)]  # (128, 3, 3), (256, 2, 2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 512), nn.BatchNorm1d(512) if norm else nn.Sigmoid())


def make_net(rung, seed):
    """Return the net of a rung."""
    torch.manual_seed(seed)
    net = koch.SiameseNet(35)
    if not rung["six"]:
        net.twin = shrunk_twin(rung["norm"]).to(memory_format=torch.channels_last)
    if not rung["norm"]:
        koch.paper_initialisation(net)
    net.precision = koch.settle(koch.Config(device="cpu")).precision
    return net.train()


def minibatch_loss(net, rung, drawings, step, config):
    """Return the loss of a minibatch of a rung: 128 single pairs, or all pairs within four alphabets."""
    rng = koch.step_rng(step, config)
    if rung["alphabets"]:
        x, characters = koch.fast_minibatch(drawings, None, step, config, rng)
        return (koch.softmax_loss if rung["softmax"] else cross_entropy)(net, net.features(x), characters)
    pairs = koch.draw_pairs(drawings, config.batch, rng)
    places = torch.cat([pairs.first, pairs.second])
    x = koch.to_input(drawings.images.flatten(0, 1)[places], net.size)
    return koch.cross_entropy(net, net.features(x), pairs.same.float())


def settings_of(name):
    """Return all that holds on a rung, as {what: value}."""
    before = itertools.takewhile(lambda other: other != name, RUNGS)
    rung = dict.fromkeys(SWITCHES, False) | {"optimizer": "sgd"}
    return rung | dict(itertools.chain(*(RUNGS[other].items() for other in [*before, name])))


def climb(name, seed, seconds, rate):
    """Train a rung's net for some seconds on one core, and test it; return its line. rate: of SGD"""
    torch.set_num_threads(1)
    rung = settings_of(name)
    config = koch.settle(koch.Config(data="omniglot", seed=seed, size=35, device="cpu", learning_rates=str(rate)))
    how = {"turns": rung["turns"], "distortion": float(rung["distort"]), "steps": 1000, "penalties": "1.92e-6"}
    config = dataclasses.replace(config, **how, epochs=5000)  # five a step: SGD has all its momentum from the second on
    training, validation, test = koch.split(koch.load_data(config)[0])
    net = make_net(rung, seed)
    recipe = "paper" if rung["optimizer"] == "sgd" else "fast"
    optimizers = koch.make_optimizers(net, dataclasses.replace(config, recipe=recipe))
    if rung["optimizer"] == "adamw":
        optimizers = [torch.optim.AdamW([{"params": list(net.parameters()), "highest": 2e-3}], weight_decay=0.0)]
    started, step = time.perf_counter(), 0
    while (done := (time.perf_counter() - started) / seconds) < 1:
        loss = minibatch_loss(net, rung, training, step, config)
        net.zero_grad()
        loss.backward()
        koch.set_rates(optimizers, int(done * config.steps), config)  # the schedule goes by the time that has passed
        for optimizer in optimizers:
            optimizer.step()
        step += 1
    net.n_looks = 8 if rung["looks"] else 1
    drawn = {"lake": koch.lake_trials()}
    for key, drawings, n in (("validation", validation, 1000), ("within", test, koch.N_FRESH)):
        drawn[key] = koch.one_shot_trials(drawings, None, n, torch.Generator().manual_seed(koch.TRIALS_SEED))
    line = {"rung": name, "seed": seed, "seconds": seconds, "rate": rate, "steps": step}
    return line | {key: 100 * koch.one_shot_accuracy(net.eval(), trials) for key, trials in drawn.items()}


def read_lines():
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def climb_all(wanted, n_workers):
    """Climb the rungs that have no line yet, some at a time; return the lines of all. wanted: arguments of climb"""
    RESULTS.parent.mkdir(exist_ok=True)
    def found():
        lines = {tuple(line[key] for key in ("rung", "seed", "seconds", "rate")): line for line in read_lines()}
        return {what: lines[what] for what in wanted if what in lines}

    with concurrent.futures.ProcessPoolExecutor(n_workers) as pool:
        waiting = [pool.submit(climb, *what) for what in wanted if what not in found()]
        for future in concurrent.futures.as_completed(waiting):
            with RESULTS.open("a") as file:
                file.write(json.dumps(future.result()) + "\n")
            print(future.result(), flush=True)
    return list(found().values())


def show(lines):
    """Print the table of the rungs and draw their picture."""
    print("\n| the rung below, and | steps | Lake's trials: mean (seeds) | fresh, within an alphabet |")
    print("|---|---|---|---|")
    rungs = {name: [line for line in lines if line["rung"] == name] for name in RUNGS}
    rungs = {name: found for name, found in rungs.items() if found}
    for name, found in rungs.items():
        steps = statistics.mean(line["steps"] for line in found)
        lake, within = ([line[key] for line in sorted(found, key=lambda f: f["seed"])] for key in ("lake", "within"))
        seeds = ", ".join(f"{value:.2f}" for value in lake)
        print(f"| {name} | {steps:.0f} | **{statistics.mean(lake):.1f}** ({seeds}) | {statistics.mean(within):.1f} |")
    figure = new_figure(8, 0.4 * len(rungs) + 1)
    axes, places = figure.subplots(), range(len(rungs))
    for key, colour, text in (("lake", OURS, "Lake's 400 trials"), ("within", PIXELS, "fresh trials")):
        means = [statistics.mean(line[key] for line in found) for found in rungs.values()]
        axes.plot(means, places, "o-", color=colour, label=text)
        for place, found in zip(places, rungs.values()):
            axes.plot([line[key] for line in found], [place] * len(found), ".", color=colour)
    for value, name in ((92.0, "the paper"), (95.5, "people")):
        axes.axvline(value, color=PAPER, linewidth=0.8, linestyle="--" if name == "people" else "-", label=name)
    axes.set_yticks(places, rungs)
    label(axes, "right (%)", None)
    axes.legend(fontsize=8, loc="upper left")
    save(figure, PICTURE)


def main():
    parser = Parser(prog="ladder.py", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="of training, on one core (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time (default: %(default)s)")
    options = parser.parse_args()
    if min(options.seeds, options.workers) < 1 or options.seconds <= 0:
        parser.error("--seeds and --workers are at least 1, --seconds more than 0")
    koch.load_data(koch.Config(data="omniglot"))  # kept, and an error is said once
    tried = {name: RATES if settings_of(name)["optimizer"] == "sgd" else (0.0,) for name in RUNGS}
    lines = climb_all([(name, 0, options.seconds, rate) for name in RUNGS for rate in tried[name]], options.workers)
    best = {}  # rung: the rate that validation chose
    for line in sorted(lines, key=lambda line: line["validation"]):
        best[line["rung"]] = line["rate"]
    wanted = [(name, seed, options.seconds, best[name]) for name in RUNGS for seed in range(options.seeds)]
    show(climb_all(wanted, options.workers))


if __name__ == "__main__":
    sys.exit(guarded("ladder.py", main))
