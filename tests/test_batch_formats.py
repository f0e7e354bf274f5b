"""What serving engines and evaluation harnesses write, read as rows of a data set."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from dexar_fast import Explainer
from dexar_fast.demo.scenes import draw_scene

pytest.importorskip("pyarrow")

from dexar_fast import batch
from dexar_fast.batch.readers.choose import read
from dexar_fast.batch.rows import Row

from .test_batch import PROMPT, table

IDS = [5, 6, 7]
PROMPT_IDS = [1] * 9
CHAT = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "0.png"}},
                                     {"type": "text", "text": PROMPT}]}]  # fmt: skip

Make = Callable[[], dict[str, Any]]


def vllm() -> dict[str, Any]:
    outputs = [{"index": 0, "text": "a red star", "token_ids": IDS, "finish_reason": "stop"}]
    return {"request_id": "a", "prompt": PROMPT, "prompt_token_ids": PROMPT_IDS, "outputs": outputs, "image": "0.png"}


def completion() -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "a red star"}, "token_ids": IDS}
    return {"id": "a", "object": "chat.completion", "choices": [choice], "prompt_token_ids": PROMPT_IDS}


def openai() -> dict[str, Any]:
    return {**completion(), "messages": CHAT}


def beside_its_request() -> dict[str, Any]:
    return {"id": "a", "request": {"model": "m", "messages": CHAT}, "response": {**completion(), "id": "chatcmpl-1"}}


def sglang() -> dict[str, Any]:
    meta = {"id": "a", "prompt_tokens": 9, "finish_reason": {"type": "stop"}}
    return {"text": "a red star", "output_ids": IDS, "meta_info": meta, "prompt": PROMPT, "image": "0.png"}


def ray_llm() -> dict[str, Any]:
    return {"id": "a", "generated_text": "a red star", "generated_tokens": IDS, "prompt_token_ids": PROMPT_IDS,
            "messages": CHAT}  # fmt: skip


def only(folder: Path, record: dict[str, Any], **options: Any) -> Row:
    """The row of one record."""
    path = folder / "input.jsonl"
    path.write_text(json.dumps(record))
    (row,) = read(path, **options)
    return row


def vllm_chat() -> dict[str, Any]:
    return {**vllm(), "prompt": "USER: <image> describe", "image": None, "messages": CHAT}


@pytest.mark.parametrize("make", [vllm, vllm_chat, openai, beside_its_request, sglang, ray_llm])
def test_ids_are_taken_and_the_length_of_the_prompt(make: Make, tmp_path):
    row = only(tmp_path, make())
    assert row.error is None
    assert (row.id, row.prompt, row.images) == ("a", PROMPT, (tmp_path / "0.png",))
    assert (row.answer, row.answer_ids, row.prompt_length, row.answer_from) == ("a red star", tuple(IDS), 9, "ids")


def test_without_ids_the_text_is_taken_and_that_is_told(tmp_path):
    record = openai()
    del record["choices"][0]["token_ids"], record["prompt_token_ids"]
    row = only(tmp_path, {**record, "usage": {"prompt_tokens": 8}})
    assert (row.answer_ids, row.answer, row.answer_from, row.prompt_length) == (None, "a red star", "text", 8)


def test_run_batch_output_with_the_questions_of_its_input(tmp_path):
    asked, answered = tmp_path / "asked.jsonl", tmp_path / "answered.jsonl"
    body = {"model": "m", "messages": CHAT}
    lines = [{"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body} for name in "ab"]
    asked.write_text("\n".join(map(json.dumps, lines)))
    failure = {"status_code": 400, "request_id": "r", "body": {"message": "too long"}}
    results = [
        {"id": "vllm-1", "custom_id": "b", "response": {"status_code": 200, "body": completion()}, "error": None},
        {"id": "vllm-2", "custom_id": "a", "response": failure, "error": None},
        {"id": "vllm-3", "custom_id": "c", "response": {"status_code": 200, "body": completion()}, "error": None},
    ]
    answered.write_text("\n".join(map(json.dumps, results)))
    good, bad, unknown = read(answered, questions=asked)
    assert (good.id, good.prompt, good.answer_ids, good.error) == ("b", PROMPT, tuple(IDS), None)
    assert bad.id == "a"
    assert "too long" in str(bad.error)
    assert "there is none of id 'c'" in str(unknown.error)


@pytest.mark.parametrize(
    "arguments",
    [[PROMPT, {"max_new_tokens": 16}, "task"], {"gen_args_0": {"arg_0": PROMPT, "arg_1": {}}}, [[PROMPT, "task"]]],
    ids=["flat", "named", "nested"],
)
def test_lmms_eval_samples(arguments, tmp_path):
    record = {"doc_id": 3, "target": "star", "arguments": arguments, "resps": [["a red star"]],
              "filtered_resps": ["red star"], "doc": {}}  # fmt: skip
    images = tmp_path / "images.jsonl"
    images.write_text(json.dumps({"id": 3, "image": "0.png"}))
    row = only(tmp_path, record, questions=images)
    assert row.error is None
    assert (row.id, row.prompt, row.answer, row.answer_from) == ("3", PROMPT, "a red star", "text")


def in_base64(seed: int) -> str:
    png = BytesIO()
    draw_scene(seed).image.save(png, "PNG")
    return base64.b64encode(png.getvalue()).decode()


@pytest.mark.parametrize("kind", ["xlsx", "tsv"])
def test_vlmevalkit_results_with_the_pictures_of_their_data_set(kind, tmp_path):
    data = tmp_path / "data.tsv"
    long_picture = in_base64(0) + "\n"
    data.write_text(f"index\timage\tquestion\n1\t{long_picture.strip()}\t{PROMPT}\n2\t1\t{PROMPT}\n")
    head = ["index", "question", "answer", "prediction"]
    lines: list[list[Any]] = [
        [1, PROMPT, "the truth", "a red star"],
        [2, PROMPT, "the truth", "Failed to obtain answer via API."],
    ]
    result = tmp_path / f"result.{kind}"
    if kind == "xlsx":
        book = pytest.importorskip("openpyxl").Workbook()
        for line in [head, *lines]:
            book.active.append(line)
        book.save(result)
    else:
        result.write_text("\n".join("\t".join(map(str, line)) for line in [head, *lines]))
    good, bad = read(result, questions=data)
    assert good.error is None
    assert (good.id, good.prompt, good.answer) == ("1", PROMPT, "a red star")
    assert good.images == (base64.b64decode(in_base64(0)),)
    assert "was not written (Failed to obtain answer" in str(bad.error)


def test_questions_with_options_are_not_guessed(tmp_path):
    row = only(tmp_path, {"index": 1, "question": "which ?", "A": "x", "prediction": "A", "image": "0.png"})
    assert str(row.error).startswith("InputError: prompt: expected text")


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.from_pretrained("demo", device="cpu", self_test=False)


@pytest.mark.parametrize("more", [0, 1])
def test_the_prompt_is_made_again_and_its_length_compared(more, explainer, tmp_path):
    draw_scene(0).image.save(tmp_path / "0.png")
    inputs, ids = explainer.encode([draw_scene(0).image], PROMPT, "a red star")
    record = {**vllm(), "prompt_token_ids": [0] * (inputs["input_ids"].shape[1] + more)}  # the ids themselves are wrong
    record["outputs"][0]["token_ids"] = ids.tolist()
    (tmp_path / "input.jsonl").write_text(json.dumps(record))
    batch.run(explainer, tmp_path / "input.jsonl", tmp_path / "out")
    (row,) = table(tmp_path / "out")
    if more:
        length = inputs["input_ids"].shape[1]
        assert f"expected {length + 1} ids" in row["error"]
        assert f"makes {length} of it" in row["error"]
    else:
        assert row["error"] is None
        assert (row["token_ids"], row["answer_from"]) == (ids.tolist(), "ids")


@pytest.mark.parametrize("answer", ["column", "last-message", "none"])
def test_a_chat_is_explained_as_by_explain(answer, explainer, tmp_path):
    draw_scene(0).image.save(tmp_path / "0.png")
    record: dict[str, Any] = {"messages": CHAT}
    if answer == "column":
        record["answer"] = "a red star"
    elif answer == "last-message":
        record["messages"] = [*CHAT, {"role": "assistant", "content": "a red star"}]
    (tmp_path / "input.jsonl").write_text(json.dumps(record))
    batch.run(explainer, tmp_path / "input.jsonl", tmp_path / "out", maps="float32", max_new_tokens=4)
    text = None if answer == "none" else "a red star"
    expected = explainer.explain(
        tmp_path / "0.png", messages=[{"role": "user", "content": [{"type": "image"}, CHAT[0]["content"][1]]}],
        answer=text, method="dexar-focus", max_new_tokens=4,
    )  # fmt: skip
    found = batch.open(tmp_path / "out")["0"]
    assert found.tokens == expected.tokens
    assert found.prompt == PROMPT
    assert found.token_maps == pytest.approx(expected.token_maps, abs=1e-5)
    (row,) = table(tmp_path / "out")
    assert row["answer_from"] == ("model" if text is None else "text")
