"""§4.2: pairs are what they should be, and thresholds, curves and intervals what the books say."""

import math

import pytest
import torch
from conftest import Always, Oracle, random_drawings, rng

import koch


@pytest.fixture(scope="module")
def drawings():
    return random_drawings((6, 9, 4), 20)._replace(by_drawer=True)


@pytest.fixture(scope="module")
def pairs(drawings):
    return koch.draw_pairs(drawings, 3000, rng())


def test_half_of_the_pairs_are_the_same_character_and_alphabets_have_equal_numbers(pairs, drawings):
    first, second = (drawings.alphabet[part // 20] for part in (pairs.first, pairs.second))
    assert torch.equal(first, second)  # "different" stays within an alphabet
    assert torch.bincount(first).tolist() == [1000] * 3
    assert torch.equal(pairs.first // 20 == pairs.second // 20, pairs.same) and int(pairs.same.sum()) == 1500
    assert [int(pairs.same[first == a].sum()) for a in range(3)] == [500] * 3


def test_no_pair_is_one_drawing_twice_and_every_drawing_occurs(pairs, drawings):
    assert (pairs.first != pairs.second).all()
    assert len(torch.cat([pairs.first, pairs.second]).unique()) > 0.99 * 19 * 20
    other = pairs.second[pairs.same] % 20 - pairs.first[pairs.same] % 20
    assert set((other % 20).tolist()) == set(range(1, 20))  # every other drawer


def test_characters_without_a_second_drawing_are_left_out_and_the_others_drawings_exist():
    drawings = random_drawings((6, 5), 8)._replace(counts=torch.tensor([8, 1, 2, 3, 8, 0, 2, 2, 1, 5, 8]))
    pairs = koch.draw_pairs(drawings, 2000, rng())
    for part in (pairs.first, pairs.second):
        assert (part % 8 < drawings.counts[part // 8]).all()
        assert set((part // 8).tolist()) == {0, 2, 3, 4, 6, 7, 9, 10}
    assert (pairs.first != pairs.second).all()


def test_pairs_are_drawn_directly_and_in_no_time():
    drawings = random_drawings((50,) * 30, 12, 3)
    pairs = koch.draw_pairs(drawings, 150_000, rng())  # by rejection this would take 960 draws for each same pair
    assert len(pairs.same) == 150_000 and len(torch.stack([pairs.first, pairs.second], 1).unique(dim=0)) > 130_000


def test_alphabets_of_one_character_are_left_out_and_none_is_an_error():
    pairs = koch.draw_pairs(random_drawings((3, 1, 2), 4), 400, rng())
    assert set((pairs.first // 4).tolist()) == {0, 1, 2, 4, 5} and int((pairs.first // 4 < 3).sum()) == 200
    with pytest.raises(koch.UserError, match="pairs take an alphabet with two characters"):
        koch.draw_pairs(random_drawings((1, 1), 4), 10, rng())


def test_training_validation_and_test_pairs_are_by_other_drawers(drawings):
    parts = [koch.only_drawers(drawings, part).images for part in ("training", "validation", "test")]
    assert [images.shape[1] for images in parts] == [12, 4, 4]
    assert torch.equal(torch.cat(parts, 1), drawings.images)
    assert all(images.is_contiguous() for images in parts)  # else each minibatch would copy them all
    few = random_drawings((3, 3), 10)
    assert koch.only_drawers(few, "test").images is few.images  # nobody says who drew these


def test_a_pairs_logit_is_that_of_its_two_drawings(drawings, pairs):
    net = koch.SiameseNet(35).eval()
    few = koch.Pairs(*(part[:50] for part in pairs[:3]))
    logits = koch.pair_logits(net, drawings, few)
    flat = koch.to_input(drawings.images.flatten(0, 1), 35)
    with torch.no_grad():
        wanted = net.logit(net.features(flat[few.first]), net.features(flat[few.second]))
    torch.testing.assert_close(logits.float(), wanted, rtol=1e-4, atol=1e-4)


def scored(model, drawings, monkeypatch):
    monkeypatch.setattr(koch, "N_PAIRS", 300)
    return koch.verify(model, drawings, koch.image_features(model, drawings.images.flatten(0, 1)))


def test_an_oracle_has_all_pairs_right(drawings, monkeypatch):
    result = scored(Oracle(drawings), drawings, monkeypatch)
    assert (result["right"], result["accuracy"], result["equal_error_rate"]) == (300, 1.0, 0.0)


@pytest.mark.parametrize("logit, right", [(0.0, 150), (math.inf, 150), (math.nan, 0)])
def test_a_constant_scorer_is_at_chance_and_one_that_is_no_number_is_always_wrong(drawings, monkeypatch, logit, right):
    result = scored(Always(logit), drawings, monkeypatch)
    assert result["right"] == right and result["equal_error_rate"] == 0.5


def test_verification_is_of_the_test_drawers_pairs_alone(drawings, monkeypatch):
    seen, draw_pairs = [], koch.draw_pairs
    monkeypatch.setattr(koch, "draw_pairs", lambda *how: seen.append(how) or draw_pairs(*how))
    monkeypatch.setattr(koch, "N_PAIRS", 300)
    h = torch.rand(drawings.images.shape[0] * 20, 1, generator=rng())
    koch.verify(Always(0.0), drawings, h)
    assert torch.equal(seen[0][0].images, h.view(-1, 20, 1)[:, 16:20]) and seen[0][1] == 300


# Thresholds and calibration -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_error_rates_are_those_counted_at_every_threshold_and_the_area_the_share_of_ordered_pairs(seed):
    same = torch.rand(60, generator=rng(seed)) < 0.4
    logits = ((torch.randn(60, generator=rng(seed + 9)) + same.float()) * 10).round().double() / 10  # with ties
    false, missed, thresholds = koch.error_rates(logits, same)
    assert (false[0], missed[0], false[-1], missed[-1]) == (1, 0, 0, 1) and (thresholds.diff() > 0).all()
    for rate, miss, threshold in zip(false, missed, thresholds):
        assert rate == pytest.approx((logits[~same] > threshold).double().mean().item())
        assert miss == pytest.approx((logits[same] <= threshold).double().mean().item())
    higher = logits[same][:, None] - logits[~same]
    area = -torch.trapezoid(1 - missed, false)
    assert area.item() == pytest.approx(((higher > 0) + 0.5 * (higher == 0)).double().mean().item())


def calibrated(high, low, drawings, monkeypatch):
    """Return a net's scale and threshold: calibrated on pairs with these logits of same pairs and of others."""
    monkeypatch.setattr(koch, "N_PAIRS", len(high))
    monkeypatch.setattr(koch, "pair_logits", lambda model, drawings, pairs: torch.where(pairs.same, high, low).double())
    scale, shift = koch.calibration(None, drawings)
    return scale, -shift / scale


@pytest.mark.parametrize("seed", range(3))
def test_the_threshold_makes_the_fewest_mistakes(seed, drawings, monkeypatch):
    high, low = torch.randn(60, generator=rng(seed)) + 1 + seed, torch.randn(60, generator=rng(seed + 5))
    _, chosen = calibrated(high, low, drawings, monkeypatch)
    same = torch.arange(60) % 2 == 0
    logits = torch.where(same, high, low)
    mistakes = [int(((logits > t) != same).sum()) for t in torch.cat([logits - 1e-3, logits + 1e-3])]
    assert int(((logits > chosen) != same).sum()) == min(mistakes)


def test_the_threshold_is_half_way_between_the_two_kinds_and_the_scale_makes_log_odds(drawings, monkeypatch):
    _, threshold = calibrated(torch.tensor([-4.0, -2.0] * 2), torch.tensor([-9.0, -7.0] * 2), drawings, monkeypatch)
    assert threshold == pytest.approx(-5.5)
    high, low = torch.randn(20_000, generator=rng()) + 4, torch.randn(20_000, generator=rng(1)) + 1
    scale, threshold = calibrated(high, low, drawings, monkeypatch)
    assert scale == pytest.approx(3, rel=0.05) and threshold == pytest.approx(2.5, abs=0.2)  # by Bayes


def test_a_net_that_knows_nothing_keeps_the_order_of_its_logits(drawings, monkeypatch):
    low, high = torch.randn(60, generator=rng()), torch.randn(60, generator=rng(1)) + 3
    scale, _ = calibrated(low, high, drawings, monkeypatch)  # same pairs have the lower ones
    assert 0 < scale < 1e-3


def test_a_calibration_is_of_the_validation_drawers_pairs_and_changes_no_weight_and_no_answer(drawings, monkeypatch):
    monkeypatch.setattr(koch, "N_PAIRS", 400)
    torch.manual_seed(0)
    net, seen, draw_pairs = koch.SiameseNet(35).eval(), [], koch.draw_pairs
    monkeypatch.setattr(koch, "draw_pairs", lambda *how: seen.append(how[0]) or draw_pairs(*how))
    slips = torch.rand(drawings.images.shape, generator=rng()) < 0.1
    drawings = drawings._replace(images=drawings.images[:, :1] ^ slips)  # a character's drawings are much alike
    net.join.bias.data.fill_(3.0)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    trials = koch.one_shot_trials(drawings, None, 100, rng())
    answers, pairs = koch.one_shot_answers(net, trials), draw_pairs(drawings, 50, rng())
    logits = koch.pair_logits(net, drawings, pairs)
    net.scale, net.shift = scale, shift = koch.calibration(net, drawings)
    assert torch.equal(seen[0].images, drawings.images[:, 12:16])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert (koch.pair_logits(net, drawings, pairs) - (scale * logits + shift)).abs().max() < 1e-5 * scale
    clear = torch.stack([answers, koch.one_shot_answers(net, trials)])
    clear = clear[:, (clear >= 0).all(0)]  # by rounding some are ties
    assert clear.shape[1] > 80 and torch.equal(*clear)
