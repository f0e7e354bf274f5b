"""Models come from folders: one that transformers wrote, and one laid out like the hub's LLaVA-1.5."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor
from transformers.utils import is_torchvision_available

from dexar_fast import Explainer, InputError, UnsupportedModelError

from .tiny import CHAT_TEMPLATE, IMAGE_SIZE, PATCH, picture, tiny_llava, tiny_processor


def write_json(path: Path, **content: object) -> None:
    path.write_text(json.dumps(content))


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    """The files of llava-hf/llava-1.5-7b-hf, with their fields, and tiny weights."""
    model, processor = tiny_llava(dtype=torch.float16, layers=2), tiny_processor()
    model.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    text = {
        key: config["text_config"][key]
        for key in (
            "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps",
        )
    }  # fmt: skip
    vision = {
        key: config["vision_config"][key]
        for key in (
            "model_type", "hidden_size", "image_size", "intermediate_size", "num_attention_heads", "num_hidden_layers",
            "patch_size", "projection_dim",
        )
    }  # fmt: skip
    write_json(
        tmp_path / "config.json",
        architectures=["LlavaForConditionalGeneration"],
        ignore_index=-100,
        image_token_index=config.get("image_token_index", config.get("image_token_id")),
        model_type="llava",
        pad_token_id=0,
        projector_hidden_act="gelu",
        text_config={**text, "_name_or_path": "lmsys/vicuna-7b-v1.5", "torch_dtype": "float16"},
        tie_word_embeddings=False,
        torch_dtype="float16",
        vision_config=vision,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    write_json(
        tmp_path / "preprocessor_config.json",
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_center_crop=True,
        do_convert_rgb=True,
        do_normalize=True,
        do_rescale=True,
        do_resize=True,
        image_mean=[0.48145466, 0.4578275, 0.40821073],
        image_processor_type="CLIPImageProcessor",
        image_std=[0.26862954, 0.26130258, 0.27577711],
        processor_class="LlavaProcessor",
        resample=3,
        rescale_factor=1 / 255,
        size={"shortest_edge": IMAGE_SIZE},
    )
    write_json(
        tmp_path / "processor_config.json",
        image_token="<image>",
        num_additional_image_tokens=1,
        patch_size=PATCH,
        processor_class="LlavaProcessor",
        vision_feature_select_strategy="default",
    )
    write_json(tmp_path / "chat_template.json", chat_template=CHAT_TEMPLATE)
    return tmp_path


def test_hub_layout(hub_folder: Path) -> None:
    explainer = Explainer.from_pretrained(hub_folder, device="cpu")
    assert explainer.model.dtype == torch.float32, "float16 has no fast arithmetic on a CPU"
    e = explainer.explain(picture(), "what is it?", " a small red square")
    model = tiny_llava(dtype=torch.float32, layers=2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half())
    direct = Explainer(model, tiny_processor()).explain(picture(), "what is it?", " a small red square")
    assert e.settings["prompt_ids"] == direct.settings["prompt_ids"]
    np.testing.assert_allclose(e.token_maps, direct.token_maps, atol=1e-5)
    assert e.grid.box == (5.0, 0.0, 35.0, 30.0)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float32], ids=str)
def test_dtype_and_attention_are_as_asked(hub_folder: Path, dtype) -> None:
    explainer = Explainer.from_pretrained(hub_folder, dtype=dtype, attn_implementation="eager", device="cpu")
    assert str(explainer.model.dtype).endswith(str(dtype).removeprefix("torch."))
    assert explainer.explain(picture(), "what is it?", " a").settings["attention"] == "eager"


def test_unsupported_family_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", model_type="bert")
    with pytest.raises(UnsupportedModelError, match=r"expected a model of type .*llava, .*; got 'bert'"):
        Explainer.from_pretrained(tmp_path)


def test_type_that_only_its_own_code_can_load_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", model_type="of_my_own", auto_map={"AutoConfig": "own.Config"})
    (tmp_path / "own.py").write_text("raise SystemExit('code of a checkpoint was run')")
    with pytest.raises(UnsupportedModelError, match=r"is of no type that transformers itself can load"):
        Explainer.from_pretrained(tmp_path)


@pytest.mark.parametrize("device", ["warp", "cuda:99"])
def test_device_that_is_not_there(tmp_path: Path, device: str) -> None:
    with pytest.raises(InputError, match=rf"device: expected one that this machine has.*got '{device}'"):
        Explainer.from_pretrained(tmp_path, device=device)


def test_code_of_a_processor_is_never_run(hub_folder: Path) -> None:
    (hub_folder / "own.py").write_text("raise SystemExit('code of a checkpoint was run')")
    path = hub_folder / "processor_config.json"
    write_json(path, **{**json.loads(path.read_text()), "auto_map": {"AutoProcessor": "own.Processor"}})
    try:
        explainer = Explainer.from_pretrained(hub_folder, device="cpu")
    except InputError:
        return  # refused is as good
    assert type(explainer.processor).__name__ == "LlavaProcessor"


def test_missing_weights_are_not_made_up(hub_folder: Path) -> None:
    path = hub_folder / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("layers.1.mlp.down_proj.weight"))
    del weights[name]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights.*down_proj.*random numbers"):
        Explainer.from_pretrained(hub_folder, device="cpu")


def test_folder_without_processor_files(tmp_path: Path) -> None:
    tiny_llava(dtype=torch.float32).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"lacks files of a model or its processor"):
        Explainer.from_pretrained(tmp_path, device="cpu")


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed")
@pytest.mark.parametrize(("model_type", "processor"), [("llava", "Pixtral"), ("lfm2_vl", "Lfm2Vl")])
def test_processor_that_needs_torchvision(hub_folder: Path, model_type: str, processor: str) -> None:
    """One transformers refuses with an ImportError, the other with a ValueError that does not name the package."""
    write_json(
        hub_folder / "preprocessor_config.json",
        image_processor_type=f"{processor}ImageProcessor{'' if processor == 'Pixtral' else 'Fast'}",
        processor_class=f"{processor}Processor",
    )
    write_json(hub_folder / "processor_config.json", processor_class=f"{processor}Processor")
    with pytest.raises(
        InputError, match=r"torchvision is not installed.*pip install torchvision.*Explainer\(model, pro"
    ):
        Explainer.from_pretrained(hub_folder)


def test_tokenizer_is_no_processor(hub_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As AutoProcessor gives it for a folder that names no processor."""
    wanted = r"processor: expected one of images and text; got \w+, which has no tokenizer and no image_processor\. Put"
    processor = tiny_processor()
    with pytest.raises(InputError, match=wanted):
        Explainer(tiny_llava(), processor.tokenizer)
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda *_, **__: processor.tokenizer)
    with pytest.raises(InputError, match=wanted):
        Explainer.from_pretrained(hub_folder)
