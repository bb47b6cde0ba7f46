"""§3.2: distortions, minibatches, the loss and the schedule."""

import dataclasses
import math

import pytest
import torch
from conftest import random_drawings, rng, thin_twin

import koch

CONFIG = koch.settle(koch.Config(size=35, device="cpu", alphabets=3, characters=5, drawings=3))


def distorted(images, generator, strength=1.0):
    return koch.distort(images, koch.draw_distortions(len(images), generator, strength))


def blobs(n=64, side=105):
    images = torch.zeros(n, 1, side, side)
    images[:, :, side // 3 : side // 2, side // 3 : 2 * side // 3] = 1
    return images


def test_distorting_paper_gives_paper():
    assert distorted(torch.zeros(8, 1, 105, 105), rng()).abs().max() == 0


def test_what_comes_in_from_outside_is_paper_and_never_ink():
    images = distorted(torch.ones(200, 1, 35, 35), rng())
    assert images.amin(dim=(1, 2, 3)).eq(0).float().mean() > 0.5  # most images show some of the outside
    assert images.max() <= 1 + 1e-5


def test_each_image_gets_a_distortion_of_its_own():
    images = distorted(blobs(), rng())
    assert len({image.numpy().tobytes() for image in images}) > 55  # one in 2^7 is left as it is


def test_the_seven_components_are_drawn_from_the_papers_ranges_both_ways():
    drawn = koch.draw_distortions(20_000, rng())
    ranges = torch.tensor([math.radians(10), 0.3, 0.3, 0.2, 0.2, 4 / 105, 4 / 105])  # 2 pixels of 105, in half sides
    for end in (drawn.amax(0) / ranges, -drawn.amin(0) / ranges):
        assert 0.99 < end.min() and end.max() <= 1
    assert abs((drawn != 0).float().mean() - 0.5) < 0.01
    assert torch.equal(koch.draw_distortions(9, rng(), 0.5), koch.draw_distortions(9, rng()) * 0.5)


def test_each_component_does_what_it_is_called_for():
    image, nothing = torch.rand(1, 1, 21, 21, generator=rng()), [0.0] * 7

    def changed(place, value):
        return koch.distort(image, torch.tensor([nothing[:place] + [value] + nothing[place + 1 :]]))[0, 0]

    assert (changed(0, math.pi / 2) - image[0, 0].rot90()).abs().max() < 1e-4  # turned, not mirrored
    assert (changed(5, 2 * 3 / 21)[:, :-3] - image[0, 0, :, 3:]).abs().max() < 1e-4
    assert (changed(6, 2 * 3 / 21)[:-3] - image[0, 0, 3:]).abs().max() < 1e-4
    assert (changed(3, -1.0) - image[0, 0, :, 10:11]).abs().max() < 1e-4  # a middle column as wide as the image
    assert (changed(4, -1.0) - image[0, 0, 10:11]).abs().max() < 1e-4
    assert (changed(1, 0.3)[10] - image[0, 0, 10]).abs().max() < 1e-4 < (changed(1, 0.3) - image).abs().max()
    assert (changed(2, 0.3).T[10] - image[0, 0].T[10]).abs().max() < 1e-4 < (changed(2, 0.3) - image).abs().max()


def test_bends_move_the_points_of_a_grid_and_what_lies_between_them():
    image, none = torch.rand(1, 1, 21, 21, generator=rng()), torch.zeros(1, 7)
    bends = torch.zeros(1, 2, 4, 4)
    torch.testing.assert_close(koch.distort(image, none, bends), koch.distort(image, none))
    bends[:, 0] = 2 * 3 / 21  # all points look three pixels to the right
    torch.testing.assert_close(koch.distort(image, none, bends)[..., :-3], image[..., 3:], atol=1e-4, rtol=0)
    bends[:] = 0
    bends[0, 1, 0, 0] = 0.3  # the upper left one looks down
    changed = (koch.distort(image, none, bends) - image).abs()[0, 0]
    assert changed[1:4, :4].min() > 1e-3 and changed[:, 14:].max() < 1e-4 > changed[14:].max()


def test_shrinking_averages_areas_and_keeps_the_amount_of_ink():
    image = torch.zeros(1, 105, 105, dtype=torch.uint8)
    image[0, :3, :6], image[0, 50, 50] = 1, 1
    x = koch.to_input(image, 35)
    assert x.shape == (1, 1, 35, 35)
    assert x[0, 0, 0, :3].tolist() == [1, 1, 0] and x[0, 0, 16, 16].item() == pytest.approx(1 / 9)


def test_a_minibatch_holds_whole_groups_of_one_alphabet_and_no_drawing_twice(drawings):
    images, characters = koch.draw_alphabets(drawings, CONFIG, rng())
    assert images.shape == (3, 15, 105, 105) and images.dtype == torch.uint8 and characters.shape == (3, 15)
    for group, group_images in zip(characters, images):
        assert len(drawings.alphabet[group].unique()) == 1
        assert len(group.unique()) == 5 and group.unique(return_counts=True)[1].tolist() == [3] * 5
        assert len({image.numpy().tobytes() for image in group_images}) == 15


def test_a_minibatch_shows_the_drawings_of_the_characters_it_names(drawings):
    images, characters = koch.draw_alphabets(drawings, dataclasses.replace(CONFIG, turns=False), rng())
    for character, image in zip(characters.flatten(), images.flatten(0, 1)):
        assert any(torch.equal(image, drawing) for drawing in drawings.images[character])


def test_the_fast_recipe_distorts_each_drawing_of_a_minibatch_by_itself_unless_its_factor_is_0(drawings):
    config = dataclasses.replace(CONFIG, turns=False, distortion=0.0)
    images, characters = koch.draw_alphabets(drawings, config, generator := rng(3))
    x, again = koch.fast_minibatch(drawings, None, 0, config, rng(3))
    assert torch.equal(characters, again)
    torch.testing.assert_close(x, koch.to_input(images.flatten(0, 1), 35), atol=1e-4, rtol=0)
    distortions = koch.draw_distortions(len(x), generator)
    bends = 0.04 * torch.randn(len(x), 2, 4, 4, generator=generator)
    wanted = koch.distort(koch.to_input(images.flatten(0, 1), 35), distortions, bends)
    distorting = dataclasses.replace(config, distortion=1.0)
    assert torch.equal(koch.fast_minibatch(drawings, None, 0, distorting, rng(3))[0], wanted)


def test_every_alphabet_and_every_drawer_is_drawn(drawings):
    config, alphabets, drawn, generator = dataclasses.replace(CONFIG, turns=False), set(), set(), rng()
    for _ in range(60):
        images, characters = koch.draw_alphabets(drawings, config, generator)
        alphabets |= set(drawings.alphabet[characters.flatten()].tolist())
        drawn |= {image.numpy().tobytes() for image in images.flatten(0, 1)}
    assert alphabets == {0, 1, 2}
    assert len(drawn) == drawings.images.shape[0] * drawings.images.shape[1]


def test_alphabets_with_too_few_characters_are_left_out_and_none_is_an_error(drawings):
    config, generator = dataclasses.replace(CONFIG, characters=6), rng()
    few = drawings._replace(counts=torch.tensor([4] * 15 + [2] * 6 + [4] * 27))  # 15, 22 and 5 characters of enough
    enough = koch.enough_drawings(few, config)
    assert enough.names == drawings.names[:2] and torch.equal(enough.images, drawings.images[few.counts == 4][:37])
    batches = [koch.draw_alphabets(enough, config, generator)[1].flatten() for _ in range(20)]
    assert {i for characters in batches for i in enough.alphabet[characters].tolist()} == {0, 1}
    for too_many in ({"characters": 23}, {"drawings": 5}):
        with pytest.raises(koch.UserError, match="no alphabet has .*; lower --characters or --drawings"):
            koch.enough_drawings(drawings, dataclasses.replace(CONFIG, **too_many))


def test_minutes_decide_what_the_options_leave_open():
    for minutes, budget in koch.BUDGETS.items():
        settled = dataclasses.asdict(koch.settle(koch.Config(minutes=minutes, device="cpu")))
        assert {name: settled[name] for name in budget} == budget
    options = {"steps": 7, "size": 35, "learning_rate": 0.5}
    settled = koch.settle(koch.Config(minutes=10, device="cpu", **options))
    assert {name: getattr(settled, name) for name in options} == options
    assert koch.settle(settled) == settled
    paper = koch.settle(koch.Config(minutes=10, recipe="paper", device="cpu"))
    assert paper.size == 35 and paper.steps > 10_000


def test_a_gpu_trains_the_papers_own_net_unless_an_option_says_otherwise(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: emulated)
    settled = dataclasses.asdict(koch.settle(koch.Config()))
    assert settled["precision"] == "float32"  # this card only emulates bfloat16
    assert {name: settled[name] for name in koch.FULL} == koch.FULL
    assert [koch.settle(koch.Config(minutes=10, recipe=recipe)).size for recipe in ("fast", "paper")] == [51, 105]
    assert koch.settle(koch.Config(size=51)).size == 51 and koch.settle(koch.Config(device="cpu")).size == 35
    assert koch.settle(koch.Config(size=51)).steps == koch.BUDGETS[1]["steps"]


def test_the_papers_net_has_its_own_rates():
    for size, eta in ((35, "0.0738"), (51, "0.0738"), (105, "0.003")):
        assert koch.settle(koch.Config(recipe="paper", size=size, device="cpu")).learning_rates == eta
    assert koch.settle(koch.Config(recipe="paper", size=105, learning_rates="0.0738")).learning_rates == "0.0738"


def test_drawings_that_are_not_there_are_never_in_a_minibatch(drawings):
    few = drawings._replace(counts=torch.tensor([3, 4] * 24), images=drawings.images.clone())
    few.images[::2, 3] = 0  # blank
    images, _ = koch.draw_alphabets(few, CONFIG, rng())
    assert (images.flatten(2).sum(2) > 0).all()


def test_a_whole_alphabet_turns_alike_and_all_eight_ways_occur():
    image = torch.arange(9).view(1, 1, 3, 3).expand(40, 2, 3, 3)  # 40 alphabets of two drawings of one picture
    turned = koch.turn(image, torch.rand(3, 40, generator=rng()) < 0.5)
    assert torch.equal(turned[:, 0], turned[:, 1])
    square = {tuple(torch.rot90(m, k).flatten().tolist()) for m in (image[0, 0], image[0, 0].T) for k in range(4)}
    assert {tuple(t.flatten().tolist()) for t in turned[:, 0]} == square and len(square) == 8


def test_each_alphabet_of_a_minibatch_turns_in_its_own_way(drawings):
    alike = drawings._replace(images=drawings.images[:1, :1].expand_as(drawings.images))  # all draw the same picture
    images, _ = koch.draw_alphabets(alike, dataclasses.replace(CONFIG, alphabets=40), rng())
    assert len({group[0].numpy().tobytes() for group in images}) == 8


def test_batches_come_from_the_given_generator_alone(drawings):
    batches = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        images, _ = koch.draw_alphabets(drawings, CONFIG, generator := rng(7))
        batches.append(distorted(koch.to_input(images[0], 35), generator))
    assert torch.equal(*batches)


def test_the_loss_is_the_softmax_of_each_same_pair_against_the_different_ones():
    torch.manual_seed(0)
    net = koch.SiameseNet(35)
    h = torch.randn(2, 6, 512, generator=rng())
    characters = torch.tensor([[0, 0, 1, 1, 2, 2], [3, 3, 3, 4, 4, 4]])
    losses = []
    for group, names in zip(h, characters.tolist()):
        for i in range(6):
            others = [net.logit(group[i], group[k]) for k in range(6) if names[k] != names[i]]
            for j in range(6):
                if i != j and names[i] == names[j]:
                    logits = torch.stack([net.logit(group[i], group[j]), *others])
                    losses.append(-logits.log_softmax(0)[0])
    assert koch.softmax_loss(net, h, characters).item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def factors(config, steps):
    """Return what set_rates makes of a highest learning rate of 1 at some steps."""
    optimizer, found = torch.optim.SGD([{"params": [torch.zeros(1)], "highest": 1.0}], 0.0), []
    for step in steps:
        koch.set_rates([optimizer], step, config)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_learning_rate_rises_in_a_line_and_falls_to_0_along_a_cosine():
    found = factors(koch.Config(steps=1000), range(1000))
    assert found[0] == pytest.approx(0.01) and found[49] == pytest.approx(0.5, rel=0.01)
    assert max(found) == pytest.approx(1, rel=0.03) and found.index(max(found)) == 99
    assert found[500] == pytest.approx(0.5, rel=0.01) and 0 <= found[-1] < 1e-4
    assert all(b < a for a, b in zip(found[100:], found[101:]))
    assert factors(koch.Config(steps=10), [0]) == [1]


def a_run(config, drawings, steps, pairs=None):
    """Return a Run and the losses of its first steps."""
    run, trials = koch.Run(config), koch.one_shot_trials(drawings, 2, 4, rng())
    loop = koch.training_loop(run, drawings, pairs, trials, config)
    return run, [next(loop)[0].item() for _ in range(steps)]


def test_the_learning_rates_reach_the_optimizers_and_every_parameter_learns(drawings, monkeypatch):
    monkeypatch.setattr(koch, "reduced_twin", thin_twin)
    config = dataclasses.replace(CONFIG, steps=10)
    before = [p.clone() for p in koch.Run(config).net.parameters()]
    run, _ = a_run(config, drawings, 6)
    for optimizer, highest in zip(run.optimizers, (config.learning_rate, 2e-3)):
        assert {group["lr"] for group in optimizer.param_groups} == {highest * factors(config, [5])[0]}
    same = [name for (name, p), old in zip(run.net.named_parameters(), before) if torch.equal(p, old)]
    assert set(same) <= {"join.bias", f"twin.{len(run.net.twin) - 2}.bias"}  # they cancel in a softmax or a difference


def test_the_best_weights_stay_as_they_were_while_the_training_goes_on(drawings, monkeypatch):
    monkeypatch.setattr(koch, "reduced_twin", thin_twin)
    run, _ = a_run(dataclasses.replace(CONFIG, steps=4, validations=2), drawings, 3)
    assert (run.step, run.best_step) == (3, 2) and run.net.training
    assert not torch.equal(run.best_weights["join.weight"], run.net.join.weight)


@pytest.mark.parametrize("size", koch.SIZES)
def test_every_parameter_has_one_optimizer_and_muon_the_weights(size):
    net = koch.SiameseNet(size)
    optimizers = koch.make_optimizers(net, koch.settle(koch.Config(size=size, device="cpu")))
    muon, adam = ([p for g in o.param_groups for p in g["params"]] for o in optimizers)
    assert sorted(map(id, muon + adam)) == sorted(map(id, net.parameters()))
    assert all(p.ndim in (2, 4) and len(p) <= 1024 for p in muon) and net.join.weight in set(adam)
    assert len(muon) == (4 if size == 105 else 7)


@pytest.mark.parametrize("shape", [(64, 64), (32, 288), (128, 16)])
def test_orthogonal_keeps_the_singular_vectors_and_brings_the_values_near_1(shape):
    matrix = torch.randn(shape, generator=rng(), dtype=torch.float64)
    u, values, v = torch.linalg.svd(koch.orthogonal(matrix), full_matrices=False)
    assert 0.3 < values[: -len(values) // 8].min() and values.max() < 1.3  # the very smallest lag behind
    u0, _, v0 = torch.linalg.svd(matrix, full_matrices=False)
    alike = (koch.orthogonal(matrix) * (u0 @ v0)).sum() / koch.orthogonal(matrix).norm() / (u0 @ v0).norm()
    assert alike > 0.95


MUON = {"weight_decay": 0.0, "momentum": 0.95, "dtype": torch.float32}


def test_muon_goes_down_a_bowl():
    p = torch.nn.Parameter(torch.randn(8, 4, 3, 3, generator=rng()))
    muon, before = koch.Muon([{"params": [p], "lr": 0.2}], MUON), p.square().sum().item()
    for _ in range(20):
        muon.zero_grad()
        p.square().sum().backward()
        muon.step()
    assert p.square().sum() < 0.3 * before


def test_muon_steps_along_nesterovs_momentum():
    p, velocity = torch.nn.Parameter(torch.randn(6, 4, generator=rng())), torch.zeros(6, 4)
    optimizer, wanted = koch.Muon([{"params": [p], "lr": 0.1}], MUON | {"weight_decay": 0.2}), p.detach().clone()
    for seed in (1, 2, 3):
        p.grad = torch.randn(6, 4, generator=rng(seed))
        velocity = 0.95 * velocity + 0.05 * p.grad
        wanted = wanted * (1 - 0.1 * 0.2) - 0.1 * koch.orthogonal(0.95 * velocity + 0.05 * p.grad)
        optimizer.step()
    torch.testing.assert_close(p.detach(), wanted)


def test_the_seed_decides_the_initial_weights_and_the_draws():
    first, again, other = (koch.Run(dataclasses.replace(CONFIG, seed=seed)) for seed in (0, 0, 1))
    weights = [run.net.twin[0].weight for run in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    steps = [(0, 0), (0, 0), (0, 1), (1, 0)]  # seed, step
    rngs = [koch.step_rng(step, dataclasses.replace(CONFIG, seed=seed)) for seed, step in steps]
    draws = [torch.rand(3, generator=rng).tolist() for rng in rngs]
    assert draws[0] == draws[1] and len({str(drawn) for drawn in draws}) == 3


@pytest.mark.parametrize("size", [35, pytest.param(105, marks=pytest.mark.thorough)])
def test_a_few_steps_learn_a_few_drawings_by_heart(size):
    config = koch.Config(alphabets=1, characters=4, drawings=2, steps=12, turns=False, distortion=0.0)
    config = koch.settle(dataclasses.replace(config, size=size, device="cpu"))
    _, losses = a_run(config, random_drawings((4,), 2), 12)
    assert losses[-1] < 0.6 * losses[0]
