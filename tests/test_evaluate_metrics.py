"""Localisation metrics and intervals: by hand, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from dexar_fast import InputError
from dexar_fast.evaluate.metrics import METRICS, SNR_LIMIT, localisation, normalise
from dexar_fast.evaluate.statistics import auroc, bootstrap, bootstrap_auroc
from dexar_fast.methods.chance import centre_maps, random_maps, uniform_maps


def figures(values, mask):
    """Metrics of one map, by name."""
    found = localisation(torch.tensor([values]), torch.tensor([mask]).bool())
    return {name: float(getattr(found, name)) for name in METRICS}


def test_by_hand():
    found = figures([1.0, 0.5, 0.5, 0.0], [1, 1, 0, 0])
    assert found["soft_iou"] == pytest.approx(1.5 / (2 + 2 - 1.5))
    assert found["iou"] == pytest.approx(2 / 3)  # at 0.5: three pixels, two of them right
    assert found["epg"] == pytest.approx(0.75)
    assert found["pointing"] == 1
    assert found["snr"] == pytest.approx(10 * np.log10(0.75 / 0.25))
    assert found["auroc"] == pytest.approx(3.5 / 4)  # four pairs, one tied
    assert found["average_precision"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_best_threshold_is_chosen_per_map():
    assert figures([1.0, 0.9, 0.3, 0.2], [1, 1, 0, 0])["iou"] == 1  # at 0.5
    assert figures([0.2, 0.3, 0.9, 1.0], [1, 1, 0, 0])["iou"] == 0.5  # only everything is left


def test_pointing_shares_ties():
    assert figures([1.0, 1.0, 0.0], [1, 0, 0])["pointing"] == 0.5


@pytest.mark.parametrize(("values", "snr"), [([1.0, 0.0], SNR_LIMIT), ([0.0, 1.0], -SNR_LIMIT), ([1.0, 1.0], 0)])
def test_snr_stays_finite(values, snr):
    assert figures(values, [1, 0])["snr"] == snr


def test_uniform_map_scores_the_area():
    """Soft-IoU, IoU and EPG rise with the object's area: the uniform map's score is the area itself."""
    found = figures([1.0] * 10, [1] * 3 + [0] * 7)
    assert [found[name] for name in ("soft_iou", "iou", "epg", "pointing", "average_precision")] == pytest.approx(
        [0.3] * 5
    )
    assert (found["snr"], found["auroc"]) == (0, 0.5)


def test_constant_map_fails():
    maps, constant = normalise(torch.tensor([[2.0, 2.0, 2.0, 2.0], [0.0, 1.0, 3.0, 4.0]]))
    assert constant.tolist() == [True, False]
    assert maps[1].tolist() == [0, 0.25, 0.75, 1]
    found = figures(maps[0].tolist(), [1, 0, 0, 0])
    assert found == {
        "soft_iou": 0, "iou": 0, "epg": 0, "pointing": 0.25, "snr": 0, "auroc": 0.5, "average_precision": 0.25
    }  # fmt: skip


@pytest.mark.parametrize("levels", [3, 50, 10**6], ids=lambda n: f"{n} levels")
def test_rankings_are_those_of_scikit_learn(levels):
    generator = torch.Generator().manual_seed(levels)
    maps = torch.rand(7, 501, generator=generator).mul(levels).round() / levels
    masks = torch.rand(7, 501, generator=generator) < 0.3
    found = localisation(maps, masks)
    for row in range(7):
        assert float(found.auroc[row]) == pytest.approx(roc_auc_score(masks[row], maps[row]), abs=1e-12)
        expected = average_precision_score(masks[row], maps[row])
        assert float(found.average_precision[row]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("maps", "masks", "said"),
    [
        (torch.rand(2, 4), torch.ones(2, 3).bool(), "maps, masks"),
        (torch.rand(1, 4), torch.ones(1, 4), "maps, masks"),
        (torch.rand(1, 4), torch.zeros(1, 4).bool(), "mask 0 has all on one side"),
        (torch.rand(1, 4), torch.ones(1, 4).bool(), "mask 0 has all on one side"),
        (2 * torch.ones(1, 2), torch.tensor([[True, False]]), "from 0 to 1"),
        (torch.full((1, 2), torch.nan), torch.tensor([[True, False]]), "from 0 to 1"),
    ],
    ids=["shape", "dtype", "empty", "full", "range", "nan"],
)
def test_refuses(maps, masks, said):
    with pytest.raises(InputError, match=said):
        localisation(maps, masks)


def test_interval_of_the_mean():
    """Independent values: the interval is the normal one, up to the bootstrap's own noise."""
    values = np.random.default_rng(1).normal(3, 2, size=400)
    found = bootstrap(values, range(400))
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert (found.mean - found.low, found.high - found.mean) == pytest.approx((half, half), rel=0.1)


def test_interval_draws_whole_samples():
    """Ten copies of each value say no more than one."""
    values = np.random.default_rng(2).normal(size=50)
    once = bootstrap(values, range(50))
    assert bootstrap(np.repeat(values, 10), np.repeat(np.arange(50), 10)) == pytest.approx(once)


def test_nothing_has_no_mean():
    assert all(np.isnan(bootstrap([], [])))


def test_auroc_of_scores():
    rng = np.random.default_rng(3)
    scores, labels = rng.integers(0, 9, 200).astype(float), rng.random(200) < 0.4
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    mean, low, high = bootstrap_auroc(scores, labels, range(200))
    assert low < mean < high
    assert mean == pytest.approx(roc_auc_score(labels, scores))
    assert np.isnan(auroc(scores, np.ones(200, dtype=bool)))


def test_chance_maps():
    assert uniform_maps(2, 3, 4).tolist() == np.ones((2, 3, 4)).tolist()
    centre = centre_maps(1, 5, 7)[0]
    assert centre.argmax() == 17  # row 2, column 3
    torch.testing.assert_close(centre, centre.flip(0, 1))
    noise = random_maps(3, 24, 24, seed=5)
    assert torch.equal(noise, random_maps(3, 24, 24, seed=5))
    assert not torch.equal(noise[0], noise[1])
    neighbours = torch.corrcoef(torch.stack((noise[:, :-1].flatten(), noise[:, 1:].flatten())))[0, 1]
    assert neighbours > 0.9  # smooth
