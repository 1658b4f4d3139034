"""Sparse autoencoders of hidden states, and their files `sae.safetensors` and `sae.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lrt.errors import InvalidValue
from lrt.storage.artifact import ArtifactKind, load_artifact, save_artifact

Kind = Literal["relu", "topk", "jumprelu"]


class SaeError(InvalidValue):
    """Files of an autoencoder that cannot be used; the message says how to fix it."""


class SaeMissing(SaeError):
    """There is no autoencoder in the folder."""


class SaeCorrupt(SaeError):
    """The files are damaged: truncated, altered, or one of them missing."""


class SaeForeign(SaeError):
    """The files are no autoencoder, or one that this program does not support."""


SAE = ArtifactKind(
    name="autoencoder",
    article="an",
    entry="autoencoder",
    format="lrt-sae",
    version=2,
    weights_file="sae.safetensors",
    card_file="sae.json",
    missing=SaeMissing,
    corrupt=SaeCorrupt,
    foreign=SaeForeign,
    needed=("kind", "k", "apply_b_dec_to_input", "layer"),
)


class SparseAutoencoder(nn.Module):
    """`f = act((x - b_dec) W_enc + b_enc)`, `x ~ f W_dec + b_dec` (row vectors, as published files).

    With `apply_b_dec_to_input` the decoder bias is subtracted from the input, as SAELens does by default and
    Gemma Scope does not; without, it is not. With `z` the pre-activations, `act` is

    - `relu`: `max(z, 0)`;
    - `topk`: `max(z, 0)` for the `k` largest `z` of each row, zero for the others (Gao et al., 2406.04093);
    - `jumprelu`: `max(z, 0)` where `z > threshold`, zero elsewhere (Rajamanoharan et al., 2407.14435).

    layer  The decoder block whose output it reads; None where unknown.

    Methods move their tensors to the autoencoder's device and dtype, and answer there.

    Raises ValueError for shapes that do not fit together, weights that are not finite, and a parameter that
    its kind lacks or does not have.
    """

    W_enc: nn.Parameter  # [d, m]
    b_enc: nn.Parameter  # [m]
    W_dec: nn.Parameter  # [m, d]
    b_dec: nn.Parameter  # [d]
    threshold: nn.Parameter | None  # [m]

    def __init__(
        self,
        W_enc: Tensor,  # [d, m]
        b_enc: Tensor,  # [m]
        W_dec: Tensor,  # [m, d]
        b_dec: Tensor,  # [d]
        kind: Kind,
        *,
        k: int | None = None,
        threshold: Tensor | None = None,  # [m]
        apply_b_dec_to_input: bool = False,
        layer: int | None = None,
    ) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(f"an autoencoder's kind must be one of {get_args(Kind)}, got {kind!r}")
        if W_enc.ndim != 2 or 0 in W_enc.shape:
            raise ValueError(f"W_enc must be [d, m], got {list(W_enc.shape)}")
        d, m = W_enc.shape
        parts = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
        shapes = {"W_enc": (d, m), "b_enc": (m,), "W_dec": (m, d), "b_dec": (d,)}
        if (threshold is not None) != (kind == "jumprelu"):
            raise ValueError(
                "kind jumprelu needs a threshold [m]"
                if threshold is None
                else f"kind {kind} has no threshold"
            )
        if (k is not None) != (kind == "topk"):
            raise ValueError("kind topk needs k" if k is None else f"kind {kind} has no k")
        if k is not None and not 1 <= k <= m:
            raise ValueError(f"k must lie in 1..{m}, the number of features; got {k}")
        if threshold is not None:
            parts["threshold"], shapes["threshold"] = threshold, (m,)
        for name, tensor in parts.items():
            if tensor.shape != shapes[name]:
                raise ValueError(
                    f"{name} has shape {list(tensor.shape)}, W_enc {[d, m]} needs {list(shapes[name])}"
                )
            if not tensor.isfinite().all():
                bad = int((~tensor.isfinite()).sum())
                raise ValueError(
                    f"{name} has {bad} entries that are not finite: the file is damaged or the training "
                    "diverged"
                )
        if threshold is not None and not (threshold >= 0).all():
            raise ValueError(f"thresholds must be at least 0, the least is {float(threshold.min())}")
        if layer is not None and layer < 0:
            raise ValueError(f"a layer must be the zero-based index of a decoder block, got {layer}")
        self.kind: Kind = kind
        self.k = k
        self.apply_b_dec_to_input = apply_b_dec_to_input
        self.layer = layer
        for name, tensor in parts.items():
            self.register_parameter(name, nn.Parameter(tensor.detach().float().clone()))
        if threshold is None:
            self.register_parameter("threshold", None)

    @property
    def width(self) -> int:
        """Width `d` of the hidden states."""
        return self.W_enc.shape[0]

    @property
    def features(self) -> int:
        """Number `m` of features."""
        return self.W_enc.shape[1]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.W_enc.device

    def pre_activations(
        self,
        x: Tensor,  # [n, d], any float dtype
    ) -> Tensor:  # [n, m], float32
        x = x.to(self.W_enc)
        if self.apply_b_dec_to_input:
            x = x - self.b_dec
        return x @ self.W_enc + self.b_enc

    def activate(
        self,
        z: Tensor,  # [n, m], pre-activations
    ) -> Tensor:  # [n, m]
        match self.kind:
            case "relu":
                return z.relu()
            case "topk":
                assert self.k is not None
                largest = z.topk(self.k, dim=-1, sorted=False)
                return torch.zeros_like(z).scatter(-1, largest.indices, largest.values.relu())
            case "jumprelu":
                assert self.threshold is not None
                return z.relu() * (z > self.threshold)

    def encode(
        self,
        x: Tensor,  # [n, d], any float dtype
    ) -> Tensor:  # [n, m], float32
        """Feature activations of hidden states."""
        return self.activate(self.pre_activations(x))

    def decode(
        self,
        f: Tensor,  # [n, m]
    ) -> Tensor:  # [n, d]
        """Hidden states of feature activations."""
        return f.to(self.W_dec) @ self.W_dec + self.b_dec

    def decode_direction(
        self,
        coefficients: Tensor,  # [..., m]
    ) -> Tensor:  # [..., d]
        """The direction of feature coefficients: `c W_dec`, without the bias."""
        return coefficients.to(self.W_dec) @ self.W_dec

    def reconstruct(
        self,
        x: Tensor,  # [n, d]
    ) -> Tensor:  # [n, d]
        return self.decode(self.encode(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.reconstruct(x)

    def describe(self) -> dict[str, int | float | str | bool | None]:
        """Kind, sizes and mean decoder norm, as plain data."""
        return {
            "kind": self.kind,
            "width": self.width,
            "features": self.features,
            "k": self.k,
            "apply_b_dec_to_input": self.apply_b_dec_to_input,
            "layer": self.layer,
            "mean_decoder_norm": float(self.W_dec.detach().norm(dim=1).mean()),
        }


def save_autoencoder(folder: Path, sae: SparseAutoencoder, card: dict[str, Any]) -> None:
    """Write an autoencoder and its card, replacing an existing one.

    `card` is its provenance (model, corpus, training, scores) as plain data. Raises TypeError or ValueError
    for a card that JSON cannot hold, before anything is written, and OSError where the folder cannot be
    written.
    """
    save_artifact(SAE, folder, dict(sae.named_parameters()), sae.describe(), card)


def load_autoencoder(folder: Path, fix_hint: str = "") -> tuple[SparseAutoencoder, dict[str, Any]]:
    """The autoencoder in `folder`, frozen, on the CPU and checked against its checksum, and its card.

    `fix_hint` is a sentence for error messages: how to make it, such as a command line. Raises SaeMissing,
    SaeCorrupt or SaeForeign.
    """

    def build(tensors: dict[str, Tensor], settings: dict[str, Any]) -> SparseAutoencoder:
        arguments: dict[str, Any] = {**tensors, **settings}
        return SparseAutoencoder(**arguments).requires_grad_(False)

    return load_artifact(SAE, folder, build, fix_hint)
