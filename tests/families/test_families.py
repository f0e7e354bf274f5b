"""Every family of `dexar_fast.models` through the same tests, on tiny random models and real processors."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from dexar_fast import Explainer, InputError
from dexar_fast.engine.encoded import Encoded
from dexar_fast.engine.request import lay_out
from dexar_fast.layout.grid import Grid
from dexar_fast.layout.image_layout import THUMBNAILS, ImageLayout
from dexar_fast.models.decoder import Decoder

from ..test_untouched import assert_same, state
from .case import SIZES, Case, all_cases, answer, frames, picture, without_mixing
from .oracle import DoubleThroughout, expected, generate

CASES = all_cases()
each_family = pytest.mark.parametrize("case", CASES.values(), ids=str)
each_prompt = pytest.mark.parametrize(
    ("case", "prompt"), [pytest.param(c, p, id=f"{c}, {p}") for c in CASES.values() for p in c.prompts]
)


@cache
def processor_of(name: str) -> Any:
    return CASES[name].processor()


def explainer_of(case: Case, attention: str = "", dtype: torch.dtype = torch.float64) -> Explainer:
    return Explainer(case.model(attention or case.attentions[0]).to(dtype), processor_of(case.name))


def encode(explainer: Explainer, case: Case, prompt: str) -> tuple[dict[str, Tensor], list[Image.Image]]:
    if prompt == "video":
        return video_inputs(case, explainer, frames()), []
    text, n_images = case.prompts[prompt]
    images = [picture((40, 30)), picture((21, 50), seed=1)][:n_images]
    inputs, _ = explainer.encode(images, text, "a")
    return inputs, images


def video_inputs(case: Case, explainer: Explainer, of_frames: Tensor) -> dict[str, Tensor]:
    assert case.video is not None
    return explainer.tensors(case.video(of_frames), [0])[0]


def key_kinds(case: Case, explainer: Explainer, inputs: dict[str, Tensor], n_answer: int) -> tuple[Any, Any]:
    """Which keys are image and which are text, by the case's own word."""
    family = explainer.family
    if family.keys == "vision":
        return None, None
    is_image = explainer.decoder.image_tokens(inputs)
    if case.separators is not None:
        is_image[is_image.nonzero()[case.separators(inputs)]] = False
    if family.keys == "sequence":
        is_image = torch.cat((is_image, torch.zeros(n_answer, dtype=torch.bool)))
    return is_image, ~is_image


def run(explainer: Explainer, inputs: dict[str, Tensor], ids: Tensor) -> tuple[Any, Any]:
    return explainer.run(Encoded(inputs, ids), explainer.options(method="dexar"))


def assert_close(actual: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    assert actual.shape == wanted.shape, what
    error, size = float((actual - wanted).abs().max()), float(wanted.abs().max())
    assert error <= tolerance * size, f"{what}: {error:.1e} of {size:.1e}"


@each_prompt
def test_exact(case: Case, prompt: str) -> None:
    """Scores and maps on every gradient path equal autograd through the probabilities while generating."""
    explainer = explainer_of(case, "eager")
    inputs, _ = encode(explainer, case, prompt)
    ids = answer(7, explainer.decoder.vocabulary_size)
    is_image, is_text = key_kinds(case, explainer, inputs, len(ids))
    with DoubleThroughout():
        wanted = expected(explainer.decoder, inputs, ids, is_image, is_text)
    assert wanted.maps.max() > 0
    for path in case.paths:
        explainer.decoder.family = replace(explainer.family, gradient_path=path)
        explainer.checked_layers.clear()
        with DoubleThroughout():
            _, sums = run(explainer, inputs, ids)
        assert_close(sums.image_scores, wanted.image_scores, 1e-9, f"{path}: S_img")
        assert_close(sums.maps, wanted.maps, 1e-9, f"{path}: maps")
        assert_close(sums.text_scores, wanted.text_scores, 1e-9, f"{path}: S_text")


@each_family
def test_sdpa_and_eager_agree(case: Case) -> None:
    results = []
    if len(case.attentions) < 2:
        pytest.skip(f"the text model has {case.attentions[0]} attention only")
    for attention in case.attentions:
        explainer = explainer_of(case, attention)
        inputs, images = encode(explainer, case, next(iter(case.prompts)))
        with DoubleThroughout():
            e = explainer.explain_ids(
                inputs, answer(4, explainer.decoder.vocabulary_size), image=images, method="dexar"
            )
        assert e.settings["attention"] == attention
        results.append(e)
    np.testing.assert_allclose(results[0].image_scores, results[1].image_scores, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(results[0].token_maps, results[1].token_maps, atol=1e-9)


def logits_of_pass(case: Case, explainer: Explainer, inputs: dict[str, Tensor], ids: Tensor) -> Tensor:
    """``(T, V)`` logits that the answer pass sees."""
    decoder = explainer.decoder
    seen: list[Tensor] = []
    hook = decoder.layers[-1].register_forward_hook(
        lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    run(explainer, inputs, ids)
    hook.remove()
    # The self-check replays single rows; the pass itself is the last call with all of them.
    rows = [one for one in seen if one.shape[1] >= len(ids)][-1][:, -len(ids) :]
    with torch.no_grad():
        head = decoder.model.get_submodule(decoder.family.head)
        return case.logits(head(decoder.final_norm(rows))[0])


@each_prompt
def test_logits_are_those_of_generating(case: Case, prompt: str) -> None:
    """In float32, as models run: teacher forcing sees what the model sees while it writes, with its cache.

    Where rounding is larger than usual (recurrent layers, routers), in float64, to the last digits.
    """
    explainer = explainer_of(case, dtype=torch.float32)
    inputs, _ = encode(explainer, case, prompt)
    ids = answer(5, explainer.decoder.vocabulary_size)
    with torch.no_grad():
        wanted = generate(explainer.decoder, inputs, ids)
    logits = logits_of_pass(case, explainer, inputs, ids)
    if float((logits - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max())):
        return
    with DoubleThroughout():
        precise = explainer_of(case)
        inputs, _ = encode(precise, case, prompt)
        with torch.no_grad():
            wanted = generate(precise.decoder, inputs, ids)
        logits = logits_of_pass(case, precise, inputs, ids)
    assert float((logits - wanted).abs().max()) <= 1e-9 * max(1.0, float(wanted.abs().max()))


@each_family
def test_whole_way_from_pictures(case: Case) -> None:
    """The model writes its own answer; one map per image, on the images as they were given."""
    explainer = explainer_of(case, dtype=torch.float32)
    config = explainer.model.generation_config
    config.suppress_tokens = [*explainer.decoder.placeholder_ids, 0, 1, 2]
    text, n_images = [prompt for prompt in case.prompts.values() if prompt[1]][-1]
    images = [picture((41, 29)), picture((20, 50), seed=1)][:n_images]
    e = explainer.explain(images, text, max_new_tokens=3, method="dexar")
    assert e.settings["gradient_path"] == explainer.family.gradient_path
    assert e.image_scores.shape[0] == len(e.tokens) == 3
    if case.skip and "test_lit_region_lands_where_it_is" in case.skip:  # queries without a place
        assert e.token_maps.shape == (3, e.answer_map.shape[0])
        with pytest.raises(InputError, match="there is no map to draw"):
            e.overlay()
        return
    assert len(e.grids) == n_images
    for index, (image, grid) in enumerate(zip(images, e.grids)):
        one = e.of_image(index)
        assert grid.image_size == image.size
        assert one.token_maps.shape == (3, grid.rows, grid.cols)
        assert e.overlay(image=index).size == image.size
    flat = np.concatenate([maps.reshape(3, -1) for maps in (e.token_maps if n_images > 1 else [e.token_maps])], axis=1)
    assert flat.min() >= 0
    assert flat.max() == 1


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@each_family
def test_lit_region_lands_where_it_is(case: Case, size: tuple[int, int]) -> None:
    """Pixels of rectangles change; the image tokens that notice, drawn as a map, must cover them and little else."""
    model = without_mixing(case.model(case.attentions[0]).to(torch.float32), case.global_vision)
    explainer = Explainer(model, processor_of(case.name))
    dark = Image.new("RGB", size, (90, 90, 90))
    text, n_images = next(iter(case.prompts.values()))
    inputs, _ = explainer.encode([dark] * n_images, text, "a")
    before = image_states(case, explainer, inputs)
    # Tiles and thumbnail have maps of their own; without a thumbnail both are the same.
    layouts = [lay_out(explainer.decoder, explainer.processor, inputs, [size] * n_images, t) for t in THUMBNAILS[1:]]
    for region in _regions(layouts[0].grids[0], size):
        lit = dark.copy()
        lit.paste((250, 240, 230), region)
        inputs, _ = explainer.encode([lit] * n_images, text, "a")
        change = (image_states(case, explainer, inputs) - before).norm(dim=-1)
        for layout in layouts:
            _assert_lit(layout, 0, change, region, case.halo)


@pytest.mark.parametrize("n_images", [1, 2])
@pytest.mark.parametrize(
    "case", [CASES[n] for n in ("llava_next", "llava_next_video", "llava_onevision", "granite4_vision")], ids=str
)
def test_picture_of_another_size_is_named(case: Case, n_images: int) -> None:
    """Where the processor notes the size: a photo turned by viewers alone, or a larger copy, is another."""
    explainer = explainer_of(case, dtype=torch.float32)
    inputs, _ = explainer.encode([picture((40, 30))] * n_images, case.image * n_images + " a star", "a")
    lay_out(explainer.decoder, explainer.processor, inputs, [(40, 30)] * n_images)
    for size in ((30, 40), (80, 60)):
        with pytest.raises(InputError, match=rf"expected 40 x 30 pixels, .*; got {size[0]} x {size[1]}\. Pass the"):
            lay_out(explainer.decoder, explainer.processor, inputs, [size] * n_images)


@pytest.mark.parametrize(
    "case", [CASES[n] for n in ("blip_2", "instructblip", "kosmos2", "florence2", "donut")], ids=str
)
def test_second_image_is_refused_where_a_model_takes_one(case: Case) -> None:
    explainer = explainer_of(case, dtype=torch.float32)
    with pytest.raises(InputError, match=r"image: this model takes one image per prompt; got 2\. Explain"):
        explainer.explain([picture(), picture(seed=1)], "a star", "a")


@pytest.mark.parametrize("size", [(600, 1), (1, 600), (600, 3)], ids=str)
@pytest.mark.parametrize("case", [CASES[n] for n in ("llava_next", "llava_onevision", "granite4_vision")], ids=str)
def test_very_thin_picture(case: Case, size: tuple[int, int]) -> None:
    """Unpadding can leave no row of tiles: then the base view, or what the family pools, is the map."""
    explainer = explainer_of(case, dtype=torch.float32)
    e = explainer.explain(picture(size), case.image + " a star", "a", method="dexar")
    assert e.grid.image_size == size
    assert np.isfinite(e.token_maps).all()
    assert e.token_maps.max() == 1


@pytest.mark.parametrize("frame", [0, 3])
@pytest.mark.parametrize("case", [case for case in CASES.values() if case.video], ids=str)
def test_lit_region_of_a_frame_lands_where_it_is(case: Case, frame: int) -> None:
    """The same in one frame of a video; frames that the model merges share a map."""
    model = without_mixing(case.model(case.attentions[0]).to(torch.float32), case.global_vision)
    explainer = Explainer(model, processor_of(case.name))
    dark = torch.zeros_like(frames())
    inputs = video_inputs(case, explainer, dark)
    before = image_states(case, explainer, inputs)
    layout = lay_out(explainer.decoder, explainer.processor, inputs, None)
    index = frame * len(layout.grids) // len(dark)
    for region in _regions(layout.grids[index], layout.grids[index].image_size):
        left, top, right, bottom = region
        lit = dark.clone()
        lit[frame, :, top:bottom, left:right] = 2
        change = (image_states(case, explainer, video_inputs(case, explainer, lit)) - before).norm(dim=-1)
        _assert_lit(layout, index, change, region, case.halo)


def _regions(grid: Grid, size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Rectangles in whole pixels, here and there on what the model saw, so that edges meet cells everywhere."""
    generator = np.random.default_rng(4)
    low = np.maximum(grid.box[:2], 0)
    extent = np.minimum(grid.box[2:], size) - low
    regions = []
    for _ in range(3 if max(size) > 1000 else 6):
        sides = np.maximum(1, np.floor(extent * generator.uniform(0.1, 0.4, 2)))
        start = np.floor(low + generator.uniform(0, 1, 2) * (extent - sides))
        left, top, right, bottom = (int(x) for x in (*start, *(start + sides)))
        regions.append((left, top, right, bottom))
    return regions


def _assert_lit(
    layout: ImageLayout, index: int, change: Tensor, region: tuple[int, int, int, int], halo: float
) -> None:
    grid = layout.grids[index]
    used = torch.zeros(len(change), dtype=torch.bool)
    used[layout.tokens[layout.weights > 0]] = True
    noticed = change > 0.05 * change[used].max()
    maps = layout.per_image(layout.to_cells(noticed[None].double())[0].numpy())
    assert all(of_other.max() == 0 for other, of_other in enumerate(maps) if other != index)
    rows, cols = (maps[index] > 0.5).nonzero()
    for axis, places in enumerate((cols, rows)):
        cell = (grid.box[axis + 2] - grid.box[axis]) / (grid.cols, grid.rows)[axis]
        found = grid.box[axis] + places.min() * cell, grid.box[axis] + (places.max() + 1) * cell
        wanted = region[axis], region[axis + 2]
        what = f"{'xy'[axis]}: pixels {wanted} were lit, cells of {cell:.1f} pixels at {found} noticed"
        blur = 2 * max(1.0, cell / 8)  # of resizing, in pixels of the image; a cell is 8 model pixels or more
        for beyond in (wanted[0] - found[0], found[1] - wanted[1]):
            assert beyond >= -0.25 * cell - 1, what  # a token of which a sliver is lit need not notice
            assert beyond <= (1 + halo) * cell + blur, what


def image_states(case: Case, explainer: Explainer, inputs: dict[str, Tensor]) -> Tensor:
    """``(N, d)``: what the text model gets of the images."""
    decoder, seen = explainer.decoder, {}
    keys = decoder.family.keys
    module = {"sequence": decoder.layers[0], "encoder": decoder.model.get_encoder(), "vision": decoder.text_model}[keys]

    class Stop(Exception):
        pass

    def remember(_m: Any, args: Any, kwargs: Any) -> None:
        seen.update(kwargs)
        seen.setdefault("states", args[0] if args else kwargs.get("hidden_states", kwargs.get("inputs_embeds")))
        raise Stop

    hook = module.register_forward_pre_hook(remember, with_kwargs=True)
    with torch.no_grad(), pytest.raises(Stop):
        decoder.base(**inputs)
    hook.remove()
    if keys == "vision" and "cross_attention_states" in seen:
        visible = seen["cross_attention_mask"][0, 0, -1] == 0
        return seen["cross_attention_states"].flatten(0, -2)[visible]
    if keys == "vision":
        return seen["encoder_hidden_states"][0]
    states = seen["states"][0, decoder.is_placeholder(inputs["input_ids"][0])]
    return states if case.separators is None else states[~case.separators(inputs)]


@each_family
def test_self_test_reports_what_runs(case: Case) -> None:
    explainer = explainer_of(case, dtype=torch.float32)
    report = explainer.self_test()
    assert report.family == explainer.family.name
    assert report.explained_layers == tuple(explainer.decoder.attentions)
    assert report.layers == len(explainer.decoder.layers)
    assert (report.heads, report.gradient_path) == (4, explainer.family.gradient_path)
    inputs, _ = explainer.encode([picture((224, 224))], case.prompts[next(iter(case.prompts))][0], "a")
    assert report.image_tokens == lay_out(explainer.decoder, explainer.processor, inputs, None).n_image_tokens
    assert not explainer.checked_layers, "a real prompt is checked again"


@each_family
def test_model_is_left_as_it_was(case: Case) -> None:
    explainer = explainer_of(case, dtype=torch.float32)
    model = explainer.model
    inputs, _ = encode(explainer, case, next(iter(case.prompts)))
    ids = answer(3, explainer.decoder.vocabulary_size)
    with torch.no_grad():
        generate(explainer.decoder, inputs, ids)  # transformers notes on the modules that it has run them
    notes = {name: getattr(explainer.decoder.base, name) for name in explainer.family.run_state}
    before = state(model)
    run(explainer, inputs, ids)
    assert_same(before, state(model))
    assert all(getattr(explainer.decoder.base, name) is value for name, value in notes.items())


def test_decoder_finds_every_part() -> None:
    """Each case's model is of the family that its configuration names, and of a type that `from_pretrained` loads."""
    for case in filter(lambda case: case.available, CASES.values()):
        model = case.model(case.attentions[0])
        explainer = Explainer(model)
        assert isinstance(explainer.decoder, Decoder)
        assert model.config.model_type in {t.split("/")[0] for t in explainer.family.model_types}
        assert model.config.model_type in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
