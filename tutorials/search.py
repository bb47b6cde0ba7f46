"""Search for what §3.2 does not print: each layer's learning rate eta_j, momentum mu_j and L2 penalty lambda_j.

    python tutorials/search.py                        20 random trials on a short schedule, then 8 near the best
    python tutorials/search.py --size 105             the same for the paper's own net: for a GPU

The paper searched its ranges by Bayesian optimisation; random search draws from the same ranges and needs no other
package. Every other trial draws one value for all layers. Then each layer's values vary around the best trial's. Each
result is a line of a CSV; started again, the search goes on where it was. Only validation alphabets are looked at.
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

# §3.2: eta_j, mu_j and lambda_j; lambda from 0, which has no logarithm
RANGES = {"learning_rates": (1e-4, 1e-1), "momenta": (0.0, 1.0), "penalties": (1e-6, 1e-1)}
N_LAYERS = {35: 8, 51: 8, 105: 6}
N_TRIALS = 1000  # one-shot trials of the validation alphabets that score a trial of the search
SHORT = {"size": 35, "pairs": 6400}  # 200 steps: four times through them, and once through the whole schedule
FIELDS = ("trial", "steps", "validation", "loss", *RANGES)


def draw(number, size, near=None):
    """Draw the values of one trial of the search, as koch.Config takes them: {"learning_rates": "0.01,0.02,...", ...}.

    Odd numbers draw each layer's own values, even ones the same for all layers; the same number draws the same values.
    near: a trial's values, to vary: rates and penalties by a factor of about two, momenta by about a tenth
    """
    rng, values = random.Random(number), {}
    for name, (low, high) in RANGES.items():
        shared, drawn = rng.random(), []
        for layer in range(N_LAYERS[size]):
            share = shared if number % 2 == 0 else rng.random()
            before = float(near[name].split(",")[layer]) if near else None
            if name == "momenta":
                value = before + rng.gauss(0, 0.1) if near else low + share * (high - low)
            else:
                value = before * math.exp(rng.gauss(0, 0.7)) if near else low * (high / low) ** share
            drawn.append(f"{min(high, max(low, value)):.3g}")
        values[name] = ",".join(drawn)
    return values


def score(number, steps, values, options):
    """Train with the values of one trial for some steps; return the row of the table."""
    torch.set_num_threads(1)
    config = koch.settle(koch.Config(recipe="paper", steps=steps, patience=steps, seed=number, **options, **values))
    drawings, _ = koch.load_data(config)
    training, validation, _ = (part.to(config.device) for part in koch.split(drawings))
    training, watched = koch.only_drawers(training, "training"), koch.only_drawers(validation, "validation")
    trials = koch.one_shot_trials(watched, None, N_TRIALS, torch.Generator().manual_seed(koch.TRIALS_SEED))
    pairs, run, loss = koch.training_pairs(training, config), koch.Run(config), 0.0
    no_trials = koch.one_shot_trials(watched, 2, 1, torch.Generator())  # the loop's own validations are not looked at
    for step_loss, _ in koch.training_loop(run, training, pairs, no_trials, config):
        loss = 0.98 * loss + 0.02 * step_loss.item()
        if not math.isfinite(loss):
            break
    accuracy = koch.one_shot_accuracy(run.net.eval(), trials) if math.isfinite(loss) else 0.0
    return {"trial": number, "steps": steps, "validation": accuracy, "loss": loss / (1 - 0.98**steps)} | values


def read_rows(path, steps):
    """Return the rows of a CSV that have so many steps, the best first."""
    rows = [row for row in csv.DictReader(path.open()) if int(row["steps"]) == steps] if path.exists() else []
    return sorted(rows, key=lambda row: -float(row["validation"]))


def search(path, n_trials, n_near, steps, workers, options):
    """Score random trials, then trials near the best one, all that the CSV does not have yet; return its rows."""

    def run(numbers, near=None):
        done = {int(row["trial"]) for row in read_rows(path, steps)}
        wanted = [number for number in numbers if number not in done]
        with concurrent.futures.ProcessPoolExecutor(workers) as pool:
            waiting = [pool.submit(score, n, steps, draw(n, options["size"], near), options) for n in wanted]
            for future in concurrent.futures.as_completed(waiting):
                row, new = future.result(), not path.exists()
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS)
                    if new:
                        writer.writeheader()
                    writer.writerow(row)
                print(f"trial {row['trial']}: validation {100 * row['validation']:.1f} %", flush=True)

    run(range(n_trials))
    best = next(row for row in read_rows(path, steps) if int(row["trial"]) < n_trials)
    run(range(n_trials, n_trials + n_near), best)
    return read_rows(path, steps)


def main():
    parser = Parser(prog="search.py", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, metavar="CSV", help="(default: runs/search-SIZE-PAIRS.csv)")
    parser.add_argument("--trials", type=int, default=20, help="random trials (default: %(default)s)")
    parser.add_argument("--near", type=int, default=8, help="trials near the best of them (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="minibatches of a trial (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="trials at a time, a core each (default: %(default)s)")
    koch.add_options(parser, "data", "data_dir", "size", "device", "pairs")
    options = SHORT | vars(parser.parse_args())
    own = ("results", "trials", "near", "steps", "workers")
    path, n_trials, n_near, steps, workers = (options.pop(name) for name in own)
    if min(n_trials, steps, workers) < 1 or n_near < 0:
        parser.error("--trials, --steps and --workers are at least 1, --near at least 0")
    options["size"] = koch.settle(koch.Config(recipe="paper", **options)).size
    path = path or koch.RUNS / f"search-{options['size']}-{options['pairs']}.csv"
    ranked = search(path, n_trials, n_near, steps, workers, options)
    print("\nrank, trial, validation, eta_j | mu_j | lambda_j, from the first layer to the join")
    for place, row in enumerate(ranked, 1):
        percent, values = 100 * float(row["validation"]), [row[name] for name in RANGES]
        print(f"{place:>3} {row['trial']:>4} {percent:6.1f} %  {' | '.join(values)}")


if __name__ == "__main__":
    sys.exit(guarded("search.py", main))
