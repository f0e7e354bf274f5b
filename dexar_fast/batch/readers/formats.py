"""Records of serving engines and evaluation harnesses, as rows of a table.

Ids of the answer are taken wherever they are. Ids of the prompt are never used: the processor makes them, and
`prompt_length` says how many they must be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import InputError
from .tables import Record

QUESTION = ("image", "images", "prompt", "messages")
"""Columns of the question; whatever the format, they are taken where they are."""
FAILED = "Failed to obtain answer"
"""What VLMEvalKit writes in the place of an answer that it did not get."""


def translated(record: Record) -> Record:
    """The record with the columns of `rows.to_row`; one of no known format as it is.

    Raises:
        InputError: the format is known, and the record is not as it should be.
    """
    for marks, translate in FORMATS:
        if all(record.get(mark) is not None for mark in marks):
            found = {**translate(record), **{name: record[name] for name in QUESTION if record.get(name) is not None}}
            if found.get("messages") is not None:
                found["prompt"] = None  # an engine tells what its template made of them
            return found
    return record


def _vllm(record: Record) -> Record:
    """`RequestOutput` of `vllm.LLM.generate` or `.chat`, its fields as an object."""
    first = _first("outputs", record["outputs"])
    return {
        "id": record.get("id", record.get("request_id")),
        "answer": first.get("text"),
        "answer_ids": first.get("token_ids"),
        "prompt_length": _length(record.get("prompt_token_ids")),
    }


def _ray_llm(record: Record) -> Record:
    """A row that Ray Data LLM's vLLM processor wrote."""
    return {
        "id": record.get("id"),
        "answer": record.get("generated_text"),
        "answer_ids": record.get("generated_tokens"),
        "prompt_length": _length(record.get("prompt_token_ids")),
    }


def _completion(record: Record) -> Record:
    """A response of OpenAI's interface; vLLM adds ids where `return_token_ids` was asked for."""
    first = _first("choices", record["choices"])
    message, usage = first.get("message") or {}, record.get("usage") or {}
    length = _length(record.get("prompt_token_ids", first.get("prompt_token_ids")))
    return {
        "id": record.get("custom_id", record.get("id")),
        "answer": message.get("content", first.get("text")),
        "answer_ids": first.get("token_ids"),
        "prompt_length": usage.get("prompt_tokens") if length is None else length,
    }


def _response(record: Record) -> Record:
    """A line of a run-batch output (`response.body`), or a request beside its response."""
    response = record["response"]
    if not isinstance(response, Mapping):
        raise InputError(f"response: expected an object; got {type(response).__name__}")
    body = response.get("body", response)
    if response.get("status_code", 200) != 200 or not isinstance(body, Mapping) or "choices" not in body:
        return {"id": record.get("custom_id", record.get("id")), "error": f"response: {body!r:.200}"}
    name = record.get("custom_id", record.get("id"))
    request = record.get("request") or {}
    asked = {name: request[name] for name in QUESTION if name in request}
    return {**asked, **_completion(dict(body)), **({} if name is None else {"id": name})}


def _request(record: Record) -> Record:
    """A line of a run-batch input, which has the question."""
    body = record["body"]
    if not isinstance(body, Mapping):
        raise InputError(f"body: expected an object; got {type(body).__name__}")
    return {"id": record["custom_id"], **{name: body[name] for name in QUESTION if name in body}}


def _sglang(record: Record) -> Record:
    """What SGLang's `Engine.generate` or `/generate` returns."""
    meta = record.get("meta_info") or {}
    return {
        "id": record.get("id", record.get("rid", meta.get("id"))),
        "answer": record.get("text"),
        "answer_ids": record.get("output_ids"),
        "prompt_length": meta.get("prompt_tokens"),
    }


def _lmms_eval(record: Record) -> Record:
    """A line of lmms-eval's `--log_samples`: the first response to the first request, before filters if it is there."""
    responses = record.get("resps", record.get("filtered_resps"))
    paths = record.get("image_paths")
    return {
        "id": record["doc_id"],
        "prompt": record.get("input_text") or _text(record.get("input")) or _text(record.get("arguments")),
        "answer": _text(responses),
        **({"images": paths} if paths else {}),
    }


def _vlmevalkit(record: Record) -> Record:
    """A row of a VLMEvalKit result; its column `answer` is the truth, `prediction` what the model wrote."""
    prediction, question = str(record["prediction"]), _vlmevalkit_question(record)
    if FAILED in prediction:
        return {**question, "error": prediction}
    return {**question, "answer": prediction}


def _vlmevalkit_question(record: Record) -> Record:
    """A row of a VLMEvalKit data set."""
    found: Record = {"id": str(record["index"])}
    if record.get("image_path") is not None and record.get("image") is None:
        found["image"] = record["image_path"]
    if record.get("A") is None:  # options and hints are put around the question, each model in its way
        found["prompt"] = record.get("question")
    return found


# The fields by which a format is known. Results come before the questions that have some fields of theirs.
FORMATS: tuple[tuple[tuple[str, ...], Callable[[Record], Record]], ...] = (
    (("outputs", "prompt_token_ids"), _vllm),
    (("generated_tokens",), _ray_llm),
    (("generated_text",), _ray_llm),
    (("response",), _response),
    (("custom_id", "body"), _request),
    (("choices",), _completion),
    (("output_ids",), _sglang),
    (("text", "meta_info"), _sglang),
    (("doc_id", "resps"), _lmms_eval),
    (("doc_id", "filtered_resps"), _lmms_eval),
    (("index", "prediction"), _vlmevalkit),
    (("index", "question"), _vlmevalkit_question),
)


def _first(name: str, values: Any) -> Mapping[str, Any]:
    """The first of several answers."""
    if not isinstance(values, list) or not values or not isinstance(values[0], Mapping):
        raise InputError(f"{name}: expected a list of objects; got {values!r:.80}")
    first: Mapping[str, Any] = values[0]
    return first


def _length(ids: Any) -> int | None:
    return None if ids is None else len(ids)


def _text(value: Any) -> str | None:
    """The first text in nested lists and objects."""
    if isinstance(value, str):
        return value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return next((text for each in inner if (text := _text(each)) is not None), None)
