"""Search for what §3.2 does not print: each layer's learning rate eta_j, momentum mu_j and L2 penalty lambda_j.

    python tutorials/search.py                        20 random trials on a short schedule, then 8 near the best
    python tutorials/search.py --size 105             the same for the paper's own net: for a GPU

The paper searched its ranges by Bayesian optimisation; random search draws from the same ranges, needs no other package
and loses little where a few values matter and most do not (Bergstra and Bengio 2012). Every other trial draws one value
for all layers: 3 numbers to find instead of 24. Then each layer's values vary around the best trial's. Each result
is a line of a CSV; stopped and started again, the search goes on where it was. Only validation alphabets are looked at.
"""

import concurrent.futures
import csv
import math
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import koch
from tutorials.common import Parser, guarded

RANGES = {"eta": (1e-4, 1e-1), "mu": (0.0, 1.0), "lambda": (1e-6, 1e-1)}  # §3.2; lambda from 0, which has no logarithm
LAYERS = {size: [*(f"conv{i + 1}" for i in range(n - 2)), "full", "join"] for size, n in ((35, 8), (105, 6))}
FIELDS = {"eta": "learning_rates", "mu": "momenta", "lambda": "penalties"}
N_TRIALS = 1000  # one-shot trials of the validation alphabets that score a trial of the search


def draw(number, size, near=None):
    """Draw the values of one trial of the search: {"eta_conv1": ..., ...}; the same number draws the same values.

    Odd numbers draw each layer's own values, even ones the same for all layers. near: a trial's values, to vary: rates
    and penalties by a factor of two or so, momenta by a tenth or so, and never out of the ranges.
    """
    rng, values = random.Random(number), {}
    for name, (low, high) in RANGES.items():
        shared = rng.random()
        for layer in LAYERS[size]:
            key, share = f"{name}_{layer}", shared if number % 2 == 0 else rng.random()
            if name == "mu":
                value = low + share * (high - low) if near is None else near[key] + rng.gauss(0, 0.1)
            elif near is None:
                value = math.exp(math.log(low) + share * math.log(high / low))
            else:
                value = near[key] * math.exp(rng.gauss(0, 0.7))
            values[key] = float(f"{min(high, max(low, value)):.3g}")
    return values


def score(number, steps, values, options):
    """Train with the values of one trial for some steps; return the row of the table."""
    torch.set_num_threads(1)
    lists = {
        field: ",".join(str(values[f"{name}_{layer}"]) for layer in LAYERS[options["size"]])
        for name, field in FIELDS.items()
    }
    config = koch.settle(koch.Config(recipe="paper", steps=steps, seed=number, **options, **lists))
    drawings, _ = koch.load_data(config)
    training, validation, _ = koch.split(drawings._replace(images=drawings.images.to(config.device)))
    training, watched = koch.only_drawers(training, "training"), koch.only_drawers(validation, "validation")
    trials = koch.one_shot_trials(watched, None, N_TRIALS, torch.Generator().manual_seed(koch.TRIALS_SEED))
    pairs, run, loss = koch.training_pairs(training, config), koch.Run(config), 0.0
    no_trials = koch.one_shot_trials(watched, 2, 1, torch.Generator())  # the loop's own validations are not looked at
    for step_loss, _ in koch.training_loop(run, training, pairs, no_trials, config):
        loss = 0.98 * loss + 0.02 * step_loss.item()
        if not math.isfinite(loss):
            break
    accuracy = koch.one_shot_accuracy(run.net, trials) if math.isfinite(loss) else 0.0
    return {"trial": number, "steps": steps, "validation": accuracy, "loss": loss / (1 - 0.98**steps)} | values


def search(path, n_trials, n_near, steps, workers, options):
    """Score random trials, then trials near the best one, all that the CSV does not have yet; return its rows."""
    size = options["size"]
    fields = ["trial", "steps", "validation", "loss", *draw(0, size)]

    def rows():
        found = csv.DictReader(path.open()) if path.exists() else ()
        found = [{name: float(value) for name, value in row.items()} for row in found]
        return sorted((row for row in found if row["steps"] == steps), key=lambda row: -row["validation"])

    def run(numbers, near=None):
        done = {row["trial"] for row in rows()}
        wanted = [number for number in numbers if number not in done]
        with concurrent.futures.ProcessPoolExecutor(workers) as pool:
            futures = [pool.submit(score, number, steps, draw(number, size, near), options) for number in wanted]
            for future in concurrent.futures.as_completed(futures):
                row, new = future.result(), not path.exists()
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a", newline="") as file:
                    writer = csv.DictWriter(file, fields)
                    if new:
                        writer.writeheader()
                    writer.writerow(row)
                print(f"trial {row['trial']}: validation {100 * row['validation']:.1f} %", flush=True)

    run(range(n_trials))
    best = next(row for row in rows() if row["trial"] < n_trials)
    run(range(n_trials, n_trials + n_near), best)
    return rows()


def main():
    parser = Parser(prog="search.py", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=koch.RUNS / "search.csv", metavar="CSV")
    parser.add_argument("--trials", type=int, default=20, help="random trials (default: %(default)s)")
    parser.add_argument("--near", type=int, default=8, help="trials near the best of them (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="minibatches of a trial (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=6400, help="50 minibatches an epoch (default: %(default)s)")
    parser.add_argument("--size", type=int, choices=koch.SIZES, default=35)
    parser.add_argument("--workers", type=int, default=2, help="trials at a time, a core each (default: %(default)s)")
    parser.add_argument("--data", default="auto", help="as of koch.py train (default: %(default)s)")
    parser.add_argument("--data-dir", default="", help="as of koch.py train")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="(default: %(default)s)")
    parser.add_argument("--momentum-epochs", type=int, default=2, help="of four (default: %(default)s)")
    options = vars(parser.parse_args())

    def run():
        path, size = options.pop("results"), options["size"]
        ranked = search(path, *(options.pop(name) for name in ("trials", "near", "steps", "workers")), options)
        print("\nrank, trial, validation, eta_j | mu_j | lambda_j, from the first layer to the join")
        for place, row in enumerate(ranked, 1):
            lists = (",".join(f"{row[f'{name}_{layer}']:g}" for layer in LAYERS[size]) for name in FIELDS)
            print(f"{place:>3} {row['trial']:>4.0f} {100 * row['validation']:6.1f} %  {' | '.join(lists)}")
        from tutorials import pictures

        names = [f"{name}_{layer}" for name in FIELDS for layer in LAYERS[size]]
        pictures.draw_search(ranked, names, path.with_suffix(".png"))
        print(f"\n{path}, {path.with_suffix('.png')}")
        return 0

    return guarded("search.py", run)


if __name__ == "__main__":
    sys.exit(main())
