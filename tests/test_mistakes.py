"""What people pass by mistake: each is named for what it is, with the way out; none is explained without a word."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Pipeline

from dexar_fast import Explainer, ExplainIdsRequest, InputError

from .explanations import make_explanation
from .tiny import IMAGE_TOKEN_ID, picture, tiny_llava, tiny_processor

QUESTION = "what is it?"


@cache
def explainer() -> Explainer:
    model = tiny_llava(dtype=torch.float32)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = 2
    model.generation_config.suppress_tokens = [0, 1, 2, IMAGE_TOKEN_ID]
    return Explainer(model, tiny_processor())


@cache
def inputs() -> dict[str, Tensor]:
    return explainer().encode([picture()], QUESTION, "a")[0]


def ids(answer_ids: Any, **options: Any) -> Callable[[], object]:
    return lambda: explainer().explain_ids(inputs(), answer_ids, **options)


def changed(**values: Any) -> Callable[[], object]:
    return lambda: explainer().explain_ids({**inputs(), **values}, [70, 80])


def explain(*arguments: Any, **options: Any) -> Callable[[], object]:
    return lambda: explainer().explain(*arguments, **options)


def made_of(model: Any) -> Callable[[], object]:
    return lambda: Explainer(model)


def whole_output() -> object:
    written = explainer().model.generate(**inputs(), max_new_tokens=3, do_sample=False)
    return explainer().explain_ids(inputs(), written)


def batch_of_two() -> object:
    return explainer().explain_ids({name: torch.cat((value, value)) for name, value in inputs().items()}, [70, 80])


def text_alone() -> object:
    words = torch.tensor([[1, 70, 80]])
    return explainer().explain_ids({"input_ids": words, "attention_mask": torch.ones_like(words)}, [70])


def left_padded() -> object:
    padded = {
        **inputs(),
        "input_ids": torch.nn.functional.pad(inputs()["input_ids"], (2, 0)),
        "attention_mask": torch.nn.functional.pad(inputs()["attention_mask"], (2, 0)),
    }
    return explainer().explain_ids(padded, [70, 80])


def uncropped() -> object:
    """Settings in the call that were not told: the model saw all of the picture, not its middle."""
    wide = picture(48, 24)
    processed = explainer().processor(
        images=[[wide]], text=[f"<image> {QUESTION}"], return_tensors="pt", size={"height": 24, "width": 48},
        crop_size={"height": 24, "width": 48},
    )  # fmt: skip
    return explainer().explain_ids(dict(processed), [70], image=wide)


WRITTEN = SimpleNamespace(sequences=torch.tensor([[70, 80]]), scores=())
BAD: dict[str, tuple[Callable[[], object], str]] = {
    "a batch of two": (batch_of_two, r"model_inputs: expected one prompt, .*; got a batch of 2\. .*explain_many"),
    "generate's whole output": (
        whole_output,
        r"got prompt and answer, as generate returns them.*Pass output\[:, ",
    ),
    "generate's output object": (
        ids(WRITTEN),
        r"generate's output with what comes beside them\. Pass output\.",
    ),
    "two answers": (ids([[70, 80], [90, 100]]), r"answer_ids: expected one answer, .*; got 2 of a batch"),
    "answers of several lengths": (
        ids([[70, 80], [90]]),
        r"answer_ids: expected integers \(T,\) or \(1, T\); got list",
    ),
    "pads behind the end": (ids([70, 80, 2, 0, 0]), r"answer: expected no padding; got 2 ids .*Pass answer_ids\[:3\]"),
    "pads without an end": (ids([70, 80, 0]), r"answer: expected no padding; got 1 ids .*Pass answer_ids\[:2\]"),
    "labels": (ids([70, -100, -100]), r"answer: expected ids from 0 to 299; got -100 at token 1\. .*padding"),
    "another tokenizer's ids": (ids([70, 151645]), r"answer: .*got 151645 at token 1\. .* of another tokenizer"),
    "text as ids": (ids("a cat"), r"answer_ids: expected ids; got text\. Use explain\(\)"),
    "words as ids": (ids(["a", "cat"]), r"answer_ids: expected ids; got text"),
    "logits as ids": (ids(torch.rand(4)), r"answer_ids: expected integers .*; got torch.float32 \(4,\)"),
    "no answer": (ids([]), r"answer: expected at least one token; got an empty answer"),
    "an image in the answer": (ids([70, IMAGE_TOKEN_ID]), r"answer: contains the image token \(id 3\)"),
    "text alone": (text_alone, r"model_inputs: expected an image; got a prompt of text alone"),
    "padding before the prompt": (left_padded, r"model_inputs: expected no padding; got an attention_mask with zeros"),
    "ids as model inputs": (
        lambda: explainer().explain_ids(inputs()["input_ids"], [70]),  # type: ignore[arg-type]
        r"model_inputs: expected what the processor returned, .*; got Tensor",
    ),
    "lists as model inputs": (
        changed(pixel_values=[1]),
        r"expected tensors; pixel_values is list\. Use return",
    ),
    "no pixels": (
        lambda: explainer().explain_ids({"input_ids": inputs()["input_ids"]}, [70]),
        r"model_inputs: expected pixel_values of the image; got input_ids",
    ),
    "inputs of another model": (changed(image_grid_thw=torch.ones(1, 3)), r"got also image_grid_thw, .*Leave them out"),
    "one picture for two": (ids([70], image=[picture(), picture()]), r"image: 2 given, but the model inputs hold 1"),
    "settings that were not told": (
        uncropped,
        r"the processor's settings make 24 x 24 pixels .*48 x 24\. .*proc",
    ),
    "settings that do not exist": (
        explain(picture(), QUESTION, "a", image_kwargs={"do_centre_crop": False}),
        r"image_kwargs: CLIPImageProcessorPil has no do_centre_crop; it takes .*do_center_crop",
    ),
    "settings that are no mapping": (
        explain(picture(), QUESTION, "a", image_kwargs=["a"]),
        r"image_kwargs: expected",
    ),
    "no image": (explain(None, QUESTION, "a"), r"image: expected a PIL image, a path, bytes, .*; got NoneType"),
    "no prompt": (explain(picture()), r"prompt: expected a prompt or messages=.*; got neither"),
    "a chat as prompt": (
        explain(picture(), [{"role": "user", "content": QUESTION}], "a"),
        r"prompt: expected text; got a list of messages\. Pass it as messages=",
    ),
    "a list of prompts": (explain(picture(), [QUESTION], "a"), r"prompt: expected text; got list"),
    "a list of answers": (
        explain(picture(), QUESTION, ["a", "b"]),
        r"answer: expected text; got list\. Explain",
    ),
    "a colour that is none": (
        explain(picture(), QUESTION, "a", background="whitish"),
        r"background: expected a colour",
    ),
    "a URL": (explain("https://host/a.png", QUESTION, "a"), r"is a URL, and nothing is fetched .*allow_urls=True"),
    "a name as model": (
        lambda: Explainer("a/model"),
        r"model: expected a loaded model; got 'a/model'\. Explainer\.from_p",
    ),
    "a number as model": (lambda: Explainer(3), r"model: expected a model of transformers, or a pipeline.*; got int"),
    "a batch in a batch": (
        lambda: list(explainer().explain_many([ExplainIdsRequest(inputs(), [[70], [80]])])),  # type: ignore[list-item]
        r"request 0: answer_ids: expected one answer, .*; got 2 of a batch",
    ),
    "a report into no folder": (
        lambda: make_explanation([" a"]).to_html("/no/such/folder/report.html"),
        r"path: expected a file in a folder that exists; got /no/such/folder/report.html",
    ),
    "a file into no folder": (
        lambda: make_explanation([" a"]).save("/no/such/folder/e"),
        r"path: expected a file",
    ),
}


@pytest.mark.parametrize("mistake", BAD)
def test_mistake_is_named(mistake: str) -> None:
    call, message = BAD[mistake]
    with pytest.raises(InputError, match=message):
        call()


def test_an_answer_may_end_with_its_end() -> None:
    e = explainer().explain_ids(inputs(), [70, 80, 2])
    assert e.token_ids.tolist() == [70, 80, 2]


def test_pads_that_are_end_tokens() -> None:
    """Many tokenizers pad with the end token: one of them is the end."""
    model = tiny_llava(dtype=torch.float32)
    model.generation_config.pad_token_id = model.generation_config.eos_token_id = 2
    model.config.text_config.pad_token_id = 2
    processor = tiny_processor()
    processor.tokenizer.pad_token = "</s>"
    own = Explainer(model, processor)
    assert len(own.explain_ids(inputs(), [70, 80, 2]).tokens) == 3
    with pytest.raises(InputError, match=r"got 2 ids of it \(id 2\) from token 3 on.*answer_ids\[:3\]"):
        own.explain_ids(inputs(), [70, 80, 2, 2, 2])


def test_ids_that_the_tokenizer_does_not_know_are_told() -> None:
    model = tiny_llava(dtype=torch.float32)
    model.resize_token_embeddings(310, mean_resizing=False)  # models have more rows than tokens: it makes them faster
    with pytest.warns(UserWarning, match=r"answer: id 305 is no token of the model's tokenizer, which has 300\."):
        Explainer(model, tiny_processor()).explain_ids(inputs(), [70, 305])


def test_words_that_the_tokenizer_does_not_know_are_told() -> None:
    """The embedded model answers a photo's question, of which it knows no word, as fluently as any."""
    demo = Explainer.from_pretrained("demo", device="cpu", self_test=False)
    with pytest.warns(UserWarning, match=r"prompt: the model's tokenizer does not know \d of its words"):
        demo.explain(picture(), "Who painted this portrait?", "a red circle")


def test_model_and_processor_of_a_pipeline() -> None:
    class Own(Pipeline):
        def __init__(self, model: Any, processor: Any) -> None:
            self.model, self.processor = model, processor

        def _sanitize_parameters(self, **_: Any) -> Any: ...
        def preprocess(self, *_: Any, **__: Any) -> Any: ...
        def _forward(self, *_: Any, **__: Any) -> Any: ...
        def postprocess(self, *_: Any, **__: Any) -> Any: ...

    made = Explainer(Own(explainer().model, explainer().processor))
    assert made.model is explainer().model
    assert made.processor is explainer().processor


@pytest.mark.parametrize("texts", ["two", ["<|endoftext|>", "two"]], ids=["one", "several"])
def test_stop_strings_of_a_checkpoint(texts: Any) -> None:
    """They need the tokenizer, which the explainer has; the answer ends behind the first of them."""
    own = Explainer(tiny_llava(dtype=torch.float32), tiny_processor())
    config = own.model.generation_config
    config.suppress_tokens = [0, 1, 2, IMAGE_TOKEN_ID]
    free = own.explain(picture(), QUESTION, max_new_tokens=6)
    written = "".join(free.tokens[:3]).strip()[-2:]
    config.stop_strings = written if isinstance(texts, str) else ["<|endoftext|>", written]
    stopped = own.explain(picture(), QUESTION, max_new_tokens=6)
    n = len(stopped.tokens)
    assert written in "".join(stopped.tokens)
    assert written not in "".join(stopped.tokens[: n - 1])
    np.testing.assert_array_equal(stopped.token_ids, free.token_ids[:n])
    stream = own.stream(picture(), QUESTION, max_new_tokens=6)
    assert [token.token_id for token in stream] == stopped.token_ids.tolist()
    assert config.stop_strings, "the configuration is left as it was"


def test_settings_of_the_call_say_what_the_model_saw(tmp_path: Path) -> None:
    """The same picture, uncropped: the map covers all of it, told to `explain` or to `explain_ids`."""
    wide, settings = picture(72, 24), {"size": {"height": 24, "width": 24}}
    cropped = explainer().explain(wide, QUESTION, "a")
    whole = explainer().explain(wide, QUESTION, "a", image_kwargs=settings)
    assert cropped.grid.box == (24.0, 0.0, 48.0, 24.0)
    assert whole.grid.box == (0.0, 0.0, 72.0, 24.0)
    processed = explainer().processor(
        images=[[wide]], text=[f"<image> {QUESTION}"], return_tensors="pt", padding=True, **settings
    )
    told = explainer().explain_ids(dict(processed), whole.token_ids, image=wide, processor_kwargs=settings)
    assert told.grid.box == whole.grid.box
    request = ExplainIdsRequest(dict(processed), whole.token_ids, wide, processor_kwargs=settings)
    (many,) = explainer().explain_many([request])
    assert many.grid.box == whole.grid.box
    nested = {"images_kwargs": settings, "padding": True}
    told = explainer().explain_ids(dict(processed), whole.token_ids, image=wide, processor_kwargs=nested)
    assert told.grid.box == whole.grid.box
    assert whole.settings["image_kwargs"] == settings
    assert explainer().processor.image_processor.size["shortest_edge"] == 24, "the processor is left as it was"
