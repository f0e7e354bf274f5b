"""What an explanation will take: operations and memory against what is counted, and seconds by measured rates.

`tests/families/test_estimate.py` counts the operations of every family.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from benchmarks import models
from dexar_fast import Explainer, InputError
from dexar_fast.cli import app
from dexar_fast.inputs.methods import METHODS
from dexar_fast.ops import Attention, KeySets, MapSums, causal_rows
from dexar_fast.ops.reference import score_and_accumulate
from dexar_fast.runs.estimate import rates as rates_module
from dexar_fast.runs.estimate.estimate import lengths
from dexar_fast.runs.estimate.rates import Rates
from dexar_fast.runs.estimate.result import MEMORY, STAGES
from dexar_fast.runs.estimate.sizes import Shape, weights_of

from .families.test_families import CASES, explainer_of
from .test_untouched import assert_same, state
from .tiny import picture, tiny_llava, tiny_processor


@pytest.fixture(autouse=True)
def _short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates_module, "_MEASURING", 0.001)


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(tiny_llava(dtype=torch.float32, attention="eager"), tiny_processor())


@pytest.mark.parametrize(("answer", "chunk"), [("a small red square on the left", 5), ("a", 1), ("two stars", "auto")])
def test_operations_are_those_that_torch_counts(explainer: Explainer, answer: str, chunk: int | str) -> None:
    inputs, ids = explainer.encode([picture()], "what is it?", answer)
    explainer.explain_ids(inputs, ids, method="dexar")  # with the self-check
    with FlopCounterMode(display=False) as counter:
        explainer.explain_ids(inputs, ids, row_chunk=chunk, method="dexar")
    P, N = lengths(explainer, [picture()], "what is it?")
    found = explainer.estimate(P, N, len(ids), row_chunk=chunk, method="dexar")
    assert [each.name for each in found.stages] == list(STAGES)
    ours = sum(each.operations for each in found.stages if each.name != "ops")  # unknown to torch
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.03)


@pytest.mark.parametrize("method", ["dexar", "dexar-attention", "dexar-focus"])
def test_operations_of_the_ops(explainer: Explainer, method: str) -> None:
    T, N, K = 7, 9, 20
    shape = Shape(explainer.decoder, K + 1 - T, N, T)
    d_out, value = torch.randn(T, 4, 16), torch.randn(1, 2, K, 16)
    text = torch.arange(K) >= (K if method == "dexar-focus" else N)
    keys = KeySets(torch.arange(N), text, causal_rows(torch.arange(K - T, K))).packed
    attention = None if method == "dexar" else Attention(d_out, value, d_out, 0.25)
    sums = [MapSums(*pair, torch.zeros(T, N)) for pair in METHODS[method].pairs]
    with FlopCounterMode(display=False) as counter:
        score_and_accumulate(d_out, value, keys, attention, sums)
    assert shape.ops(T, [method]) == len(shape.layers) * counter.get_total_flops()


def test_every_method_that_runs_is_counted(explainer: Explainer) -> None:
    found = {name: explainer.estimate(20, 9, 6, method=name) for name in ("dexar", "dexar-focus")}
    both = explainer.estimate(20, 9, 6)
    assert both.methods == ("dexar-focus", "dexar")
    operations = [each.stages[-1].operations for each in (both, found["dexar"], found["dexar-focus"])]
    assert operations[0] == operations[1] + operations[2]
    assert both.stages[-1].seconds > 0
    assert both.memory["maps"] > found["dexar"].memory["maps"]
    with pytest.raises(InputError, match=r"method: expected some of dexar-focus.*'occlusion'"):
        explainer.estimate(20, 9, 6, method="occlusion")


@pytest.mark.parametrize("method", ["dexar", "dexar-focus"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("T", [8, 700])
def test_peak_memory_is_that_of_the_tensors(T: int, dtype: torch.dtype, method: str) -> None:
    model = models.llava(layers=2, width=128, heads=2, intermediate=352, dtype=dtype)
    explainer, inputs, ids = Explainer(model), models.prompt(model), models.answer(model, T)
    explainer.explain_ids(inputs, ids[:2], method=method)
    found = explainer.estimate(608, 576, T, method=method)
    assert set(found.memory) == set(MEMORY)
    assert found.peak_bytes == pytest.approx(peak(lambda: explainer.explain_ids(inputs, ids, method=method)), rel=0.25)
    joined = torch.cat((inputs["input_ids"], ids[None]), dim=1)

    @torch.no_grad()
    def plain() -> None:
        model(input_ids=joined, pixel_values=inputs["pixel_values"], logits_to_keep=T, use_cache=False)

    assert found.plain_peak_bytes == pytest.approx(peak(plain), rel=0.25)


def peak(run: Callable[[], object]) -> int:
    """Most bytes at once of the tensors that are made inside, as torch's allocator tells them to its profiler.

    Without oneDNN, which on processors with matrix units copies weights of half precision into a layout of its own.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    with (
        torch.backends.mkldnn.flags(enabled=False),
        torch.profiler.profile(activities=activities, profile_memory=True) as profiler,
    ):
        run()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [each for each in profiler.profiler.kineto_results.events() if each.name() == "[memory]"]
    events.sort(key=lambda each: each.start_ns())
    now = most = 0
    for each in events:
        now += each.nbytes()
        most = max(most, now)
    return most


def test_a_cache_that_is_there_saves_the_prompt(explainer: Explainer) -> None:
    names = [each.name for each in explainer.estimate(20, 9, 6, cache=True).stages]
    assert names == ["answer pass", "tail gradients", "ops"]


def test_more_rows_at_once_take_more_memory_and_no_more_products(explainer: Explainer) -> None:
    few, many = (explainer.estimate(40, 9, 64, row_chunk=chunk) for chunk in (4, 64))
    assert (few.row_chunk, many.row_chunk) == (4, 64)
    assert few.memory["row chunk"] < many.memory["row chunk"]
    assert few.stages[-2].operations == many.stages[-2].operations


def test_weights_of_packed_modules_and_experts() -> None:
    class FourBits(nn.Linear):
        def __init__(self) -> None:
            super().__init__(32, 64)
            self.weight = nn.Parameter(torch.zeros(32 * 64 // 2, 1, dtype=torch.uint8), requires_grad=False)

    block = nn.ModuleDict({"packed": FourBits(), "norm": nn.LayerNorm(32), "embedding": nn.Embedding(9, 32)})
    assert weights_of(block) == 32 * 64
    mixture = nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(8, 4) for _ in range(4)]), "gate": nn.Linear(8, 4)})
    assert weights_of(mixture, 0.5) == 2 * 32 + 32


def test_bound_and_seconds_follow_the_rates(explainer: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that streams a thousand weights in 1 s and multiplies 100 rows a second with them."""
    rates = Rates(explainer.decoder)
    monkeypatch.setattr(rates, "per_weight", lambda rows: max(1.0, rows / 100) / 1000)
    few = rates.stage("answer pass", 2 * 1000 * 4, 4, 1000)
    many = rates.stage("prefill", 2 * 1000 * 400, 400, 1000)
    assert (few.bound, many.bound) == ("weights", "operations")
    assert (few.seconds, many.seconds) == pytest.approx((1.0, 4.0))


def test_random_numbers_go_on_as_they_would(explainer: Explainer) -> None:
    before = torch.get_rng_state()
    explainer.estimate(30, 9, 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_model_and_its_hooks_are_left_alone(explainer: Explainer) -> None:
    called: list[nn.Module] = []
    before = state(explainer.model)
    modules = [m for m in explainer.decoder.text_model.modules() if isinstance(m, nn.Linear)]
    hooks = [module.register_forward_hook(lambda module, *_: called.append(module)) for module in modules]
    explainer.estimate(20, 9, 6)
    for hook in hooks:
        hook.remove()
    assert not called
    assert_same(before, state(explainer.model))


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((0, 0, 5), "prompt_tokens: expected a number from 1 on; got 0"),
        ((9, -1, 5), "image_tokens: expected a number from 0 on; got -1"),
        ((9, 3, 2.5), "answer_tokens: expected a number from 1 on; got 2.5"),
        ((9, 10, 5), "image_tokens: expected at most the 9 prompt_tokens"),
    ],
    ids=lambda value: str(value[:3]) if isinstance(value, tuple) else "",
)
def test_refused(explainer: Explainer, lengths: tuple[int, int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        explainer.estimate(*lengths)


def test_a_cache_is_refused_where_answers_run_over_none() -> None:
    with pytest.raises(InputError, match="cache: answers of the family 'florence2' do not run over one"):
        explainer_of(CASES["florence2"]).estimate(20, 9, 5, cache=True)


def test_table_names_every_stage_and_part(explainer: Explainer) -> None:
    text = str(explainer.estimate(20, 9, 6))
    for name in (*STAGES, *MEMORY, "20 prompt tokens, 9 of images, 6 answer tokens"):
        assert name in text


def call(arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, arguments.split(), env={"COLUMNS": "120"})
    return done.exit_code, done.stdout, done.stderr


def test_command_line(tmp_path: Path) -> None:
    picture(96, 96).save(tmp_path / "picture.png")
    code, output, _ = call(f"info -m demo --device cpu --estimate 5 --image {tmp_path}/picture.png -p describe --json")
    assert code == 0
    found = json.loads(output)["estimate"]
    assert (found["image_tokens"], found["answer_tokens"]) == (144, 5)
    assert found["operations"] == sum(each["operations"] for each in found["stages"])
    code, output, _ = call("info -m demo --device cpu --estimate 5")
    assert "tail gradients" in output
    assert "at once" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--estimate 5", "--estimate: needs --model"),
        ("-m demo -p what", "--image, --prompt: go with --estimate"),
        ("--device nonsense", "--device, --dtype, --load: go with --model"),
        ("--dtype float32 --json", "--device, --dtype, --load: go with --model"),
    ],
)
def test_options_that_need_each_other(arguments: str, message: str) -> None:
    code, _, errors = call(f"info {arguments}")
    assert code == 2
    assert message in errors
