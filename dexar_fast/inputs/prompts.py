"""Prompt and answer as token ids, and which of them belong to the template."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..models.family import encoded
from ..models.processors import check_image_settings
from ..stages import stage
from .messages import Conversation
from .tokens import require_characters

# Two prompts that share no token: what a prompt has in common with both is the template's.
_PROBES = ("a", "?")

# A text, or a chat.
Prompt = str | Conversation


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
        encode: Callable[..., dict[str, Tensor]] = encoded,
        needed: bool = True,
        several: bool = True,
    ) -> None:
        self.processor, self.needed, self.several = processor, needed, several
        self.encode_with = encode
        self.tokenizer = processor.tokenizer
        self.image_token: str | None = None if prompt_image is None else getattr(processor, prompt_image)

    @stage("encoding")
    def encode(
        self, images: Sequence[Image.Image], prompt: Prompt, image_kwargs: Mapping[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """Model inputs of one prompt with its images: of a chat, what `processor.apply_chat_template` returns.

        Args:
            images: in the order of the prompt.
            prompt: text or a chat.
            image_kwargs: settings of the image processor for this call.

        Raises:
            InputError: an empty prompt or no text, more or fewer image places than images, several images where the
                model takes one, neither a place nor a chat template, unknown settings, or a processor that refuses.
        """
        text = self.render(prompt, len(images))
        settings = dict(image_kwargs or {})
        check_image_settings(self.processor, settings)
        return self.encode_with(self.processor, list(images), text, **settings, **self.text_settings(text))

    def text_settings(self, text: str) -> dict[str, Any]:
        """How a rendered text is tokenized: one that brings its BOS along gets no second one, as in transformers."""
        bos = self.tokenizer.bos_token
        return {"add_special_tokens": False} if bos and text.startswith(bos) else {}

    def render(self, prompt: Prompt, n_images: int = 1) -> str:
        """The text that is tokenized: the prompt itself, or the chat template around it.

        Raises:
            InputError: see `encode`.
        """
        if isinstance(prompt, Conversation):
            return self._render_chat(prompt, n_images)
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
        return self._render_chat(Conversation(({"role": "user", "content": content},)), n_images)

    def _render_chat(self, chat: Conversation, n_images: int) -> str:
        if not self.processor.chat_template:
            raise InputError(
                f"messages: {type(self.processor).__name__} has no chat template to write them with. Pass a prompt, "
                f"with {self.image_token or 'the text alone, without an image token'} where the image belongs."
            )
        if chat.n_images != n_images:
            raise InputError(f"image: expected {chat.n_images}, one for each image of messages; got {n_images}")
        if n_images > 1 and not self.several:
            raise InputError(f"image: this model takes one image per prompt; got {n_images}. Explain them one by one.")
        try:
            text: str = self.processor.apply_chat_template(list(chat.messages), add_generation_prompt=True)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:  # what templates raise on purpose, too
            raise InputError(
                f"messages: the model's chat template does not take them ({error}). Look at processor.chat_template "
                "for the roles and parts that it knows."
            ) from error
        places = n_images if self.image_token is None else text.count(self.image_token)
        if places != n_images:
            raise InputError(
                f"messages: expected the chat template to write {n_images} {self.image_token}, one for each image; it "
                f"wrote {places}. It may know images in some roles only, or texts hold the image token."
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
        return torch.tensor(ids, dtype=torch.int64, device="cpu")

    def warn_of_unknown(self, **written: Tensor) -> None:
        """Warn of ids, by the name of what they write, that stand for what the tokenizer does not know."""
        tokenizer = self.tokenizer
        unknown = tokenizer.unk_token_id
        if unknown is None or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
            return
        for name, ids in written.items():
            n = int((ids == unknown).sum())
            if n:
                warnings.warn(
                    f"{name}: the model's tokenizer does not know {n} of its words, and writes "
                    f"{tokenizer.unk_token} for each: the model reads something else than you wrote.",
                    stacklevel=4,
                )

    def special(self, ids: Tensor) -> Tensor:
        """``(n,)`` bool: which ids are special tokens."""
        return torch.isin(ids, torch.tensor(sorted(self.tokenizer.all_special_ids), device=ids.device))

    def template(
        self,
        images: Sequence[Image.Image],
        prompt: Prompt,
        ids: Tensor,
        image_kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Which prompt tokens the user did not write: the chat template's and special ones.

        Args:
            images, prompt, image_kwargs: as for `encode`.
            ids: ``(P,)``, the encoded prompt.

        Returns:
            ``(P,)`` bool. For a prompt with its own image token, only special tokens: the rest is the user's.

        Raises:
            InputError: a chat, in which the template stands between the user's texts.
        """
        if isinstance(prompt, Conversation):
            raise InputError('text_set: "content_only" is known of a prompt, not of messages=; pass a bool mask.')
        special = self.special(ids)
        if self.image_token is None or self.image_token in prompt:
            return special
        probes = [self.encode(images, probe, image_kwargs)["input_ids"][0].to(ids.device) for probe in _PROBES]
        before = min(_common_prefix(ids, probe) for probe in probes)
        after = min(_common_prefix(ids.flip(0), probe.flip(0)) for probe in probes)
        position = torch.arange(len(ids), device=ids.device)
        return special | (position < before) | (position >= len(ids) - after)


def _common_prefix(a: Tensor, b: Tensor) -> int:
    n = min(len(a), len(b))
    return int((a[:n] == b[:n]).cumprod(0).sum())
