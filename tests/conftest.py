"""What the tests share: small sets of drawings, scorers that are no nets, and the real data where it is at hand."""

import functools
import importlib
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# Small arrays are computed faster by one thread, by far where other programs want the cores. threads.py has two.
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

# Without --thorough the loops of reference_numpy run as plain Python: compiling them all takes minutes.
if not {"--thorough", "--impl"} & {argument.split("=")[0] for argument in sys.argv}:
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

import koch  # noqa: E402

REFERENCE = "reference_numpy.layers"


def pytest_addoption(parser):
    text = f"layers to test: a module that can be imported, or a .py file (default {REFERENCE})"
    parser.addoption("--impl", default=REFERENCE, metavar="MODULE", help=text)
    parser.addoption("--seed", default=0, type=int, metavar="N", help="draws the layers' inputs (default 0)")
    parser.addoption("--thorough", action="store_true", help="run the slow tests too, marked as thorough")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    config.option.reportchars += "s"  # say why a test is skipped
    config.addinivalue_line("markers", "compiled: so much work that it is left out where Numba does not compile")
    config.addinivalue_line("markers", "thorough: slow, and run with --thorough alone")
    if config.option.impl != REFERENCE:  # at once, not in each test
        try:
            import_layers(config.option.impl)
        except (ImportError, OSError) as error:
            raise pytest.UsageError(f"--impl {config.option.impl}: {error}") from None


def pytest_collection_modifyitems(config, items):
    plain = os.environ.get("NUMBA_DISABLE_JIT") == "1"
    slow = [
        item for item in items
        if item.get_closest_marker("thorough") and not config.option.thorough
        or item.get_closest_marker("compiled") and plain
    ]  # fmt: skip
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in set(slow)]


@pytest.fixture(scope="session", autouse=True)
def compiling(request):
    """Let a process compile reference_numpy's loops and test them, beside the tests that run them as plain Python."""
    if not any("compiled_loops" in item.name for item in request.session.items):
        return None
    test = "test_network.py::test_a_tiny_net_of_every_kind_of_layer_has_the_gradients_of_torch[True]"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "tests" / test)]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "0"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@functools.cache
def import_layers(name):
    """Import a module by its name, from the current folder or this project's, or by the path of its file."""
    if not name.endswith(".py"):
        sys.path += [] if os.getcwd() in sys.path else [os.getcwd()]
        return importlib.import_module(name)
    path = Path(name).resolve()
    sys.path.append(str(path.parent))  # for what it imports from beside it
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


class Layers:
    """Look up a function in the module under test; one that is missing or not written yet fails its tests."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        function = getattr(self.module, name, None)
        if function is None:
            pytest.fail(f"{self.module.__name__} has no function {name}", pytrace=False)

        def call(*arguments, **options):
            try:
                return function(*arguments, **options)
            except NotImplementedError as error:
                why = f"{self.module.__name__}.{name} is not implemented: {error}"
            pytest.fail(why, pytrace=False)

        return call


@pytest.fixture(scope="session")
def impl(request):
    return Layers(import_layers(request.config.option.impl))


@pytest.fixture
def seed(request):
    return request.config.option.seed


@pytest.fixture
def draw(seed):
    """A NumPy generator, the same at the start of every test."""
    return np.random.default_rng(seed)


N_THREADS = torch.get_num_threads()


@pytest.fixture(autouse=True)
def threads():
    """Give torch its threads back: where Numba takes OpenMP's, both have one number of them, and Numba has set it."""
    torch.set_num_threads(N_THREADS)


WITHOUT_DATA = "needs Omniglot: set KOCH_DATA to the folder with the three zip files"


def has_loopback():
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5):
            return True
    except OSError:
        return False


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def schedule(step, config):
    """Return the factor of a recipe's learning rates at a step, as koch.set_rates sets it."""
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "highest": 1.0}], 0.0)
    koch.set_rates([optimizer], step, config)
    return optimizer.param_groups[0]["lr"]


def random_drawings(n_characters=(21, 22, 5), n_drawers=4, side=105, seed=0):
    """Make drawings of noise: one alphabet for each count of characters. No two drawings are alike."""
    images = (torch.rand(sum(n_characters), n_drawers, side, side, generator=rng(seed)) < 0.1).to(torch.uint8)
    alphabet = torch.arange(len(n_characters)).repeat_interleave(torch.tensor(n_characters))
    counts, names = torch.full((len(images),), n_drawers), tuple(f"Alphabet{i}" for i in range(len(n_characters)))
    return koch.Drawings(images, alphabet, counts, names, (), by_drawer=n_drawers == 20)


def thin_twin(size):
    """Return the reduced twin with few filters: as many layers, a hundredth of the work."""
    layers, before = [], 1
    for n in (4, 4, 8, 8, 8, 8):
        layers += [torch.nn.Conv2d(before, n, 3, stride=2, padding=1), torch.nn.BatchNorm2d(n), torch.nn.ReLU()]
        before = n
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(8, 512), torch.nn.BatchNorm1d(512))


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
        return torch.full(torch.broadcast_shapes(h1.shape, h2.shape)[:-1], self.value)


@pytest.fixture
def drawings():
    return random_drawings()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder with links to the real data, so that no cache is written beside them; or skip."""
    there, folder = Path(os.environ.get("KOCH_DATA", "")).resolve(), tmp_path_factory.mktemp("data")
    if not all((there / name).is_file() for name in list(koch.FILES)[:3]):
        pytest.skip(WITHOUT_DATA)
    for name in (name for name in [*koch.FILES, "att_faces.zip"] if (there / name).is_file()):
        (folder / name).symlink_to(there / name)
    return str(folder)


@pytest.fixture(scope="session")
def invented():
    return koch.invent_alphabets(0, 6)
