"""How many of MNIST's trials does a net answer that has seen no digit (§4.4)? python tutorials/mnist.py [best.pt]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import koch
from tutorials.common import guarded


def main():
    net = koch.choose_net(sys.argv[1] if len(sys.argv) > 1 else None, koch.settle(koch.Config()))
    digits, rngs = koch.load_mnist(), (torch.Generator().manual_seed(koch.TRIALS_SEED + i) for i in range(5))
    draws = [koch.one_shot_trials(digits, 10, 400, rng) for rng in rngs]
    exchanged = [trials._replace(images=1 - trials.images) for trials in draws]
    print("percent right of five draws of 400 trials, 10-way; the paper's reduced net: 70.3 in one draw")
    for name, model, drawn in (
        ("this net", net, draws),
        ("ink and paper exchanged: wrong polarity", net, exchanged),
        ("pixel 1-NN (cosine)", koch.PixelNearestNeighbour(), draws),
    ):
        correct = [koch.one_shot_answers(model, trials) == trials.answers for trials in drawn]
        counted = koch.counted(torch.cat(correct))
        low, high = counted["interval"]
        draws_right = ", ".join(f"{100 * right.double().mean():.2f}" for right in correct)
        print(f"  {name:40}{100 * counted['accuracy']:6.2f}   {100 * low:.1f} .. {100 * high:.1f}   {draws_right}")


if __name__ == "__main__":
    sys.exit(guarded("mnist.py", main))
