"""The embedded model: tokenizer, packing, trainer, folder; and that the shipped weights answer rightly."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from dexar_fast.demo import CHECKPOINT
from dexar_fast.demo.evaluate import conversation, generate, main, measure
from dexar_fast.demo.folders import command, save_model
from dexar_fast.demo.labels import ASPECTS
from dexar_fast.demo.language import DESCRIBE
from dexar_fast.demo.model import GRID, build_model, build_processor, image_features
from dexar_fast.demo.packing import LEARNING, REVISION, Encoder, Mix, choose_segments, pack
from dexar_fast.demo.scenes import HELD_OUT_SEEDS, draw_scene
from dexar_fast.demo.tokenizer import build_tokenizer
from dexar_fast.demo.train import (
    PatchHead,
    Settings,
    answer_loss,
    batches,
    rescale_tower,
    start_projector,
    train,
)
from dexar_fast.demo.training import schedule

CPU = torch.device("cpu")
TINY = Settings(scenes=8, vision_cycles=(2, 1), steps=(2,), revision=1, batch=4, warm_up=1, precision="float32")


@pytest.fixture(scope="module")
def tiny() -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    return build_model(build_tokenizer(), width=32, vision_layers=1, text_layers=2).eval()


@pytest.fixture(scope="module")
def processor() -> LlavaProcessor:
    return build_processor(build_tokenizer())


@pytest.fixture(scope="module")
def shipped() -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(CHECKPOINT, local_files_only=True).eval()


# --- tokenizer ---


def test_every_sentence_survives_encoding_and_decoding() -> None:
    tokenizer = build_tokenizer()
    for seed in range(60):
        scene = draw_scene(seed)
        sentences = [str(scene.description), *DESCRIBE]
        sentences += [text for q in scene.questions for text in (q.text, str(q.answer))]
        for sentence in sentences:
            ids = tokenizer(sentence)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert len(ids) == len(sentence.split())
            assert tokenizer.decode(ids) == sentence


def test_each_further_token_adds_a_space_and_a_word() -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer("a red star . yes")["input_ids"]
    texts = [tokenizer.decode(ids[: n + 1]) for n in range(len(ids))]
    added = [text.removeprefix(before) for before, text in zip(["", *texts], texts, strict=False)]
    assert added == ["a", " red", " star", " .", " yes"]


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("Describe the image.", "describe the image ."),
        ("What color is the STAR?", "what colour is the star ?"),
        ("where is the zebra ?", "where is the <unk> ?"),
    ],
    ids=["capitals-and-marks", "american", "unknown-word"],
)
def test_prompts_as_people_type_them(typed: str, read: str) -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.decode(tokenizer(typed)["input_ids"]) == read


# --- prompts and processor ---


def test_the_chat_template_writes_the_prompt_of_llava(processor: LlavaProcessor) -> None:
    text = processor.apply_chat_template(conversation("is there a red star ?"), add_generation_prompt=True)
    assert text == "USER: <image>\nis there a red star ? ASSISTANT:"


def test_training_segments_are_the_prompts_seen_at_inference(processor: LlavaProcessor) -> None:
    encoder = Encoder(processor.tokenizer, GRID * GRID)
    segment = encoder.segment("is there a red star ?", ("yes",), 1.0)
    text = processor.apply_chat_template(conversation("is there a red star ?"), add_generation_prompt=True)
    inputs = processor(images=draw_scene(0).image, text=text)
    assert list(encoder.prefix + segment.prompt) == list(inputs["input_ids"][0])
    assert segment.answer[-1] == processor.tokenizer.eos_token_id


@pytest.mark.parametrize("size", [(96, 96), (640, 480), (50, 200)], ids=str)
def test_images_of_any_size_give_144_image_tokens(processor: LlavaProcessor, size: tuple[int, int]) -> None:
    inputs = processor(
        images=Image.new("RGB", size, "red"), text="USER: <image>\nhow many ? ASSISTANT:", return_tensors="pt"
    )
    assert inputs["pixel_values"].shape == (1, 3, 96, 96)
    assert (inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<image>")).sum() == 144


# --- packing ---


def test_a_packed_sequence_scores_as_each_prompt_alone(tiny: LlavaForConditionalGeneration) -> None:
    encoder = Encoder(build_tokenizer(), GRID * GRID)
    segments = choose_segments(draw_scene(3).objects, encoder, 120, np.random.default_rng(0))
    features = torch.randn(1, GRID * GRID, 32, generator=torch.Generator().manual_seed(0))
    together = answer_loss(tiny, features, pack([segments], encoder, len(encoder.prefix) + 130))
    alone = [answer_loss(tiny, features, pack([[s]], encoder, len(encoder.prefix) + len(s))) for s in segments]
    shares = torch.tensor([s.weight * len(s.answer) for s in segments])
    assert len(segments) > 4
    torch.testing.assert_close(together, (torch.stack(alone) * shares).sum() / shares.sum(), rtol=1e-5, atol=1e-6)


def test_a_packed_sequence_scores_as_the_model_called_plainly(
    tiny: LlavaForConditionalGeneration, processor: LlavaProcessor
) -> None:
    scene = draw_scene(8)
    encoder = Encoder(processor.tokenizer, GRID * GRID)
    segments = choose_segments(scene.objects, encoder, 100, np.random.default_rng(1))
    last = segments[-1]
    picture = torch.from_numpy(np.array(scene.image).transpose(2, 0, 1))[None]
    inputs = processor(images=scene.image, text="USER: <image>\n ASSISTANT:", return_tensors="pt")
    ids = torch.tensor([encoder.prefix + last.prompt + last.answer])
    labels = ids.clone()
    labels[:, : -len(last.answer)] = -100
    with torch.no_grad():
        plain = tiny(input_ids=ids, pixel_values=inputs["pixel_values"], labels=labels).loss
        only_last = [*segments[:-1], last]
        packed = pack([only_last], encoder, len(encoder.prefix) + 110)
        packed.weights[:, : (packed.targets[0] >= 0).nonzero()[-len(last.answer), 0]] = 0.0
        ours = answer_loss(tiny, image_features(tiny, picture), packed)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_segments_that_do_not_fit_are_refused() -> None:
    encoder = Encoder(build_tokenizer(), GRID * GRID)
    segment = encoder.segment("where is the star ?", ("in", "the", "middle"), 1.0)
    with pytest.raises(ValueError, match="segments of image 0 need more than 150 tokens"):
        pack([[segment]], encoder, 150)


def test_chosen_segments_keep_to_the_budget_and_start_with_a_description() -> None:
    encoder = Encoder(build_tokenizer(), GRID * GRID)
    for seed in range(20):
        segments = choose_segments(draw_scene(seed).objects, encoder, 160, np.random.default_rng(seed))
        assert sum(map(len, segments)) <= 160
        assert len(segments[0].answer) == len(draw_scene(seed).description.words) + 1


def test_revision_asks_more_of_what_is_learned_last() -> None:
    encoder = Encoder(build_tokenizer(), GRID * GRID)
    where = build_tokenizer().convert_tokens_to_ids("where")

    def asked(mix: Mix) -> int:
        chosen = [
            choose_segments(draw_scene(s).objects, encoder, 160, np.random.default_rng(s), mix) for s in range(40)
        ]
        return sum(segment.prompt[0] == where for segments in chosen for segment in segments)

    assert asked(REVISION) > 1.2 * asked(LEARNING)


# --- trainer ---


def test_rescaling_the_tower_scales_its_features_only(tiny: LlavaForConditionalGeneration) -> None:
    model = copy.deepcopy(tiny)
    picture = torch.from_numpy(np.array(draw_scene(1).image).transpose(2, 0, 1))[None]
    rescale_tower(model, 0.5)
    torch.testing.assert_close(
        image_features(model, picture), 0.5 * image_features(tiny, picture), rtol=1e-3, atol=1e-3
    )


def test_the_projector_starts_from_what_the_patch_head_reads(tiny: LlavaForConditionalGeneration) -> None:
    model, head = copy.deepcopy(tiny), PatchHead(32)
    torch.manual_seed(1)
    nn.init.normal_(head.out.weight)
    pictures = torch.stack([torch.from_numpy(np.array(draw_scene(s).image).transpose(2, 0, 1)) for s in range(8)])
    start_projector(model, head, pictures)
    features = image_features(model, pictures).flatten(0, 1)
    colours = ASPECTS["colour"]
    rows = model.model.multi_modal_projector.linear_1(features)[:, :colours]
    scores = head(image_features(tiny, pictures))[0].flatten(0, 1)
    together = torch.corrcoef(torch.cat([(rows - rows[:, 1:2]).T, (scores - scores[:, 1:2]).T]))
    assert together[0, colours] > 0.95
    assert rows.mean().abs() < 1e-3


def test_the_schedule_warms_up_and_comes_down() -> None:
    rates = [schedule(step, 1000, 100) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) in (99, 100)
    assert rates[-1] < 0.011


def test_every_scene_is_used_once_before_any_is_used_twice() -> None:
    order = batches(12, 4, seed=0)
    first = np.concatenate([next(order) for _ in range(3)])
    assert sorted(first) == list(range(12))


def test_a_few_steps_of_training_write_a_folder_that_loads(tmp_path: Path) -> None:
    folder = train(TINY, tmp_path / "one", CPU, workers=0, log_every=1)
    again = train(TINY, tmp_path / "two", CPU, workers=0, log_every=1)
    assert (folder / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    record = json.loads((folder / "training.json").read_text())
    assert record["command"] == command("dexar_fast.demo.train", TINY, Settings())
    assert record["settings"]["scenes"] == 8
    figures = tmp_path / "figures.json"
    main(["--model", str(folder), "--scenes", "1", "--json", str(figures)])
    assert json.loads(figures.read_text())["percent"]["objects cases"] == len(draw_scene(HELD_OUT_SEEDS[0]).objects)


def test_training_goes_on_from_its_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = train(TINY, tmp_path, CPU, workers=0, log_every=1) / "model.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    capsys.readouterr()
    train(TINY, tmp_path, CPU, workers=0, log_every=1)
    assert weights.read_bytes() == before
    assert "loss" not in capsys.readouterr().out  # no step was taken again


def test_training_does_not_go_on_from_other_settings(tmp_path: Path) -> None:
    train(TINY, tmp_path, CPU, workers=0)
    with pytest.raises(ValueError, match="other settings"):
        train(Settings(**{**vars(TINY), "rate": 1.0}), tmp_path, CPU, workers=0)


# --- the saved folder ---


def test_saved_weights_are_half_precision_and_load_as_float32(
    tiny: LlavaForConditionalGeneration, tmp_path: Path
) -> None:
    save_model(tiny, build_processor(build_tokenizer()), tmp_path)
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32
    for name, value in tiny.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float()), name


def test_the_shipped_folder_is_small_and_holds_no_code() -> None:
    files = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".jinja"}
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    assert not any("auto_map" in path.read_text() for path in files if path.suffix == ".json")


def test_the_shipped_folder_loads_offline_with_plain_transformers() -> None:
    code = (
        "import sys, transformers as t\n"
        "m = t.LlavaForConditionalGeneration.from_pretrained(sys.argv[1])\n"
        "p = t.AutoProcessor.from_pretrained(sys.argv[1])\n"
        "assert m.dtype.is_floating_point and m.dtype.itemsize == 4\n"
        "assert 'dexar_fast' not in sys.modules\n"
        "print(type(p).__name__, m.generation_config.eos_token_id == p.tokenizer.eos_token_id)\n"
    )
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    script = [sys.executable, "-c", code, str(CHECKPOINT)]
    run = subprocess.run(script, env=offline, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "LlavaProcessor True", run.stderr


def test_the_shipped_tokenizer_is_the_one_the_code_builds() -> None:
    assert AutoProcessor.from_pretrained(CHECKPOINT).tokenizer.get_vocab() == build_tokenizer().get_vocab()


def test_the_shipped_figures_meet_the_promise() -> None:
    figures = json.loads((CHECKPOINT / "heldout.json").read_text())["percent"]
    assert figures["objects"] >= 90
    assert figures["answers"] >= 90
    assert figures["objects cases"] >= 1000


def test_the_shipped_model_describes_and_answers(shipped: LlavaForConditionalGeneration) -> None:
    """A handful of held-out scenes; an untrained or misloaded model gets next to none of it right."""
    seeds = HELD_OUT_SEEDS[2000:2006]
    figures = measure(shipped, AutoProcessor.from_pretrained(CHECKPOINT), seeds, CPU)
    assert figures["objects"] >= 75
    assert figures["answers"] >= 80


def test_long_descriptions_end_by_themselves(shipped: LlavaForConditionalGeneration) -> None:
    scene = draw_scene(HELD_OUT_SEEDS[2010], 6)
    (text,) = generate(shipped, AutoProcessor.from_pretrained(CHECKPOINT), [(scene.image, DESCRIBE[0])], CPU)
    assert text.endswith("in all . </s>")
    assert len(text.split()) > 60
