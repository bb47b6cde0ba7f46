"""What do other losses and optimisers give? python tutorials/variants.py --loss contrastive --optimizer adamw"""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F

import koch
from tutorials.common import Parser, guarded


def of_both_kinds(losses, characters):
    """Return the mean of losses (A, n, n) of same pairs and of different ones, either kind counting half."""
    same = characters[:, :, None] == characters[:, None]
    itself = torch.eye(same.shape[1], dtype=torch.bool)
    return (losses[same & ~itself].mean() + losses[~same].mean()) / 2


def cross_entropy(net, h, characters):
    """Return §3.2's loss of all pairs inside an alphabet; h: (A * n, D) features; characters: (A, n)."""
    h = h.view(*characters.shape, -1)
    same = (characters[:, :, None] == characters[:, None]).float()
    logits = net.logit(h[:, :, None], h[:, None])
    return of_both_kinds(F.binary_cross_entropy_with_logits(logits, same, reduction="none"), characters)


def contrastive(net, h, characters):
    """Return the contrastive loss of Hadsell et al. (2006) with margin 1, of the root mean squared difference."""
    h = h.view(*characters.shape, -1)
    same = characters[:, :, None] == characters[:, None]
    distance = (h[:, :, None] - h[:, None]).square().mean(-1).clamp_min(1e-12).sqrt()
    return of_both_kinds(torch.where(same, distance**2, (1 - distance).clamp_min(0) ** 2) / 2, characters)


LOSSES = {"softmax": koch.softmax_loss, "bce": cross_entropy, "contrastive": contrastive}


def train(config, training, loss, optimizer, rate, lr_step):
    """Train for config.steps steps; return the net. lr_step: steps between falls to a tenth, 0: along a cosine."""
    run = koch.Run(config)
    if optimizer != "muon":
        kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
        run.optimizers = [kind([{"params": list(run.net.parameters()), "highest": rate}], rate, weight_decay=0.0)]
    for step in range(config.steps):
        x, characters = koch.fast_minibatch(training, None, step, config, koch.step_rng(step, config))
        value = LOSSES[loss](run.net, run.net.features(x), characters)
        run.net.zero_grad()
        value.backward()
        koch.set_rates(run.optimizers, step, config)
        for chosen in run.optimizers:
            if lr_step:
                chosen.param_groups[0]["lr"] = chosen.param_groups[0]["highest"] * 0.1 ** (step // lr_step)
            chosen.step()
    return run.net.eval()


def main():
    parser = Parser(prog="variants.py", description=__doc__)
    parser.add_argument("--loss", choices=LOSSES, default="softmax")
    parser.add_argument("--optimizer", choices=("muon", "adamw", "sgd"), default="muon")
    parser.add_argument("--rate", type=float, default=2e-3, help="of adamw and sgd (default: %(default)s)")
    parser.add_argument("--lr-step", type=int, default=0, help="steps between falls to a tenth; 0: along a cosine")
    koch.add_options(parser, "data", "data_dir", "ink", "steps", "seed", "turns", "distortion")
    options = vars(parser.parse_args())
    how = {name: options.pop(name) for name in ("loss", "optimizer", "rate", "lr_step")}
    config = koch.settle(koch.Config(**{"steps": 300, "size": 35, "device": "cpu"} | options))
    drawings, data = koch.load_data(config)
    training, validation, test = koch.split(drawings)
    net = train(config, koch.enough_drawings(training, config), **how)
    net.config = config = dataclasses.replace(config, data=data)
    net.scale, net.shift = koch.calibration(net, validation)
    koch.evaluate(net, test, config)


if __name__ == "__main__":
    sys.exit(guarded("variants.py", main))
