"""The page to draw on, tutorials/draw.html: draw.source.html with the numbers of a trained net in it.

`python tutorials/build.py page` writes it. The page computes what SiameseNet does, in JavaScript, with one look at a
drawing: eight would take longer than a pen waits.
"""

import base64
import json
from pathlib import Path

import torch
import torch.nn as nn

import koch
from tutorials.common import write_whole

FOLDER = Path(__file__).resolve().parent
SOURCE, PAGE = FOLDER / "draw.source.html", FOLDER / "draw.html"
PLACE = "/*WEIGHTS*/null"


def halves(weights):
    """Return numbers as base64 text in half precision, as the shipped weights are."""
    return base64.b64encode(weights.detach().half().numpy().tobytes()).decode()


def as_layers(twin):
    """Return a reduced twin's layers, each a dict: sizes, weights as text, and what batch normalisation makes of its
    outputs, x * scale + shift. A convolution's filters stand in groups of four: (n_out / 4, n_in * k * k, 4)."""
    found = []
    for module in twin:
        if isinstance(module, nn.Conv2d):
            n_out, n_in, k, _ = module.weight.shape
            groups = module.weight.reshape(n_out // 4, 4, n_in * k * k).transpose(1, 2)
            found.append({"n_in": n_in, "n_out": n_out, "k": k, "pad": module.padding[0], "pool": False})
            found[-1]["weights"] = halves(groups)
        elif isinstance(module, nn.MaxPool2d):
            found[-1]["pool"] = True
        elif isinstance(module, nn.Linear):
            n_out, n_in = module.weight.shape
            found.append({"n_in": n_in, "n_out": n_out, "k": 0, "weights": halves(module.weight)})
            bias = module.bias
        elif isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
            scale = module.weight / torch.sqrt(module.running_var + module.eps)
            shift = module.bias - scale * module.running_mean
            if isinstance(module, nn.BatchNorm1d):
                shift = shift + scale * bias
            found[-1] |= {"scale": scale.tolist(), "shift": shift.tolist()}
    return found


def page(net):
    """Return the page with a trained net in it, as text; net: of koch.load_checkpoint, of size 35 or 51."""
    numbers = {"size": net.size, "layers": as_layers(net.twin), "alpha": net.join.weight[0].tolist()}
    numbers |= {"bias": net.join.bias.item(), "scale": net.scale, "shift": net.shift}
    return SOURCE.read_text(encoding="utf-8").replace(PLACE, json.dumps(numbers))


def write_page():
    """Write the page with the project's own net in it; return the exit status."""
    write_whole(PAGE, page(koch.load_checkpoint(koch.WEIGHTS)).encode())
    print(f"{PAGE.name}: {PAGE.stat().st_size:,} bytes")
    return 0
