"""What the tests share: small sets of drawings, scorers that are no nets, and the real data where it is at hand."""

import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import koch  # noqa: E402

@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    config.option.reportchars += "s"  # say why a test is skipped


WITHOUT_DATA = "needs Omniglot: set KOCH_DATA to the folder with the three zip files"


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def random_drawings(n_characters=(21, 22, 5), n_drawers=4, side=105, seed=0):
    """Make drawings of noise: one alphabet for each count of characters. No two drawings are alike."""
    images = (torch.rand(sum(n_characters), n_drawers, side, side, generator=rng(seed)) < 0.1).to(torch.uint8)
    alphabet = torch.arange(len(n_characters)).repeat_interleave(torch.tensor(n_characters))
    return koch.Drawings(images, alphabet, tuple(f"Alphabet{i}" for i in range(len(n_characters))))


class Oracle:
    """Answer every trial: it knows the character of every image of its drawings."""

    size = 105

    def __init__(self, drawings):
        images = drawings.images.flatten(0, 1).flatten(1)
        self.known = {bytes(image.numpy().tobytes()): i // drawings.images.shape[1] for i, image in enumerate(images)}

    def features(self, images):
        pixels = images.to(torch.uint8).flatten(1)
        return torch.tensor([[float(self.known[image.numpy().tobytes()])] for image in pixels])

    def logit(self, h1, h2):
        return 1.0 - (h1 - h2).abs().sum(-1)


class Always(Oracle):
    """Give every pair the same logit."""

    def __init__(self, logit):
        self.value = logit

    def features(self, images):
        return torch.zeros(len(images), 1)

    def logit(self, h1, h2):
        return torch.full((len(h1),), self.value)


@pytest.fixture
def drawings():
    return random_drawings()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder with links to the real data, so that no cache is written beside them; or skip."""
    there, folder = Path(os.environ.get("KOCH_DATA", "")).resolve(), tmp_path_factory.mktemp("data")
    if not all((there / name).is_file() for name in koch.FILES):
        pytest.skip(WITHOUT_DATA)
    for name in koch.FILES:
        (folder / name).symlink_to(there / name)
    return str(folder)


@pytest.fixture(scope="session")
def invented():
    return koch.invent_alphabets(0)
