"""What a family's file declares, and the parts that they are built from."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal, TypedDict

import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.utils import is_torchvision_available

from ..tiny import randomise

VOCABULARY = 300
SPECIALS = ("<pad>", "<s>", "</s>")  # ids 0, 1, 2
SIZES = {"portrait": (30, 80), "panorama": (200, 40), "tiny": (5, 7), "large": (4000, 3000)}


def _identity(logits: Tensor) -> Tensor:
    return logits


@dataclass(frozen=True)
class Case:
    """A tiny model of a family and its processor, real in everything but size.

    Attributes:
        name: of the test; mostly the model type.
        model: builds it, with the given attention in the text model; weights from `randomised`.
        processor: builds it; a real one of transformers, offline.
        image: text that stands for an image in a prompt; "" if the processor puts the image in front by itself.
        prompt_needed: a prompt must have text.
        several_images: the family takes more than one image per prompt.
        ends_in_image: a prompt may end in an image.
        separators: ``inputs -> bool`` over the placeholders, which of them are learned separators.
        logits: what the model does to the head's output (soft-cap, scale).
        global_vision: pattern of the weights of the vision tower that mix patches: zeroed where a test has to know
            which image token sees which pixels.
        halo: how far, in cells, a token sees beyond its own (overlapping convolutions).
        attentions: implementations of the text model, the one that tests take by default first.
        paths: gradient paths that the family's declaration allows.
        skip: test name to the reason why it cannot be run on this family.
        video: ``(frames, 3, H, W)`` to model inputs of a prompt with that video, by hand: transformers' video
            processors need torchvision.
        needs: a class of transformers that older releases lack, "" if none does.
        broken_in: releases of transformers whose own forward of the model fails.
    """

    name: str
    model: Callable[[str], Any]
    processor: Callable[[], Any]
    image: str = "<image>"
    prompt_needed: bool = True
    several_images: bool = True
    ends_in_image: bool = True
    separators: Callable[[dict[str, Tensor]], Tensor] | None = None
    logits: Callable[[Tensor], Tensor] = _identity
    global_vision: str = r"(vision|visual).*(attn|attention)\.(out_proj|o_proj|proj)\.(weight|bias)$"
    halo: float = 0.0
    attentions: tuple[str, ...] = ("sdpa", "eager")
    paths: tuple[Literal["leaf", "replay"], ...] = ("leaf", "replay")
    skip: dict[str, str] | None = None
    video: Callable[[Tensor], dict[str, Tensor]] | None = None
    needs: str = ""
    broken_in: tuple[str, ...] = ()

    @property
    def unavailable(self) -> str:
        """Why this release of transformers does not run the model, "" if it does."""
        if self.needs and not hasattr(transformers, self.needs):
            return f"transformers {transformers.__version__} has no {self.needs}"
        if transformers.__version__ in self.broken_in:
            return f"transformers {transformers.__version__} does not run {self.name} itself"
        return ""

    @property
    def available(self) -> bool:
        """Whether this release of transformers runs the model."""
        return not self.unavailable

    @property
    def prompts(self) -> dict[str, tuple[str, int]]:
        """Text before, between and after images: name to the prompt and its number of images."""
        if not self.image:
            unprompted = {} if self.prompt_needed else {"no prompt": ("", 1)}
            return {"image in front": ("two blue stars", 1), **unprompted}
        prompts = {
            "image first": (f"{self.image} two blue stars", 1),
            "image between": (f"a red square {self.image} on the left", 1),
        }
        if self.ends_in_image:
            prompts["image last"] = (f"two blue stars{self.image}", 1)
        if self.several_images:
            prompts["two images"] = (f"a {self.image} small {self.image} star", 2)
        if self.video:
            prompts["video"] = ("", 0)
        return prompts

    def __str__(self) -> str:
        return self.name


@cache
def all_cases() -> dict[str, Case]:
    """The `CASES` of every module of this package, by name, with the processors that users of this environment get."""
    package = importlib.import_module(__package__ or "tests.families")
    cases: dict[str, Case] = {}
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("test_"):
            for case in getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "CASES", ()):
                assert case.name not in cases, f"two cases are named {case.name}"
                cases[case.name] = case
    if is_torchvision_available():
        return {name: replace(case, processor=partial(for_torchvision, case.processor)) for name, case in cases.items()}
    return cases


def for_torchvision(build: Callable[[], Any]) -> Any:
    """The processor with the image processor that AutoProcessor gives where torchvision is installed."""
    processor = build()
    images = processor if hasattr(processor, "resample") else processor.image_processor
    name = type(images).__name__
    if not name.endswith("Pil"):
        return processor
    twin = getattr(transformers, name.removesuffix("Pil"))(**images.to_dict())
    if images is processor:
        return twin
    processor.image_processor = twin
    return processor


def text_shape(**other: Any) -> dict[str, Any]:
    """Arguments that most text configurations take: 3 layers, 4 heads in 2 groups, width 32."""
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **other,
    }


def vision_shape(**other: Any) -> dict[str, Any]:
    """Arguments that most vision configurations take: 2 layers, 2 heads, width 32, patches of 8 in 48 pixels."""
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 48,
        "patch_size": 8,
        **other,
    }


def randomised(model_class: Any, config: Any, attention: str, *, rest: str = "sdpa", seed: int = 9) -> Any:
    """A model whose weights are large enough that heads differ, with norms and gates that are not uniform.

    ``attention`` is the text model's, ``rest`` that of the vision tower and of the whole.
    """
    torch.manual_seed(seed)
    if hasattr(config, "decoder") and hasattr(config, "encoder"):
        implementations = {"": "eager", "encoder": "eager", "decoder": attention}
    else:
        whole_is_text = not hasattr(config, "text_config")
        implementations = {"": attention if whole_is_text else rest, "vision_config": rest, "text_config": attention}
    # Experts one by one: the grouped product of transformers has no float64.
    mixture = any("expert" in name for name in vars(config.get_text_config()))
    experts = {"experts_implementation": "eager"} if mixture else {}
    model = model_class._from_config(config, attn_implementation=implementations, **experts).eval()
    randomise(model, biases=0.1)
    return model


def without_mixing(model: Any, pattern: str) -> Any:
    """The model with a vision tower whose patches know nothing of each other."""
    zeroed = 0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if re.search(pattern, name):
                weight.zero_()
                zeroed += 1
    assert zeroed, f"no weight matches {pattern!r}"
    return model


def tokenizer(
    specials: tuple[str, ...] = ("<image>",), vocabulary: int = VOCABULARY, **named: Any
) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on a few sentences, which begins texts with BOS, as most models' do.

    Ids: pad 0, bos 1, eos 2, then ``specials`` from 3.

    Args:
        specials: further special tokens.
        vocabulary: number of ids.
        named: for `extra_special_tokens`, such as ``image_token="<image>"``.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        ["a small red square on the left", "two blue stars and a green circle", "what is it? USER: ASSISTANT:"],
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[*SPECIALS, *specials],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(specials),
        extra_special_tokens=named,
    )


def without_video(processor_class):
    """transformers' video processors need torchvision; a prompt with images alone asks nothing of them."""
    unchecked = {"check_argument_for_proper_class": lambda self, name, argument: type(argument)}
    return type(processor_class.__name__, (processor_class,), unchecked)


def asking(processor_class, **images: Any):
    """The processor class with settings for images that are its own defaults, as some checkpoints' are."""
    known = processor_class.valid_processor_kwargs
    defaults = {**getattr(known, "_defaults", {})}
    before = {**(getattr(processor_class, "images_kwargs", None) or {}), **defaults.get("images_kwargs", {})}
    defaults["images_kwargs"] = {**before, **images}

    def call(self, *args, **kwargs):
        return processor_class.__call__(self, *args, **{**images, **kwargs})

    typed_dict: Any = TypedDict
    asked = typed_dict("Asked", dict(known.__annotations__), total=False)
    asked._defaults = defaults
    return type(processor_class.__name__, (processor_class,), {"valid_processor_kwargs": asked, "__call__": call})


def picture(size: tuple[int, int] = (40, 30), seed: int = 0) -> Image.Image:
    """A picture with something different everywhere."""
    width, height = size
    x, y = torch.arange(width).expand(height, -1), torch.arange(height)[:, None].expand(-1, width)
    rgb = torch.stack(((x * 6 + seed * 50) % 256, y * 8 % 256, (x + y + seed) * 5 % 256), dim=-1)
    return Image.fromarray(rgb.to(torch.uint8).numpy())


def video_prompt(n_tokens: int, video_id: int, parts: int = 1, **inputs: Tensor) -> dict[str, Tensor]:
    """Model inputs of a prompt with ``parts`` times ``n_tokens`` placeholders of a video, text around each."""
    part = torch.cat((answer(4), torch.full((n_tokens,), video_id)))
    ids = torch.cat((part.repeat(parts), answer(3, seed=3)))[None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **inputs}


def frames(seed: int = 4) -> Tensor:
    """Normalised frames ``(4, 3, 48, 48)`` of a random video."""
    return torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(seed))


def answer(length: int, vocabulary: int = VOCABULARY, seed: int = 2) -> Tensor:
    """Random ids ``(T,)`` of plain text."""
    return torch.randint(60, vocabulary, (length,), generator=torch.Generator().manual_seed(seed))
