"""How models are loaded besides a folder and a dtype: placement, quantisation, the hub's answers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import AutoConfig, AutoModelForMultimodalLM, BitsAndBytesConfig

from dexar_fast import Explainer, InputError
from dexar_fast.models import hub
from dexar_fast.models.loading import Loading

from .tiny import tiny_llava, tiny_processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_llava(dtype=torch.float32, layers=2).save_pretrained(path)
    tiny_processor().save_pretrained(path)
    return path


def test_options_reach_transformers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    original = AutoModelForMultimodalLM.from_pretrained

    def remember(*args: Any, **kwargs: Any) -> Any:
        asked.update(kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(AutoModelForMultimodalLM, "from_pretrained", remember)
    explainer = Explainer.from_pretrained(
        folder, device_map={"": "cpu"}, torch_dtype="bfloat16", revision="main", use_safetensors=True, self_test=False
    )
    assert explainer.model.dtype == torch.bfloat16
    assert (asked["device_map"], asked["revision"]) == ({"": "cpu"}, "main")
    assert asked["use_safetensors"] is True
    assert asked["trust_remote_code"] is False


def test_home_is_where_a_folder_may_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert Explainer.from_pretrained(f"~/{folder.name}", device="cpu", self_test=False).processor is not None


def test_code_runs_only_where_it_is_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    original = AutoConfig.from_pretrained

    def remember(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["trust_remote_code"])
        return original(*args, **kwargs)

    monkeypatch.setattr(AutoConfig, "from_pretrained", remember)
    for trusted in (False, True):
        seen.clear()
        Explainer.from_pretrained(folder, device="cpu", trust_remote_code=trusted, self_test=False)
        assert set(seen) == {trusted}


def test_quantisation_and_memory_become_what_transformers_takes() -> None:
    cpu = torch.device("cpu")
    assert Loading().placement(cpu, torch.float32) == {}
    four = Loading(load_in_4bit=True).placement(cpu, torch.bfloat16)
    assert four["device_map"] == {"": cpu}
    assert four["quantization_config"].bnb_4bit_quant_type == "nf4"
    assert four["quantization_config"].bnb_4bit_compute_dtype == torch.bfloat16
    own = BitsAndBytesConfig(load_in_8bit=True)
    assert Loading(quantization_config=own, device_map="auto").placement(cpu, torch.float32) == {
        "quantization_config": own,
        "device_map": "auto",
    }
    spread = Loading(max_memory={"0": "20GiB", "cpu": "60GiB"}).placement(cpu, torch.float32)
    assert spread == {"max_memory": {0: "20GiB", "cpu": "60GiB"}, "device_map": "auto"}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "two places": ({"device": "cpu", "device_map": "auto"}, r"device: expected a device, or device_map"),
    "two dtypes": ({"dtype": "float32", "torch_dtype": "bfloat16"}, r"torch_dtype: it is another name of dtype"),
    "two ways to quantise": (
        {"load_in_4bit": True, "load_in_8bit": True},
        r"load_in_4bit: expected one way to quantise; got load_in_4bit and load_in_8bit",
    ),
    "an argument that does not exist": ({"attn_implementatoin": "eager"}, r"model_kwargs: attn_implementatoin"),
    "attention that does not exist": ({"attn_implementation": "flash"}, r"cannot be loaded this way"),
}


@pytest.mark.parametrize("bad", BAD)
def test_wrong_options_are_named(folder: Path, bad: str) -> None:
    options, message = BAD[bad]
    with pytest.raises(InputError, match=message):
        Explainer.from_pretrained(folder, self_test=False, **options)


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_quantisation_without_its_package(folder: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be loaded this way, a package is missing \(.*bitsandbytes"):
        Explainer.from_pretrained(folder, load_in_8bit=True, self_test=False)


class Response:
    """As much of an answer of the hub as its errors look at."""

    status_code, headers, request, text = 403, {"x-request-id": "1"}, None, ""


def refusing(error: type[Exception]) -> Any:
    def refuse(*_: Any, **__: Any) -> Any:
        raise error("no", response=Response())  # type: ignore[call-arg]

    return refuse


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GatedRepoError, r"model: 'a/model' is gated: .*\nAccept them at https://huggingface.co/a/model, then log in"),
        (RepositoryNotFoundError, r"model: the hub has no 'a/model' that you may see\.\nCheck the name"),
        (RevisionNotFoundError, r"revision: 'a/model' has no 'v9'\.\nPass a branch"),
    ],
)
def test_what_the_hub_answers_is_told_in_two_lines(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], message: str
) -> None:
    monkeypatch.setattr(hub.constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(hub, "get_hf_file_metadata", refusing(error))
    with pytest.raises(InputError, match=message) as told:
        Explainer.from_pretrained("a/model", revision="v9")
    assert str(told.value).count("\n") == 1


def test_without_a_network_the_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def unreachable(url: str, **_: Any) -> Any:
        asked.append(url)
        raise ConnectionError("no network")

    monkeypatch.setattr(hub.constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(hub, "get_hf_file_metadata", unreachable)
    with pytest.raises(InputError, match=r"nor a hub id that can be reached or is cached\.\nCheck") as told:
        Explainer.from_pretrained("a/model")
    assert len(asked) == 1
    assert str(told.value).count("\n") == 1
