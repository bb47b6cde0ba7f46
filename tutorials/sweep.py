"""How does accuracy fall with the ways and rise with the shots? python tutorials/sweep.py --way 2,5,20 --shot 1,5"""

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import koch
from tutorials import pictures
from tutorials.common import RUNS, Parser, guarded

N_TRIALS = 2000  # for each number of ways and shots


def with_shots(trials, n_drawers, shot, rng):
    """Give each character of trials more support images, by the same drawers for all: (n_trials, n_way, shot) int64.
    The first drawer is the one that the trial has; the test image's drawer is none of them."""
    order = torch.rand(len(trials.test), n_drawers, generator=rng)
    order.scatter_(1, trials.support[:, :1] % n_drawers, 2.0)
    order.scatter_(1, trials.test[:, None] % n_drawers, -1.0)
    drawers = order.topk(shot).indices  # (n_trials, shot)
    return trials.support[:, :, None] // n_drawers * n_drawers + drawers[:, None]


@torch.no_grad()
def count_right(model, h, trials, support):
    """Count right answers, by the mean logit over a character's shots; h: features of trials.images; a tie is wrong."""
    parts = zip(trials.test.split(50), support.split(50))
    logits = torch.cat([model.logit(h[test][:, None, None], h[places]).mean(2) for test, places in parts]).float().cpu()
    clear = (logits == logits.amax(1, keepdim=True)).sum(1) == 1
    return koch.counted(clear & (logits.argmax(1) == trials.answers))


def numbers(text):
    """Return the numbers of a text, by commas."""
    return [int(word) for word in text.split(",")]


def main():
    parser = Parser(prog="sweep.py", description=__doc__)
    parser.add_argument("checkpoint", nargs="?", help="best.pt (default: the best net at hand)")
    parser.add_argument("--way", type=numbers, default="2,3,5,10,20", help="by commas (default: %(default)s)")
    parser.add_argument("--shot", type=numbers, default="1,5", help="by commas (default: %(default)s)")
    options = parser.parse_args()
    test, rows = koch.split(koch.load_data(koch.Config())[0])[2], []
    n_drawers = test.images.shape[1]
    if min(options.way) < 2:
        raise koch.UserError("--way is at least 2")
    if not 1 <= min(options.shot) <= max(options.shot) < n_drawers:
        raise koch.UserError(f"--shot is 1 to {n_drawers - 1}: another drawer draws the test image")
    net = koch.choose_net(options.checkpoint, koch.settle(koch.Config()))
    models = {"ours": net, "pixels": koch.PixelNearestNeighbour()}
    h = {name: koch.image_features(model, test.images.flatten(0, 1)) for name, model in models.items()}
    print(f"percent right of {N_TRIALS:,} trials each       net   pixels  chance")
    for where, way, shot in itertools.product(("within", "across"), options.way, options.shot):
        rng = torch.Generator().manual_seed(koch.TRIALS_SEED)
        trials = koch.one_shot_trials(test, way, N_TRIALS, rng, where == "within")
        support = with_shots(trials, n_drawers, shot, rng)
        ours, pixels = (count_right(models[name], h[name], trials, support) for name in models)
        row = {"where": where, "way": way, "shot": shot, "accuracy": ours["accuracy"], "pixels": pixels["accuracy"]}
        rows.append(row | {"low": ours["interval"][0], "high": ours["interval"][1], "chance": 1 / way})
        percent = "".join(f"{100 * rows[-1][key]:9.2f}" for key in ("accuracy", "pixels", "chance"))
        print(f"  {where}, {way:2}-way, {shot}-shot" + " " * 12 + percent)
    pictures.draw_sweep(rows, RUNS / "sweep.png")
    print(f"picture: {RUNS / 'sweep.png'}")


if __name__ == "__main__":
    sys.exit(guarded("sweep.py", main))
