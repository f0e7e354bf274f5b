"""Other methods than DEX-AR, for comparison, behind the names of `inputs.methods.COMPARISONS`.

Rollout and Chefer's relevancy need whole attention matrices between all layers, which this package never has; they are
not offered.
"""

from __future__ import annotations

from torch import Tensor

from ..models.state import evaluating
from .attention import attention, attention_contrast, attention_gradient, dexar_unfiltered
from .blind import centre, random, uniform
from .gradients import grad_cam, gradient_input
from .occlusion import occlusion
from .subject import Method, Subject
from .tam import tam

IMPLEMENTATIONS: dict[str, Method] = {
    "attention": attention,
    "attention-contrast": attention_contrast,
    "attention-gradient": attention_gradient,
    "dexar-unfiltered": dexar_unfiltered,
    "gradient-input": gradient_input,
    "grad-cam": grad_cam,
    "tam": tam,
    "occlusion": occlusion,
    "random": random,
    "uniform": uniform,
    "centre": centre,
}


def relevance(name: str, subject: Subject) -> Tensor:
    """What one of `COMPARISONS` says: ``(T, C)`` for T answer tokens and C cells, not negative.

    Raises:
        InputError, UnsupportedModelError: the method cannot explain this subject; the message says why.
    """
    with evaluating(subject.explainer.model):
        return IMPLEMENTATIONS[name](subject)
