"""The reference ops against loops written from the equations, in float64, on awkward shapes and layouts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dexar_fast import InputError
from dexar_fast.ops import (
    KeySets,
    accumulate_maps,
    attention_columns,
    available_backends,
    causal_rows,
    head_scores,
    reference,
    resolve_backend,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def case(T=7, H=4, H_kv=2, D=16, K=23, image=range(3, 12), text=None, window=None, dtype=torch.float64, seed=0):
    """Random rows that predict the last T tokens of K + 1."""
    generator = torch.Generator().manual_seed(seed)
    d_out = torch.randn(T, H, D, generator=generator, dtype=torch.float64).to(dtype)
    value = torch.randn(H_kv, K, D, generator=generator, dtype=torch.float64).to(dtype)
    image = torch.tensor(list(image), dtype=torch.int64)
    text_keys = torch.ones(K, dtype=torch.bool)
    text_keys[image] = False
    if text is not None:
        text_keys &= torch.zeros(K, dtype=torch.bool).index_fill(0, torch.tensor(text, dtype=torch.int64), True)
    return d_out, value, KeySets(image, text_keys, causal_rows(torch.arange(K - T, K), window))


def by_loops(d_out: Tensor, value: Tensor, keys: KeySets, weights: Tensor):
    """S_img, S_text, smallest image value, maps: one number at a time, in float64."""
    T, H, _ = d_out.shape
    group = H // value.shape[0]
    image, text, low = (torch.zeros(T, H, dtype=torch.float64) for _ in range(3))
    maps = torch.zeros(T, len(keys.image), dtype=torch.float64)
    for t in range(T):
        start, stop = keys.visible[t].tolist()
        for i in range(H):
            g = [float(d_out[t, i].double() @ v.double()) for v in value[i // group]]
            on_image = [max(g[j], 0.0) for j in keys.image.tolist() if start <= j < stop]
            on_text = [max(g[j], 0.0) for j in range(len(g)) if keys.text[j] and start <= j < stop]
            image[t, i], text[t, i] = max(on_image, default=0.0), max(on_text, default=0.0)
            low[t, i] = min(on_image, default=0.0)
            for n, j in enumerate(keys.image.tolist()):
                if start <= j < stop:
                    maps[t, n] += float(weights[t, i]) * max(g[j], 0.0)
    return image, text, low, maps


def run(d_out: Tensor, value: Tensor, keys: KeySets, weights: Tensor, backend: str = "auto"):
    scores = head_scores(d_out, value, keys, backend=backend)
    shape = (len(d_out), len(keys.image))
    maps, unfiltered = (torch.zeros(shape, dtype=scores.image.dtype) for _ in range(2))
    accumulate_maps(d_out, value, weights, keys, maps, unfiltered=unfiltered, backend=backend)
    return *scores, maps, unfiltered


SHAPES = {
    "plain": {},
    "one row": {"T": 1},
    "MHA": {"H": 3, "H_kv": 3},
    "MQA": {"H": 6, "H_kv": 1},
    "head width 60": {"D": 60},
    "head width 1": {"D": 1},
    "scattered image keys": {"image": [0, 2, 3, 9, 22]},
    "image keys that are not yet visible": {"image": [1, 20, 21, 22]},
    "one image key": {"image": [5]},
    "no image key": {"image": []},
    "no text key": {"text": []},
    "text subset": {"text": [0, 13, 22]},
    "window 1": {"window": 1},
    "window 9": {"window": 9},
    "111 keys": {"K": 111, "T": 63, "image": range(40, 71)},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_equals_loops(shape) -> None:
    d_out, value, keys = case(**shape)
    weights = torch.rand(d_out.shape[:2], dtype=torch.float64)
    unfiltered = by_loops(d_out, value, keys, torch.ones_like(weights))[3]
    expected = (*by_loops(d_out, value, keys, weights), unfiltered)
    for actual, wanted in zip(run(d_out, value, keys, weights), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_masks_and_spans(data) -> None:
    K, T, H_kv, group = (data.draw(st.integers(1, most)) for most in (17, 5, 3, 3))
    kind = st.lists(st.sampled_from(["image", "text", "neither"]), min_size=K, max_size=K)
    kinds = data.draw(kind)
    image = torch.tensor([j for j, k in enumerate(kinds) if k == "image"], dtype=torch.int64)
    bounds = st.tuples(st.integers(0, K), st.integers(0, K)).map(sorted)
    visible = torch.tensor(data.draw(st.lists(bounds, min_size=T, max_size=T)))
    keys = KeySets(image, torch.tensor([k == "text" for k in kinds]), visible)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    d_out = torch.randn(T, H_kv * group, 4, generator=generator, dtype=torch.float64)
    value = torch.randn(H_kv, K, 4, generator=generator, dtype=torch.float64)
    weights = torch.rand(T, H_kv * group, generator=generator, dtype=torch.float64)
    for actual, wanted in zip(run(d_out, value, keys, weights)[:4], by_loops(d_out, value, keys, weights), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-12)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    d_out, value, keys = case(T=13, K=40)
    weights = torch.rand(13, 4, dtype=torch.float64)
    whole = run(d_out, value, keys, weights)
    monkeypatch.setattr(reference, "BLOCK_ELEMENTS", 2 * 40 * 3)  # three rows of a group at a time
    for actual, wanted in zip(run(d_out, value, keys, weights), whole, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", available_backends())
def test_error_is_that_of_plain_torch(backend: str, dtype: torch.dtype) -> None:
    """At most twice the error of the same product in plain torch at the accumulator's dtype, row by row."""
    d_out, value, keys = case(T=9, H=4, H_kv=2, D=80, K=63, image=range(5, 50), dtype=dtype)
    weights = torch.rand(9, 4, dtype=torch.float64)
    exact = run(d_out.double(), value.double(), keys, weights)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    repeated = value.to(wide).repeat_interleave(2, 0)
    plain = torch.einsum("thd,hkd->thk", d_out.to(wide), repeated)
    truth = torch.einsum("thd,hkd->thk", d_out.double(), value.double().repeat_interleave(2, 0))
    bound = 2 * (plain - truth).abs().amax((1, 2)) + 4 * torch.finfo(wide).eps * truth.abs().amax((1, 2))
    for name, actual, wanted in zip(
        ("image", "text", "image_min", "maps", "unfiltered"),
        run(d_out, value, keys, weights, backend),
        exact,
        strict=True,
    ):
        per_row = bound * (4 if name in ("maps", "unfiltered") else 1)  # a sum over four heads
        assert ((actual - wanted).abs().amax(1) <= per_row).all(), name


def test_strided_views_are_taken_as_they_are() -> None:
    d_out, value, keys = case()
    projection_layout = d_out.transpose(0, 1).contiguous().transpose(0, 1)
    cache_layout = value.transpose(0, 1).contiguous().transpose(0, 1)
    assert not projection_layout.is_contiguous()
    torch.testing.assert_close(head_scores(projection_layout, cache_layout, keys), head_scores(d_out, value, keys))


def test_nan_comes_through_where_it_is_read() -> None:
    d_out, value, keys = case()
    value[0, 4, 0] = math.nan  # an image key of the first group
    scores = head_scores(d_out, value, keys)
    assert scores.image[:, :2].isnan().all()
    assert scores.image[:, 2:].isfinite().all()
    assert scores.text.isfinite().all()


@pytest.mark.parametrize("infinite", [math.inf, -math.inf])
def test_infinity_of_either_sign_comes_through(infinite: float) -> None:
    """Of a value times positive and negative gradients, some head's relu is infinite; none is hidden as a number."""
    d_out, value, keys = case()
    value[:, 4, 0] = infinite
    scores = head_scores(d_out, value, keys)
    toward = (d_out[..., 0] * infinite) > 0
    assert scores.image[toward].isposinf().all()
    assert toward.any()


def test_attention_columns_are_the_softmax() -> None:
    query, key, keys = case(T=5, K=23, window=15)
    logits = 0.3 * torch.einsum("thd,hkd->thk", query, key.repeat_interleave(2, 0))
    position = torch.arange(23)
    visible = (position >= keys.visible[:, :1]) & (position < keys.visible[:, 1:])
    expected = logits.masked_fill(~visible[:, None], -math.inf).softmax(-1)[..., keys.image]
    torch.testing.assert_close(attention_columns(query, key, keys, scale=0.3), expected, rtol=0, atol=1e-14)


def test_attention_columns_survive_large_logits() -> None:
    query, key, keys = case(dtype=torch.float32)
    columns = attention_columns(1e3 * query, key, keys, scale=1.0)
    assert columns.isfinite().all()
    assert columns.max() > 0.99


def test_attention_columns_of_a_row_that_sees_nothing_are_zero() -> None:
    query, key, keys = case()
    keys.visible[2] = 0
    assert (attention_columns(query, key, keys, scale=1.0)[2] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": torch.zeros(3, 23, 16, dtype=torch.float64)}, r"value: expected \(H_kv, K, 16\).*divisor of H = 4"),
        ({"value": torch.zeros(2, 23, 8, dtype=torch.float64)}, r"value: expected \(H_kv, K, 16\)"),
        ({"value": torch.zeros(2, 23, 16)}, r"value: expected torch.float64 on cpu like d_out; got torch.float32"),
        ({"d_out": torch.zeros(7, 4, 16, dtype=torch.int64)}, r"d_out: expected floating point \(T, H, D\)"),
        ({"backend": "fortran"}, r"backend: expected one of auto, reference.*; got 'fortran'"),
    ],
    ids=["heads", "head width", "dtype", "integers", "backend"],
)
def test_messages(change, message: str) -> None:
    d_out, value, keys = case()
    with pytest.raises(InputError, match=message):
        head_scores(**{"d_out": d_out, "value": value, "keys": keys, **change})


def test_messages_of_outputs() -> None:
    d_out, value, keys = case()
    with pytest.raises(InputError, match=r"maps: expected shape \(7, 9\); got \(7, 8\)"):
        accumulate_maps(d_out, value, torch.ones(7, 4), keys, torch.zeros(7, 8, dtype=torch.float64))
    with pytest.raises(InputError, match=r"maps: expected dtype torch.float64; got torch.float32"):
        accumulate_maps(d_out, value, torch.ones(7, 4), keys, torch.zeros(7, 9))
    with pytest.raises(InputError, match=r"weights: expected shape \(7, 4\)"):
        accumulate_maps(d_out, value, torch.ones(7, 3), keys, torch.zeros(7, 9, dtype=torch.float64))


def test_auto_is_a_backend_of_this_machine() -> None:
    assert resolve_backend("auto") in available_backends()


def test_no_rows() -> None:
    d_out, value, keys = case(T=0)
    scores, maps = head_scores(d_out, value, keys), torch.zeros(0, 9, dtype=torch.float64)
    accumulate_maps(d_out, value, torch.zeros(0, 4), keys, maps)
    assert scores.image.shape == (0, 4)
