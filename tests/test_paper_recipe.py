"""§3.2 sentence by sentence: the paper's own recipe, --recipe paper."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import random_drawings, rng

import koch
from reference_numpy import layers


def paper_config(**how):
    how = {"recipe": "paper", "size": 35, "device": "cpu", "precision": "float32", "pairs": 40, "batch": 8} | how
    return koch.settle(koch.Config(**how))


def distinct(n, low, high):
    """Return n different numbers by commas."""
    return ",".join(f"{low + (high - low) * i / n:.6f}" for i in range(n))


@pytest.fixture(scope="module")
def drawings():
    return random_drawings((5, 7, 4), 20, 35)


def a_step(config, drawings, step=0, net=None):
    """Take one step of the paper's recipe with known gradients; return the net, its old weights and its gradients."""
    torch.manual_seed(0)
    net = net or koch.SiameseNet(35, config.loss == "contrastive")
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    pairs = koch.training_pairs(drawings, config)
    koch.training_step(net, koch.make_optimizers(net, config), drawings, step, config, None, pairs)
    return net, before, {name: p.grad for name, p in net.named_parameters()}


# The objective --------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_cross_entropy_of_single_pairs(drawings):
    config, net = paper_config(), koch.SiameseNet(35).eval()
    pairs = koch.training_pairs(drawings, config)
    chosen, flat = koch.epoch_order(40, 0, 0)[8:16], koch.to_input(drawings.images.flatten(0, 1), 35)
    with torch.no_grad():
        loss = koch.paper_loss(net, drawings, pairs, 1, config)
        p = net.logit(*(net.features(flat[part[chosen]]) for part in (pairs.first, pairs.second))).sigmoid()
    y = pairs.same[chosen].float()
    assert loss.item() == pytest.approx(-(y * p.log() + (1 - y) * (1 - p).log()).mean().item(), rel=1e-5)


def test_the_contrastive_loss_is_the_references_on_features_over_the_root_of_their_number():
    h1, h2, same = torch.randn(6, 512, generator=rng()), torch.randn(6, 512, generator=rng(1)), torch.arange(6) % 2
    net = koch.SiameseNet(35, by_distance=True)
    for margin in (1.0, 2.0):
        config = paper_config(loss="contrastive", margin=margin)
        ours = koch.pair_losses(net, h1, h2, same.float(), config).mean().item()
        scaled = (h.double().numpy() / math.sqrt(512) for h in (h1, h2))
        assert ours == pytest.approx(layers.contrastive_loss_forward(*scaled, same.numpy(), margin)[0], rel=1e-5)
    assert net.logit(h1, h1).tolist() == pytest.approx([net.join.bias.item()] * 6, abs=1e-5)
    assert (net.logit(h1, h2) < net.logit(h1, h1)).all()  # further apart is less alike


def test_each_layer_has_its_own_l2_penalty_on_weights_and_none_on_biases(drawings):
    config = paper_config(penalties=distinct(8, 0.01, 0.1), learning_rates=",".join(["1"] * 8))
    net, before, gradients = a_step(config, drawings)
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
    net, before, gradients = a_step(config, drawings)
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


def test_the_momentum_starts_at_one_half_and_rises_by_the_epoch_to_each_layers_mu():
    net, config = koch.SiameseNet(35), paper_config(momenta=distinct(8, 0.6, 0.99), momentum_epochs=4)
    optimizers, mus = koch.make_optimizers(net, config), list(map(float, config.momenta.split(",")))
    for step, risen in ((0, 0), (4, 0), (5, 1 / 4), (9, 1 / 4), (10, 1 / 2), (20, 1), (400, 1)):
        koch.set_rates(optimizers, step, config)
        momenta = [group["momentum"] for group in optimizers[0].param_groups[::2]]
        assert momenta == pytest.approx([0.5 + risen * (mu - 0.5) for mu in mus])


def test_the_momentum_is_in_the_steps_taken(drawings):
    config = paper_config(momenta=",".join(["0.9"] * 8), momentum_epochs=0, penalties=",".join(["0"] * 8))
    torch.manual_seed(0)
    net, pairs = koch.SiameseNet(35), koch.training_pairs(drawings, config)
    optimizers, p = koch.make_optimizers(net, config), net.join.weight
    places, gradients = [p.detach().clone()], []
    for step in range(2):
        koch.training_step(net, optimizers, drawings, step, config, None, pairs)
        places.append(p.detach().clone())
        gradients.append(p.grad.clone())
    eta = float(config.learning_rates.split(",")[-1])
    torch.testing.assert_close(places[2], places[1] - eta * (gradients[1] + 0.9 * gradients[0]))


def test_the_defaults_are_the_papers():
    config = koch.Config(recipe="paper")
    assert (config.batch, config.epochs, config.patience, config.pairs) == (128, 200, 20, 150_000)
    settled = koch.settle(dataclasses.replace(config, size=105, device="cpu"))
    assert (settled.loss, settled.optimizer) == ("bce", "sgd") and settled.steps == 200 * math.ceil(150_000 / 128)
    assert koch.N_VALIDATION == 320 and koch.N_PAIRS == 10_000
    assert koch.DRAWERS == {"training": (0, 12), "validation": (12, 16), "test": (16, 20)}


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


def test_an_epoch_goes_once_through_every_pair_and_each_epoch_in_another_order():
    config = paper_config(pairs=20, distort=True)
    assert koch.epoch_steps(config) == math.ceil(9 * 20 / 8)
    orders = [koch.epoch_order(180, 0, epoch) for epoch in range(2)]
    assert all(sorted(order.tolist()) == list(range(180)) for order in orders) and not torch.equal(*orders)
    assert not torch.equal(koch.epoch_order(180, 1, 0), orders[0])


def test_every_pair_has_eight_distorted_copies_beside_itself_and_each_twin_a_distortion_of_its_own(drawings):
    pairs = koch.training_pairs(drawings, paper_config(pairs=300, distort=True))
    assert pairs.distortions.shape == (2, 9, 300, 7)
    assert (pairs.distortions[:, 0] == 0).all()  # as it was drawn
    present = (pairs.distortions[:, 1:] != 0).float()
    assert abs(present.mean() - 0.5) < 0.02 and not torch.equal(pairs.distortions[0], pairs.distortions[1])
    assert len(pairs.distortions[:, 1:].reshape(-1, 7).unique(dim=0)) > 0.98 * 2 * 8 * 300
    again = koch.training_pairs(drawings, paper_config(pairs=300, distort=True))
    assert torch.equal(pairs.distortions, again.distortions) and torch.equal(pairs.first, again.first)


def test_a_minibatch_shows_its_pairs_distorted_as_drawn(drawings, monkeypatch):
    config = paper_config(pairs=10, distort=True, batch=45)
    pairs, seen, net = koch.training_pairs(drawings, config), [], koch.SiameseNet(35)
    net.twin.register_forward_pre_hook(lambda twin, x: seen.append(x[0]))
    koch.paper_loss(net, drawings, pairs, 1, config)
    chosen = koch.epoch_order(90, 0, 0)[45:]
    flat = koch.to_input(drawings.images.flatten(0, 1), 35)
    for twin, part in enumerate((pairs.first, pairs.second)):
        wanted = koch.distort(flat[part[chosen % 10]], pairs.distortions[twin, chosen // 10, chosen % 10])
        torch.testing.assert_close(seen[0][45 * twin : 45 * (twin + 1)], wanted)
    as_drawn = (chosen < 10).nonzero()[0]
    assert (seen[0][as_drawn] - flat[pairs.first[chosen[as_drawn]]]).abs().max() < 1e-4


def test_without_distort_nothing_is_distorted(drawings, monkeypatch):
    monkeypatch.setattr(koch, "distort", lambda *_: pytest.fail("distorted"))
    config = paper_config()
    assert koch.training_pairs(drawings, config).distortions is None
    koch.paper_loss(koch.SiameseNet(35), drawings, koch.training_pairs(drawings, config), 0, config)


# Stopping -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_world(tmp_path, monkeypatch, drawings):
    """A training in a folder of its own, on noise by 20 drawers, with a scripted validation and no test trials."""
    monkeypatch.chdir(tmp_path)
    other = [random_drawings((5, 7, 4), 20, 35, seed) for seed in (1, 2)]
    monkeypatch.setattr(koch, "load_data", lambda config: (drawings, *other, "invented"))
    monkeypatch.setattr(koch, "finish", lambda run, config, folder, *_: {"run": run, "folder": folder})
    seen = []

    def validate(script):
        def accuracy(net, trials, h=None):
            seen.append(trials)
            return script(len(seen))

        monkeypatch.setattr(koch, "one_shot_accuracy", accuracy)

    return validate, seen


def test_training_stops_after_20_epochs_without_a_better_validation_and_keeps_the_best(small_world):
    validate, seen = small_world
    validate(lambda epoch: {1: 0.2, 2: 0.5, 3: 0.4}.get(epoch, 0.3))
    config = koch.Config(recipe="paper", size=35, device="cpu", precision="float32", pairs=8, batch=8)
    done = koch.train(config)
    assert len(seen) == 22 and done["run"]["step"] == 22 and done["run"]["best"] == 0.5  # 2 and 20 more
    assert koch.load_checkpoint(done["folder"] / "best.pt").step == 2


def test_training_stops_after_the_last_epoch_at_the_latest(small_world):
    validate, seen = small_world
    validate(lambda epoch: epoch / 1000)
    config = koch.Config(recipe="paper", size=35, device="cpu", precision="float32", pairs=16, batch=8, epochs=30)
    done = koch.train(config)
    assert len(seen) == 30 and done["run"]["step"] == 60


def test_320_trials_of_the_validation_alphabets_by_the_validation_drawers_are_watched(small_world):
    validate, seen = small_world
    validate(lambda epoch: 0.5)
    koch.train(koch.Config(recipe="paper", size=35, device="cpu", precision="float32", pairs=8, batch=8, epochs=1))
    theirs = random_drawings((5, 7, 4), 20, 35, 1).images[:, 12:16].flatten(0, 1)
    assert len(seen[0].answers) == 320 and torch.equal(seen[0].images, theirs)


# Variants -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["fast", "paper"])
@pytest.mark.parametrize("loss", ["bce", "contrastive"])
@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adamw"])
def test_every_loss_learns_with_every_optimizer_in_either_recipe(recipe, loss, optimizer):
    how = {"learning_rates": ",".join(["0.05"] * 8), "penalties": ",".join(["0"] * 8), "momenta": ",".join(["0.9"] * 8)}
    how |= {"turns": False, "distortion": 0.0, "alphabets": 1, "characters": 4, "warmup": 2, "steps": 15}
    config = paper_config(recipe=recipe, loss=loss, optimizer=optimizer, pairs=8, momentum_epochs=0, **how)
    torch.manual_seed(0)
    net, few = koch.SiameseNet(35, loss == "contrastive"), random_drawings((4,), 3, 35)
    optimizers, pairs = koch.make_optimizers(net, config), koch.training_pairs(few, config)
    generator = rng()
    losses = [koch.training_step(net, optimizers, few, step, config, generator, pairs).item() for step in range(15)]
    assert sum(losses[-3:]) / 3 < 0.7 * losses[0]


def test_in_the_fast_recipe_same_and_different_pairs_weigh_alike():
    config = paper_config(recipe="fast", loss="bce", alphabets=1, characters=3, drawings=2, steps=10)
    net, few = koch.SiameseNet(35).eval(), random_drawings((3,), 2, 35)
    generator, (images, characters) = rng(), koch.draw_batch(few, config, rng())
    config = dataclasses.replace(config, distortion=0.0)
    with torch.no_grad():
        loss = koch.fast_loss(net, few, config, generator).item()
        h = net.features(koch.to_input(images[0], 35))
        logits, same = net.logit(h[:, None], h), characters[0][:, None] == characters[0]
        losses = F.binary_cross_entropy_with_logits(logits, same.float(), reduction="none")
    apart = losses[same & ~torch.eye(6, dtype=torch.bool)].mean(), losses[~same].mean()
    assert loss == pytest.approx(sum(apart).item() / 2, rel=1e-4)


@pytest.mark.parametrize("recipe", ["fast", "paper"])
def test_lr_step_lets_the_learning_rates_fall_to_a_tenth_every_so_many_epochs(recipe):
    config = paper_config(recipe=recipe, optimizer="adamw", lr_step=3, steps=40, validations=8)
    assert koch.epoch_steps(config) == 5
    factors = [koch.schedule(step, config) for step in (0, 14, 15, 29, 30)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize(
    "how, said",
    [
        ({"recipe": "paper", "loss": "softmax"}, "single pairs"),
        ({"learning_rates": "0.1,0.1"}, "--learning-rates is 8 numbers"),
        ({"momenta": "0.9,0.9,0.9,0.9,0.9,0.9,0.9,much"}, "--momenta is 8 numbers"),
        ({"momenta": "1," * 8}, "--momenta is 8 numbers"),
        ({"penalties": "-1," * 7 + "1"}, "--penalties is 8 numbers"),
        ({"penalties": "1;1"}, "--penalties is 8 numbers"),
        ({"pairs": 1}, "--pairs is at least 2"),
        ({"optimizer": "adam"}, "--optimizer is one of"),
    ],
)
def test_values_that_make_no_sense_are_refused(how, said):
    with pytest.raises(koch.UserError, match=said):
        koch.settle(koch.Config(**{"size": 35, "device": "cpu"} | how))
