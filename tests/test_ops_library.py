"""The registered ops: schema, fake tensors, torch.compile, torch.export and meta tensors."""

import pytest
import torch
from torch import Tensor, nn

from dexar_fast.ops import SIGNALS, Attention, KeySets, MapSums, available_backends, library, score_and_accumulate

from .op_cases import Case, make_case

CPU_BACKENDS = [name for name in available_backends() if name != "triton"]


def packed(case: Case, signal: str):
    attention = case.attention._replace(key=case.attention.key[None]) if signal != "gradient" else None
    return library.pack(case.keys.packed, attention)


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", ["head_scores", "accumulate_maps", "score_and_accumulate"])
def test_opcheck(name: str, backend: str, signal: str) -> None:
    case = make_case().to(torch.float32)
    products = case.d_out, case.value[None]
    maps, unfiltered, other = torch.zeros(7, 9), torch.zeros(7, 9), torch.zeros(7, 9)
    sums = [MapSums(signal, signal, maps), MapSums(signal, signal, other, unfiltered, torch.zeros(1, 4, 9))]
    arguments = {
        "head_scores": (*products, signal, backend),
        "accumulate_maps": (*products, case.weights.float(), maps, unfiltered, None, signal, backend),
        "score_and_accumulate": (*products, *library.pack_sums(sums), backend),
    }[name]
    torch.library.opcheck(getattr(library, name), (*arguments, *packed(case, signal)))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", ["attention_lse", "attention_columns"])
def test_opcheck_of_attention(name: str, backend: str) -> None:
    case = make_case().to(torch.float32)
    torch.library.opcheck(getattr(library, name), (backend, *packed(case, "attention")))


def explain_layer(d_out: Tensor, value: Tensor, keys: KeySets, attention: Attention) -> tuple[Tensor, Tensor]:
    maps = d_out.new_zeros(d_out.shape[0], keys.image.shape[-1])
    scores = score_and_accumulate(
        2 * d_out, value, keys, maps, attention=attention, score_signal="gradient", map_signal="contribution"
    )
    return maps.sqrt(), scores.image - scores.text


def test_compile_without_a_graph_break() -> None:
    case = make_case().to(torch.float32)
    arguments = case.d_out, case.value, case.keys, case.attention
    compiled = torch.compile(explain_layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), explain_layer(*arguments))


class Layer(nn.Module):
    def forward(self, d_out: Tensor, value: Tensor, image: Tensor, text: Tensor, visible: Tensor) -> Tensor:
        maps = d_out.new_zeros(d_out.shape[0], image.shape[0])
        score_and_accumulate(d_out, value, KeySets(image, text, visible), maps)
        return maps


def test_compile_without_a_graph_break_for_any_number_of_rows() -> None:
    compiled = torch.compile(Layer(), backend="aot_eager", fullgraph=True)
    for T in (7, 5, 11):  # from the second on their number is a symbol
        case = make_case(T=T).to(torch.float32)
        arguments = (case.d_out, case.value, case.keys.image, case.keys.text, case.keys.visible)
        torch.testing.assert_close(compiled(*arguments), Layer()(*arguments))


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
def test_export_with_any_number_of_rows(strict: bool) -> None:
    case = make_case().to(torch.float32)
    rows = torch.export.Dim("rows", min=2, max=64)
    arguments = (case.d_out, case.value, case.keys.image, case.keys.text, case.keys.visible)
    shapes = ({0: rows}, None, None, None, {0: rows})
    exported = torch.export.export(Layer(), arguments, dynamic_shapes=shapes, strict=strict).module()
    other = make_case(T=11).to(torch.float32)
    arguments = (other.d_out, other.value, other.keys.image, other.keys.text, other.keys.visible)
    torch.testing.assert_close(exported(*arguments), Layer()(*arguments))


def test_meta_tensors() -> None:
    case = make_case().to(torch.float32)
    keys = KeySets(case.keys.image.to("meta"), case.keys.text.to("meta"), case.keys.visible.to("meta"))
    maps = torch.zeros(7, 9, device="meta")
    scores = score_and_accumulate(case.d_out.to("meta"), case.value.to("meta"), keys, maps)
    assert scores.image.is_meta
    assert scores.image.shape == (7, 4)
    assert scores.image.dtype == torch.float32
