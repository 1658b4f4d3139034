"""A native vector from few prompts, blended with a transferred one by how noisy each is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Blend:
    """A blended vector `[d]`, and the weight in [0, 1] that the native vector has in it."""

    vector: Tensor
    weight: float


def blend(
    native: Tensor,  # [d], from few prompts
    transferred: Tensor,  # [d], from other prompts
    variance: float,
) -> Blend:
    """Shrink a native vector towards a transferred one, with an empirical-Bayes weight.

    The native vector is the target's true vector plus sampling noise, whose expected square is `variance`.
    The transferred vector is the true one plus the error of the transfer, whose size is not known. Noise and
    error are independent, so the squared distance of the two vectors less `variance` estimates the square of
    that error. The best weight of the native vector is error^2 / (error^2 + variance), estimated by
    `max(0, 1 - variance / distance^2)`.

    Both vectors count with their lengths, in units of the target's hidden states. They must be of different
    prompts: noise that they share would pass for agreement.

    variance  Squared standard error of the native vector, summed over dimensions (`sampling_variance`).

    Raises ValueError for vectors of other widths or a negative variance.

    Source: positive-part James-Stein estimator as empirical Bayes (Efron and Morris, 1973).
    """
    if native.shape != transferred.shape or native.ndim != 1:
        raise ValueError(f"expected two [d], got {list(native.shape)} and {list(transferred.shape)}")
    if not variance >= 0:
        raise ValueError(f"variance={variance}: must be at least 0")
    apart = native.double() - transferred.double()
    distance = float(apart.square().sum())
    weight = max(0.0, 1 - variance / distance) if distance > 0 else 0.0
    return Blend((transferred.double() + weight * apart).float(), weight)


def sampling_variance(
    positives: Tensor,  # [n, d]
    negatives: Tensor,  # [m, d]
    groups: tuple[int, int] = (1, 1),
    paired: bool | None = None,
) -> float | None:
    """Squared standard error of a difference of means over prompts, summed over dimensions.

    The common part of pairs is no error. None for fewer than two pairs or prompts of a side.

    groups  By side, the neighbouring prompts that were drawn together, whose mean counts as one.
    paired  Whether prompts of the same number are a pair; None: sides of one length are.
    """
    sides = [positives.double(), negatives.double()]
    if paired or (paired is None and len(positives) == len(negatives)):
        sides = [sides[0] - sides[1]]
    sides = [
        side[: len(side) // group * group].reshape(-1, group, side.shape[-1]).mean(dim=1)
        for side, group in zip(sides, groups, strict=False)
    ]
    if min(map(len, sides)) < 2:
        return None
    return sum(float(side.var(dim=0).sum()) / len(side) for side in sides)
