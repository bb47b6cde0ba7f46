"""§4.2: pairs are what they should be, and thresholds, curves and intervals what the books say."""

import math

import numpy as np
import pytest
import torch
from conftest import Always, Oracle, random_drawings, rng

import koch
from reference_numpy import measures


@pytest.fixture(scope="module")
def drawings():
    return random_drawings((6, 9, 4), 20)


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
    with pytest.raises(koch.UserError, match="Alphabet0, Alphabet1: pairs take two characters"):
        koch.draw_pairs(random_drawings((1, 1), 4), 10, rng())


def test_training_validation_and_test_pairs_are_by_other_drawers(drawings):
    parts = [koch.by_drawers(drawings, part).images for part in ("training", "validation", "test")]
    assert [images.shape[1] for images in parts] == [12, 4, 4]
    assert torch.equal(torch.cat(parts, 1), drawings.images)
    few = random_drawings((3, 3), 10)
    assert koch.by_drawers(few, "test").images is few.images  # nobody says who drew these


def test_a_pairs_logit_is_that_of_its_two_drawings(drawings, pairs):
    net = koch.SiameseNet(35).eval()
    few = koch.Pairs(*(part[:50] for part in pairs[:3]))
    logits = koch.pair_logits(net, drawings, few)
    flat = koch.to_input(drawings.images.flatten(0, 1), 35)
    with torch.no_grad():
        wanted = net.logit(net.features(flat[few.first]), net.features(flat[few.second]))
    torch.testing.assert_close(logits.float(), wanted, rtol=1e-4, atol=1e-4)


def scored(model, drawings, threshold, monkeypatch):
    monkeypatch.setattr(koch, "N_PAIRS", 300)
    model.threshold = threshold
    return koch.verify(model, drawings)[0]


def test_an_oracle_has_all_pairs_right_and_an_area_of_1(drawings, monkeypatch):
    result = scored(Oracle(drawings), drawings, 0.5, monkeypatch)
    assert (result["right"], result["accuracy"], result["area"], result["equal_error_rate"]) == (300, 1.0, 1.0, 0.0)


@pytest.mark.parametrize("logit, right", [(0.0, 150), (math.inf, 150), (math.nan, 0)])
def test_a_constant_scorer_is_at_chance_and_one_that_is_no_number_is_always_wrong(drawings, monkeypatch, logit, right):
    result = scored(Always(logit), drawings, 0.5, monkeypatch)
    assert result["right"] == right and result["area"] == 0.5


# Thresholds, curves, calibration --------------------------------------------------------------------------------------


def by_hand(logits, same, threshold):
    called = logits >= threshold
    return (called & ~same).sum() / (~same).sum(), (called & same).sum() / same.sum()


@pytest.mark.parametrize("seed", range(3))
def test_the_curve_is_the_rates_at_every_cut_and_its_area_the_share_of_ordered_pairs(seed):
    draw = np.random.default_rng(seed)
    same = draw.random(60) < 0.4
    logits = np.round(draw.normal(size=60) + same, 1)  # with ties
    false, true, thresholds = measures.roc(logits, same)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1) and (np.diff(thresholds) < 0).all()
    for cut, threshold in enumerate(thresholds):
        assert (false[cut], true[cut]) == pytest.approx(by_hand(logits, same, threshold))
    higher = logits[same][:, None] - logits[~same]
    area, equal = measures.area_and_equal_error(false, true)
    assert area == pytest.approx(((higher > 0) + 0.5 * (higher == 0)).mean())
    assert min(np.abs(false - equal).min(), np.abs(1 - true - equal).min()) < 0.1 and 0 < equal < 0.5


def test_the_equal_error_rate_lies_between_the_cuts_where_the_two_rates_cross():
    assert measures.area_and_equal_error(np.array([0, 0.2, 1]), np.array([0, 0.6, 1]))[1] == pytest.approx(1 / 3)
    assert measures.area_and_equal_error(np.array([0.0, 0, 1]), np.array([0.0, 1, 1])) == (1.0, 0.0)
    assert measures.area_and_equal_error(np.array([0.0, 1]), np.array([0.0, 1])) == (0.5, 0.5)


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_makes_the_fewest_mistakes(seed):
    draw = np.random.default_rng(seed)
    same = draw.random(50) < 0.5
    logits = np.round(draw.normal(size=50) + same * seed, 1)
    mistakes = lambda threshold: ((logits > threshold) != same).sum()  # noqa: E731
    chosen = measures.choose_threshold(logits, same)
    assert mistakes(chosen) == min(mistakes(t) for t in np.concatenate([[-99], logits]))


def test_the_threshold_is_half_way_between_the_two_kinds_and_never_05_of_a_squashed_distance():
    logits, same = np.array([-9.0, -7.0, -4.0, -2.0]), np.array([False, False, True, True])
    assert measures.choose_threshold(logits, same) == -5.5
    for constant in (0.0, 3.0):  # all alike: any threshold has half of them right
        chosen = measures.choose_threshold(np.full(4, constant), same)
        assert ((np.full(4, constant) > chosen) == same).sum() == 2
    assert math.isfinite(measures.choose_threshold(np.array([np.nan, 1.0, 2.0, 3.0]), same))
    assert math.isfinite(measures.choose_threshold(np.full(4, np.nan), same))


def test_the_log_odds_are_found_again():
    draw = np.random.default_rng(0)
    logits = draw.normal(size=200_000) * 40 + 7
    same = draw.random(200_000) < 1 / (1 + np.exp(-(0.05 * logits - 1)))
    scale, offset = measures.fit_log_odds(logits, same)
    assert scale == pytest.approx(0.05, rel=0.03) and offset == pytest.approx(-1, rel=0.03)


def test_log_odds_that_cannot_be_fitted_leave_the_logits_as_they_are():
    same = np.array([True, False, True, False])
    assert measures.fit_log_odds(np.array([0.0, 1.0, np.nan, 2.0]), same) == (1.0, 0.0)
    assert measures.fit_log_odds(np.array([0.0, 1.0, 0.0, 1.0]), same) == (1.0, 0.0)  # higher means less alike
    assert measures.fit_log_odds(np.full(4, 3.0), same)[0] in (1.0,)
    scale, offset = measures.fit_log_odds(np.array([1.0, -1.0, 2.0, -2.0]), same)  # parted by a line
    assert 0 < scale < 1000 and math.isfinite(offset)


@pytest.mark.parametrize("loss", ["softmax", "contrastive", "bce"])
def test_a_net_gets_its_threshold_and_log_odds_on_validation_pairs_and_keeps_its_answers(loss, drawings, monkeypatch):
    monkeypatch.setattr(koch, "N_PAIRS", 400)
    alike = drawings.images[:, :1] ^ (random_drawings((6, 9, 4), 20, seed=1).images & drawings.images[:1])
    drawings = drawings._replace(images=alike)  # drawings of a character differ in a tenth of their ink
    torch.manual_seed(0)
    net = koch.SiameseNet(35, loss == "contrastive").eval()
    net.config, trials = koch.Config(loss=loss), koch.one_shot_trials(drawings, 5, 40, rng())
    seen, draw_pairs = [], koch.draw_pairs
    monkeypatch.setattr(koch, "draw_pairs", lambda *how: seen.append(how[0]) or draw_pairs(*how))
    answers, bias = koch.one_shot_answers(net, trials), net.join.bias.item()
    before = koch.pair_logits(net, drawings, draw_pairs(drawings, 50, rng()))
    koch.settle_threshold(net, drawings)
    assert torch.equal(seen[0].images, drawings.images[:, 12:16])
    assert torch.equal(answers, koch.one_shot_answers(net, trials))
    after = koch.pair_logits(net, drawings, draw_pairs(drawings, 50, rng()))
    assert torch.equal(before.argsort(), after.argsort()) and (net.join.bias.item() == bias) == (loss == "bce")
    h = koch.image_features(net, drawings.images[0, :1])
    assert net.logit(h, h).item() == pytest.approx(net.join.bias.item(), abs=2e-4)  # identical images: the bias
