"""How exact and how fast is the whole net by hand, beside koch.py's by torch, forwards and backwards?

    python tutorials/whole_nets.py [--quick]    sizes 35 and 105, or 35 alone

32 pairs, float32, the same number of threads. Errors are against torch in float64, over the largest entry.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numba
import numpy as np
import torch
import torch.nn.functional as F

import koch
from reference_numpy import compare, layers, network
from tutorials.common import Parser

def by_torch(net, images, same):
    """Return forward and backward of a net of koch.py on pairs, as compare.measure calls them."""
    dtype = net.join.weight.dtype
    x1, x2, wanted = (torch.from_numpy(array).to(dtype) for array in (*images, same))

    def forward():
        loss = F.binary_cross_entropy_with_logits(net.logit(net.features(x1), net.features(x2)), wanted)
        return loss.detach().numpy(), loss

    def backward(dout, loss):
        return tuple(gradient.numpy() for gradient in torch.autograd.grad(loss, list(net.parameters())))

    return forward, backward


def by_hand(net, images, same):
    """Return the same by reference_numpy, with the weights of a net of koch.py."""
    parameters = {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}
    names = [name for name, _ in net.named_parameters()]

    def forward():
        logits, cache = network.siamese_forward(parameters, *images, training=True)
        loss, slope = layers.bce_with_logits_forward(logits, same)
        return loss, (slope, cache)

    def backward(dout, cache):
        slope, twins = cache
        gradients = network.siamese_backward(layers.bce_with_logits_backward(dout, slope), twins)
        return tuple(gradients[name] for name in names)

    return forward, backward


def compare_nets(size, seed=0):
    """Measure torch and the reference and print a row for each: times, and the errors of loss and gradients."""
    torch.manual_seed(seed)
    net = koch.SiameseNet(size).train()
    rng, same = np.random.default_rng(seed), np.arange(32) % 2
    images = [rng.random((32, 1, size, size), np.float32) for _ in range(2)]  # no ties: a pool's choice is rounding's
    ways = {"torch": by_torch(net, images, same), "reference": by_hand(net, images, same)}
    results = {name: compare.measure(*way, (), 1.0, 3 * compare.BUDGET) for name, way in ways.items()}
    exact = compare.measure(*by_torch(net.double(), images, same), (), 1.0, 0.0)
    largest = max(np.abs(gradient).max() for gradient in exact.gradients)
    print(f"size {size}, 32 pairs    forward  backward   / torch    error of: loss  gradients")
    for name, result in results.items():
        seconds, loss_error = result.forward + result.backward, abs(float(result.out) / float(exact.out) - 1)
        error = max(np.abs(a - b).max() for a, b in zip(result.gradients, exact.gradients, strict=True)) / largest
        ratio = seconds / (results["torch"].forward + results["torch"].backward)
        print(f"  {name:14}{1e3 * result.forward:11.1f}{1e3 * result.backward:10.1f}{ratio:10.2f}", end="")
        print(f"{loss_error:20.0e}{error:11.0e}", flush=True)


if __name__ == "__main__":
    parser = Parser(prog="whole_nets.py", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="size 35 alone")
    quick = parser.parse_args().quick
    torch.set_num_threads(numba.get_num_threads())
    for pixels in (35,) if quick else (35, 105):
        compare_nets(pixels)
