"""Published autoencoders: Gemma Scope's `params.npz` and the folders that SAELens writes.

Both store `W_enc` `[d, m]`, `b_enc` `[m]`, `W_dec` `[m, d]` and `b_dec` `[d]`. They differ in the input
(SAELens subtracts `b_dec` unless its config turns that off, Gemma Scope does not) and in what names the layer
(the folder in Gemma Scope, the hook in SAELens).
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.features.autoencoder import (
    Kind,
    SaeCorrupt,
    SaeForeign,
    SaeMissing,
    SparseAutoencoder,
)
from lrt.storage.text_files import parse_json

GEMMA_SCOPE_FILE = "params.npz"
SAELENS_CONFIG = "cfg.json"
SAELENS_WEIGHTS = "sae_weights.safetensors"
COMMON = ("W_enc", "b_enc", "W_dec", "b_dec")


def load_published(path: Path, layer: int | None = None) -> SparseAutoencoder:
    """The published autoencoder in a folder or file, in either format.

    See `load_gemma_scope` and `load_saelens`. Raises SaeMissing where there is neither.
    """
    if path.suffix == ".npz" or (path / GEMMA_SCOPE_FILE).is_file():
        return load_gemma_scope(path, layer)
    if (path / SAELENS_CONFIG).is_file():
        return load_saelens(path, layer)
    raise SaeMissing(
        f"there is no published autoencoder in {path}; allowed are a Gemma Scope folder ({GEMMA_SCOPE_FILE}) "
        f"or a SAELens folder ({SAELENS_CONFIG} and {SAELENS_WEIGHTS})"
    )


_ZIP = (zipfile.BadZipFile, zlib.error)


def load_gemma_scope(path: Path, layer: int | None = None) -> SparseAutoencoder:
    """A JumpReLU autoencoder of Gemma Scope (2408.05147): `params.npz`, or its folder.

    layer  The layer, for a path that does not name it. The residual-stream releases do, as in
           `layer_<l>/width_<m>/average_l0_<n>`.

    Returned frozen, in float32, on the CPU. Raises SaeMissing for a missing file or array, SaeCorrupt for
    damaged ones or values that are not finite, and SaeForeign for shapes that do not fit together, another
    layer, and releases that do not read a block's output.
    """
    file = path / GEMMA_SCOPE_FILE if path.is_dir() else path
    if not file.is_file():
        raise SaeMissing(f"{file} does not exist: download the folder of one Gemma Scope autoencoder")
    # Not resolved: files in the hub's cache are symbolic links to files named by their hash.
    folders = file.absolute().parent.parts
    other = re.compile(r"embedding|(.*--)?gemma-scope-.*-(mlp|att|transcoders)(-.*)?")
    for folder in folders:
        if other.fullmatch(folder):
            raise SaeForeign(
                f"{file} is of release {folder}, which does not read a block's output; choose a release "
                "whose name ends in -res, and one of its layer_<l> folders"
            )
    named = [int(m[1]) for m in (re.fullmatch(r"layer_(\d+)", folder) for folder in folders) if m][-1:]
    if named and layer not in (None, named[0]):
        raise SaeForeign(f"{file} is of layer {named[0]}, and must be of layer {layer}")
    try:
        _refuse_bomb(file)
        with np.load(file) as arrays:
            tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (
        MemoryError,
        ValueError,
        TypeError,
        OSError,
        EOFError,
        NotImplementedError,
        KeyError,
        *_ZIP,
    ) as error:
        raise SaeCorrupt(f"{file} cannot be read: {error}; download it again") from error
    return _built(
        file,
        tensors,
        "jumprelu",
        apply_b_dec_to_input=False,
        layer=named[0] if named else layer,
    )


def _refuse_bomb(file: Path) -> None:
    """Raise ValueError for an archive that unpacks to far more than it has: weights hardly compress."""
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > 16 * file.stat().st_size + 2**26:
        raise ValueError(f"it would unpack to {unpacked:,} bytes")


def load_saelens(folder: Path, layer: int | None = None) -> SparseAutoencoder:
    """An autoencoder that SAELens wrote: `cfg.json` and `sae_weights.safetensors`.

    Supported are the architectures `standard`, `topk` and `jumprelu`, with metadata at the top of the config
    (before version 6) or under `metadata`. The hook must be on the residual stream: `hook_resid_pre` of block
    `l` is the output of block `l - 1`. Scaling of activations by decoder norms is folded into the weights.

    layer  The layer, for a config that does not name it.

    Returned frozen, in float32, on the CPU. Raises SaeMissing for a missing file or tensor, SaeCorrupt for
    damaged ones or values that are not finite, and SaeForeign for shapes that do not fit together, another
    layer, and settings that are not supported.
    """
    config_file, weights_file = folder / SAELENS_CONFIG, folder / SAELENS_WEIGHTS
    for file in (config_file, weights_file):
        if not file.is_file():
            raise SaeMissing(
                f"{file} does not exist: a SAELens folder has {SAELENS_CONFIG} and {SAELENS_WEIGHTS}"
            )
    try:
        config = parse_json(config_file.read_bytes(), str(config_file))
        tensors = load_file(weights_file)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise SaeCorrupt(f"{folder} cannot be read: {error}; download it again") from error
    if not isinstance(config, dict):
        raise SaeForeign(f"{config_file} is no SAELens config")
    _refuse_unsupported(config_file, config)
    kind = _kind_of(config_file, config)
    if "log_threshold" in tensors:
        tensors.setdefault("threshold", tensors.pop("log_threshold").float().exp())
    factor = tensors.pop("scaling_factor", None)
    if factor is not None and not torch.allclose(factor.float(), torch.ones_like(factor.float())):
        raise SaeForeign(f"{weights_file} has a scaling_factor other than 1; fold it into W_dec first")
    if config.get("rescale_acts_by_decoder_norm") and "W_dec" in tensors:
        _fold_decoder_norms(weights_file, tensors)
    _present(weights_file, tensors, "W_enc")
    shape = list(tensors["W_enc"].shape)
    stated = [config.get("d_in"), config.get("d_sae")]
    if len(shape) != 2 or any(size not in (None, real) for size, real in zip(stated, shape, strict=True)):
        raise SaeForeign(
            f"{config_file} has [d_in, d_sae] = {stated}, but W_enc in {weights_file} has shape {shape}"
        )
    k = None
    if kind == "topk":
        k = config.get("k", (config.get("activation_fn_kwargs") or {}).get("k"))
        if not isinstance(k, int):
            raise SaeForeign(f"{config_file}: k of a topk autoencoder must be a whole number, got {k!r}")
    return _built(
        weights_file,
        tensors,
        kind,
        k=k,
        apply_b_dec_to_input=bool(config.get("apply_b_dec_to_input", True)),
        layer=_layer_of(config_file, config, layer),
    )


def check_fits(sae: SparseAutoencoder, width: int, layer: int) -> None:
    """Raise InvalidValue where `sae` reads another width or layer than the hidden states in use."""
    faults = []
    if sae.width != width:
        faults.append(f"the autoencoder reads states of width {sae.width}, and these have width {width}")
    if sae.layer is None:
        faults.append(
            f"the autoencoder's files do not name its layer, and these states are of layer {layer}: load it "
            f"with layer={layer} if that is right"
        )
    elif sae.layer != layer:
        faults.append(f"the autoencoder reads layer {sae.layer}, and these states are of layer {layer}")
    if faults:
        raise InvalidValue(
            "; ".join(faults) + ". Use an autoencoder of this model and layer, or record its layer"
        )


def _built(file: Path, tensors: dict[str, Tensor], kind: Kind, **settings: Any) -> SparseAutoencoder:
    names = (*COMMON, "threshold") if kind == "jumprelu" else COMMON
    for name in names:
        _present(file, tensors, name)
        if not tensors[name].isfinite().all():
            raise SaeCorrupt(f"{file}: {name} has entries that are not finite; download it again")
    try:
        arguments: dict[str, Any] = {name: tensors[name] for name in names} | settings
        sae = SparseAutoencoder(kind=kind, **arguments)
    except ValueError as error:
        raise SaeForeign(f"{file}: {error}") from error
    return sae.requires_grad_(False)


def _present(file: Path, tensors: dict[str, Tensor], name: str) -> None:
    if name not in tensors:
        raise SaeMissing(f"{file} has no {name}; it holds {sorted(tensors)}")


def _kind_of(file: Path, config: dict[str, Any]) -> Kind:
    architecture = config.get("architecture", "standard")
    activation = config.get("activation_fn", config.get("activation_fn_str", "relu"))
    if activation not in ("relu", "topk"):
        raise SaeForeign(f"{file}: activation_fn {activation!r} is not supported; allowed: relu, topk")
    match architecture, activation:
        case ("topk", _) | ("standard", "topk"):
            return "topk"
        case "standard", _:
            return "relu"
        case "jumprelu", "relu":
            return "jumprelu"
    raise SaeForeign(
        f"{file}: architecture {architecture!r} (activation {activation!r}) is not supported; allowed: "
        "standard, topk, jumprelu"
    )


def _refuse_unsupported(file: Path, config: dict[str, Any]) -> None:
    # Ignoring a setting that changes the forward formula would give other features.
    allowed: dict[str, tuple[Any, ...]] = {
        "normalize_activations": ("none", None, False),
        "reshape_activations": ("none", None),
        "finetuning_scaling_factor": (False, None),
    }
    for name, values in allowed.items():
        value = config.get(name)
        if value not in values:
            raise SaeForeign(
                f"{file}: {name} = {value!r} is not supported and must be {values[0]!r}; fold it into the "
                "weights with SAELens and save them again"
            )


# A hook of TransformerLens on the residual stream, or the module of a block: a number after a list's name.
# Models with other towers (images, audio, speech) have such lists there too, by ever new names. So only names
# that lead to a language model's blocks are allowed.
_BLOCK_HOOK = re.compile(
    r"blocks\.(\d+)\.hook_resid_(pre|post)"
    r"|(?:(?:base_model|model|language_model|text_model|llm|transformer|decoder|backbone|gpt_neox|rwkv)\.)*"
    r"(?:layers|layer|h|blocks|block)\.(\d+)"
)


def _layer_of(file: Path, config: dict[str, Any], layer: int | None) -> int | None:
    meta = {**config, **(config.get("meta") or {}), **(config.get("metadata") or {})}
    hook = meta.get("hook_name", meta.get("hook_point"))
    stated = meta.get("hook_layer", meta.get("hook_point_layer"))
    if hook is None:
        return layer if layer is not None else stated
    named = _BLOCK_HOOK.fullmatch(str(hook))
    if named is None:
        raise SaeForeign(
            f"{file}: the hook {hook!r} is not known as the output of a language model's block; allowed "
            "are names such as blocks.<l>.hook_resid_post, model.layers.<l> and transformer.h.<l>"
        )
    block = int(named[1] or named[3])
    if stated is not None and stated != block:
        raise SaeForeign(f"{file}: hook_layer {stated!r} contradicts the hook {hook!r}")
    named_layer = block - 1 if named[2] == "pre" else block
    if named_layer < 0:
        raise SaeForeign(f"{file}: the hook {hook!r} reads the embeddings, not a block's output")
    if layer is not None and layer != named_layer:
        raise SaeForeign(f"{file}: the hook {hook!r} is of layer {named_layer}, and must be of layer {layer}")
    return named_layer


def _fold_decoder_norms(file: Path, tensors: dict[str, Tensor]) -> None:
    # `act(z n)` decoded as `(f / n) W_dec`, with n the norms of the decoder rows.
    for name in ("W_enc", "b_enc"):
        _present(file, tensors, name)
    norms = tensors["W_dec"].float().norm(dim=1)
    if not (norms > 0).all():
        raise SaeForeign(f"{file}: decoder rows of length zero cannot be scaled by their norm")
    tensors["W_enc"] = tensors["W_enc"].float() * norms
    tensors["b_enc"] = tensors["b_enc"].float() * norms
    tensors["W_dec"] = tensors["W_dec"].float() / norms[:, None]
