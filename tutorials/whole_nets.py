"""How fast is a training step of the net by hand, beside koch.py's by torch? python tutorials/whole_nets.py

32 pairs, float32, forwards and backwards, the same number of threads; the tests hold the two against each other.
"""

import statistics
import sys
import timeit
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numba
import numpy as np
import torch

import koch
from reference_numpy import layers, network


def milliseconds(step, repeat=5):
    """Return the median time of a function, after one call that is not counted."""
    step()
    return 1e3 * statistics.median(timeit.repeat(step, number=1, repeat=repeat))


def compare_nets(size):
    """Time both nets on the same pairs with the same weights, and print a row."""
    net, rng, same = koch.SiameseNet(size).train(), np.random.default_rng(0), np.arange(32) % 2
    x1, x2 = (rng.random((32, 1, size, size), np.float32) for _ in range(2))
    parameters = {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}
    both, wanted = torch.from_numpy(np.concatenate([x1, x2])), torch.from_numpy(same).float()

    def by_torch():
        koch.cross_entropy(net, net.features(both), wanted).backward()

    def by_hand():
        logits, cache = network.siamese_forward(parameters, x1, x2, training=True)
        _, slope = layers.bce_with_logits_forward(logits, same)
        network.siamese_backward(layers.bce_with_logits_backward(1.0, slope), cache)

    times = milliseconds(by_torch), milliseconds(by_hand)
    print(f"{size}x{size}: torch {times[0]:,.0f} ms, by hand {times[1]:,.0f} ms, ratio {times[1] / times[0]:.2f}")


if __name__ == "__main__":
    torch.set_num_threads(numba.get_num_threads())
    for pixels in network.TWINS:
        compare_nets(pixels)
