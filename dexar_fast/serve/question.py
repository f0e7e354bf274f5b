"""What a client asks, checked as far as it can be before its turn has come."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import InputError
from ..explainer import Explainer
from ..inputs.images import load_image
from ..inputs.messages import Conversation, check_prompt_or_messages, read_messages
from ..inputs.options import AskedOptions
from ..progress import ProgressCallback
from ..result.explanation import Explanation
from ..runs.answer_stream import AnswerStream
from .limits import Limits

Picture = str | bytes
_QUESTION = {"image", "prompt", "messages", "answer", "answer_ids", "maps"}
_WRITTEN = 256  # tokens, the default of `Explainer.explain`


class Fields(BaseModel):
    """The fields of a request. Options are those of `Explainer.explain`, which checks their values.

    Not among them: `row_chunk` and `image_kwargs`, which decide about memory; `allow_urls`; and regular expressions,
    which can be written to run for ever.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    image: Picture | list[Picture] | None = Field(None, description="base64 or a data URI; or a list of these")
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = Field(
        None, description="in place of prompt; pictures as base64 or data URI"
    )
    answer: str | None = Field(None, description="without one the model writes it")
    answer_ids: list[int] | None = Field(None, description="ids of the model's tokens, in place of answer")
    maps: Literal["png", "list"] | None = Field("png", description="grey PNG as base64, numbers, or none")
    layers: int | list[int] | None = None
    method: str | list[str] | None = None
    normalization: str = "paper"
    text_set: str = "all_non_image"
    targets: str | list[list[int]] = "tokens"
    contrast: str | int | list[str | int] | None = None
    unfiltered: bool = False
    grounding: bool = True
    thumbnail: str = "blend"
    max_new_tokens: int | None = Field(None, description="256, or less where the server allows less")
    only: str | list[int] | None = None
    background: str = "white"
    frame: int | None = None


class Question:
    """One request.

    Attributes:
        maps: how the maps go into the answer.
        options: for `Explainer.explain`, those that were given.

    Raises:
        InputError: a field is unknown, of another type, or beyond the limits; or an option is not usable.
    """

    def __init__(
        self, values: Mapping[str, Any], explainer: Explainer, limits: Limits, *, stream: bool = False
    ) -> None:
        fields = _fields(values)
        self.explainer, self.limits, self.maps = explainer, limits, fields.maps
        self.answer, self.answer_ids = fields.answer, fields.answer_ids
        given = fields.model_dump(exclude_unset=True, exclude=_QUESTION)
        self.options: AskedOptions = {"grounding": True, **given}  # type: ignore[typeddict-item]
        if isinstance(self.options.get("targets"), list):
            self.options["targets"] = [tuple(span) for span in fields.targets]  # type: ignore[misc]
        if fields.max_new_tokens is None:
            self.options["max_new_tokens"] = min(_WRITTEN, limits.most_tokens)
        elif fields.max_new_tokens > limits.most_tokens:
            raise InputError(f"max_new_tokens: expected at most {limits.most_tokens}; got {fields.max_new_tokens}")
        explainer.options(**self.options)
        self._frame = self.options.pop("frame", None)  # spent when the pictures are read
        if stream and (fields.answer is not None or fields.answer_ids is not None):
            raise InputError("answer: stream shows the answer as the model writes it; leave it out, or use /explain")
        if fields.answer is not None and fields.answer_ids is not None:
            raise InputError("answer_ids: expected an answer or its ids; got both")
        self._read(fields)

    def _read(self, fields: Fields) -> None:
        check_prompt_or_messages(fields.prompt, fields.messages)
        images = fields.image if isinstance(fields.image, list) or fields.image is None else [fields.image]
        self.prompt: str | Conversation
        if fields.prompt is not None:
            self.prompt, self._images = fields.prompt, images or []
        else:
            self.prompt, self._images = read_messages(fields.messages, images)
        if not self._images:
            raise InputError("image: expected a picture, as base64, a data URI or a file of a form; got none")
        if len(self._images) > self.limits.most_images:
            raise InputError(f"image: expected at most {self.limits.most_images}; got {len(self._images)}")
        length = sum(map(_characters, (fields.prompt, fields.answer))) + (
            sum(map(_characters, self.prompt.messages)) if isinstance(self.prompt, Conversation) else 0
        )
        if length > self.limits.most_characters:
            raise InputError(f"prompt: expected at most {self.limits.most_characters} characters of text; got {length}")
        given: Any = self.answer_ids or ()
        if self.answer is not None:
            given = self.explainer.prompt_encoder.encode_answer(self.answer)
        if len(given) > self.limits.most_tokens:
            raise InputError(f"answer: expected at most {self.limits.most_tokens} tokens; got {len(given)}")

    @cached_property
    def pictures(self) -> list[Image.Image]:
        """RGB, upright.

        Raises:
            InputError: not base64, not a picture, or one of too many pixels.
        """
        return [self._picture(image) for image in self._images]

    def explain(self, progress: ProgressCallback) -> Explanation:
        """What `Explainer.explain` gives, or `Explainer.explain_ids` of an answer as ids.

        Raises:
            InputError, UnsupportedModelError, SelfCheckError, NotFiniteError: as for these.
        """
        if self.answer_ids is None:
            return self.explainer.explain(self.pictures, answer=self.answer, progress=progress, **self._asked)
        inputs = self.explainer.prompt_encoder.encode(self.pictures, self.prompt)
        options: dict[str, Any] = {name: value for name, value in self.options.items() if name != "max_new_tokens"}
        text = self.prompt.question if isinstance(self.prompt, Conversation) else self.prompt
        return self.explainer.explain_ids(
            inputs, self.answer_ids, image=self.pictures, prompt=text, progress=progress, **options
        )

    def stream(self) -> AnswerStream:
        """What `Explainer.stream` gives, token by token.

        Raises:
            InputError: as for `Explainer.stream`.
        """
        return self.explainer.stream(self.pictures, block=1, **self._asked)

    @property
    def _asked(self) -> Any:
        if isinstance(self.prompt, Conversation):
            return {"messages": list(self.prompt.messages), **self.options}
        return {"prompt": self.prompt, **self.options}

    def _picture(self, image: Any) -> Image.Image:
        background = self.options.get("background", "white")
        most = self.limits.most_pixels
        return load_image(_bytes(image), background=background, frame=self._frame, most_pixels=most)


def _fields(values: Mapping[str, Any]) -> Fields:
    try:
        return Fields.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0])[:40]
        if first["type"] == "extra_forbidden":
            raise InputError(f"{name}: no such field; expected {', '.join(Fields.model_fields)}") from error
        raise InputError(f"{name}: {first['msg']}; got {type(values[name]).__name__}") from error


def _bytes(image: Any) -> bytes:
    """A picture's file. Names of files and addresses are no base64 or no pictures: nothing is opened or fetched."""
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str):
        raise InputError(f"image: expected base64 or a data URI; got {type(image).__name__}")
    text = image.partition(",")[2] if image[:5].lower() == "data:" else image
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(
            "image: expected the bytes of a file as base64 or as a base64 data URI. This server opens no files and "
            "fetches no URLs for its clients."
        ) from error


def _characters(value: Any) -> int:
    """Of all texts in a value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list | tuple) else 0
