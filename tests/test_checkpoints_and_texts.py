"""Checkpoints that are cut off, and texts that no tokenizer takes: one line that says so, before anything expensive."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from dexar_fast import Explainer, InputError
from dexar_fast.cli import run as cli_run
from dexar_fast.cli.app import app

from .tiny import picture, tiny_llava, tiny_processor

HALF = "a \ud83d b"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_llava(dtype=torch.float32, layers=1).save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.5, 0.999])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "model: the weights of .* cannot be read, a file is cut off or damaged"),
        ("tokenizer.json", "model: the (tokenizer or )?processor of .* cannot be (read|built)"),
        ("config.json", "model: .* is no folder with a config.json|is of no type that transformers"),
    ],
    ids=["weights", "tokenizer", "config"],
)
def test_a_file_that_is_cut_off(folder: Path, name: str, message: str, share: float) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(share * len(data))])
    with pytest.raises((InputError, TypeError), match=message):
        Explainer.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(tiny_llava(dtype=torch.float32), tiny_processor())


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        ({"prompt": HALF, "answer": "b"}, "prompt"),
        ({"prompt": "what?", "answer": HALF}, "answer"),
        ({"prompt": "what?", "answer": "b", "contrast": HALF}, "contrast"),
    ],
    ids=["prompt", "answer", "contrast"],
)
def test_half_a_character(explainer: Explainer, texts: dict[str, str], name: str) -> None:
    with pytest.raises(
        InputError, match=rf"{name}: expected text of whole characters; got half of one \('\\ud83d'\) at 2"
    ):
        explainer.explain(picture(), **texts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", " "], "prompt: expected text; got an empty prompt"),
        (["-p", HALF], "prompt: expected text of whole characters"),
        (["-p", "what?", "--answer", ""], "answer: expected at least one token"),
        (["-p", "what?", "--answer", HALF], "answer: expected text of whole characters"),
    ],
    ids=["empty prompt", "half in the prompt", "empty answer", "half in the answer"],
)
@pytest.mark.parametrize("command", ["explain", "profile"])
def test_texts_are_checked_before_the_model_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr(cli_run, "load_explainer", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.chdir(folder)
    picture().save("picture.png")
    done = CliRunner().invoke(app, [command, "picture.png", "-m", ".", *arguments])
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert done.output.count("\n") == 1


def test_a_model_that_takes_no_prompt_takes_an_empty_one(tmp_path: Path) -> None:
    from dexar_fast.models.loading import check_prompt

    (tmp_path / "config.json").write_text(
        '{"model_type": "vision-encoder-decoder", "encoder": {"model_type": "vit"}, "decoder": {"model_type": "trocr"}}'
    )
    check_prompt(tmp_path, "")


def test_an_answer_that_the_tokenizer_does_not_know() -> None:
    explainer = Explainer.from_pretrained("demo", device="cpu", self_test=False)
    with pytest.warns(
        UserWarning, match="answer: the model's tokenizer does not know 1 of its words, and writes <unk>"
    ):
        explainer.explain(picture(48, 48), "describe the image", "a zebra")
