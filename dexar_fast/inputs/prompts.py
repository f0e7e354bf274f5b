"""Prompt and answer as token ids, and which of them belong to the template."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..models.family import encoded
from ..stages import stage
from .tokens import require_characters

# Two prompts that share no token: what a prompt has in common with both is the template's.
_PROBES = ("a", "?")


class PromptEncoder:
    """Encodes prompts for one processor.

    A prompt that holds the image token is taken as it is, as is one for a processor that puts the image in front by
    itself; any other is put into the chat template, behind the images.

    Args:
        processor: of the model.
        prompt_image: attribute of the processor that holds the image token, as in `Family.prompt_image`.
        encode, needed, several: as `Family.encode`, `Family.prompt_needed` and `Family.several_images`.
    """

    def __init__(
        self,
        processor: Any,
        prompt_image: str | None = "image_token",
        encode: Callable[[Any, list[Image.Image], str], dict[str, Tensor]] = encoded,
        needed: bool = True,
        several: bool = True,
    ) -> None:
        self.processor, self.needed, self.several = processor, needed, several
        self.encode_with = encode
        self.tokenizer = processor.tokenizer
        self.image_token: str | None = None if prompt_image is None else getattr(processor, prompt_image)

    @stage("encoding")
    def encode(self, images: Sequence[Image.Image], prompt: str) -> dict[str, Tensor]:
        """Model inputs of one prompt with its images.

        Raises:
            InputError: an empty prompt or no text, more or fewer image places than images, several images where the
                model takes one, or neither a place nor a chat template.
        """
        return self.encode_with(self.processor, list(images), self.render(prompt, len(images)))

    def render(self, prompt: str, n_images: int = 1) -> str:
        """The text that is tokenized: the prompt itself, or the chat template around it.

        Raises:
            InputError: see `encode`.
        """
        if not isinstance(prompt, str):
            raise InputError(f"prompt: expected text; got {type(prompt).__name__}")
        require_characters("prompt", prompt)
        if self.needed and not prompt.strip():
            raise InputError("prompt: expected text; got an empty prompt")
        image_token = self.image_token
        if n_images > 1 and not self.several:
            raise InputError(f"image: this model takes one image per prompt; got {n_images}. Explain them one by one.")
        if image_token is None:
            return prompt
        places = prompt.count(image_token)
        if places not in (0, n_images):
            raise InputError(f"prompt: expected {n_images} {image_token}, one for each image; got {places}")
        if places:
            return prompt
        if not self.processor.chat_template:
            raise InputError(
                f"prompt: no place for the image. Put {image_token} where the image belongs, for example "
                f"'{image_token}\\n{prompt}'; this processor has no chat template to do it."
            )
        content = [{"type": "image"}] * n_images + [{"type": "text", "text": prompt}]
        text: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        return text

    def probe(self) -> str:
        """A short prompt that `render` takes, with one image."""
        if self.image_token is None or self.processor.chat_template:
            return _PROBES[0]
        return f"{self.image_token} {_PROBES[0]}"

    def encode_answer(self, answer: str) -> Tensor:
        """``(T,)`` int64 ids of an answer, without special tokens, exactly as written (a leading space counts).

        Warns where the tokenizer does not know a part of it.

        Raises:
            InputError: it is no text, or holds halves of characters.
        """
        if not isinstance(answer, str):
            raise InputError(
                f"answer: expected text; got {type(answer).__name__}. Explain several answers with explain_many()."
            )
        require_characters("answer", answer)
        ids: list[int] = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        unknown, name = getattr(self.tokenizer, "unk_token_id", None), getattr(self.tokenizer, "unk_token", None)
        if unknown is not None and unknown in ids and str(name) not in answer:
            message = f"answer: the tokenizer does not know all of {answer!r}: token {ids.index(unknown)} is {name}"
            warnings.warn(f"{message}, and its map is that of {name}", stacklevel=2)
        return torch.tensor(ids, dtype=torch.int64, device="cpu")

    def special(self, ids: Tensor) -> Tensor:
        """``(n,)`` bool: which ids are special tokens."""
        return torch.isin(ids, torch.tensor(sorted(self.tokenizer.all_special_ids), device=ids.device))

    def template(self, images: Sequence[Image.Image], prompt: str, ids: Tensor) -> Tensor:
        """Which prompt tokens the user did not write: the chat template's and special ones.

        Args:
            images, prompt: as for `encode`.
            ids: ``(P,)``, the encoded prompt.

        Returns:
            ``(P,)`` bool. For a prompt with its own image token, only special tokens: the rest is the user's.
        """
        special = self.special(ids)
        if self.image_token is None or self.image_token in prompt:
            return special
        probes = [self.encode(images, probe)["input_ids"][0].to(ids.device) for probe in _PROBES]
        before = min(_common_prefix(ids, probe) for probe in probes)
        after = min(_common_prefix(ids.flip(0), probe.flip(0)) for probe in probes)
        position = torch.arange(len(ids), device=ids.device)
        return special | (position < before) | (position >= len(ids) - after)


def _common_prefix(a: Tensor, b: Tensor) -> int:
    n = min(len(a), len(b))
    return int((a[:n] == b[:n]).cumprod(0).sum())
