"""The reference ops against loops written from the equations, in float64, on awkward shapes; what the ops refuse."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dexar_fast import InputError
from dexar_fast.ops import (
    SIGNALS,
    Attention,
    KeySets,
    accumulate_maps,
    available_backends,
    backends,
    head_scores,
    reference,
    resolve_backend,
)

from .op_cases import DTYPES, SHAPES, Case, by_loops, make_case, run, softmax


def check_against_loops(case: Case, signal: str) -> None:
    actual = run(case, signal, "reference")
    expected = by_loops(case, signal, case.weights)
    expected["unfiltered"] = by_loops(case, signal, torch.ones_like(case.weights))["maps"]
    filtered = (expected["image"] - expected["text"]).clamp(min=0)
    expected["layer maps"] = by_loops(case, SIGNALS[SIGNALS.index(signal) - 1], filtered)["maps"]
    expected["columns"] = softmax(*case.attention[:2], case.keys, case.attention.scale, case.attention.softcap)[
        ..., case.keys.image
    ]
    for name, wanted in expected.items():
        torch.testing.assert_close(actual[name], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_equals_loops(shape, signal: str) -> None:
    check_against_loops(make_case(**shape), signal)


@pytest.mark.parametrize("signal", ["score_gradient", "attention"])
def test_equals_loops_with_a_soft_cap(signal: str) -> None:
    check_against_loops(make_case(softcap=1.5), signal)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_masks_and_spans(data) -> None:
    K, T, H_kv, group = (data.draw(st.integers(1, most)) for most in (17, 5, 3, 3))
    kinds = data.draw(st.lists(st.sampled_from(["image", "text", "neither"]), min_size=K, max_size=K))
    bounds = st.tuples(st.integers(0, K), st.integers(0, K)).map(sorted)
    visible = torch.tensor(data.draw(st.lists(bounds, min_size=T, max_size=T)))
    image, text = ([j for j, k in enumerate(kinds) if k == kind] for kind in ("image", "text"))
    seed = data.draw(st.integers(0, 99))
    case = make_case(T, H_kv * group, H_kv, 4, K, image=image, text=text, visible=visible, seed=seed)
    check_against_loops(case, data.draw(st.sampled_from(SIGNALS)))


@pytest.mark.parametrize("signal", SIGNALS)
def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch, signal: str) -> None:
    case = make_case(T=13, K=40)
    whole = run(case, signal, "reference")
    monkeypatch.setattr(reference, "BLOCK_ELEMENTS", 2 * 40 * 3)  # three rows of a group at a time
    for name, actual in run(case, signal, "reference").items():
        torch.testing.assert_close(actual, whole[name], rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": torch.zeros(3, 23, 16, dtype=torch.float64)}, r"value: expected \(H_kv, K, 16\).*divisor of H = 4"),
        ({"value": torch.zeros(2, 23, 8, dtype=torch.float64)}, r"value: expected \(H_kv, K, 16\)"),
        ({"value": torch.zeros(2, 23, 16)}, r"value: expected torch.float64 on cpu like d_out; got torch.float32"),
        ({"d_out": torch.zeros(7, 4, 16, dtype=torch.int64)}, r"d_out: expected floating point \(T, H, D\)"),
        ({"backend": "fortran"}, r"backend: expected one of auto, reference.*; got 'fortran'"),
        ({"signal": "loss"}, r"signal: expected one of gradient, score_gradient, contribution, attention; got 'loss'"),
        ({"signal": "contribution"}, r"attention: expected the layer's Attention for the signal 'contribution'"),
        ({"value": torch.zeros(2, 2, 23, 16, dtype=torch.float64)}, r"keys.image: expected \(2, N\)"),
    ],
    ids=["heads", "head width", "dtype", "integers", "backend", "signal", "no attention", "batch"],
)
def test_messages(change, message: str) -> None:
    case = make_case()
    with pytest.raises(InputError, match=message):
        head_scores(**{"d_out": case.d_out, "value": case.value, "keys": case.keys, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.zeros(7, 2, 16, dtype=torch.float64)}, r"attention: expected the heads and rows of d_out"),
        ({"out": torch.zeros(7, 4, 8, dtype=torch.float64)}, r"attention.out: expected shape \(7, 4, 16\)"),
        ({"key": torch.zeros(2, 23, 16)}, r"attention.key: expected torch.float64 on cpu like attention.query"),
        ({"lse": torch.zeros(7, 3)}, r"lse: expected shape \(7, 4\)"),
        ({"softcap": 0.0}, "softcap: expected a number above 0"),
        ({"scale": None}, "scale: expected the factor on the logits"),
    ],
    ids=["heads", "output", "dtype", "lse", "soft cap", "scale"],
)
def test_messages_of_attention(change, message: str) -> None:
    case = make_case()
    attention: Attention = case.attention._replace(**change)
    with pytest.raises(InputError, match=message):
        head_scores(case.d_out, case.value, case.keys, signal="contribution", attention=attention)


def test_messages_of_outputs() -> None:
    case = make_case()
    arguments: dict[str, Any] = {"d_out": case.d_out, "value": case.value, "weights": case.weights, "keys": case.keys}
    with pytest.raises(InputError, match=r"maps: expected shape \(7, 9\); got \(7, 8\)"):
        accumulate_maps(**arguments, maps=torch.zeros(7, 8, dtype=torch.float64))
    with pytest.raises(InputError, match=r"maps: expected dtype torch.float64 on cpu; got torch.float32 on cpu"):
        accumulate_maps(**arguments, maps=torch.zeros(7, 9))
    with pytest.raises(InputError, match=r"weights: expected shape \(7, 4\)"):
        accumulate_maps(**{**arguments, "weights": torch.ones(7, 3)}, maps=torch.zeros(7, 9, dtype=torch.float64))


def test_tensors_elsewhere_are_refused() -> None:
    """Kernels write through pointers: nothing else would notice."""
    case = make_case()
    arguments: dict[str, Any] = {"d_out": case.d_out, "value": case.value, "weights": case.weights, "keys": case.keys}
    maps = torch.zeros(7, 9, dtype=torch.float64)
    with pytest.raises(InputError, match=r"maps: expected dtype torch.float64 on cpu; got torch.float64 on meta"):
        accumulate_maps(**arguments, maps=maps.to("meta"))
    with pytest.raises(InputError, match=r"keys: expected them on cpu like d_out; got meta. Use keys.to"):
        accumulate_maps(**{**arguments, "keys": case.keys.to(torch.device("meta"))}, maps=maps)


def test_heads_without_width_are_refused() -> None:
    case = make_case()
    with pytest.raises(InputError, match=r"d_out: expected floating point \(T, H, D\) with D above 0"):
        head_scores(case.d_out[..., :0], case.value[..., :0], case.keys)


@pytest.mark.parametrize("backend", sorted(set(available_backends()) - {"reference"}))
def test_an_explicit_backend_never_falls_back(backend: str) -> None:
    case = make_case()
    with pytest.raises(
        InputError, match=rf"backend: '{backend}' expects float16, bfloat16 or float32.*got torch.float64"
    ):
        head_scores(case.d_out, case.value, case.keys, backend=backend)


def test_a_missing_backend_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "load_backend", lambda name: "no compiler" if name == "cpp" else reference)
    case = make_case()
    with pytest.raises(InputError, match="backend: 'cpp' is not available here: no compiler"):
        head_scores(case.d_out, case.value, case.keys, backend="cpp")
    assert "cpp" not in available_backends()
    assert backends.missing_backends() == {"cpp": "no compiler"}
    assert resolve_backend("auto", torch.device("cpu"), torch.float32) == "reference"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_auto_takes_the_compiled_kernels_where_they_serve(dtype: torch.dtype) -> None:
    """A library that was built must load: without this, one that does not would only be slow."""
    built = find_spec("dexar_fast._cpu") is not None
    compiled = built and dtype != torch.float64
    assert resolve_backend("auto", torch.device("cpu"), dtype) == ("cpp" if compiled else "reference")


@pytest.mark.parametrize(
    ("capability", "hip", "taken"), [((7, 5), None, False), ((8, 0), None, True), ((9, 4), "6.4", True)]
)
def test_auto_takes_no_backend_that_the_gpu_is_too_old_for(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], hip: str | None, taken: bool
) -> None:
    monkeypatch.setattr(backends, "load_backend", lambda name: reference)  # Triton is there
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    gpu = torch.device("cuda", 40 + capability[0])  # which nothing is known of yet
    assert resolve_backend("auto", gpu, torch.bfloat16) == ("triton" if taken else "reference")
    if taken:
        assert resolve_backend("triton", gpu, torch.bfloat16) == "triton"
    else:
        with pytest.raises(InputError, match=r"'triton' expects a GPU of compute capability 8\.0 or later; got 7\.5"):
            resolve_backend("triton", gpu, torch.bfloat16)


def test_a_span_of_image_keys_is_known() -> None:
    text, visible = torch.ones(9, dtype=torch.bool), torch.zeros(0, 2, dtype=torch.int64)
    starts = [KeySets(torch.tensor(image), text, visible).packed.image_start for image in ([3, 4, 5], [3, 5, 6], [8])]
    assert starts == [3, -1, 8]


TEXT, VISIBLE = torch.ones(9, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("image", "text", "visible"),
    [
        ([3, 2], TEXT, VISIBLE),
        ([3, 3, 5], TEXT, VISIBLE),
        ([3, 9], TEXT, VISIBLE),
        ([-1, 3], TEXT, VISIBLE),
        ([-2], TEXT, VISIBLE),
        ([3.0], TEXT, VISIBLE),
        ([3], TEXT.int(), VISIBLE),
        ([3], TEXT, VISIBLE.int()),
        ([[3], [4]], TEXT, VISIBLE),
    ],
    ids=["descending", "twice", "beyond", "gap", "negative", "float", "text of int", "visible of int32", "samples"],
)
def test_key_sets_are_checked(image, text: torch.Tensor, visible: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"keys\.(image|text|visible): expected"):
        KeySets(torch.tensor(image), text, visible)


def test_negative_row_counts_are_refused() -> None:
    case = make_case(T=7)
    image, text = case.keys.image.expand(2, -1), case.keys.text.expand(2, -1)
    keys = KeySets(image, text, case.keys.visible, (-1, 8))
    with pytest.raises(InputError, match=r"keys.rows: expected 2 counts that sum to T = 7; got \(-1, 8\)"):
        head_scores(case.d_out, case.value.expand(2, -1, -1, -1), keys)
