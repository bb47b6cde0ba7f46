"""Where a training step's time goes: python tests/benchmark.py [--device cpu|cuda] [--repeat 5]

For both sizes and both precisions, medians of one run: images and pairs a second, the shares of the encoder (the twin,
forwards and backwards), the join with its loss, sampling, distortion and optimiser, and the step's floating-point rate
beside this device's measured matrix-product rate.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import koch  # noqa: E402

PARTS = ("sampling", "distortion", "encoder", "join", "optimiser")


def now(device):
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed_step(net, optimizers, drawings, config, rng):
    """Take one training step in its parts; return the seconds of each and the step's loss."""
    device = config.device
    marks = [now(device)]
    images, characters = koch.draw_alphabets(drawings, config, rng)
    marks.append(now(device))
    x = koch.to_input(images.flatten(0, 1), net.size)
    bends = 0.04 * torch.randn(len(x), 2, 4, 4, generator=rng, device=rng.device)
    x = koch.distort(x, koch.draw_distortions(len(x), rng, config.distortion), bends)
    marks.append(now(device))
    h = net.features(x)
    marks.append(now(device))
    joined = h.detach().requires_grad_()
    net.zero_grad()
    loss = koch.softmax_loss(net, joined.view(*characters.shape, -1), characters)
    loss.backward()
    marks.append(now(device))
    h.backward(joined.grad)
    marks.append(now(device))
    koch.set_rates(optimizers, 0, config)
    for optimizer in optimizers:
        optimizer.step()
    marks.append(now(device))
    draw, distort, forward, join, backward, step = (b - a for a, b in zip(marks, marks[1:]))
    return dict(zip(PARTS, (draw, distort, forward + backward, join, step))), loss.item()


def flops_per_step(net, config):
    """Count the floating-point operations of the encoder's forward and backward pass (the join's are under 1 %)."""
    n = config.alphabets * config.characters * config.drawings
    with FlopCounterMode(display=False) as counter:
        net.features(torch.zeros(n, 1, net.size, net.size)).sum().backward()
    return counter.get_total_flops()


def matrix_rate(device, dtype, side, repeat):
    """Measure the rate of a large matrix product, in floating-point operations a second."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(repeat + 1):
        start = now(device)
        a @ b
        seconds.append(now(device) - start)
    return 2 * side**3 / statistics.median(seconds[1:])


def benchmark(size, precision, device, repeat):
    torch.manual_seed(0)
    config = koch.settle(koch.Config(size=size, precision=precision, device=device))
    images = (torch.rand(300, 20, 105, 105) < 0.08).to(torch.uint8)
    alphabet = torch.arange(10).repeat_interleave(30)
    counts = torch.full((300,), 20)
    if size < koch.SIDE:  # as koch.train has them
        images = torch.stack([koch.to_input(row, size)[:, 0] for row in images])
    drawings = koch.Drawings(*(t.to(device) for t in (images, alphabet, counts)), tuple("abcdefghij"), ())
    net, rng = koch.SiameseNet(size).to(device), torch.Generator(device).manual_seed(0)
    net.precision = precision
    optimizers = koch.make_optimizers(net, config)
    steps = [timed_step(net, optimizers, drawings, config, rng)[0] for _ in range(repeat + 2)][2:]
    total = statistics.median(sum(step.values()) for step in steps)
    shares = {part: statistics.median(step[part] / sum(step.values()) for step in steps) for part in PARTS}
    n, a = config.alphabets * config.characters * config.drawings, config.alphabets
    rate = flops_per_step(koch.SiameseNet(size), config) / total
    matrix = matrix_rate(device, getattr(torch, precision), 2048 if device == "cpu" else 8192, 10)
    return total, n / total, a * (n // a) * (n // a - 1) / 2 / total, shares, rate, matrix


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeat", type=int, default=5, help="steps whose median is taken (default: 5)")
    options = parser.parse_args()
    print(f"torch {torch.__version__} on {options.device}, {torch.get_num_threads()} threads")
    parts = "".join(f"{part:>11}" for part in PARTS)
    print(f"size precision   ms/step  images/s   pairs/s{parts}   GFLOP/s  of matrix rate")
    for size in koch.SIZES:
        for precision in ("float32", "bfloat16"):
            total, images, pairs, shares, rate, matrix = benchmark(size, precision, options.device, options.repeat)
            print(
                f"{size:4} {precision:9} {1e3 * total:9.1f} {images:9,.0f} {pairs:9,.0f}"
                + "".join(f"{shares[part]:11.1%}" for part in PARTS)
                + f" {rate / 1e9:9,.0f}  {rate / matrix:6.0%} of {matrix / 1e9:,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
