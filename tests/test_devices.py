"""One device more: a training step on fake CUDA tensors, and two processes of torchrun."""

import subprocess
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, has_loopback
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

import koch

# CUDA without a card: fake tensors have a device and a shape but no numbers. An operation that mixes devices is an
# error there, and so is whatever would wait for a number: item(), a condition, a shape that depends on one.


class StandIn(TorchFunctionMode):
    """Stand in for what torch's CPU build cannot do on a device that is not there, with the same devices and shapes."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return STAND_INS.get(function, function)(*args, **(kwargs or {}))


def indexed(tensor, index):
    """Return tensor[index] by operations that work on a device which is not there."""
    places, axis = [], 0
    for part in index if isinstance(index, tuple) else (index,):
        if part is None:
            tensor = tensor.unsqueeze(axis)
        elif isinstance(part, int):
            tensor, axis = tensor.select(axis, part), axis - 1
        elif isinstance(part, slice):
            tensor = torch.ops.aten.slice(tensor, axis, part.start, part.stop, part.step or 1)
        places.append(part if isinstance(part, torch.Tensor) else None)
        axis += 1
    return torch.ops.aten.index(tensor, places) if any(place is not None for place in places) else tensor


STAND_INS = {
    torch.Tensor.__getitem__: indexed,
    torch.Tensor.__invert__: torch.logical_not,
    F.grid_sample: lambda images, grid, **how: images + grid.sum(),
    F.batch_norm: lambda x, mean, variance, weight, bias, **how: x + (mean + variance + weight + bias).sum(),
    torch.Tensor.contiguous: lambda x, **how: x,
}


def on_fake_cuda(net):
    """Exchange a net's parameters and buffers for fake ones on the device cuda; Module.to cannot."""
    for module in net.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            module._parameters[name] = torch.nn.Parameter(torch.empty(p.shape, device="cuda"))
        for name, b in list(module.named_buffers(recurse=False)):
            module._buffers[name] = torch.empty(b.shape, dtype=b.dtype, device="cuda")
    return net


@pytest.mark.parametrize("size", [35, 105])
@pytest.mark.parametrize("recipe", koch.RECIPES)
def test_a_step_on_cuda_mixes_no_devices_and_waits_for_no_number(recipe, size, monkeypatch):
    for name in ("rand", "randn", "randint"):
        draw = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *how, generator, device, draw=draw: draw(*how, device=device))
    config = koch.Config(recipe=recipe, size=size, device="cuda", pairs=64, batch=4, distort=True)
    config = koch.dataclasses.replace(config, steps=5, alphabets=2, characters=3, drawings=2, learning_rates="0.1")
    net, draw_minibatch, loss_function = koch.SiameseNet(size), *koch.RECIPES[recipe]
    with FakeTensorMode(), torch.no_grad(), StandIn():
        net = on_fake_cuda(net)
        optimizers = koch.make_optimizers(net, config)
        images = torch.zeros(9, 4, 105, 105, dtype=torch.uint8, device="cuda")
        alphabet, counts = torch.zeros(9, dtype=torch.int64, device="cuda"), torch.full((9,), 4, device="cuda")
        drawings = koch.Drawings(images, alphabet, counts, ("A",), ())
        whole = torch.zeros(64, dtype=torch.int64, device="cuda")
        pairs = koch.Pairs(whole, whole, whole > 0, torch.zeros(2, 9, 64, 7, device="cuda"))
        rng = types.SimpleNamespace(device=torch.device("cuda"))
        x, target = draw_minibatch(drawings, pairs, 0, config, rng)
        loss = loss_function(net, net.features(x), target)
        for p in net.parameters():
            p.grad = torch.zeros_like(p)  # backwards there is no way without CUDA's own part of torch
        koch.set_rates(optimizers, 0, config)
        for optimizer in optimizers:
            optimizer.step()
        assert {t.device.type for t in (x, target, loss, *net.state_dict().values())} == {"cuda"}


# Two processes --------------------------------------------------------------------------------------------------------

WATCHED = """
import sys, torch
sys.path.append(sys.argv.pop(1))
import koch
average, minibatch, loop, seen = koch.average, koch.fast_minibatch, koch.training_loop, []
drawings = koch.invent_alphabets(0, 5, 4)._replace(by_drawer=False)
koch.load_data = lambda config: (drawings, "five")

def watched_minibatch(*arguments):
    seen.append({"minibatch": minibatch(*arguments)})
    return seen[-1]["minibatch"]

def watched_average(tensors):
    tensors = list(tensors)
    average(tensors)
    seen[-1].setdefault("gradients", [tensor.clone() for tensor in tensors])

def watched_loop(run, *arguments):
    yield from loop(run, *arguments)
    torch.save({"seen": seen, "net": run.net.state_dict()}, f"rank{koch.RANK}.pt")

koch.average, koch.training_loop = watched_average, watched_loop
koch.RECIPES["fast"] = watched_minibatch, koch.softmax_loss
sys.exit(koch.main())
"""


@pytest.mark.skipif(not has_loopback(), reason="torchrun's processes talk over the loopback interface, which is down")
def test_two_processes_draw_different_minibatches_average_their_gradients_and_end_alike(tmp_path):
    (tmp_path / "watched.py").write_text(WATCHED)
    words = f"watched.py {ROOT} train --size 35 --device cpu --precision float32 --name both".split()
    words += "--steps 3 --validations 1 --alphabets 1 --characters 3 --drawings 2".split()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(torchrun + words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 3 of 3") == 1  # rank 0 alone speaks and writes
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"both"}
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(ranks[0]["net"].values(), ranks[1]["net"].values()))
    minibatches = [step["minibatch"][0] for rank in ranks for step in rank["seen"]]
    assert len({x.numpy().tobytes() for x in minibatches}) == 6
    # The gradient of one process that takes both minibatches of the first step, each with its own batch normalisation.
    torch.set_num_threads(1)  # as torchrun's processes have
    net = koch.Run(koch.settle(koch.Config(size=35, device="cpu", precision="float32"))).net
    losses = [koch.softmax_loss(net, net.features(x), names) for x, names in (r["seen"][0]["minibatch"] for r in ranks)]
    (sum(losses) / 2).backward()
    for name, p, got in zip(dict(net.named_parameters()), net.parameters(), ranks[1]["seen"][0]["gradients"]):
        assert (got - p.grad).abs().max() <= 1e-4 * p.grad.abs().max() + 1e-6, name
