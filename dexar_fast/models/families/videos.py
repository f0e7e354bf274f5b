"""Images and videos in the order of the prompt."""

from __future__ import annotations

from collections.abc import Iterator

from ...layout.image_layout import LayoutBuilder
from ..family import Prompt


def images_and_videos(prompt: Prompt, tokens: LayoutBuilder) -> Iterator[bool]:
    """Whether the prompt's next placeholder not yet laid out is a video's, until all of them are laid out.

    What comes has to be laid out, in full, before the next is asked for.
    """
    image_id = prompt.config.image_token_id
    video_id = getattr(prompt.config, "video_token_id", image_id)
    ids = prompt["input_ids"]
    # Some models have one placeholder for both, and say in the types which is which.
    video = (
        prompt.inputs["mm_token_type_ids"] == 2
        if "mm_token_type_ids" in prompt.inputs
        else (ids == video_id) & (ids != image_id)
    )
    is_video = video[(ids == image_id) | (ids == video_id)]
    while tokens.n_placeholders < len(is_video):
        before = tokens.n_placeholders
        yield bool(is_video[before])
        if tokens.n_placeholders == before:  # fewer images than placeholders, which the count of tokens will tell
            return
