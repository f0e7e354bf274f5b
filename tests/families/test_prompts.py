"""What every family is asked: the ids of transformers' own chat, and no prompt that holds no image."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from dexar_fast import Explainer, InputError
from dexar_fast.inputs.messages import read_messages
from dexar_fast.inputs.prompts import PromptEncoder
from dexar_fast.models.registry import family_of

from .case import Case, all_cases, answer, picture
from .test_families import each_family, encode, explainer_of

# PaliGemma puts the image in front by itself; GOT-OCR's processor does not take what transformers' own chat gives it.
CHATTING = [case for case in all_cases().values() if case.image and not case.name.startswith(("paligemma", "got_ocr2"))]
ADDING = {"BOS": "<s> $A", "BOS and EOS": "<s> $A </s>", "nothing": "$A"}


def template(image: str, bos: str) -> str:
    content = "{% if c['type'] == 'image' %}" + image + "{% else %}{{ c['text'] }}{% endif %}"
    return (
        f"{bos}{{% for m in messages %}}{{{{ m['role'] }}}}: {{% if m['content'] is string %}}{{{{ m['content'] }}}}"
        f"{{% else %}}{{% for c in m['content'] %}}{content}{{% endfor %}}{{% endif %}}\n{{% endfor %}}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )


def chat_processor(case: Case, adding: str, bos: str) -> Any:
    processor = case.processor()
    if hasattr(processor, "video_processor") and processor.video_processor is None:
        processor.video_processor = SimpleNamespace(num_frames=1, fps=1, video_sampling={}, model_input_names=[])
    processor.chat_template = template(case.image, bos)
    specials = [("<s>", 1), ("</s>", 2)]
    processor.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=ADDING[adding], special_tokens=specials
    )
    return processor


def encoder_of(case: Case, processor: Any) -> PromptEncoder:
    family = family_of(case.model(case.attentions[0]).config)
    return PromptEncoder(processor, family.prompt_image, family.encode, family.prompt_needed, family.several_images)


@pytest.mark.parametrize("bos", ["{{ bos_token }}", ""], ids=["template with BOS", "template without"])
@pytest.mark.parametrize("adding", ADDING)
@pytest.mark.parametrize("case", CHATTING, ids=str)
def test_ids_are_those_of_transformers(case: Case, adding: str, bos: str) -> None:
    """Whatever the tokenizer adds by itself: a template that brings its BOS along has one, not two."""
    processor = chat_processor(case, adding, bos)
    image = picture()
    content = [{"type": "image", "image": image}, {"type": "text", "text": "a red square"}]
    wanted = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    found = encoder_of(case, processor).encode([image], "a red square")
    assert found["input_ids"].tolist() == wanted["input_ids"].tolist()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name])


@pytest.mark.parametrize("case", [case for case in CHATTING if case.several_images], ids=str)
def test_chat_of_several_turns_is_that_of_transformers(case: Case) -> None:
    processor = chat_processor(case, "BOS", "{{ bos_token }}")
    first, second = picture(), picture((21, 50), seed=1)
    chat: list[dict[str, Any]] = [
        {"role": "system", "content": [{"type": "text", "text": "a small green circle"}]},
        {"role": "user", "content": [{"type": "image", "image": first}, {"type": "text", "text": "what is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a star"}]},
        {"role": "user", "content": [{"type": "text", "text": "and on the left"}, {"type": "image", "image": second}]},
    ]
    if not case.ends_in_image:
        chat[-1]["content"] = list(reversed(chat[-1]["content"]))
    wanted = processor.apply_chat_template(
        chat, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    conversation, images = read_messages(chat)
    found = encoder_of(case, processor).encode(images, conversation)
    assert found["input_ids"].tolist() == wanted["input_ids"].tolist()


@each_family
def test_text_alone_is_refused(case: Case) -> None:
    explainer = explainer_of(case, dtype=torch.float32)
    ids = torch.cat((torch.tensor([1]), answer(6)))[None]
    with pytest.raises(InputError, match=r"model_inputs: expected"):
        explainer.explain_ids({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, answer(3))


@each_family
def test_image_without_its_place_is_refused(case: Case) -> None:
    explainer = explainer_of(case, dtype=torch.float32)
    inputs, _ = encode(explainer, case, next(iter(case.prompts)))
    if explainer.family.keys == "vision":
        pytest.skip("no image token is in the prompt")
    if explainer.family.placeholder_mask is not None:
        inputs[explainer.family.placeholder_mask] = torch.zeros_like(inputs[explainer.family.placeholder_mask])
    is_image = explainer.decoder.is_placeholder(inputs["input_ids"])
    inputs["input_ids"] = inputs["input_ids"].masked_fill(is_image, 60)
    inputs.pop("mm_token_type_ids", None)
    with pytest.raises(InputError, match=r"image"):
        explainer.explain_ids(inputs, answer(3))


@each_family
def test_what_generate_returns_is_not_taken_for_the_answer(case: Case) -> None:
    explainer = explainer_of(case, dtype=torch.float32)
    inputs, _ = encode(explainer, case, next(iter(case.prompts)))
    before = explainer.decoder.start_ids(inputs) if explainer.family.rows == "decoder" else inputs["input_ids"][0]
    with pytest.raises(InputError, match=r"answer_ids: expected the answer alone; got prompt and answer"):
        explainer.explain_ids(inputs, torch.cat((before, answer(3))))


@each_family
def test_batch_of_two_is_refused(case: Case) -> None:
    explainer: Explainer = explainer_of(case, dtype=torch.float32)
    inputs, _ = encode(explainer, case, next(iter(case.prompts)))
    twice = {name: torch.cat((value, value)) for name, value in inputs.items()}
    with pytest.raises(InputError, match=r"model_inputs: expected one prompt, .*; got a batch of 2"):
        explainer.explain_ids(twice, answer(3))


@pytest.mark.parametrize("prompt", ["what is it", "<image>what is it"])
def test_paligemma_is_given_the_place_that_its_processor_would_warn_of(
    prompt: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A run over thousands of pictures would print the advice thousands of times."""
    explainer = explainer_of(all_cases()["paligemma"])
    inputs = explainer.prompt_encoder.encode([picture()], prompt)
    assert not caplog.records
    expected = explainer.processor(images=[[picture()]], text=["what is it"], return_tensors="pt")
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    for name in ("input_ids", "token_type_ids", "pixel_values"):
        assert torch.equal(inputs[name], expected[name])
