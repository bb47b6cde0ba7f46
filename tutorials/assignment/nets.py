"""A submission's net answers trials in a process of its own: the side of score.py that runs the submission's code."""

import numpy as np
import torch

import koch
from reference_numpy.data import Trials, UserError, one_shot_answers

loaded = {}  # the submission's net, once it is made


def answer(find, question):
    """Answer the marker: make the net and count its parameters, or answer trials with it."""
    if question["question"] == "load":
        loaded["net"] = net = load(find, *question["arguments"])
        own = sum(p.numel() for p in net.parameters()) if isinstance(net, torch.nn.Module) else 0
        return int(own or getattr(net, "n_parameters", 0))
    images, test, support = question["arguments"]
    net, trials = loaded["net"], Trials(images, test, support, np.zeros_like(test))  # the right answers are not here

    def features(some):
        return np.asarray(net.features(koch.to_input(torch.as_tensor(some), net.size)))

    def logit(h1, h2):
        return np.asarray(net.logit(torch.as_tensor(h1), torch.as_tensor(h2)))

    with torch.no_grad():
        return one_shot_answers(features, logit, trials)


def load(find, name):
    """Make the net that "module:Class" or a checkpoint's name says."""
    if ":" not in name:
        if not (find.folder / name).is_file():
            raise UserError(f"there is no {name}")
        return koch.load_checkpoint(find.folder / name)
    net = find(name.replace(":", "."))()
    if missing := [needed for needed in ("size", "features", "logit") if not hasattr(net, needed)]:
        raise UserError(f"{name} has no {missing[0]}; a net has size, features(images) and logit(h1, h2)")
    return net.eval() if isinstance(net, torch.nn.Module) else net
