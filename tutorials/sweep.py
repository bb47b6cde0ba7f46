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


def accuracy(model, test, h, trials, shot):
    """Answer trials whose characters have more support images, each by another drawer than the test image's.

    h: features of test.images, (characters * drawers, D); a character's logit is the mean over its shots
    """
    n_drawers = test.images.shape[1]
    character, drawer = trials.support // n_drawers, trials.support % n_drawers
    tester = (trials.test % n_drawers)[:, None]
    further = (tester - drawer) % n_drawers  # how many places round the test image's drawer comes
    logits = torch.zeros(trials.support.shape)
    for k in range(shot):
        skip = (k >= further).long()  # the test image's drawer is left out
        places = character * n_drawers + (drawer + k + skip) % n_drawers
        parts = zip(trials.test.split(50), places.split(50))
        with torch.no_grad():
            logits += torch.cat([model.logit(h[one][:, None], h[many]).float() for one, many in parts])
    return koch.counted(logits.argmax(1) == trials.answers)


def main():
    parser = Parser(prog="sweep.py", description=__doc__)
    parser.add_argument("checkpoint", nargs="?", help="best.pt (default: the best net at hand)")
    parser.add_argument("--way", default="2,3,5,10,20", help="numbers by commas (default: %(default)s)")
    parser.add_argument("--shot", default="1,5", help="numbers by commas (default: %(default)s)")
    options = parser.parse_args()
    ways, shots = ([int(number) for number in text.split(",")] for text in (options.way, options.shot))

    def run():
        config = koch.settle(koch.Config())
        net, rows = koch.choose_net(options.checkpoint, config), []
        test = koch.split(koch.load_data(config)[0])[2]
        models = {"ours": net, "pixels": koch.PixelNearestNeighbour()}
        h = {name: koch.image_features(model, test.images.flatten(0, 1)) for name, model in models.items()}
        print(f"percent right of {N_TRIALS:,} trials each       net   pixels  chance")
        for where, way, shot in itertools.product(("within", "across"), ways, shots):
            rng = torch.Generator().manual_seed(koch.TRIALS_SEED)
            trials = koch.one_shot_trials(test, way, N_TRIALS, rng, where == "within")
            found = {name: accuracy(models[name], test, h[name], trials, shot) for name in models}
            row = {"where": where, "way": way, "shot": shot, "accuracy": found["ours"]["accuracy"], "chance": 1 / way}
            row["low"], row["high"] = found["ours"]["interval"]
            rows.append(row | {"pixels": found["pixels"]["accuracy"]})
            numbers = (100 * rows[-1][key] for key in ("accuracy", "pixels", "chance"))
            print(f"  {where}, {way:2}-way, {shot}-shot" + " " * 12 + "".join(f"{number:9.2f}" for number in numbers))
        pictures.draw_sweep(rows, RUNS / "sweep.png")
        print(f"picture: {RUNS / 'sweep.png'}")
        return 0

    return guarded("sweep.py", run)


if __name__ == "__main__":
    sys.exit(main())
