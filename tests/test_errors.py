"""Every error names the argument, what was expected, what came, and the way out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import BertConfig, BertModel

from dexar_fast import Explainer, InputError, NotFiniteError, UnsupportedModelError

from .tiny import IMAGE_TOKEN_ID, picture, tiny_answer, tiny_inputs, tiny_llava, tiny_processor


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(tiny_llava(dtype=torch.float32), tiny_processor())


def test_no_image(explainer: Explainer) -> None:
    with pytest.raises(InputError, match=r"image: expected a PIL image, a path, bytes, .*; got NoneType"):
        explainer.explain(None, "what is it?", "a")


def test_missing_image_file(explainer: Explainer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"image: no file .*nothing.png"):
        explainer.explain(tmp_path / "nothing.png", "what is it?", "a")


@pytest.mark.parametrize("share", [0, 0.1, 0.6], ids=["empty", "header only", "cut off"])
def test_broken_image_file(explainer: Explainer, tmp_path: Path, share: float) -> None:
    path = tmp_path / "broken.png"
    picture(100, 100).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"image: .*broken.png is not a readable image, or is cut off"):
        explainer.explain(path, "what is it?", "a")


def test_text_file_as_image(explainer: Explainer, tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("not an image")
    with pytest.raises(InputError, match=r"is not a readable image"):
        explainer.explain(path, "what is it?", "a")


def test_prompt_without_an_image_place() -> None:
    explainer = Explainer(tiny_llava(dtype=torch.float32), tiny_processor(chat_template=None))
    with pytest.raises(InputError, match=r"prompt: no place for the image. Put <image> where.*no chat template"):
        explainer.explain(picture(), "what is it?", "a")


def test_prompt_ids_without_an_image_place() -> None:
    model = tiny_llava()
    inputs = tiny_inputs(model)
    inputs["input_ids"] = inputs["input_ids"].clamp(min=50)
    with pytest.raises(InputError, match=r"the prompt has 0 image tokens, and the inputs hold an image\. Put"):
        Explainer(model).explain_ids(inputs, tiny_answer(2))


def test_two_image_places(explainer: Explainer) -> None:
    with pytest.raises(InputError, match=r"prompt: expected 1 <image>, one for each image; got 2"):
        explainer.explain(picture(), "<image> and <image>", "a")


def test_empty_prompt(explainer: Explainer) -> None:
    with pytest.raises(InputError, match=r"prompt: expected text; got an empty prompt"):
        explainer.explain(picture(), "  ", "a")


def test_prompt_and_answer_that_are_no_text(explainer: Explainer) -> None:
    with pytest.raises(InputError, match=r"prompt: expected text; got int"):
        explainer.explain(picture(), 3, "a")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"answer: expected text; got list. Explain several .*explain_many"):
        explainer.explain(picture(), "what is it?", ["a", "two"])  # type: ignore[arg-type]


def test_image_id_in_the_answer(explainer: Explainer) -> None:
    with pytest.raises(InputError, match=rf"answer: contains the image token \(id {IMAGE_TOKEN_ID}\)"):
        explainer.explain(picture(), "what is it?", "a <image>")


def test_empty_answer(explainer: Explainer) -> None:
    with pytest.raises(InputError, match=r"answer: expected at least one token; got an empty answer"):
        explainer.explain(picture(), "what is it?", "")


def test_model_that_ends_at_once() -> None:
    model, processor = tiny_llava(dtype=torch.float32), tiny_processor()
    first = Explainer(model, processor).explain(picture(), "what is it?", max_new_tokens=1)
    model.generation_config.eos_token_id = int(first.token_ids[0])
    with pytest.raises(InputError, match=r"prompt: the model ended its answer at once"):
        Explainer(model, processor).explain(picture(), "what is it?")


def test_no_new_tokens(explainer: Explainer) -> None:
    with pytest.raises(InputError, match=r"max_new_tokens: expected a number of tokens from 1 on; got 0"):
        explainer.explain(picture(), "what is it?", max_new_tokens=0)


def test_no_processor() -> None:
    with pytest.raises(InputError, match=r"processor: expected one.*explain_ids"):
        Explainer(tiny_llava()).explain(picture(), "what is it?", "a")


def test_unsupported_model_lists_the_supported() -> None:
    model = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    with pytest.raises(UnsupportedModelError, match=r"expected a model of type .*llava.*got 'bert'"):
        Explainer(model)


def test_meta_device() -> None:
    with pytest.raises(UnsupportedModelError, match=r"weights are on the meta device \(first: model.*no values"):
        Explainer(tiny_llava().to("meta"))


def test_quantised_head() -> None:
    model = tiny_llava()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(
        UnsupportedModelError, match=r"output embedding holds torch.int8 values, which have no gradient"
    ):
        Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(2))


def test_layer_without_gradient_support() -> None:
    """As quantised layers whose forward has no backward; norms stay trainable, as they do."""
    model = tiny_llava()
    for layer in model.model.language_model.layers:
        projection = layer.self_attn.o_proj
        projection.forward = lambda x, projection=projection: nn.functional.linear(x, projection.weight).detach()
    with pytest.raises(UnsupportedModelError, match=r"layer 0's output does not depend differentiably on"):
        Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(2))


def test_attention_that_bypasses_the_registry() -> None:
    model = tiny_llava()
    attention = model.model.language_model.layers[1].self_attn

    def own_attention(hidden_states, past_key_values, **_):
        keys = attention.k_proj(hidden_states).unflatten(-1, (2, 16)).transpose(1, 2)
        past_key_values.update(keys, keys, layer_idx=1)
        return attention.o_proj(hidden_states.repeat(1, 1, 2)), None

    attention.forward = own_attention
    with pytest.raises(UnsupportedModelError, match=r"attention of layers \[1\] was not seen"):
        Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(2))


def test_nan_names_layer_and_token() -> None:
    model = tiny_llava()
    answer = torch.tensor([20, 21, 22])
    with torch.no_grad():
        model.lm_head.weight[21] = torch.nan
    with pytest.raises(NotFiniteError, match=r"NaN or infinite, first at layer 1, token 1 \(id 21\)"):
        Explainer(model).explain_ids(tiny_inputs(model), answer, layers=[1])


@pytest.mark.parametrize(
    "layers", [3, -4, (0, 4), (2, 1), [0, 0], [7], [], (1, 2, 3), True, [1.0], "all", {1}], ids=str
)
def test_layers_out_of_range(layers) -> None:
    model = tiny_llava()
    with pytest.raises(InputError, match=r"layers: "):
        Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(2), layers=layers)


def test_unknown_names(explainer: Explainer) -> None:
    with pytest.raises(InputError, match=r"backend: expected one of auto, reference.*got 'cuda-graphs'"):
        Explainer(explainer.model, backend="cuda-graphs")
    with pytest.raises(InputError, match=r"normalization: expected one of paper, reference; got 'softmax'"):
        explainer.explain(picture(), "what is it?", "a", normalization="softmax")
    with pytest.raises(InputError, match=r"text_set: expected one of all_non_image.*got 'some'"):
        explainer.explain(picture(), "what is it?", "a", text_set="some")


def test_text_mask_of_another_length() -> None:
    model = tiny_llava()
    with pytest.raises(InputError, match=r"text_set: expected a bool mask of shape \(18,\).*got torch.bool \(3,\)"):
        Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(2), text_set=torch.ones(3, dtype=torch.bool))


def test_content_only_needs_the_prompt_as_text() -> None:
    model = tiny_llava()
    with pytest.raises(InputError, match=r'text_set: "content_only" needs the prompt as text'):
        Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(2), text_set="content_only")


def test_model_inputs_of_another_form() -> None:
    model = tiny_llava()
    inputs = tiny_inputs(model)
    with pytest.raises(InputError, match=r"model_inputs: expected input_ids; got pixel_values"):
        Explainer(model).explain_ids({"pixel_values": inputs["pixel_values"]}, [5])
    with pytest.raises(InputError, match=r"expected pixel_values of the image; got input_ids"):
        Explainer(model).explain_ids({"input_ids": inputs["input_ids"]}, [5])
    with pytest.raises(InputError, match=r"prompt has 9 image tokens, but its layout gives 18"):
        Explainer(model).explain_ids({**inputs, "pixel_values": inputs["pixel_values"].repeat(2, 1, 1, 1)}, [5])
    padded = inputs["attention_mask"].clone()
    padded[0, 0] = 0
    with pytest.raises(InputError, match=r"expected no padding"):
        Explainer(model).explain_ids({**inputs, "attention_mask": padded}, [5])
    with pytest.raises(InputError, match=r"answer_ids: expected integers \(T,\)"):
        Explainer(model).explain_ids(inputs, torch.tensor([0.5]))


def test_no_such_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"model: .* is no folder with a config.json"):
        Explainer.from_pretrained(tmp_path / "nowhere")


def test_unknown_dtype(tmp_path: Path) -> None:
    tiny_llava(dtype=torch.float32).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r'dtype: expected "auto" or a floating point dtype.*got .int8'):
        Explainer.from_pretrained(tmp_path, dtype="int8")


@pytest.mark.parametrize("bad", [-100, -1, 300], ids=str)
def test_ids_outside_the_vocabulary(bad: int) -> None:
    model = tiny_llava()
    with pytest.raises(InputError, match=rf"answer: expected ids from 0 to 299; got {bad} at token 1"):
        Explainer(model).explain_ids(tiny_inputs(model), [5, bad])


def test_inputs_that_cannot_be_continued() -> None:
    model = tiny_llava()
    inputs = tiny_inputs(model)
    positions = torch.arange(inputs["input_ids"].shape[1])[None] + 7
    with pytest.raises(InputError, match=r"got also position_ids, which this family's answer pass does not know"):
        Explainer(model).explain_ids({**inputs, "position_ids": positions}, [5])
    with pytest.raises(InputError, match=r"expected tensors; attention_mask is ndarray"):
        Explainer(model).explain_ids({**inputs, "attention_mask": np.ones(3)}, [5])  # type: ignore[dict-item]


def test_options_are_checked_before_the_model_writes(explainer: Explainer) -> None:
    seen: list[str] = []
    for wrong in ({"layers": 99}, {"normalization": "no"}, {"text_set": "no"}):
        with pytest.raises(InputError):
            explainer.explain(picture(), "what is it?", progress=lambda stage, *_: seen.append(stage), **wrong)
    assert seen == []


def test_image_without_a_processor_cannot_be_placed() -> None:
    model = tiny_llava()
    with pytest.raises(InputError, match=r"image: the processor says which part of it the model saw"):
        Explainer(model).explain_ids(tiny_inputs(model), tiny_answer(2), image=picture())


def test_opened_image_that_is_cut_off(explainer: Explainer, tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    picture(100, 100).save(path)
    path.write_bytes(path.read_bytes()[:-60])
    with (
        Image.open(path) as opened,
        pytest.raises(InputError, match=r"image: the picture is not a readable image, or is cut off"),
    ):
        explainer.explain(opened, "what is it?", "a")
