"""Every backend of this machine against float64, on awkward shapes, layouts and values.

``DEXAR_TEST_DEVICE`` names the device of the inputs; without one it is the first GPU, and the CPU where there is none.
Backends of another device than that are run on the CPU, if they can.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dexar_fast.ops import (
    SIGNALS,
    Attention,
    KeySets,
    accumulate_maps,
    attention_lse,
    available_backends,
    head_scores,
    missing_backends,
)
from dexar_fast.ops.backends import FAST_DTYPES

from .op_cases import PAIRS, SHAPES, Case, make_case, plain_torch, plain_torch_of_all, run, run_all
from .test_devices import DEVICE

BACKENDS = available_backends()
INTERPRETED = "triton" in BACKENDS and not DEVICE.startswith("cuda")
pytestmark = [pytest.mark.usefixtures("triton_interpreter")] if INTERPRETED else []
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_signal = pytest.mark.parametrize("signal", SIGNALS)

WIDE_SHAPES = {
    **SHAPES,
    **{f"head width {D}": {"D": D, "T": 3, "K": 37} for D in (32, 72, 80, 96, 100, 128, 256, 512)},
    "1 key": {"K": 1, "T": 1, "image": [0]},
    "63 rows": {"T": 63, "K": 80, "image": range(5, 17)},
    "300 image keys": {"T": 5, "K": 333, "image": range(11, 311), "H": 2, "H_kv": 1},
    "soft cap": {"softcap": 2.0},
    "a row that sees nothing": {"T": 2, "visible": torch.tensor([[4, 4], [2, 9]])},
}
OF_ALL_SIGNALS = ("plain", "7 heads a group", "window 9")


def signals_of(backend: str, shape: str = "") -> list[str]:
    """All; for Triton, which interprets and compiles slowly, on most shapes those with one product and with both."""
    is_slow = backend == "triton" and shape not in OF_ALL_SIGNALS
    return ["gradient", "score_gradient"] if is_slow else list(SIGNALS)


each_backend_with_its_signals = pytest.mark.parametrize(
    ("signal", "backend"), [(signal, backend) for backend in BACKENDS for signal in signals_of(backend)]
)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Uninitialised memory holds NaN, so that what a kernel forgets to write is seen."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


def place(case: Case, backend: str, dtype: torch.dtype) -> Case:
    """The case in a dtype, on the device where the backend is tested."""
    return case.to(dtype, "cpu" if backend == "cpp" else DEVICE)


def check_error(case: Case, backend: str, signal: str, dtype: torch.dtype) -> None:
    """Row by row at most twice the error of plain torch with the same sums, and 4 roundings of the terms' sizes."""
    case = place(case, backend, dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    on_cpu = case.to(dtype)
    exact, plain = plain_torch(on_cpu, signal, torch.float64), plain_torch(on_cpu, signal, wide)
    sizes = plain_torch(on_cpu, signal, torch.float64, sizes=True)
    check_results(run(case, signal, backend), exact, plain, sizes, wide)


def check_results(
    results: dict[str, Tensor],
    exact: dict[str, Tensor],
    plain: dict[str, Tensor],
    sizes: dict[str, Tensor],
    wide: torch.dtype,
) -> None:
    for name, actual in results.items():
        actual, wanted = actual.cpu().flatten(1), exact[name].flatten(1)
        if not wanted.shape[1]:
            continue
        assert torch.equal(actual.isfinite(), wanted.isfinite()), name  # the lse of a row that sees nothing
        finite = wanted.isfinite()
        error, of_plain = ((x - wanted).where(finite, 0).abs().amax(1) for x in (actual, plain[name].flatten(1)))
        bound = 2 * of_plain + 4 * torch.finfo(wide).eps * sizes[name].flatten(1).amax(1)
        assert (error <= bound).all(), f"{name}: {float((error / bound).nan_to_num(0).max()):.2f} of what is allowed"


@pytest.mark.parametrize("backend", missing_backends())
def test_missing(backend: str) -> None:
    pytest.skip(f"backend {backend!r}: {missing_backends()[backend]}")


@pytest.mark.parametrize(
    ("shape", "signal", "backend"),
    [
        (shape, signal, backend)
        for backend in BACKENDS
        for shape in WIDE_SHAPES
        for signal in signals_of(backend, shape)
    ],
)
def test_shapes(shape: str, signal: str, backend: str) -> None:
    check_error(make_case(**WIDE_SHAPES[shape]), backend, signal, torch.float32)


@each_backend
@each_signal
@pytest.mark.parametrize("dtype", FAST_DTYPES, ids=str)
def test_dtypes(dtype: torch.dtype, signal: str, backend: str) -> None:
    check_error(make_case(T=9, H=6, D=80, K=63, image=range(5, 50)), backend, signal, dtype)


SEVERAL = (
    "plain",
    "one row",
    "7 heads a group",
    "scattered image keys",
    "window 9",
    "63 rows",
    "no image key",
    "soft cap",
)


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SEVERAL)
def test_several_pairs_of_signals_in_one_call(shape: str, dtype: torch.dtype, backend: str) -> None:
    case = place(make_case(**WIDE_SHAPES[shape]), backend, dtype)
    on_cpu = case.to(dtype)
    exact, plain = (plain_torch_of_all(on_cpu, PAIRS, of) for of in (torch.float64, torch.float32))
    sizes = plain_torch_of_all(on_cpu, PAIRS, torch.float64, sizes=True)
    check_results(run_all(case, PAIRS, backend), exact, plain, sizes, torch.float32)


@pytest.mark.skipif("triton" not in BACKENDS, reason="triton is not available")
@pytest.mark.parametrize("signal", signals_of("triton"))
@pytest.mark.parametrize("shape", ["one row", "7 heads a group", "scattered image keys", "window 9", "300 image keys"])
def test_triton_multiplies_twice_where_rows_are_too_many_to_be_written(
    monkeypatch: pytest.MonkeyPatch, shape: str, signal: str
) -> None:
    """The gradients of all other shapes here are few enough."""
    from dexar_fast.kernels import few

    monkeypatch.setattr(few, "WRITTEN_BYTES", 0)
    check_error(make_case(**WIDE_SHAPES[shape]), "triton", signal, torch.float32)


@each_backend
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_masks_and_spans(data, backend: str) -> None:
    K, T = (data.draw(st.integers(1, most)) for most in (40, 5))
    H_kv, group = data.draw(st.sampled_from([(1, 3), (2, 2), (3, 1)]))  # each is compiled
    kinds = data.draw(st.lists(st.sampled_from(["image", "image", "text", "neither"]), min_size=K, max_size=K))
    bounds = st.tuples(st.integers(0, K), st.integers(0, K)).map(sorted)
    visible = torch.tensor(data.draw(st.lists(bounds, min_size=T, max_size=T)))
    image, text = ([j for j, k in enumerate(kinds) if k == kind] for kind in ("image", "text"))
    case = make_case(T, H_kv * group, H_kv, 16, K, image=image, text=text, visible=visible)
    check_error(case, backend, data.draw(st.sampled_from(SIGNALS)), torch.float32)


@each_backend
@each_signal
def test_strided_views_are_taken_as_they_are(signal: str, backend: str) -> None:
    case = place(make_case(), backend, torch.float32)

    def stride(x: Tensor) -> Tensor:
        wide = x.transpose(0, 1).repeat_interleave(2, dim=-1)  # heads and rows swapped, every other number
        return wide.transpose(0, 1)[..., ::2]

    query, key, out = (stride(x) for x in case.attention[:3])
    strided = Case(
        stride(case.d_out),
        stride(case.value),
        case.keys,
        case.attention._replace(query=query, key=key, out=out),
        case.weights.T.contiguous().T,
    )
    assert strided.d_out.stride(2) == 2
    actual = run(strided, signal, backend)
    for name, wanted in run(case, signal, backend).items():
        torch.testing.assert_close(actual[name], wanted, rtol=1e-5, atol=1e-6)


@each_backend
def test_maps_may_lie_far_apart(backend: str) -> None:
    case = place(make_case(T=1), backend, torch.float32)
    near = torch.zeros(1, 9, device=case.d_out.device)
    far = torch.empty_strided((1, 9), (1 << 27, 1), device=near.device).zero_()  # offsets in a tile need 64 bits
    for maps in (near, far):
        accumulate_maps(case.d_out, case.value, case.weights, case.keys, maps, backend=backend)
    assert near.any()
    assert torch.equal(near, far)


def batch(cases: list[Case], *, packed: bool) -> Case:
    """Samples of different lengths in one call: in rows of a padded cache, or one behind the other in one sequence."""
    lengths = [case.value.shape[1] for case in cases]
    starts = [sum(lengths[:b]) for b in range(len(cases))] if packed else [0] * len(cases)
    N, K = max(len(case.keys.image) for case in cases), sum(lengths) if packed else max(lengths)

    def per_key(tensors: list[Tensor]) -> Tensor:
        if packed:
            return torch.cat(tensors, dim=1)[None].expand(len(cases), -1, -1, -1)
        return torch.stack([torch.nn.functional.pad(x, (0, 0, 0, K - x.shape[1]), value=7.0) for x in tensors])

    image = torch.stack(
        [
            torch.nn.functional.pad(case.keys.image + start, (0, N - len(case.keys.image)), value=-1)
            for case, start in zip(cases, starts, strict=True)
        ]
    )
    text = torch.cat([case.keys.text for case in cases])[None].expand(len(cases), -1)
    if not packed:
        text = torch.stack(
            [torch.nn.functional.pad(case.keys.text, (0, K - length)) for case, length in zip(cases, lengths)]
        )
    visible = torch.cat([case.keys.visible + start for case, start in zip(cases, starts, strict=True)])
    attentions = [case.attention for case in cases]
    return Case(
        torch.cat([case.d_out for case in cases]),
        per_key([case.value for case in cases]),
        KeySets(image, text, visible, tuple(len(case.d_out) for case in cases)),
        Attention(
            torch.cat([a.query for a in attentions]),
            per_key([a.key for a in attentions]),
            torch.cat([a.out for a in attentions]),
            attentions[0].scale,
        ),
        torch.cat([case.weights for case in cases]),
    )


@each_backend_with_its_signals
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_samples_of_different_lengths_in_one_call(packed: bool, signal: str, backend: str) -> None:
    cases = [
        make_case(T=3, K=23, seed=1),
        make_case(T=1, K=9, image=[2, 4], seed=2),
        make_case(T=0, K=5, image=[], seed=3),
        make_case(T=19, K=40, image=range(1, 20), seed=4),
    ]
    together = run(place(batch(cases, packed=packed), backend, torch.float32), signal, backend)
    first = 0
    for case in cases:
        alone = run(place(case, backend, torch.float32), signal, backend)
        for name, wanted in alone.items():
            actual = together[name][first : first + len(case.d_out)]
            of_sample = actual[..., : wanted.shape[-1]]
            torch.testing.assert_close(of_sample, wanted, rtol=1e-5, atol=1e-5)
            assert (actual[..., wanted.shape[-1] :] == 0).all(), name
        first += len(case.d_out)


@each_backend_with_its_signals
def test_repetition_is_bit_equal(signal: str, backend: str) -> None:
    case = place(make_case(T=40, K=200, image=range(20, 150)), backend, torch.float32)
    once = run(case, signal, backend)
    for name, again in run(case, signal, backend).items():
        assert torch.equal(again, once[name]), name


@each_backend
@each_signal
@pytest.mark.parametrize("kind", ["image", "text"])
def test_nan_comes_through_where_it_is_read(kind: str, signal: str, backend: str) -> None:
    case = place(make_case(), backend, torch.float32)
    case.value[0, 4 if kind == "image" else 13, 0] = math.nan  # seen by the heads of the first group
    results = run(case, signal, backend)
    if signal == "attention":
        assert all(results[name].isfinite().all() for name in ("image", "text", "maps"))
        return
    other = "text" if kind == "image" else "image"
    assert results[kind][:, :2].isnan().all()
    assert results[kind][:, 2:].isfinite().all()
    assert results[other].isfinite().all()
    assert results["maps"].isfinite().all() == (kind == "text")


@each_backend
@pytest.mark.parametrize("signal", ["score_gradient", "contribution", "attention"])
def test_a_nan_logit_spoils_the_whole_row(signal: str, backend: str) -> None:
    case = place(make_case(), backend, torch.float32)
    case.attention.key[0, 12, 0] = math.nan  # neither row nor softmax can do without it
    results = run(case, signal, backend)
    assert results["image"][:, :2].isnan().all()
    assert results["image"][:, 2:].isfinite().all()
    assert results["lse"][:, :2].isnan().all()
    assert results["maps"].isnan().all()


@each_backend
@pytest.mark.parametrize("hidden", [0, 22])
@each_signal
def test_what_no_row_sees_changes_nothing(signal: str, hidden: int, backend: str) -> None:
    visible = torch.tensor([[1, 22], [3, 18], [1, 2]])
    case = place(make_case(T=3, visible=visible, image=range(12)), backend, torch.float32)
    before = run(case, signal, backend)
    case.value[:, hidden] = math.nan
    case.attention.key[:, hidden] = math.inf
    for name, after in run(case, signal, backend).items():
        assert torch.equal(after, before[name]), name


@each_backend
@pytest.mark.parametrize("infinite", [math.inf, -math.inf])
def test_infinity_of_either_sign_comes_through(infinite: float, backend: str) -> None:
    """Of a value times positive and negative gradients, some head's relu is infinite; none is hidden as a number."""
    case = place(make_case(), backend, torch.float32)
    case.value[:, 4, 0] = infinite
    scores = head_scores(case.d_out, case.value, case.keys, backend=backend)
    toward = (case.d_out[..., 0] * infinite) > 0
    assert scores.image[toward].isposinf().all()
    assert toward.any()


@each_backend
def test_large_logits(backend: str) -> None:
    case = place(make_case(), backend, torch.float32)
    case.attention.query.mul_(1e3)
    columns = run(case, "attention", backend)["columns"]
    assert columns.isfinite().all()
    assert columns.max() > 0.99


EDGES = [math.nan, math.inf, -math.inf]


@each_backend
@each_signal
@pytest.mark.parametrize("where", ["image", "text", "hidden"])
@pytest.mark.parametrize("edge", EDGES)
def test_logits_that_are_not_finite_agree_with_the_definition(
    edge: float, where: str, signal: str, backend: str
) -> None:
    """Of rows that see both kinds, one or none: hidden cells stay zero, and no score takes NaN from what is hidden."""
    visible = torch.tensor([[0, 23], [3, 12], [12, 23], [0, 3], [5, 5], [0, 14]])
    case = make_case(T=6, visible=visible)
    case.attention.query[..., 0] = 1.0  # so that the sign of an infinite logit is that of the key
    case.attention.key[0, {"image": 5, "text": 13, "hidden": 22}[where], 0] = edge
    wanted = run(place(case, "reference", torch.float32), signal, "reference")
    together = run_all(place(case, "reference", torch.float32), PAIRS, "reference")
    case = place(case, backend, torch.float32)
    for expected, actual in ((wanted, run(case, signal, backend)), (together, run_all(case, PAIRS, backend))):
        for name, tensor in expected.items():
            torch.testing.assert_close(actual[name], tensor, rtol=1e-4, atol=1e-5, equal_nan=True, msg=name)
    start, stop = visible[:, :1], visible[:, 1:]
    hidden = (case.keys.image.cpu() < start) | (case.keys.image.cpu() >= stop)
    assert (wanted["layer maps"].cpu()[hidden] == 0).all()


@each_backend
def test_every_logit_of_a_row_may_be_infinitely_small(backend: str) -> None:
    case = make_case()
    case.attention.query[..., 0] = 1.0
    case.attention.key[:, :, 0] = -math.inf
    wanted = run(place(case, "reference", torch.float32), "contribution", "reference")
    actual = run(place(case, backend, torch.float32), "contribution", backend)
    assert wanted["image"].isnan().all()
    for name, tensor in wanted.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-4, atol=1e-5, equal_nan=True, msg=name)


@each_backend
def test_a_soft_cap_keeps_small_logits(backend: str) -> None:
    """Relative to their size: the cap's tanh is no difference of numbers near one."""
    case = make_case(T=2, K=1, image=[0], softcap=50.0, visible=torch.tensor([[0, 1], [0, 1]]))
    attention = case.attention._replace(query=case.attention.query * 1e-6)
    exact = attention_lse(*attention[:2], case.keys, scale=attention.scale, softcap=50.0, backend="reference")
    case = place(case, backend, torch.float32)
    query = attention.query.to(case.d_out.device, torch.float32)
    lse = attention_lse(query, case.attention.key, case.keys, scale=attention.scale, softcap=50.0, backend=backend)
    # Of one key the log-sum-exp is its logit.
    torch.testing.assert_close(lse.cpu().double(), exact, rtol=1e-5, atol=0)


@each_backend
@each_signal
def test_no_rows(signal: str, backend: str) -> None:
    results = run(place(make_case(T=0), backend, torch.float32), signal, backend)
    assert results["image"].shape == results["lse"].shape == (0, 4)
    assert results["maps"].shape == (0, 9)


@each_backend
def test_inputs_may_require_grad_and_autocast_changes_nothing(backend: str) -> None:
    case = place(make_case(), backend, torch.float32)
    wanted = head_scores(case.d_out, case.value, case.keys, backend=backend)
    with torch.autocast(case.d_out.device.type, torch.bfloat16):
        scores = head_scores(case.d_out.requires_grad_(), case.value, case.keys, backend=backend)
    assert not scores.image.requires_grad
    assert torch.equal(scores.image, wanted.image)
