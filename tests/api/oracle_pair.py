"""A pair of models whose target's states are an exact linear image of the source's."""

from dataclasses import dataclass

from storybook_models import image_of, semi_orthogonal
from torch import Tensor

from lrt.models import LanguageModel

SCALE = 3.0
LAYER = 1


@dataclass(frozen=True)
class Oracle:
    """A target whose states are `SCALE * q` times those of the source."""

    source: LanguageModel
    target: LanguageModel
    q: Tensor  # [d_target, d_source]

    @classmethod
    def of(cls, source: LanguageModel, width: int = 48) -> "Oracle":
        q = semi_orthogonal(width, source.width)
        return cls(source, image_of(source, q, SCALE), q)
