"""reference_numpy's twin net and its learning, against koch.SiameseNet and torch's optimisers in float64."""

import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import schedule

import koch
from reference_numpy import layers, learning, network, train

compiled = pytest.mark.compiled
# Numbers beyond a vector's last one may be anything.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in scalar:RuntimeWarning")
# These move both twins alike, which cancels in the join: in the reduced nets their gradients are 0 but for rounding.
LINEAR_BIAS, LAST_SHIFT = ("twin.%d.bias" % (len(network.TWINS[35]) - i) for i in (2, 1))
CANCELLING = {LINEAR_BIAS, LAST_SHIFT}


def make_net(size=35, seed=0, dtype=torch.float64):
    """A net of koch.py's whose parameters are none of them 0 or 1, so that nothing is masked."""
    torch.manual_seed(seed)
    net = koch.SiameseNet(size).to(dtype)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            positive = "var" in name or "weight" in name
            tensor.copy_(torch.rand_like(tensor) + 0.5 if positive else torch.randn_like(tensor) / 5)
    torch.nn.init.normal_(net.join.weight, std=4 / net.join.in_features)
    return net


def arrays(net):
    return {name: tensor.detach().numpy().copy() for name, tensor in net.state_dict().items()}


def drawings(draw, n, size, dtype=np.float64):
    return (draw.random((n, 1, size, size)) < 0.2).astype(dtype)


def torch_logits(net, x1, x2):
    return net.logit(net.features(torch.tensor(x1)), net.features(torch.tensor(x2)))


def assert_near(actual, wanted, digits=1e-9, least=0.0):
    """To nine digits of the tensor's largest entry."""
    assert np.shape(actual) == np.shape(wanted)
    assert np.abs(actual - wanted).max() <= max(digits * np.abs(wanted).max(), least)  # and no NaN


def assert_gradients(gradients, net):
    wanted = {name: parameter.grad.numpy() for name, parameter in net.named_parameters()}
    assert list(gradients) and set(gradients) == set(wanted)
    overall = max(np.abs(gradient).max() for gradient in wanted.values())
    for name, gradient in wanted.items():
        cancels = net.size != 105 and name in CANCELLING
        assert cancels or np.abs(gradient).max() > 0
        assert_near(gradients[name], gradient, 1e-9, 1e-13 * overall if cancels else 0.0)


@pytest.fixture
def tiny(monkeypatch):
    """Let network.py have a net of 9 pixels, small enough for plain Python, and return torch's of the same layers."""
    kinds = "conv2d maxpool2x2 batchnorm relu conv2d_same batchnorm relu flatten linear batchnorm"
    monkeypatch.setitem(network.TWINS, 9, kinds.split())
    monkeypatch.setitem(network.CONVOLUTIONS, 9, ((3, 1, 2, 2), (4, 3, 3, 3)))
    monkeypatch.setitem(network.LINEAR, 9, (5, 64))
    nn, net = torch.nn, make_net(35)
    torch.manual_seed(1)
    net.twin = nn.Sequential(
        nn.Conv2d(1, 3, 2, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5),
    ).double()  # fmt: skip
    net.join, net.size = nn.Linear(5, 1).double(), 9
    return net


@pytest.fixture(params=["tiny", pytest.param("reduced", marks=compiled)])
def net(request):
    return request.getfixturevalue("tiny") if request.param == "tiny" else make_net(35)


# Parameters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [35, 51, pytest.param(105, marks=compiled)])
def test_parameters_have_kochs_names_shapes_and_order_and_are_drawn_as_koch_draws_them(draw, size):
    parameters = network.initial_parameters(size, draw)
    torch.manual_seed(0)
    wanted = koch.SiameseNet(size).state_dict()
    assert list(parameters) == list(wanted) and network.size_of(parameters) == size
    for name, tensor in wanted.items():
        ours, wanted = parameters[name], tensor.numpy()
        assert ours.shape == wanted.shape and ours.dtype == wanted.dtype
        if name == "join.weight" or np.ptp(wanted) == 0 and wanted.size > 1:
            assert_near(ours, wanted, 1e-6)
        elif wanted.size > 30:
            assert abs(ours.mean()) < 5 * wanted.std() / wanted.size**0.5
            spread = 4 / wanted.size**0.5  # of the standard deviation's estimate, by far
            assert ours.std() == pytest.approx(wanted.std(), rel=2 * spread)
            assert np.abs(ours).max() == pytest.approx(np.abs(wanted).max(), rel=0.35)
    assert np.abs(parameters["join.bias"]).max() <= 1 / parameters["join.weight"].size ** 0.5


def test_parameters_are_float64_where_it_is_said(draw):
    kinds = {str(parameter.dtype) for parameter in network.initial_parameters(35, draw, np.float64).values()}
    assert kinds == {"float64", "int64"}


def test_the_same_seed_draws_the_same_parameters():
    first, second, other = (network.initial_parameters(35, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["twin.0.weight"], other["twin.0.weight"])


def test_another_net_is_refused(draw):
    with pytest.raises(ValueError, match="64"):
        network.initial_parameters(64, draw)
    for parameters in ({}, {"twin.0.weight": np.zeros((32, 1, 5, 5))}, {"join.weight": np.zeros((1, 512))}):
        with pytest.raises(ValueError, match="35"):
            network.size_of(parameters)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        network.features_forward({"twin.0.weight": np.zeros(3)}, drawings(draw, 1, 35))


def test_images_of_another_size_or_dtype_are_refused(draw, net):
    parameters, size = arrays(net), net.size
    for wrong in (drawings(draw, 2, 2 * size), drawings(draw, 2, size + 5), drawings(draw, 2, size)[:, 0]):
        with pytest.raises(ValueError, match=rf"\(N, 1, {size}, {size}\)"):
            network.features_forward(parameters, wrong)
    with pytest.raises(ValueError, match="float32"):
        network.features_forward(parameters, drawings(draw, 2, size, np.float32))


# Forwards and backwards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_a_tiny_net_of_every_kind_of_layer_has_the_gradients_of_torch(draw, tiny, training):
    tiny.train(training)
    parameters, x1, x2 = arrays(tiny), draw.random((4, 1, 9, 9)), draw.random((4, 1, 9, 9))
    logits, cache = network.siamese_forward(parameters, x1, x2, training)
    dlogits = draw.standard_normal(4)
    gradients = network.siamese_backward(dlogits, cache)
    wanted = torch_logits(tiny, x1, x2)
    (wanted * torch.tensor(dlogits)).sum().backward()
    assert_near(logits, wanted.detach().numpy())
    overall = max(p.grad.abs().max() for p in tiny.parameters()).item()
    for name, p in tiny.named_parameters():
        assert_near(gradients[name], p.grad.numpy(), 1e-9, 1e-13 * overall)
    drawn = network.initial_parameters(9, draw, np.float64)
    assert [(name, w.shape) for name, w in drawn.items() if w.ndim > 1] == [
        (name, tuple(w.shape)) for name, w in tiny.state_dict().items() if w.ndim > 1
    ]


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") != "1", reason="here all tests compile the loops")
def test_compiled_loops_have_the_gradients_of_torch_as_well(compiling):
    said, _ = compiling.communicate()
    assert compiling.returncode == 0 and "1 passed" in said, said[-3000:]


@pytest.mark.parametrize("size, training, n", [(35, True, 4), (35, False, 3), (51, False, 1), (105, False, 1)])
@compiled
def test_logits_and_every_gradient_are_those_of_koch(draw, size, training, n):
    net = make_net(size).train(training)
    parameters, x1, x2 = arrays(net), drawings(draw, n, size), drawings(draw, n, size)
    before = {name: array.copy() for name, array in parameters.items()}
    same = np.arange(n) % 2.0
    logits, cache = network.siamese_forward(parameters, x1, x2, training)
    loss, slope = layers.bce_with_logits_forward(logits, same)
    gradients = network.siamese_backward(layers.bce_with_logits_backward(1.0, slope), cache)

    wanted = torch_logits(net, x1, x2)
    wanted_loss = F.binary_cross_entropy_with_logits(wanted, torch.tensor(same))
    wanted_loss.backward()
    assert_near(logits, wanted.detach().numpy(), 1e-11)
    assert_near(loss, wanted_loss.item(), 1e-11)
    assert_gradients(gradients, net)
    assert all(np.array_equal(parameters[name], array) for name, array in before.items())


@compiled
def test_in_float32_logits_and_gradients_are_near_and_stay_float32(draw):
    net = make_net(35, dtype=torch.float32).eval()
    x1, x2 = drawings(draw, 4, 35, np.float32), drawings(draw, 4, 35, np.float32)
    logits, cache = network.siamese_forward(arrays(net), x1, x2)
    gradients = network.siamese_backward(np.ones(4, np.float32), cache)
    net = net.double()
    wanted = torch_logits(net, x1.astype(float), x2.astype(float))
    wanted.sum().backward()
    assert logits.dtype == np.float32
    assert_near(logits, wanted.detach().numpy(), 1e-4)
    for name, parameter in net.named_parameters():
        assert gradients[name].dtype == np.float32
        if name not in CANCELLING:
            wanted = parameter.grad.numpy()  # where two pixels are nearly equal, a pool may take the other
            assert np.linalg.norm(gradients[name] - wanted) < 1e-2 * np.linalg.norm(wanted)


def test_features_are_computed_without_training_unless_it_is_said(draw, net):
    parameters, x1, x2 = arrays(net), drawings(draw, 2, net.size), drawings(draw, 2, net.size)
    said, unsaid = (network.features_forward(parameters, x1, *flag)[0] for flag in ((False,), ()))
    assert np.array_equal(said, unsaid)
    said, unsaid = (network.siamese_forward(parameters, x1, x2, *flag)[0] for flag in ((False,), ()))
    assert np.array_equal(said, unsaid)


@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_of_a_shared_weight_is_the_sum_of_both_twins_and_neither_is_zero(draw, net, training):
    x1, x2 = drawings(draw, 5, net.size), drawings(draw, 5, net.size)
    logits, (twin1, twin2, join) = network.siamese_forward(arrays(net), x1, x2, training)
    dlogits = draw.standard_normal(5)
    dh1, dh2, dalpha, dbias = layers.l1_join_backward(dlogits, join)
    first, second = network.features_backward(dh1, twin1), network.features_backward(dh2, twin2)
    tied = network.siamese_backward(dlogits, (twin1, twin2, join))
    for name in first:
        assert np.abs(first[name]).max() > 0 and np.abs(second[name]).max() > 0
        assert first[name].ndim == 1 or not np.allclose(first[name], second[name])
        assert np.array_equal(tied[name], first[name] + second[name])
    assert np.array_equal(tied["join.weight"], dalpha) and np.array_equal(tied["join.bias"], dbias)
    nothing = network.features_backward(0 * dh1, twin1)
    assert all((gradient == 0).all() for gradient in nothing.values())


def test_backwards_twice_from_one_cache_is_the_same(draw, net):
    _, cache = network.siamese_forward(arrays(net), drawings(draw, 3, net.size), drawings(draw, 3, net.size), True)
    dlogits = draw.standard_normal(3)
    first = {name: gradient.copy() for name, gradient in network.siamese_backward(dlogits, cache).items()}
    second = network.siamese_backward(dlogits, cache)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_running_statistics_follow_koch_through_both_twins(draw, net):
    net.train()
    parameters, x1, x2 = arrays(net), drawings(draw, 3, net.size), drawings(draw, 3, net.size)
    before = {name: array.copy() for name, array in parameters.items()}
    torch_logits(net, x1, x2)
    _, (twin1, twin2, _) = network.siamese_forward(parameters, x1, x2, True)
    assert all(np.array_equal(parameters[name], array) for name, array in before.items())
    after_first = network.running_statistics(parameters, twin1)
    after = network.running_statistics(after_first, twin2)
    assert list(after) == list(parameters)
    for name, tensor in net.state_dict().items():
        assert_near(after[name], tensor.numpy(), 1e-11)
        if name.endswith("tracked"):
            assert after_first[name] == 1 and after[name] == 2 and after[name].dtype == np.int64
    assert all(np.array_equal(parameters[name], array) for name, array in before.items())


def test_inference_leaves_the_running_statistics_as_they_are(draw, net):
    parameters = arrays(net)
    _, caches = network.features_forward(parameters, drawings(draw, 2, net.size))
    after = network.running_statistics(parameters, caches)
    names = [name for name in parameters if "running" in name]
    assert names and all(np.array_equal(after[name], parameters[name]) for name in names)


def test_the_join_treats_its_twins_alike_and_an_image_with_itself_gets_the_bias(draw, net):
    parameters, a, b = arrays(net), drawings(draw, 4, net.size), drawings(draw, 4, net.size)
    logits = [network.siamese_forward(parameters, *pair)[0] for pair in ((a, b), (b, a), (a, a))]
    assert np.array_equal(logits[0], logits[1]) and np.ptp(logits[0]) > 0
    assert (logits[2] == parameters["join.bias"]).all()


# Steps ----------------------------------------------------------------------------------------------------------------


def layer_of(name):
    return name.rpartition(".")[0]


def assert_follows(parameters, net):
    names = dict(net.named_parameters())
    for name, tensor in net.state_dict().items():
        assert_near(parameters[name], tensor.numpy(), 1e-9, 1e-12)
        assert name not in names or parameters[name].dtype == np.float64


@compiled
def test_five_steps_of_the_papers_learning_follow_torch(draw):
    net = make_net(35).train()
    parameters, velocity = arrays(net), {}
    start = dict(parameters)
    named = [(name, p) for name, p in net.named_parameters() if name != LAST_SHIFT]
    names = sorted({layer_of(name) for name, _ in named})
    rates, moments, penalties = (dict(zip(names, draw.uniform(*ends, len(names)))) for ends in
                                 ((0.001, 0.005), (0.4, 0.95), (1e-3, 1e-2)))  # fmt: skip
    groups = [
        {"params": [p], "lr": rates[layer_of(name)], "momentum": moments[layer_of(name)],
         "weight_decay": 2 * penalties[layer_of(name)] if p.ndim > 1 else 0.0}
        for name, p in named
    ]  # fmt: skip
    optimizer = torch.optim.SGD(groups)
    for step in range(5):
        x1, x2, same = drawings(draw, 4, 35), drawings(draw, 4, 35), np.array([1.0, 0, 0, 1])
        logits, cache = network.siamese_forward(parameters, x1, x2, True)
        loss, slope = layers.bce_with_logits_forward(logits, same)
        gradients = network.siamese_backward(layers.bce_with_logits_backward(1.0, slope), cache)
        del gradients[LAST_SHIFT]  # rounding alone
        for twin in cache[:2]:
            parameters = network.running_statistics(parameters, twin)
        parameters, velocity = learning.sgd(parameters, gradients, velocity, rates, moments, penalties)

        optimizer.zero_grad()
        wanted = F.binary_cross_entropy_with_logits(torch_logits(net, x1, x2), torch.tensor(same))
        wanted.backward()
        optimizer.step()
        assert_near(loss, wanted.item())
    assert_follows(parameters, net)
    assert all(not np.allclose(parameters[name], start[name], rtol=1e-4) for name, p in named if p.ndim > 1)


CHARACTERS = np.array([[0, 0, 1, 1, 2, 2], [3, 4, 3, 3, 4, 5]])


def kochs_loss(net, images):
    return koch.softmax_loss(net, net.features(torch.tensor(images)).view(2, 6, -1), torch.tensor(CHARACTERS))


def test_the_loss_and_its_gradients_are_those_of_kochs_default_recipe(draw, net):
    parameters, images = arrays(net.train()), draw.random((12, 1, net.size, net.size))
    loss = kochs_loss(net, images)
    loss.backward()
    ours, gradients, after = train.loss_and_gradients(parameters, images, CHARACTERS)
    assert ours == pytest.approx(loss.item(), rel=1e-10)
    for name, p in net.named_parameters():
        assert np.abs(gradients[name] - p.grad.numpy()).max() < 1e-9 * max(1e-3, p.grad.abs().max().item()), name
    for name, tensor in net.state_dict().items():
        assert np.allclose(after[name], tensor.numpy(), rtol=1e-10, atol=1e-14), name


def test_training_steps_follow_kochs_to_the_last_digits(draw, net):
    options = {"device": "cpu", "size": 35, "precision": "float32", "steps": 10 * train.WARMUP}
    config = koch.settle(koch.Config(**options, learning_rate=train.MUON_RATE))
    parameters, state = arrays(net.train()), {"muon": {}, "adamw": {}}
    optimizers = koch.make_optimizers(net, config)
    groups = [optimizer.param_groups[0] for optimizer in optimizers]
    groups[0]["dtype"] = torch.float64
    highest = train.MUON_RATE, train.ADAMW_RATE
    assert tuple(group["highest"] for group in groups) == highest
    assert groups[0]["weight_decay"] == train.WEIGHT_DECAY
    for step in range(3):
        images = draw.random((12, 1, net.size, net.size))
        loss = kochs_loss(net, images)
        net.zero_grad()
        loss.backward()
        koch.set_rates(optimizers, step, config)
        for optimizer in optimizers:
            optimizer.step()
        parameters, state, ours = train.training_step(parameters, state, images, CHARACTERS, schedule(step, config))
        assert ours == pytest.approx(loss.item(), rel=1e-8)
    for name, tensor in net.state_dict().items():
        assert np.abs(parameters[name] - tensor.numpy()).max() < 1e-6, name


def filled(seed, *shapes):
    draw = np.random.default_rng(seed)
    return {f"twin.{i}.weight": draw.standard_normal(shape) for i, shape in enumerate(shapes)}


SHAPES = (6, 4), (4, 6), (5, 2, 3, 3), (7, 1, 2, 2), (3, 3)


@pytest.mark.parametrize("settings", [(0.1, 0.4, 0.9), (0.1,)], ids=["with_decay", "by_default"])
def test_muon_follows_koch_on_weights_of_any_shape(settings):
    parameters, velocity = filled(0, *SHAPES), {}
    tensors = [torch.nn.Parameter(torch.tensor(w)) for w in parameters.values()]
    rate, decay, momentum = *settings, *(0.0, 0.95)[len(settings) - 1 :]
    how = {"lr": rate, "weight_decay": decay, "momentum": momentum, "dtype": torch.float64}
    optimizer = koch.Muon(tensors, how)
    for step in range(3):
        gradients = filled(step + 1, *SHAPES)
        for tensor, gradient in zip(tensors, gradients.values()):
            tensor.grad = torch.tensor(gradient)
        optimizer.step()
        parameters, velocity = learning.muon(parameters, gradients, velocity, *settings)
        for tensor, w in zip(tensors, parameters.values()):
            assert_near(w, tensor.detach().numpy(), 1e-11)


@pytest.mark.parametrize("size", [1.0, 1e-7])  # with gradients as small as epsilon, its place shows
@pytest.mark.parametrize("options", [{}, {"beta1": 0.7, "beta2": 0.9, "epsilon": 1e-4}])
def test_adamw_follows_torch_with_decay(size, options):
    parameters, moments = filled(0, (5,), (3, 4)), {}
    tensors = [torch.nn.Parameter(torch.tensor(w)) for w in parameters.values()]
    betas = options.get("beta1", 0.9), options.get("beta2", 0.999)
    optimizer = torch.optim.AdamW(tensors, 0.05, betas, options.get("epsilon", 1e-8), weight_decay=0.3)
    for step in range(4):
        gradients = {name: size * gradient for name, gradient in filled(step + 1, (5,), (3, 4)).items()}
        for tensor, gradient in zip(tensors, gradients.values()):
            tensor.grad = torch.tensor(gradient)
        optimizer.step()
        parameters, moments = learning.adamw(parameters, gradients, moments, 0.05, 0.3, **options)
        for tensor, w in zip(tensors, parameters.values()):
            assert_near(w, tensor.detach().numpy(), 1e-11)


def test_adamw_does_not_decay_unless_it_is_said():
    w = {"a.weight": np.ones((2, 2))}
    assert np.array_equal(learning.adamw(w, {"a.weight": np.zeros((2, 2))}, {}, 0.1)[0]["a.weight"], w["a.weight"])
    assert np.array_equal(learning.muon(w, {"a.weight": np.zeros((2, 2))}, {}, 0.1)[0]["a.weight"], w["a.weight"])


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 7), (130, 3)])
def test_orthogonal_is_kochs(draw, shape):
    matrix = draw.standard_normal(shape)
    before = matrix.copy()
    assert_near(learning.orthogonal(matrix), koch.orthogonal(torch.tensor(matrix)).numpy(), 1e-11)
    assert np.array_equal(matrix, before)
    assert_near(learning.orthogonal(matrix * 1e-7), koch.orthogonal(torch.tensor(matrix * 1e-7)).numpy(), 1e-11)
    assert np.isfinite(learning.orthogonal(matrix * 0)).all()


def test_sgd_by_hand_keeps_the_old_learning_rate_in_the_velocity():
    w, gradient = {"twin.0.weight": np.array([[2.0]])}, {"twin.0.weight": np.array([[3.0]])}
    new, velocity = learning.sgd(w, gradient, {}, 0.5, 0.9, 0.25)
    assert velocity["twin.0.weight"].item() == -0.5 * (3 + 2 * 0.25 * 2) == -2  # w falls to 0
    assert new["twin.0.weight"].item() == 0
    new, velocity = learning.sgd(new, gradient, velocity, 0.1, 0.9, 0.25)
    assert velocity["twin.0.weight"].item() == pytest.approx(0.9 * -2 - 0.1 * 3) == new["twin.0.weight"].item()
    assert w["twin.0.weight"].item() == 2 and gradient["twin.0.weight"].item() == 3


def test_sgd_alone_has_neither_momentum_nor_penalty():
    w, gradient = {"a.weight": np.array([[2.0]])}, {"a.weight": np.array([[3.0]])}
    new, velocity = learning.sgd(w, gradient, {}, 0.5)
    new, velocity = learning.sgd(new, gradient, velocity, 0.5)
    assert new["a.weight"].item() == 2 - 3 and velocity["a.weight"].item() == -1.5


def test_the_penalty_shrinks_weights_of_either_sign_and_no_bias_or_scale():
    parameters = {"twin.0.weight": np.ones((2, 1, 1, 1)), "twin.0.bias": np.ones(2), "twin.1.weight": np.ones(2),
                  "twin.1.bias": np.ones(2), "join.weight": -np.ones((1, 2)), "join.bias": np.ones(1)}  # fmt: skip
    gradients = {name: 0 * w for name, w in parameters.items()}
    new, _ = learning.sgd(parameters, gradients, {}, 0.5, 0.0, 0.25)
    fell = {name for name, w in new.items() if (w == 0.75 * parameters[name]).all()}
    assert fell == {"twin.0.weight", "join.weight"} == {n for n, w in parameters.items() if learning.decays(n, w)}
    assert all((new[name] == 1).all() for name in new if name not in fell)


def test_settings_go_to_their_layers_and_a_missing_layer_is_an_error():
    parameters = {"twin.0.weight": np.ones((1, 1)), "twin.0.bias": np.ones(1), "join.weight": np.ones((1, 1))}
    gradients = {name: np.ones_like(w) for name, w in parameters.items()}
    new, _ = learning.sgd(parameters, gradients, {}, {"twin.0": 0.1, "join": 0.2})
    assert [new[name].item() for name in parameters] == pytest.approx([0.9, 0.9, 0.8])
    complete = {"twin.0": 0.1, "join": 0.2}
    for i in range(3):
        settings = [complete] * 3
        settings[i] = {"twin.0": 0.1}
        with pytest.raises(KeyError, match="join"):
            learning.sgd(parameters, gradients, {}, *settings)


def test_steps_change_nothing_in_place_and_leave_what_has_no_gradient(draw):
    parameters, gradients = filled(0, *SHAPES) | {"twin.9.running_mean": np.ones(3)}, filled(1, *SHAPES)
    for step, settings in ((learning.sgd, (0.1, 0.9, 0.1)), (learning.muon, (0.1, 0.1)), (learning.adamw, (0.1, 0.1))):
        _, state = step(parameters, gradients, {}, *settings)
        kept = {name: [np.copy(part) for part in np.atleast_1d(s)] if not isinstance(s, tuple)
                else [np.copy(part) for part in s] for name, s in state.items()}  # fmt: skip
        before = [{name: array.copy() for name, array in group.items()} for group in (parameters, gradients)]
        new, _ = step(parameters, gradients, state, *settings)
        for group, old in zip((parameters, gradients), before):
            assert all(np.array_equal(group[name], old[name]) for name in old)
        for name, parts in kept.items():
            now = state[name] if isinstance(state[name], tuple) else np.atleast_1d(state[name])
            assert all(np.array_equal(one, other) for one, other in zip(parts, now, strict=True))
        assert list(new) == list(parameters) and new["twin.9.running_mean"] is parameters["twin.9.running_mean"]
        assert not any(np.shares_memory(new[name], parameters[name]) for name in gradients)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_keep_the_dtype(dtype):
    parameters, gradients = ({name: w.astype(dtype) for name, w in filled(i, *SHAPES).items()} for i in range(2))
    rate = np.float64(0.1)
    for step, settings in (
        (learning.sgd, (0.1, 0.9, 0.1)), (learning.sgd, (rate, rate, rate)), (learning.muon, (0.1, 0.1)),
        (learning.muon, (rate, rate)), (learning.adamw, (0.1, 0.1)), (learning.adamw, (rate, rate)),
    ):  # fmt: skip
        new, state = step(parameters, gradients, {}, *settings)
        new, _ = step(new, gradients, state, *settings)
        assert {w.dtype for w in new.values()} == {np.dtype(dtype)}


def test_the_papers_learning_rate_falls_by_a_hundredth_an_epoch():
    rates = [learning.paper_learning_rate(epoch, 0.2) for epoch in range(4)]
    assert rates == pytest.approx([0.2, 0.198, 0.19602, 0.1940598], rel=1e-12)
    assert learning.paper_learning_rate(200, 1.0) == pytest.approx(0.13397967, rel=1e-6)


def test_the_papers_momentum_goes_in_a_line_from_a_half_to_its_end():
    line = [learning.paper_momentum(epoch, 0.9, 4) for epoch in range(7)]
    assert line == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.9])
    assert learning.paper_momentum(0, 0.2, 10) == 0.5 and learning.paper_momentum(5, 0.2, 10) == pytest.approx(0.35)


@pytest.mark.parametrize("steps", [3, 10, 70])
def test_the_factor_of_the_learning_rates_is_kochs(steps):
    ours = [learning.warmup_cosine(step, steps, 0.1 * steps) for step in range(steps)]
    assert ours == pytest.approx([schedule(step, koch.Config(steps=steps)) for step in range(steps)], rel=1e-14)
