"""Settings given in the processor's call: what was done to the picture is what the map undoes, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from dexar_fast import Explainer, InputError
from dexar_fast.engine.request import lay_out
from dexar_fast.layout.image_layout import THUMBNAILS

from . import gemma3
from .case import all_cases, answer, picture, without_mixing
from .test_families import _assert_lit, _regions, explainer_of, image_states
from .torchvision_free import torchvision_free

CASES = all_cases()
SQUARE = {"height": 48, "width": 48}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llava, no crop": ("llava", {"size": SQUARE, "do_center_crop": False}),
    "llava, crop of a larger picture": ("llava", {"size": {"shortest_edge": 64}}),
    "florence2, crop": ("florence2", {"size": {"shortest_edge": 48}, "do_center_crop": True, "crop_size": SQUARE}),
    "gemma3, pan and scan": ("gemma3", gemma3.CROPS),
    "gemma3, two crops": ("gemma3", {**gemma3.CROPS, "pan_and_scan_max_num_crops": 2}),
    "got_ocr2, tiles": ("got_ocr2", {"crop_to_patches": True, "max_patches": 4}),
    "internvl, no tiles": ("internvl", {"crop_to_patches": False}),
    "internvl, few tiles": ("internvl", {"crop_to_patches": True, "min_patches": 1, "max_patches": 2}),
    "aya_vision, few tiles": ("aya_vision", {"max_patches": 3}),
    "qwen2_vl, not resized": ("qwen2_vl", {"min_pixels": 64, "max_pixels": 1024}),
}
SIZES = {"odd": (61, 43), "portrait": (37, 90), "panorama": (201, 41)}


def model_of(name: str) -> Explainer:
    case = CASES[name]
    model = without_mixing(case.model(case.attentions[0]).to(torch.float32), case.global_vision)
    return Explainer(model, case.processor())


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", SETTINGS)
def test_lit_region_lands_where_it_is(name: str, size: tuple[int, int]) -> None:
    of_case, settings = SETTINGS[name]
    case, explainer = CASES[of_case], model_of(of_case)
    text, n_images = next(iter(case.prompts.values()))
    dark = Image.new("RGB", size, (90, 90, 90))
    inputs, _ = explainer.encode([dark] * n_images, text, "a", image_kwargs=settings)
    before = image_states(case, explainer, inputs)
    layouts = [
        lay_out(explainer.decoder, explainer.processor, inputs, [size] * n_images, thumbnail, settings)
        for thumbnail in THUMBNAILS[1:]
    ]
    for region in _regions(layouts[0].grids[0], size)[:3]:
        lit = dark.copy()
        lit.paste((250, 240, 230), region)
        inputs, _ = explainer.encode([lit] * n_images, text, "a", image_kwargs=settings)
        change = (image_states(case, explainer, inputs) - before).norm(dim=-1)
        for layout in layouts:
            _assert_lit(layout, 0, change, region, case.halo)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "qwen2_vl, not resized"])
def test_both_ways_lay_the_map_on_the_same_pixels(name: str) -> None:
    of_case, settings = SETTINGS[name]
    case, explainer = CASES[of_case], model_of(of_case)
    text, _ = next(iter(case.prompts.values()))
    image = picture((201, 41))
    ids = answer(2)
    inputs, _ = explainer.encode([image], text, "a", image_kwargs=settings)
    told = explainer.explain_ids(inputs, ids, image=image, processor_kwargs=settings)
    same = explainer.explain(image, text, explainer.tokenizer.decode(ids), image_kwargs=settings)
    assert told.grid == same.grid
    assert told.settings["image_kwargs"] == same.settings["image_kwargs"]


@pytest.mark.parametrize("published", [True, False], ids=["null settings", "settings"])
def test_crops_of_one_picture_are_known_from_the_tensors(published: bool) -> None:
    """All pan_and_scan_* are null in published checkpoints, and the call's defaults apply."""
    explainer = model_of("gemma3")
    image = Image.new("RGB", (1200, 400)) if published else picture((200, 40))
    settings = {"do_pan_and_scan": True} if published else gemma3.CROPS
    inputs = explainer.processor(images=[[image]], text=["<boi> a star"], return_tensors="pt", **settings)
    n_crops = len(inputs["pixel_values"]) - 1
    assert n_crops == (3 if published else 4)
    e = explainer.explain_ids(dict(inputs), answer(2), image=image)
    assert (e.grid.rows, e.grid.cols) == (3, 3 * n_crops)


def test_crops_of_several_pictures_need_the_settings() -> None:
    explainer = model_of("gemma3")
    images = [picture((200, 40)), picture((40, 40), seed=1)]
    inputs = explainer.processor(images=[images], text=["<boi> a <boi>"], return_tensors="pt", **gemma3.CROPS)
    e = explainer.explain_ids(dict(inputs), answer(2), image=images, processor_kwargs=gemma3.CROPS)
    assert [grid.cols for grid in e.grids] == [12, 3]
    with pytest.raises(InputError, match=r"hold 4 crops, but the processor's settings give 0 .*processor_kwargs="):
        explainer.explain_ids(dict(inputs), answer(2), image=images)


TURNED = ("qwen2_vl", "glm4v", "pixtral", "mistral3", "lighton_ocr", "idefics3", "lfm2_vl", "mllama", "llava_next")


@pytest.mark.parametrize("name", TURNED)
def test_turned_picture_is_not_laid_on(name: str) -> None:
    """A photo as stored went to the processor; the one that people see lies otherwise."""
    case = CASES[name]
    explainer = explainer_of(case, dtype=torch.float32)
    stored = picture((160, 60))
    inputs, _ = explainer.encode([stored], next(iter(case.prompts.values()))[0], "a")
    explainer.explain_ids(inputs, answer(2), image=stored)
    with pytest.raises(InputError, match=r"image: .*Pass the picture that was"):
        explainer.explain_ids(inputs, answer(2), image=stored.transpose(Image.Transpose.ROTATE_90))


def test_crops_of_the_processor_for_torchvision() -> None:
    """It cuts by a method of another name, which takes tensors."""
    images_class = torchvision_free("transformers.models.gemma3.image_processing_gemma3", "Gemma3ImageProcessor")
    assert not hasattr(images_class, "pan_and_scan")
    explainer = model_of("gemma3")
    explainer.processor.image_processor = images_class(size=SQUARE)
    images = [picture((200, 40)), picture((40, 100), seed=1)]
    inputs = explainer.processor(images=[images], text=["<boi> a <boi>"], return_tensors="pt", **gemma3.CROPS)
    e = explainer.explain_ids(dict(inputs), answer(2), image=images, processor_kwargs=gemma3.CROPS)
    assert [(grid.rows, grid.cols) for grid in e.grids] == [(3, 12), (9, 3)]
