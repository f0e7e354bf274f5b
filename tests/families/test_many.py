"""Batches of requests on every family: the same numbers as one by one, and nobody loses batching unnoticed."""

from __future__ import annotations

import pytest
from torch import Tensor

from dexar_fast import Explainer, ExplainIdsRequest, Explanation

from ..test_many import assert_equal
from .case import Case, answer, picture
from .oracle import DoubleThroughout
from .test_families import each_family, encode, explainer_of

ONE_BY_ONE = {
    *("florence2", "mllama", "trocr", "donut", "vit_gpt2"),  # cross-attention
    *("lfm2_vl", "lfm2_vl, no thumbnail", "qwen3_5", "qwen3_5_moe"),  # layers with a state
    *("minicpmv4_6", "minicpmv4_7", "minicpm_ocr"),
    "llama4",  # its attention counts padding
    *("blip_2, T5", "instructblip, T5"),  # an encoder
    "paligemma2",  # here the prompts are longer than the sliding window, which asks for masks of their own
}


def requests_of(explainer: Explainer, prompts: list[dict[str, Tensor]]) -> list[ExplainIdsRequest]:
    """Answers of different lengths to prompts, given as model inputs."""
    vocabulary = explainer.decoder.vocabulary_size
    lengths = (3, 7, 1, 5, 2, 4)
    return [ExplainIdsRequest(inputs, answer(n, vocabulary, seed=n)) for inputs, n in zip(prompts, lengths)]


def one_by_one(explainer: Explainer, requests: list[ExplainIdsRequest]) -> list[Explanation]:
    return [explainer.explain_ids(request.model_inputs, request.answer_ids) for request in requests]


@each_family
def test_different_prompts(case: Case, recwarn: pytest.WarningsRecorder) -> None:
    """Of different lengths, the image in different places, one image or two, or a video."""
    explainer = explainer_of(case)
    prompts = [encode(explainer, case, prompt)[0] for prompt in case.prompts]
    text, n_images = next(iter(case.prompts.values()))
    longer, _ = explainer.encode([picture((60, 30), seed=2)] * n_images, f"{text} and a green circle on the left", "a")
    requests = requests_of(explainer, [*prompts, longer])
    lengths = {explainer.decoder.prompt_ids(prompt).shape[1] for prompt in (*prompts, longer)}
    assert len(lengths) > 1 or "input_ids" not in longer
    with DoubleThroughout():
        together = list(explainer.explain_many(requests))
        alone = one_by_one(explainer, requests)
    of_users = [str(warning.message) for warning in recwarn if warning.category is UserWarning]
    # The ids are random: some models have more of them than their tokenizers.
    assert not [message for message in of_users if "is no token of the model's tokenizer" not in message]
    expected = 1 if case.name in ONE_BY_ONE else len(requests)
    assert [e.settings["batch"] for e in together] == [expected] * len(requests)
    for one, other in zip(together, alone, strict=True):
        assert_equal(one, other)


@each_family
def test_answers_of_one_prompt(case: Case) -> None:
    """Share one run of it."""
    explainer = explainer_of(case)
    requests = requests_of(explainer, [encode(explainer, case, next(iter(case.prompts)))[0] for _ in range(2)])
    with DoubleThroughout():
        together = list(explainer.explain_many(requests))
        alone = one_by_one(explainer, requests)
    assert [e.settings["batch"] for e in together] == ([1, 1] if case.name in ONE_BY_ONE else [2, 2])
    if explainer.family.rows == "cached":
        assert [e.settings["cache"] for e in together] == ["new", "reused"]
    for one, other in zip(together, alone, strict=True):
        assert_equal(one, other)
