"""Chats in place of a prompt: what OpenAI's interface and transformers write, with images in any turn."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dexar_fast import Explainer, ExplainRequest, Explanation, InputError
from dexar_fast.inputs.messages import read_messages

from .tiny import picture, tiny_llava, tiny_processor

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
FIRST, SECOND = picture(), picture(30, 40)


def data_uri() -> str:
    buffer = BytesIO()
    FIRST.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def chat(*last: dict[str, Any]) -> list[dict[str, Any]]:
    """A system prompt, an earlier turn with an image, and a question."""
    return [
        {"role": "system", "content": "two blue stars"},
        {"role": "user", "content": [{"type": "image", "image": FIRST}, {"type": "text", "text": "what is it?"}]},
        {"role": "assistant", "content": "a small red square"},
        {"role": "user", "content": list(last) or [{"type": "text", "text": "on the left?"}]},
    ]


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(tiny_llava(dtype=torch.float32), tiny_processor(TEMPLATE))


def test_chat_is_the_prompt_that_the_template_writes(explainer: Explainer) -> None:
    e = explainer.explain(messages=chat(), answer=" a star")
    written = "system: two blue stars\nuser: <image>\nwhat is it?\nassistant: a small red square\nuser: on the left?\n"
    raw = explainer.explain(FIRST, f"{written}assistant:", " a star")
    np.testing.assert_array_equal(e.token_maps, raw.token_maps)
    assert e.settings["prompt_ids"] == raw.settings["prompt_ids"]
    assert e.prompt == "on the left?"
    assert e.grid.image_size == FIRST.size


def test_chat_is_saved_without_its_pictures(explainer: Explainer, tmp_path: Path) -> None:
    e = explainer.explain(messages=chat(), answer=" a star")
    loaded = Explanation.load(e.save(tmp_path / "e.safetensors"))
    assert [message["role"] for message in loaded.settings["messages"]] == ["system", "user", "assistant", "user"]
    assert loaded.settings["messages"][1]["content"][0] == {"type": "image"}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": FIRST},
        {"type": "image", "url": data_uri()},
        {"type": "image", "base64": data_uri().split(",")[1]},
        {"type": "image_url", "image_url": {"url": data_uri()}},
        {"type": "image_url", "image_url": data_uri()},
        {"type": "input_image", "image_url": data_uri()},
        {"type": "image"},
    ],
    ids=["image", "url", "base64", "image_url", "image_url as text", "input_image", "from image="],
)
def test_every_way_to_write_a_picture(explainer: Explainer, part: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": [part, {"type": "input_text", "text": "what is it?"}]}]
    e = explainer.explain(FIRST if len(part) == 1 else None, messages=messages, answer=" a")
    wanted = explainer.explain(FIRST, "user: <image>\nwhat is it?\nassistant:", " a")
    np.testing.assert_array_equal(e.token_maps, wanted.token_maps)


def test_images_of_several_turns(explainer: Explainer) -> None:
    messages = chat({"type": "text", "text": "and this? "}, {"type": "image"})
    e = explainer.explain(SECOND, messages=messages, answer=" a star")
    assert [grid.image_size for grid in e.grids] == [FIRST.size, SECOND.size]


def test_chat_in_a_batch_in_a_stream_and_for_alternatives(explainer: Explainer) -> None:
    explainer.model.generation_config.suppress_tokens = [0, 1, 2, 3]
    alone = explainer.explain(messages=chat(), max_new_tokens=3)
    request = ExplainRequest(messages=chat(), answer=None)
    for e in explainer.explain_many([request, request], max_new_tokens=3):
        np.testing.assert_allclose(e.token_maps, alone.token_maps, atol=1e-5)
        assert e.settings["messages"] == alone.settings["messages"]
    stream = explainer.stream(messages=chat(), max_new_tokens=3)
    assert [token.token_id for token in stream] == alone.token_ids.tolist()
    assert len(explainer.alternatives(messages=chat(), answer=" a star", k=2).targets or ()) == 2


def test_covering_the_picture_of_a_chat(explainer: Explainer) -> None:
    """Occlusion encodes changed pictures anew, in the chat."""
    e = explainer.explain(messages=chat(), answer=" a star", method="occlusion")
    earlier = "system: two blue stars\nuser: <image>\nwhat is it?\nassistant: a small red square\n"
    wanted = explainer.explain(FIRST, f"{earlier}user: on the left?\nassistant:", " a star", method="occlusion")
    np.testing.assert_allclose(e.token_maps, wanted.token_maps, atol=1e-5)


def test_other_keys_are_left_to_the_template() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}], "name": "me"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "zoom", "arguments": {}}}]},
        {"role": "tool", "content": "nothing"},
    ]
    conversation, _ = read_messages(messages, FIRST)
    assert conversation.messages[0]["name"] == "me"
    assert conversation.messages[1]["tool_calls"] == messages[1]["tool_calls"]
    assert conversation.question == "what?"


IMAGE = {"type": "image", "image": FIRST}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a chat as prompt": (
        {"image": FIRST, "prompt": chat()},
        r"prompt: expected text; got a list of messages\. Pass it",
    ),
    "prompt and chat": ({"prompt": "a", "messages": chat()}, r"prompt: expected a prompt or messages=.*; got both"),
    "nothing": ({"image": FIRST}, r"prompt: expected a prompt or messages=.*; got neither"),
    "no list": ({"messages": "what?"}, r"messages: expected a list such as .*; got str"),
    "empty": ({"messages": []}, r"messages: expected a list such as .*; got an empty list"),
    "text in the list": ({"messages": ["what?"]}, r"messages: expected messages with a role; number 0 is str"),
    "no role": ({"messages": [{"content": "a"}]}, r"messages: expected messages with a role; number 0 is dict"),
    "content of another kind": ({"messages": [{"role": "user", "content": 3}]}, r"content of message 0; got int"),
    "video": (
        {"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}]},
        r"messages: expected parts of type text, image or image_url; message 0 holds 'video'\. .*explain_ids",
    ),
    "text alone": (
        {"messages": [{"role": "user", "content": "what?"}]},
        r"messages: expected an image in at least one",
    ),
    "a picture too many": ({"messages": chat(), "image": FIRST}, r"image: expected 0, one for each .*; got 1"),
    "a picture missing": (
        {"messages": [{"role": "user", "content": [IMAGE, {"type": "image"}]}]},
        r"image: expected 1, one for each image part of messages that holds none; got 0",
    ),
    "the answer in the chat": (
        {"messages": [*chat(), {"role": "assistant", "content": "yes"}]},
        r"messages: expected to end with what the model answers; .* pass its text as answer=",
    ),
    "content_only": (
        {"messages": chat(), "text_set": "content_only"},
        r'text_set: "content_only" is known of a prompt',
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_chat_is_named(explainer: Explainer, bad: str) -> None:
    arguments, message = BAD[bad]
    with pytest.raises(InputError, match=message):
        explainer.explain(**{"answer": " a", **arguments})


def test_template_that_refuses_a_role() -> None:
    processor = tiny_processor("{% for m in messages %}{{ raise_exception('roles must alternate') }}{% endfor %}")
    with pytest.raises(InputError, match=r"messages: .* template does not take them \(roles must alternate\)"):
        Explainer(tiny_llava(dtype=torch.float32), processor).explain(messages=chat(), answer=" a")


def test_template_that_loses_an_image() -> None:
    processor = tiny_processor("{% for m in messages %}{{ m['role'] }}{% endfor %}")
    with pytest.raises(InputError, match=r"expected the chat template to write 1 <image>, .*; it wrote 0"):
        Explainer(tiny_llava(dtype=torch.float32), processor).explain(messages=chat(), answer=" a")


def test_no_template() -> None:
    processor = tiny_processor(chat_template=None)
    with pytest.raises(
        InputError, match=r"messages: LlavaProcessor has no chat template .*Pass a prompt, with <image>"
    ):
        Explainer(tiny_llava(dtype=torch.float32), processor).explain(messages=chat(), answer=" a")
