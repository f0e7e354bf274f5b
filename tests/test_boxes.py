"""Which part of an image a processor's settings say that the model saw."""

from types import SimpleNamespace

import pytest
from transformers.models.donut.image_processing_pil_donut import DonutImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from dexar_fast import InputError
from dexar_fast.models.families.llava import cropped_box
from dexar_fast.models.families.vision_encoder_decoder import thumbnail_box
from dexar_fast.models.family import Prompt


@pytest.mark.parametrize(
    ("size", "do_pad", "box"),
    [
        ((200, 100), True, (0, -50, 200, 150)),
        ((100, 201), True, (-50, 0, 151, 201)),
        ((200, 100), False, (50, 0, 150, 100)),
    ],
)
def test_padding_to_a_square_comes_before_the_crop(size: tuple[int, int], do_pad: bool, box: tuple[float, ...]) -> None:
    images = LlavaImageProcessorPil(do_pad=do_pad)
    prompt = Prompt(None, SimpleNamespace(image_processor=images), {}, images_known=True)
    assert cropped_box(prompt, size) == pytest.approx(box)


def test_canvas_without_padding_is_refused() -> None:
    with pytest.raises(InputError, match=r"do_pad=False.*Set the image processor's do_pad to True"):
        thumbnail_box(DonutImageProcessorPil(do_pad=False), (200, 100))
