"""§3.2 sentence by sentence: the paper's own recipe, --recipe paper."""

import dataclasses
import math

import pytest
import torch
from conftest import random_drawings, rng, schedule, thin_twin

import koch


def paper_config(**how):
    how = {"recipe": "paper", "size": 35, "device": "cpu", "precision": "float32", "pairs": 40, "batch": 8} | how
    return koch.settle(koch.Config(**how))


def distinct(n, low, high):
    """Return n different numbers by commas."""
    return ",".join(f"{low + (high - low) * i / n:.6f}" for i in range(n))


@pytest.fixture(scope="module")
def drawings():
    return random_drawings((5, 7, 4), 20, 35)


def a_step(config, drawings, n_steps=1):
    """Take steps of the paper's recipe; return the net, its weights before each step and after, and its gradients."""
    run, pairs = koch.Run(config), koch.training_pairs(drawings, config)
    trials = koch.one_shot_trials(drawings, 2, 4, rng())
    loop, weights, gradients = koch.training_loop(run, drawings, pairs, trials, config), [], []
    for _ in range(n_steps):
        weights.append({name: p.detach().clone() for name, p in run.net.named_parameters()})
        next(loop)
        gradients.append({name: p.grad.clone() for name, p in run.net.named_parameters()})
    return run.net, weights, gradients


def order(config, epoch):
    """Return the pairs' order in an epoch, as paper_minibatch has it."""
    n = config.pairs * (9 if config.distort else 1)
    return torch.randperm(n, generator=torch.Generator().manual_seed(1_000_003 * config.seed + epoch))


# The objective --------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_cross_entropy_of_single_pairs(drawings):
    config, net = paper_config(), koch.SiameseNet(35).eval()
    pairs = koch.training_pairs(drawings, config)
    chosen, flat = order(config, 0)[8:16], koch.to_input(drawings.images.flatten(0, 1), 35)
    with torch.no_grad():
        x, same = koch.paper_minibatch(drawings, pairs, 1, config, None)
        loss = koch.cross_entropy(net, net.features(x), same)
        p = net.logit(*(net.features(flat[part[chosen]]) for part in (pairs.first, pairs.second))).sigmoid()
    y = pairs.same[chosen].float()
    assert torch.equal(y, same)
    assert loss.item() == pytest.approx(-(y * p.log() + (1 - y) * (1 - p).log()).mean().item(), rel=1e-5)


def test_each_layer_has_its_own_l2_penalty_on_weights_and_none_on_biases(drawings):
    config = paper_config(penalties=distinct(8, 0.01, 0.1), learning_rates=",".join(["1"] * 8))
    net, (before,), (gradients,) = a_step(config, drawings)
    values = list(map(float, config.penalties.split(",")))
    for layer, l2 in zip(layers_by_name(net), values):
        for name in layer:
            p = net.get_parameter(name)
            decay = 2 * l2 * before[name] if p.ndim > 1 else 0.0
            torch.testing.assert_close(p, before[name] - gradients[name] - decay, rtol=1e-4, atol=1e-6)


def layers_by_name(net):
    names = {id(p): name for name, p in net.named_parameters()}
    return [[names[id(p)] for p in layer] for layer in koch.layers(net)]


@pytest.mark.parametrize("size, n", [(35, 8), (105, 6)])
def test_every_parameter_belongs_to_one_layer(size, n):
    net = koch.SiameseNet(size)
    found = layers_by_name(net)
    assert len(found) == n and sorted(sum(found, [])) == sorted(name for name, _ in net.named_parameters())
    assert all(sum(net.get_parameter(name).ndim > 1 for name in layer) == 1 for layer in found)


# The optimisation -----------------------------------------------------------------------------------------------------


def test_each_layer_has_its_own_learning_rate(drawings):
    config = paper_config(learning_rates=distinct(8, 0.001, 0.1), penalties=",".join(["0"] * 8))
    net, (before,), (gradients,) = a_step(config, drawings)
    for layer, eta in zip(layers_by_name(net), map(float, config.learning_rates.split(","))):
        for name in layer:
            torch.testing.assert_close(net.get_parameter(name), before[name] - eta * gradients[name])


def test_the_learning_rate_falls_by_one_percent_an_epoch_in_every_layer_and_not_within_one():
    net, config = koch.SiameseNet(35), paper_config(learning_rates=distinct(8, 0.001, 0.1))
    optimizers, etas = koch.make_optimizers(net, config), list(map(float, config.learning_rates.split(",")))
    assert koch.epoch_steps(config) == 5
    for step, factor in ((0, 1), (4, 1), (5, 0.99), (9, 0.99), (10, 0.99**2), (500, 0.99**100)):
        koch.set_rates(optimizers, step, config)
        rates = [group["lr"] for group in optimizers[0].param_groups[::2]]
        assert rates == pytest.approx([eta * factor for eta in etas])


def test_fewer_steps_go_through_the_schedule_of_all_epochs():
    config = paper_config(steps=400)
    for step, epoch in ((0, 0), (1, 0), (2, 1), (200, 100), (399, 199)):
        assert schedule(step, config) == pytest.approx(0.99**epoch)


def test_the_momentum_starts_at_one_half_and_rises_by_the_epoch_to_each_layers_mu():
    net, config = koch.SiameseNet(35), paper_config(momenta=distinct(8, 0.6, 0.99))
    optimizers, mus = koch.make_optimizers(net, config), list(map(float, config.momenta.split(",")))
    for step, risen in ((0, 0), (4, 0), (5, 1 / 5), (9, 1 / 5), (10, 2 / 5), (25, 1), (400, 1)):
        koch.set_rates(optimizers, step, config)
        momenta = [group["momentum"] for group in optimizers[0].param_groups[::2]]
        assert momenta == pytest.approx([0.5 + risen * (mu - 0.5) for mu in mus])


def test_the_momentum_is_in_the_steps_taken(drawings):
    config = paper_config(momenta="0.9", penalties="0")
    net, weights, gradients = a_step(config, drawings, 2)
    first, second = (g["join.weight"] for g in gradients)
    wanted = weights[1]["join.weight"] - float(config.learning_rates) * (second + 0.5 * first)  # of the first epoch
    torch.testing.assert_close(net.join.weight, wanted)


def test_a_steps_gradient_is_that_of_its_own_minibatch_alone(drawings):
    config, again = paper_config(), koch.SiameseNet(35)
    _, weights, gradients = a_step(config, drawings, 2)
    again.load_state_dict(weights[1], strict=False)
    x, same = koch.paper_minibatch(drawings, koch.training_pairs(drawings, config), 1, config, None)
    koch.cross_entropy(again, again.features(x), same).backward()
    for name, p in again.named_parameters():
        torch.testing.assert_close(gradients[1][name], p.grad, rtol=1e-3, atol=1e-5)


def test_the_defaults_are_the_papers():
    config = koch.Config(recipe="paper")
    assert (config.batch, config.epochs, config.patience, config.pairs) == (128, 200, 20, 150_000)
    settled = koch.settle(dataclasses.replace(config, size=105, device="cpu"))
    assert settled.steps == 200 * math.ceil(150_000 / 128)
    assert koch.N_VALIDATION == 320 and koch.N_PAIRS == 10_000
    assert koch.DRAWERS == {"training": slice(0, 12), "validation": slice(12, 16), "test": slice(16, 20)}


@pytest.mark.parametrize("size", koch.SIZES)
def test_the_initial_weights_are_drawn_as_the_paper_says(size):
    torch.manual_seed(0)
    net = koch.SiameseNet(size)
    koch.paper_initialisation(net)
    for module in net.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            wanted = 0.01 if isinstance(module, torch.nn.Conv2d) else 0.2
            assert module.weight.std().item() == pytest.approx(wanted, rel=0.1)
            assert abs(module.weight.mean().item()) < 4 * wanted / math.sqrt(module.weight.numel())
            if module.bias is not None and len(module.bias) > 1:
                assert module.bias.mean().item() == pytest.approx(0.5, abs=0.01)
                assert module.bias.std().item() == pytest.approx(0.01, rel=0.25)
    assert 0.4 < net.join.bias.item() < 0.6


# The pairs and their distortions --------------------------------------------------------------------------------------


def test_an_epoch_goes_once_through_every_pair_and_each_epoch_in_another_order(drawings):
    config = paper_config(pairs=20, distort=True)
    pairs, steps = koch.training_pairs(drawings, config), koch.epoch_steps(config)
    assert steps == math.ceil(9 * 20 / 8)
    epochs = []
    for epoch in range(2):
        places = range(epoch * steps, (epoch + 1) * steps)
        batches = [koch.paper_minibatch(drawings, pairs, step, config, None)[0] for step in places]
        epochs.append(torch.cat([x.chunk(2)[0] for x in batches]).flatten(1))
    assert len(epochs[0]) == 180 and not torch.equal(*epochs)
    sums = [sorted((epoch * torch.rand(1225, generator=rng())).sum(1).tolist()) for epoch in epochs]
    assert sums[0] == pytest.approx(sums[1], abs=1e-3)  # the same 180 images
    other = koch.paper_minibatch(drawings, pairs, 0, dataclasses.replace(config, seed=1), None)[0]
    assert not torch.equal(other, koch.paper_minibatch(drawings, pairs, 0, config, None)[0])


def test_every_pair_has_eight_distorted_copies_beside_itself_and_each_twin_a_distortion_of_its_own(drawings):
    pairs = koch.training_pairs(drawings, paper_config(pairs=300, distort=True))
    assert pairs.distortions.shape == (2, 9, 300, 7)
    assert (pairs.distortions[:, 0] == 0).all()  # as it was drawn
    present = (pairs.distortions[:, 1:] != 0).float()
    assert abs(present.mean() - 0.5) < 0.02 and not torch.equal(pairs.distortions[0], pairs.distortions[1])
    assert len(pairs.distortions[:, 1:].reshape(-1, 7).unique(dim=0)) > 0.98 * 2 * 8 * 300
    again = koch.training_pairs(drawings, paper_config(pairs=300, distort=True))
    assert torch.equal(pairs.distortions, again.distortions) and torch.equal(pairs.first, again.first)


def test_a_minibatch_shows_its_pairs_distorted_as_drawn(drawings):
    config = paper_config(pairs=10, distort=True, batch=45)
    pairs = koch.training_pairs(drawings, config)
    x, same = koch.paper_minibatch(drawings, pairs, 1, config, None)
    chosen = order(config, 0)[45:]
    flat = koch.to_input(drawings.images.flatten(0, 1), 35)
    for twin, part in enumerate((pairs.first, pairs.second)):
        wanted = koch.distort(flat[part[chosen % 10]], pairs.distortions[twin, chosen // 10, chosen % 10])
        torch.testing.assert_close(x[45 * twin : 45 * (twin + 1)], wanted)
    as_drawn = (chosen < 10).nonzero()[0]
    assert (x[as_drawn] - flat[pairs.first[chosen[as_drawn]]]).abs().max() < 1e-4
    assert torch.equal(same, pairs.same[chosen % 10].float())


def test_without_distort_nothing_is_distorted(drawings, monkeypatch):
    monkeypatch.setattr(koch, "distort", lambda *_: pytest.fail("distorted"))
    config = paper_config()
    pairs = koch.training_pairs(drawings, config)
    x, _ = koch.paper_minibatch(drawings, pairs, 0, config, None)
    assert pairs.distortions is None and x.shape == (16, 1, 35, 35)


# Stopping -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_world(tmp_path, monkeypatch):
    """A training in a folder of its own, on noise by 20 drawers, with a scripted validation and no test trials."""
    monkeypatch.chdir(tmp_path)
    world = random_drawings((3,) * 50, 20, 35)._replace(by_drawer=True)
    monkeypatch.setattr(koch, "load_data", lambda config: (world, "invented"))
    monkeypatch.setattr(koch, "reduced_twin", thin_twin)
    names = ("run", "config", "folder", "validation", "test")
    monkeypatch.setattr(koch, "finish", lambda *how: dict(zip(names, how)))
    seen = []

    def validate(script):
        def accuracy(net, trials, h=None):
            seen.append(trials)
            return script(len(seen))

        monkeypatch.setattr(koch, "one_shot_accuracy", accuracy)

    return validate, seen, world


def test_training_stops_after_20_epochs_without_a_better_validation_and_keeps_the_best(small_world):
    validate, seen, world = small_world
    validate(lambda epoch: {1: 0.2, 2: 0.5, 3: 0.4}.get(epoch, 0.3))
    config = koch.Config(recipe="paper", size=35, device="cpu", precision="float32", pairs=16, batch=8)
    done = koch.train(config)
    assert len(seen) == 22 and done["run"].step == 44 and done["run"].best == 0.5  # 2 epochs and 20 more
    assert koch.load_checkpoint(done["folder"] / "best.pt").step == 4


def test_training_stops_after_the_last_epoch_at_the_latest(small_world):
    validate, seen, world = small_world
    validate(lambda epoch: epoch / 1000)
    config = koch.Config(recipe="paper", size=35, device="cpu", precision="float32", pairs=16, batch=8, epochs=6)
    done = koch.train(config)
    assert len(seen) == 6 and done["run"].step == 12


def test_320_trials_of_the_validation_alphabets_by_the_validation_drawers_are_watched(small_world):
    validate, seen, world = small_world
    validate(lambda epoch: 0.5)
    koch.train(koch.Config(recipe="paper", size=35, device="cpu", precision="float32", pairs=8, batch=8, epochs=1))
    theirs = world.images[(world.alphabet >= 30) & (world.alphabet < 40)][:, 12:16].flatten(0, 1)
    assert len(seen[0].answers) == 320 and torch.equal(seen[0].images, theirs)


def test_the_papers_pairs_are_of_the_training_alphabets_by_the_training_drawers(small_world, monkeypatch):
    validate, _, world = small_world
    validate(lambda epoch: 0.5)
    seen, draw_pairs = [], koch.draw_pairs
    monkeypatch.setattr(koch, "draw_pairs", lambda *how: seen.append(how) or draw_pairs(*how))
    done = koch.train(koch.Config(recipe="paper", size=35, device="cpu", pairs=8, batch=8, epochs=1))
    trained_on = next(drawings for drawings, n, _ in seen if n == 8)
    assert torch.equal(trained_on.images, world.images[world.alphabet < 30][:, :12])
    validation, test = done["validation"], done["test"]  # what the threshold is chosen on, and what is tested
    assert torch.equal(validation.images, world.images[(world.alphabet >= 30) & (world.alphabet < 40)])
    assert torch.equal(test.images, world.images[world.alphabet >= 40])


@pytest.mark.parametrize(
    "how, said",
    [
        ({"learning_rates": "0.1,0.1"}, "one number for all or 8"),
        ({"momenta": "0.9,0.9,0.9,0.9,0.9,0.9,0.9,much"}, "one number for all or 8"),
        ({"momenta": "1," * 8}, "one number for all or 8"),
        ({"penalties": "1;1"}, "one number for all or 8"),
        ({"pairs": 1}, "--pairs is at least 2"),
        ({"batch": 0}, "--batch is at least 1"),
        ({"name": "../x"}, "--name"),
    ],
)
def test_values_that_make_no_sense_are_refused(how, said):
    with pytest.raises(koch.UserError, match=said):
        koch.Run(koch.settle(koch.Config(**{"size": 35, "device": "cpu"} | how)))
