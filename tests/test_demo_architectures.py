"""The other trained models: packing and towers compute what the plain model does, trainings write folders that load."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dexar_fast import Explainer, InputError
from dexar_fast.demo import MODELS, model_folder
from dexar_fast.demo.architectures import Architecture
from dexar_fast.demo.deep import DEEP, start
from dexar_fast.demo.evaluate import _sentences, generate, main, prompt_text
from dexar_fast.demo.evaluate_reader import measure as measure_reader
from dexar_fast.demo.gemma import GEMMA
from dexar_fast.demo.labels import ASPECTS, IGNORE
from dexar_fast.demo.losses import answer_loss
from dexar_fast.demo.packing import Segment, choose_segments, pack
from dexar_fast.demo.paligemma import PALIGEMMA
from dexar_fast.demo.patch_code import centred, code_loss, embedded_model, one_hot, start_decoder
from dexar_fast.demo.qwen import PATCH, QWEN, _attend, patches_of
from dexar_fast.demo.qwen import start as start_qwen
from dexar_fast.demo.scenes import SIZES, Scene
from dexar_fast.demo.train_reader import Settings as ReaderSettings
from dexar_fast.demo.train_reader import train as train_reader
from dexar_fast.demo.train_scenes import EmbedHead, Settings, train
from dexar_fast.demo.training import Training, attend_in_float32, optimizers_of
from dexar_fast.demo.worlds import WORLDS

CPU = torch.device("cpu")
TINY: dict[str, Architecture] = {
    "qwen": replace(QWEN, model=partial(QWEN.model, width=64, vision_width=32, text_layers=2), start=None, code=None),
    "gemma": replace(GEMMA, model=partial(GEMMA.model, width=32, vision_layers=1)),
    "paligemma": replace(PALIGEMMA, model=partial(PALIGEMMA.model, width=32, vision_layers=1), start=None, code=None),
    "deep": replace(DEEP, model=partial(DEEP.model, width=32, text_layers=3), start=None),
}
FEW = Settings(
    scenes=32, vision_steps=(1,), steps=(1,), revision=1, vision_batch=2, batch=2, text=90, precision="float32"
)


@pytest.fixture(params=list(TINY))
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return TINY[request.param]


def picture(scene: Scene) -> torch.Tensor:
    return torch.from_numpy(np.array(scene.image).transpose(2, 0, 1))[None]


# --- what training computes ---


@pytest.mark.parametrize("seed", [3, 7], ids=["one size", "another size"])
def test_a_packed_segment_scores_as_the_plain_model_does(architecture: Architecture, seed: int) -> None:
    """Embeddings, positions and masks, against the model called with its processor's inputs."""
    torch.manual_seed(0)
    words = architecture.tokenizer()
    model, processor = architecture.model(words).eval(), architecture.processor(words)
    scene = architecture.draw(seed)
    encoder = architecture.encoder(words, architecture.grid(scene.image.size))
    segments = choose_segments(scene.objects, encoder, 150, np.random.default_rng(0), language=architecture.language)
    last = max(segments, key=len)  # a description: longer than a sliding window leaves of the image
    others = [] if architecture.one_prompt else segments[1:3]
    packed = pack([[*others, last]], encoder, len(encoder.prefix) + 250)
    packed.weights[:, : (packed.targets[0] >= 0).nonzero()[-len(last.answer), 0]] = 0.0
    text = prompt_text(processor, architecture.language.prompts[0])
    inputs = processor(images=[[scene.image]], text=[text], return_tensors="pt")
    assert inputs["input_ids"][0, : len(encoder.prefix)].tolist() == list(encoder.prefix)

    ids = torch.tensor([encoder.prefix + last.prompt + last.answer])
    answered = torch.arange(ids.shape[1]) >= ids.shape[1] - len(last.answer)
    kinds = answered[None].int() if architecture.one_prompt else (ids == encoder.image).int()
    types = {name: kinds for name in ("token_type_ids", "mm_token_type_ids") if name in inputs}
    pixels = {name: value for name, value in inputs.items() if name in ("pixel_values", "image_grid_thw")}
    labels = torch.where(answered, ids, -100)
    with torch.no_grad():
        seen = architecture.image_embeds(model, picture(scene))
        ours = answer_loss(model, seen, packed, encoder.image, architecture.hidden)
        plain = model(input_ids=ids, labels=labels, **types, **pixels).loss
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 7, 13], ids=lambda seed: "x".join(map(str, SIZES[seed % len(SIZES)])))
def test_the_tower_of_qwen_at_once_is_the_tower_window_by_window(seed: int) -> None:
    torch.manual_seed(1)
    model = TINY["qwen"].model(QWEN.tokenizer())
    images = picture(QWEN.draw(seed)).repeat(2, 1, 1, 1)
    images[1] = images[1].flip(1)
    height, width = images.shape[2:]
    grid = torch.tensor([[1, height // PATCH, width // PATCH]] * 2)
    with torch.no_grad():
        plain = model.model.visual(patches_of(images), grid_thw=grid).pooler_output
        torch.testing.assert_close(QWEN.image_embeds(model, images).flatten(0, 1), plain, rtol=1e-4, atol=1e-6)


def test_attention_in_float32_changes_nothing_in_float32(architecture: Architecture) -> None:
    words = architecture.tokenizer()
    model, scene = architecture.model(words).eval(), architecture.draw(3)
    encoder = architecture.encoder(words, architecture.grid(scene.image.size))
    packed = pack([[Segment((8, 9), (10, 2), 1.0)]], encoder, len(encoder.prefix) + 6)
    with torch.no_grad():
        seen = architecture.image_embeds(model, picture(scene))
        before = answer_loss(model, seen, packed, encoder.image, architecture.hidden)
        attend_in_float32(model)
        torch.testing.assert_close(answer_loss(model, seen, packed, encoder.image, architecture.hidden), before)


# --- warm starts ---


def test_the_deep_model_starts_as_the_embedded_one() -> None:
    """Its extra layers write nothing yet, so it says of a token that both know what the embedded model says."""
    from transformers import LlavaForConditionalGeneration

    from dexar_fast.demo import CHECKPOINT
    from dexar_fast.demo.tokenizer import build_tokenizer

    words = DEEP.tokenizer()
    model = DEEP.model(words).eval()
    start(model, words)
    source = LlavaForConditionalGeneration.from_pretrained(CHECKPOINT, local_files_only=True).eval()
    embeds = torch.randn(1, 5, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = model.lm_head(model.model.language_model(inputs_embeds=embeds).last_hidden_state)
        theirs = source.lm_head(source.model.language_model(inputs_embeds=embeds).last_hidden_state)
    new, old = words.get_vocab(), build_tokenizer().get_vocab()
    for token, known in [("red", "red"), ("tiny", "small"), ("strip", None), ("tri", "triangle"), ("left", "left")]:
        if known is not None:
            torch.testing.assert_close(ours[..., new[token]], theirs[..., old[known]], rtol=1e-4, atol=1e-4)


def test_the_decoder_of_qwen_starts_as_the_embedded_one() -> None:
    words = QWEN.tokenizer()
    model = QWEN.model(words)
    start_decoder(model, words)
    decoder = model.model.language_model
    assert all(not layer.self_attn.v_proj.bias.any() for layer in decoder.layers)
    from transformers import LlavaForConditionalGeneration

    from dexar_fast.demo import CHECKPOINT

    source = LlavaForConditionalGeneration.from_pretrained(CHECKPOINT, local_files_only=True).eval()
    embeds = torch.randn(1, 5, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = source.model.language_model(inputs_embeds=embeds).last_hidden_state
        torch.testing.assert_close(decoder(inputs_embeds=embeds).last_hidden_state, theirs, rtol=1e-4, atol=1e-4)


def test_the_tower_of_qwen_starts_as_the_embedded_one() -> None:
    """Of one patch alone, in the middle of a window, the layers do what they did: no position turns it."""
    model = QWEN.model(QWEN.tokenizer())
    start_qwen(model, QWEN.tokenizer())
    source, visual = embedded_model().model.vision_tower, model.model.visual
    hidden = torch.randn(1, 1, 128, generator=torch.Generator().manual_seed(0))
    hidden -= hidden.mean()  # as all that is written is
    constant = visual.blocks[0].attn.proj.bias - centred(source.encoder.layers[0].self_attn.out_proj.bias)
    unturned = torch.ones(1, 32), torch.zeros(1, 32)
    ours = hidden
    with torch.no_grad():
        visual.blocks[0].attn.proj.bias -= constant  # what the linear embedding cannot hold
        for block in visual.blocks:
            ours = ours + _attend(block.attn, block.norm1(ours), *unturned, None)
            ours = ours + block.mlp(block.norm2(ours))
        theirs = source.encoder(inputs_embeds=hidden).last_hidden_state
    torch.testing.assert_close(ours, theirs - theirs.mean(-1, keepdim=True), rtol=1e-3, atol=1e-3)


def test_a_code_is_the_sum_of_its_classes() -> None:
    aspects = ("size", "centre")
    labels = torch.tensor([[[1, 0], [2, 1], [IGNORE, IGNORE]]])
    code = torch.arange(5.0)[:, None] * torch.ones(2)  # row i adds i
    assert (one_hot(labels, aspects) @ code).tolist() == [[[4.0, 4.0], [6.0, 6.0], [0.0, 0.0]]]
    sums = torch.tensor([[[4.0, 4.0], [6.0, 6.0], [99.0, 99.0]]])
    assert code_loss(sums, labels, aspects, code) == 0.0
    assert code_loss(sums + 1.0, labels, aspects, code) == 1.0


# --- trainings ---


def test_a_few_steps_write_a_folder_that_loads_and_explains(architecture: Architecture, tmp_path: Path) -> None:
    folder = train(architecture, FEW, tmp_path, CPU, log_every=1)
    explainer = Explainer.from_pretrained(folder, device="cpu")
    scene = architecture.draw(0)
    e = explainer.explain(scene.image, architecture.language.prompts[0], answer="red star")
    assert e.token_maps.shape[1:] == architecture.grid(scene.image.size)
    record = json.loads((folder / "training.json").read_text())
    assert record["command"].startswith(f"python -m dexar_fast.demo.train_scenes {architecture.name} --scenes 32")
    asked = [(scene.image, architecture.language.prompts[0])]
    assert len(generate(explainer.model, explainer.processor, asked, CPU)) == 1


def test_the_reader_writes_a_folder_that_loads_and_explains(tmp_path: Path) -> None:
    settings = ReaderSettings(pages=4, steps=2, stop=1, settle=1, batch=2)
    folder = train_reader(settings, tmp_path, CPU, log_every=1)
    explainer = Explainer.from_pretrained(folder, device="cpu")
    from dexar_fast.demo.pages import draw_page

    e = explainer.explain(draw_page(0).image, "", answer="TEA 42")
    assert [word.text.strip() for word in e.words()] == ["TEA", "42"]
    assert e.token_maps.shape[1:] == (8, 14)
    assert measure_reader(explainer.model, explainer.processor, range(2), CPU)["pages cases"] == 2
    figures = tmp_path / "figures.json"
    main(["--name", "demo-reader", "--model", str(folder), "--scenes", "1", "--json", str(figures)])
    assert json.loads(figures.read_text())["percent"]["pages cases"] == 1


def run_stage(out: Path, steps: int, fail_at: int | None = None, rate: float = 0.1) -> tuple[nn.Module, list[int]]:
    """A toy training of some steps that saves a state after each; it may be interrupted."""
    torch.manual_seed(0)
    module, taken = nn.Linear(3, 3), []
    training = Training(out, {"rate": rate}, {"module": module}, CPU, "float32", log_every=100)

    def loss_of(step: int) -> tuple[torch.Tensor, str]:
        if step == fail_at:
            raise KeyboardInterrupt
        taken.append(step)
        x = torch.full((2, 3), float(step + 1))
        return module(x).square().mean(), ""

    training.stage("only", list(module.named_parameters()), [1.0] * steps, loss_of, rate=rate)
    return module, taken


def test_an_interrupted_training_ends_where_a_whole_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dexar_fast.demo.training.SAVE_EVERY", 0.0)
    whole, _ = run_stage(tmp_path / "whole", 6)
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "parts", 6, fail_at=4)
    parts, taken = run_stage(tmp_path / "parts", 6)
    assert taken == [4, 5]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name])
    assert run_stage(tmp_path / "parts", 6)[1] == []  # nothing is left to do
    with pytest.raises(ValueError, match="other settings"):
        run_stage(tmp_path / "parts", 6, rate=0.2)


def test_muon_trains_the_matrices_inside_and_adamw_the_rest() -> None:
    model = TINY["gemma"].model(GEMMA.tokenizer())
    muon, adamw = optimizers_of(model.named_parameters(), 1e-3, 0.01)
    inner = {id(p) for group in muon.param_groups for p in group["params"]}
    rest = [id(p) for group in adamw.param_groups for p in group["params"]]
    named = dict(model.named_parameters())
    assert id(named["model.language_model.layers.0.self_attn.q_proj.weight"]) in inner
    assert id(model.get_input_embeddings().weight) in rest
    assert len(inner) + len(rest) == len(named)
    assert not inner & set(rest)


def test_the_head_reads_one_score_per_class() -> None:
    scores = EmbedHead(16, ("colour", "pattern"))(torch.randn(2, 5, 16))
    assert [s.shape for s in scores] == [(2, 5, ASPECTS["colour"]), (2, 5, 4)]


# --- figures ---


@pytest.mark.parametrize("name", list(WORLDS))
def test_a_right_description_counts_as_right_and_a_wrong_word_as_wrong(name: str) -> None:
    draw, language = WORLDS[name]
    for seed in range(8):  # of one object and of several
        scene = draw(seed)
        for prompt in language.prompts:
            truth = str(language.describe(scene.objects, prompt))
            objects = len(scene.objects)
            assert all(right for _, right in _sentences(truth, f"{truth} </s>", objects, language))
            of_objects = truth.replace("large", "huge").replace("small", "huge").replace("tiny", "huge")
            of_objects = of_objects.replace("big", "huge")
            found = dict(_sentences(truth, f"{of_objects} </s>", objects, language))
            assert (found["objects"], found["objects: size"], found["objects: colour"]) == (False, False, True)


# --- names and shipped folders ---

SHIPPED = [name for name, folder in MODELS.items() if name != "demo" and (folder / "config.json").is_file()]


def test_a_model_that_is_not_shipped_names_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(MODELS, "demo-gemma", tmp_path / "nothing")
    with pytest.raises(InputError, match="train_scenes gemma"):
        model_folder("demo-gemma")
    with pytest.raises(InputError, match="train_scenes gemma"):
        Explainer.from_pretrained("demo-gemma")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_meets_the_promise(name: str) -> None:
    folder = model_folder(name)
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".jinja", ".md"}
    figures = json.loads((folder / "heldout.json").read_text())["percent"]
    main_figures = ("words", "numbers") if name == "demo-reader" else ("objects", "answers")
    assert min(figures[key] for key in main_figures) >= 90
    assert f"{figures[main_figures[0]]:.1f}" in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_answers_and_passes_its_self_test(name: str) -> None:
    from dexar_fast.evaluate.data import open_data

    explainer, sample = Explainer.from_pretrained(name, device="cpu"), open_data(name)[2]
    e = explainer.explain(sample.image, sample.prompt)
    said, right = e.answer.split(), (sample.answer or "").split()
    assert sum(a == b for a, b in zip(said, right, strict=False)) >= 0.7 * len(right)
