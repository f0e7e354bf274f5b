"""Removing the image piece by piece: which pixels go, and what the curves say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dexar_fast import Explainer, InputError
from dexar_fast.evaluate.perturbation import Curve, Perturbed, area, perturbation_curves, removed_images
from dexar_fast.layout.grid import Grid, to_pixels, whole_image

from .tiny import picture, tiny_answer, tiny_llava, tiny_processor

GRID = whole_image(3, 3, (40, 30))


def sample(order: np.ndarray, grid: Grid = GRID, image: Image.Image | None = None) -> Perturbed:
    return Perturbed(image or picture(), "what is it?", tiny_answer(3), grid, {"map": order})


def gone(before: Image.Image, after: Image.Image) -> np.ndarray:
    """Which pixels differ."""
    return (np.array(before) != np.array(after)).any(-1)


def test_most_relevant_first_and_last():
    """Left to right by relevance: 4 steps of a quarter of 40 columns, then the same from the other side."""
    order = np.tile(np.arange(40)[::-1], (30, 1))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 100, (30, 40, 3), dtype=np.uint8) * 2)
    pictures = list(removed_images(sample(order, image=image), 4, "zero"))
    assert len(pictures) == 1 + 2 * 3
    black = [(np.array(one) == 0).all(-1) for one in pictures]
    already = (np.array(image) == 0).all(-1)
    assert black[0].all()
    for step, columns in ((1, slice(0, 10)), (2, slice(0, 20)), (3, slice(0, 30))):
        expected = already.copy()
        expected[:, columns] = True
        np.testing.assert_array_equal(black[step], expected)
        np.testing.assert_array_equal(black[3 + step], (already | (np.arange(40) >= 40 - 10 * step)[None]))


def test_removal_puts_the_seen_mean():
    """A crop: what the model never saw neither goes nor colours the mean."""
    grid = Grid(3, 3, (10.0, 0.0, 40.0, 30.0), (40, 30))
    pixels = np.zeros((30, 40, 3), dtype=np.uint8)
    pixels[:, :10], pixels[:, 10:25], pixels[:, 25:] = 255, 40, 80
    image = Image.fromarray(pixels)
    empty = np.array(next(removed_images(sample(np.ones((30, 40)), grid, image), 2, "mean")))
    assert (empty[:, :10] == 255).all()
    assert (empty[:, 10:] == 60).all()


def test_blur_keeps_something():
    blurred = np.array(next(removed_images(sample(np.ones((30, 40))), 2, "blur"))).astype(float)
    original = np.array(picture()).astype(float)
    assert 0 < blurred.std() < original.std()
    assert np.abs(blurred - original).max() > 10


def test_ties_are_not_in_raster_order():
    half = list(removed_images(sample(np.ones((30, 40))), 2, "zero"))[1]
    rows = gone(picture(), half)[:15].mean()
    assert 0.4 < rows < 0.6  # the upper half lost half of its pixels, not all


def test_curve_by_hand():
    curve = Curve(np.log([[0.5, 0.8], [0.25, 0.8], [0.125, 0.1]]))
    assert curve.fractions.tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(curve.drop(), np.log([1, 2, 4 * 8]) / 2)
    np.testing.assert_allclose(curve.perplexity(), np.sqrt([1, 2, 32]))  # PPL = exp(-mean log p)
    np.testing.assert_allclose(curve.perplexity(slice(0, 1)), [1, 2, 4])
    assert area(np.array([1.0, 2.0, 4.0])) == pytest.approx(0.5 * 1.5 + 0.5 * 3)


def test_curves_are_those_of_single_passes():
    """Two samples, two orders each, in batches that mix them: every point as if it were asked alone."""
    explainer = Explainer(tiny_llava(dtype=torch.float32), tiny_processor())
    rng = np.random.default_rng(1)
    samples = []
    for length in (2, 5):
        orders = {name: to_pixels(rng.random((3, 3)), GRID) for name in ("a", "b")}
        samples.append(Perturbed(picture(), "what is it?", tiny_answer(length), GRID, orders))
    found = perturbation_curves(explainer, samples, steps=3, batch_size=4)
    for one, curves in zip(samples, found, strict=True):
        pictures = [one.image, *removed_images(one, 3, "mean")]
        alone = np.stack([log_p(explainer, each, one.answer_ids) for each in pictures])
        for number, (name, direction) in enumerate((n, d) for n in ("a", "b") for d in ("positive", "negative")):
            expected = np.concatenate((alone[:1], alone[2 + 2 * number : 4 + 2 * number], alone[1:2]))
            np.testing.assert_allclose(curves[name][direction].log_p, expected, atol=2e-5)


def log_p(explainer, image, answer):
    inputs, _ = explainer.encode([image], "what is it?", "a")
    joined = {**inputs, "input_ids": torch.cat((inputs["input_ids"], answer[None]), 1)}
    del joined["attention_mask"]
    with torch.no_grad():
        logits = explainer.model(**joined).logits[0]
    rows = inputs["input_ids"].shape[1] - 1 + torch.arange(len(answer))
    return logits.log_softmax(-1)[rows, answer].numpy()


@pytest.mark.parametrize(
    ("options", "order", "said"),
    [({"removal": "noise"}, (30, 40), "removal"), ({"steps": 0}, (30, 40), "steps"), ({}, (3, 3), "orders")],
    ids=["removal", "steps", "order"],
)
def test_refuses(options, order, said):
    explainer = Explainer(tiny_llava(dtype=torch.float32), tiny_processor())
    with pytest.raises(InputError, match=said):
        perturbation_curves(explainer, [sample(np.ones(order))], **options)
