"""How many of MNIST's trials does a net answer that has seen no digit (§4.4)? python tutorials/mnist.py [best.pt]"""

import gzip
import hashlib
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

import koch
from tutorials.common import guarded

ADDRESS = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FILES = {  # file in the data folder: checksum of the official file, bytes before the numbers, how many these are
    "t10k-images-idx3-ubyte.gz": ("9fb629c4189551a2d022fa330f9573f3", 16, 7_840_000),
    "t10k-labels-idx1-ubyte.gz": ("ec29112dd5afa0611ce80d1b7f02629c", 8, 10_000),
}


def read_file(data_dir, name):
    """Return the numbers of one of MNIST's files, uint8, downloaded if need be. Raises UserError."""
    checksum, header, size = FILES[name]
    path = koch.data_file(data_dir, name, download=False)
    if not path.is_file():
        with koch.explained(f"{path} is not there and cannot be downloaded; put it there"):
            content = urllib.request.urlopen(ADDRESS + name, timeout=20).read()
            if hashlib.md5(content).hexdigest() != checksum:
                raise ValueError("what came is not the official file: its checksum differs")
        koch.write_whole(path, content)
    with koch.explained(f"{path} is damaged; delete it and start again"):
        return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, size, header)


def load_mnist(data_dir=""):
    """Load MNIST's 10,000 test digits (§4.4): Drawings of (10, 1135, 28, 28) float32 with counts. Raises UserError.

    koch.one_shot_trials(load_mnist(), 10, 400, rng) draws the paper's trials.
    """
    numbers, digits = (read_file(data_dir, name) for name in FILES)
    images = numbers.reshape(-1, 28, 28) / np.float32(255)  # ink is high in MNIST as it is
    rng, classes = np.random.default_rng(0), {}
    for digit in range(10):  # shuffled, always alike: the file goes by writers, and a column would be by one of them
        classes["MNIST", str(digit)] = images[rng.permutation(np.flatnonzero(digits == digit))]
    return koch.as_drawings(classes)


def main():
    net = koch.choose_net(sys.argv[1] if len(sys.argv) > 1 else None, koch.settle(koch.Config()))
    digits, rngs = load_mnist(), (torch.Generator().manual_seed(koch.TRIALS_SEED + i) for i in range(5))
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
