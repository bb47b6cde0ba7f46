"""Where does a net err when it says same or different (§4.2)? python tutorials/verification.py [best.pt]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

import koch
from tutorials import pictures
from tutorials.common import RUNS, guarded


def main():
    config = koch.settle(koch.Config())
    net = koch.choose_net(sys.argv[1] if len(sys.argv) > 1 else None, config)
    _, _, test = koch.split(koch.load_data(config)[0])
    test = koch.only_drawers(test, "test")
    pairs = koch.draw_pairs(test, koch.N_PAIRS, torch.Generator().manual_seed(koch.TRIALS_SEED + 1))
    logits, images, mistakes = koch.pair_logits(net, test, pairs), test.images.flatten(0, 1), {}
    for i in (-logits.abs()).argsort(stable=True).tolist():  # the most confident first
        first, second, same = int(pairs.first[i]), int(pairs.second[i]), bool(pairs.same[i])
        if bool(logits[i] > 0) != same:
            pair = images[first].numpy(), images[second].numpy(), float(logits[i]), same
            mistakes.setdefault((min(first, second), max(first, second)), pair)
    kinds = [[pair for pair in mistakes.values() if pair[3] == same][:6] for same in (True, False)]
    false, missed, _ = (rates.numpy() for rates in koch.error_rates(logits, pairs.same))
    equal = np.abs(false - missed).argmin()
    curve = false, 1 - missed, float(np.trapezoid(1 - missed[::-1], false[::-1])), (false + missed)[equal] / 2
    path = RUNS / "verification.png"
    pictures.draw_verification(logits.numpy(), pairs.same.numpy(), 0.0, curve, kinds[0] + kinds[1], path)
    print(f"area under the ROC curve {curve[2]:.4f}, equal error rate {100 * curve[3]:.2f} %; picture: {path}")


if __name__ == "__main__":
    sys.exit(guarded("verification.py", main))
