"""§3.1: the net has the paper's shape, and the join treats its two twins alike."""

import copy

import pytest
import torch
from conftest import rng

import koch


@pytest.fixture(scope="module")
def reduced():
    torch.manual_seed(0)
    net = koch.SiameseNet(35).eval()
    torch.nn.init.normal_(net.join.weight)  # not zero and not all alike, so that nothing is masked
    torch.nn.init.normal_(net.join.bias)
    return net


def features(net, n=6, seed=1):
    images = (torch.rand(n, 1, net.size, net.size, generator=rng(seed)) < 0.2).float()
    with torch.no_grad():
        return net.features(images)


def test_the_papers_net_has_38951745_parameters_layer_by_layer():
    net = koch.SiameseNet(105)
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in [*net.twin, net.join]]
    assert [n for n in sizes if n] == [6_464, 401_536, 262_272, 524_544, 37_752_832, 4_097]
    assert net.n_parameters == 38_951_745


def test_the_papers_net_has_the_papers_shapes():
    net, shapes = koch.SiameseNet(105).eval(), []
    for layer in net.twin:
        layer.register_forward_hook(lambda layer, x, y: shapes.append(tuple(y.shape[1:])))
    h = features(net, 1)
    assert h.shape == (1, 4096)
    assert 0 <= h.min() and h.max() <= 1  # a sigmoid's
    wanted = [(64, 96, 96), (64, 48, 48), (128, 42, 42), (128, 21, 21), (128, 18, 18), (128, 9, 9), (256, 6, 6)]
    assert [s for s, before in zip(shapes, [None, *shapes]) if s != before] == [*wanted, (9216,), (4096,)]


@pytest.mark.parametrize("size, side, n_parameters", [(35, 2, 988_865), (51, 3, 1_644_225)])
def test_the_reduced_net_is_small_and_sees_the_whole_image(size, side, n_parameters):
    net, shapes = koch.SiameseNet(size).eval(), []
    assert net.n_parameters == n_parameters
    net.twin[-3].register_forward_hook(lambda layer, x, y: shapes.append(x[0].shape[1:]))  # what is flattened
    assert features(net, 1).shape == (1, 512) and shapes == [(256, side, side)]


def test_another_size_is_refused():
    with pytest.raises(ValueError, match="64"):
        koch.SiameseNet(64)


def test_the_logit_does_not_depend_on_which_twin_is_first(reduced):
    h1, h2 = features(reduced, 6, 1), features(reduced, 6, 2)
    assert torch.equal(reduced.logit(h1, h2), reduced.logit(h2, h1))


def test_the_logit_of_an_image_with_itself_is_the_bias(reduced):
    h = features(reduced)
    assert torch.equal(reduced.logit(h, h), reduced.join.bias.expand(6))


def test_the_logit_is_the_weighted_l1_distance_and_no_probability(reduced):
    h1, h2 = features(reduced, 6, 1), features(reduced, 6, 2)
    wanted = ((h1 - h2).abs().double() * reduced.join.weight.double()).sum(1) + reduced.join.bias.double()
    torch.testing.assert_close(reduced.logit(h1, h2).double(), wanted, rtol=1e-4, atol=1e-4)
    assert reduced.logit(h1, h2).abs().max() > 1  # it leaves 0..1


def test_the_logits_within_a_group_are_those_of_its_pairs_whatever_the_signs_of_alpha(reduced):
    net, h = copy.deepcopy(reduced), features(reduced, 12, 1).detach().view(3, 4, -1)
    net.join.weight.data.normal_(generator=rng())
    torch.testing.assert_close(net.logits_within(h), net.logit(h[:, :, None], h[:, None]), rtol=1e-4, atol=1e-3)


def test_a_pairs_logit_does_not_depend_on_the_other_pairs(reduced):
    h1, h2 = features(reduced, 6, 1), features(reduced, 6, 2)
    alone = torch.cat([reduced.logit(h1[i : i + 1], h2[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(reduced.logit(h1, h2), alone, rtol=1e-5, atol=1e-5)


def test_an_images_features_do_not_depend_on_the_other_images(reduced):
    images = torch.rand(5, 1, 35, 35, generator=rng(3))
    with torch.no_grad():
        torch.testing.assert_close(reduced.features(images)[2:3], reduced.features(images[2:3]), rtol=1e-4, atol=1e-5)


def test_the_gradients_of_both_twins_add_in_the_shared_weights(reduced):
    a, b = (torch.rand(4, 1, 35, 35, generator=rng(s)) for s in (4, 5))
    weight = reduced.twin[0].weight

    def gradient(h1, h2):
        return torch.autograd.grad(reduced.logit(h1, h2).sum(), weight)[0]

    h1, h2 = reduced.features(a), reduced.features(b)
    first, second = gradient(h1, h2.detach()), gradient(reduced.features(a).detach(), reduced.features(b))
    assert first.abs().max() > 0 and second.abs().max() > 0
    both_at_once = reduced.features(torch.cat([a, b])).chunk(2)
    torch.testing.assert_close(gradient(*both_at_once), first + second, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("size", koch.SIZES)
def test_features_on_cuda_are_those_on_the_cpu(size):
    torch.manual_seed(0)
    net = koch.SiameseNet(size).eval()
    on_cpu = features(net)
    torch.testing.assert_close(features(net.cuda()).cpu(), on_cpu, rtol=1e-3, atol=1e-3)
