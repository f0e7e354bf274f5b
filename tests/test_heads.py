"""The head view: weights, means, the strongest heads, the figure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dexar_fast.errors import InputError
from dexar_fast.inputs.targets import Target
from dexar_fast.result.explanation import Explanation

from .explanations import make_explanation, with_targets


@pytest.fixture
def explanation() -> Explanation:
    """Three tokens, of which the last two are one word; layers 3 and 7 of two heads."""
    image = np.array([[[0.5, 0.0], [0.25, 0.25]], [[0.0, 0.0], [1.0, 0.5]], [[0.5, 0.0], [0.5, 0.0]]], dtype=np.float32)
    text = np.array([[[0.25, 0.5], [0.5, 0.25]], [[0.5, 0.0], [0.25, 0.0]], [[0.0, 0.5], [0.25, 0.0]]], np.float32)
    plain = make_explanation(["a", " st", "ar"])
    return replace(plain, image_scores=image, text_scores=text, layers=(3, 7))


def test_weights_of_token_word_and_answer(explanation: Explanation) -> None:
    first, second, third = explanation.head_weights
    np.testing.assert_array_equal(first, [[0.25, 0], [0, 0]])
    np.testing.assert_array_equal(explanation.heads(0), first)
    np.testing.assert_array_equal(explanation.heads(-1), third)
    np.testing.assert_array_equal(explanation.heads(word=1), (second + third) / 2)
    np.testing.assert_allclose(explanation.heads(), (first + second + third) / 3, rtol=1e-6)
    assert explanation.heads().dtype == np.float32


def test_heads_of_targets(explanation: Explanation) -> None:
    """One row each, whatever tokens it stands for."""
    last = explanation.head_weights[1]
    explanation = with_targets(explanation, Target("a", 0, 1), Target("star", 1, 3))
    np.testing.assert_array_equal(explanation.heads(word=1), last)
    np.testing.assert_allclose(explanation.heads(), (explanation.heads(word=0) + last) / 2, rtol=1e-6)
    assert explanation.plot_heads(word=-1).axes[0].get_title() == "star"
    with pytest.raises(InputError, match="2 targets"):
        explanation.heads(0)


def test_top_heads_name_layers_as_the_model_does(explanation: Explanation) -> None:
    strongest, second, third = explanation.top_heads()  # the fourth head is filtered out everywhere
    assert str(strongest) == "layer 7 head 0: w = 0.333, filtered in for 67% of tokens"
    assert (strongest.weight, strongest.share) == pytest.approx((1 / 3, 2 / 3))
    assert (strongest.image_score, strongest.text_score) == pytest.approx((1.75 / 3, 1 / 3))
    assert (second.layer, second.head, second.weight) == (3, 0, 0.25)
    assert (third.layer, third.head, third.share) == pytest.approx((7, 1, 1 / 3))
    assert [(head.layer, head.head) for head in explanation.top_heads(1, token=0)] == [(3, 0)]
    assert len(explanation.top_heads(2, word=1)) == 2


def test_a_method_that_scores_no_heads_has_no_picture(explanation: Explanation) -> None:
    zeros = np.zeros((3, 2, 1), dtype=np.float32)
    plain = replace(explanation, image_scores=zeros, text_scores=zeros, settings={"method": "rollout"})
    assert not plain.head_weights.any()
    for picture in (plain.heads, plain.top_heads, plain.plot_heads):
        with pytest.raises(InputError, match="method 'rollout' scores no heads"):
            picture()


def test_selection_is_checked(explanation: Explanation) -> None:
    with pytest.raises(InputError, match="token: expected an index from -3 to 2; got 3"):
        explanation.heads(3)
    with pytest.raises(InputError, match="word: expected an index"):
        explanation.top_heads(word=2)
    with pytest.raises(InputError, match=r"token: expected an index from -3 to 2; got 1\.5"):
        explanation.heads(1.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"word: expected one of the answer's words \(a star\); got 'ring'"):
        explanation.heads(word="ring")
    for count in (0, -1, 1.5):
        with pytest.raises(InputError, match=f"count: expected a number of heads from 1 on; got {count}"):
            explanation.top_heads(count)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one of them; got token=0 and word=0"):
        explanation.plot_heads(0, word=0)


def test_the_figure_has_layers_across_and_heads_down(explanation: Explanation) -> None:
    pytest.importorskip("matplotlib", reason="plot_heads() is an optional extra")
    axes, bar = explanation.plot_heads(word=1, colormap="viridis").axes
    np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), explanation.heads(word=1).T)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["3", "7"]
    assert axes.get_title() == "star"
    assert "logits" in bar.get_ylabel()
    odd = replace(explanation, tokens=["a", "", " 🦊"])
    assert odd.plot_heads(word=1).axes[0].get_title() == "🦊"
    assert odd.plot_heads(1).axes[0].get_title() == "(before 🦊)"
    whole, _ = explanation.plot_heads().axes
    assert whole.get_title() == "mean over all 3 tokens"


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (80, 64), (2, 40)])
def test_figures_of_any_shape_can_be_drawn(tmp_path: object, layers: int, heads: int) -> None:
    pytest.importorskip("matplotlib", reason="plot_heads() is an optional extra")
    explanation = make_explanation(["$x", "\n"], layers=layers, heads=heads)
    explanation.plot_heads(0).savefig(f"{tmp_path}/heads.png")
    assert len(explanation.plot_heads(1).axes[0].get_xticks()) <= 20
