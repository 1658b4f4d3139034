"""Fitting a map straight from a pass of both models over texts, without a store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import chain, islice
from typing import Any, TypedDict, Unpack, overload

import torch

from lrt.activations import RowFilter, Selection, median_norms
from lrt.api.fitted_map import FittedMap, fitted_of
from lrt.api.layer_spec import Layers, blocks_of, one_layer
from lrt.api.map_grid import MapGrid
from lrt.api.pass_sums import PassSums, Progress, check_memory, needed_bytes, summed
from lrt.api.several_sources import stack_of
from lrt.api.texts import checked_texts, each_text
from lrt.corpora import SPLITS, CorpusEmpty, CorpusTooShort, Document, PackedCorpus, Split, end_ids, pack
from lrt.corpora.splits import FRACTIONS
from lrt.errors import InvalidValue
from lrt.evaluation.neutral_texts import PARAGRAPHS
from lrt.mapping import SharedRidge, fit_grid, merge_all, pair_of, shuffled_fvu
from lrt.models import LanguageModel, same_tokens
from lrt.models.hardware import with_float64, with_room
from lrt.models.sides import SIDES
from lrt.models.stacked import StackedModel, StateModel
from lrt.numbers import finite, whole
from lrt.steering import median_residual_norms
from lrt.storage.fingerprint import fingerprint, tensor_digest

# tokens whose norms the medians are of
MEDIAN_TOKENS = 8192
SAMPLE_TEXTS = 16  # of which both tokenizers must make the same ids to count as one


class FitOptions(TypedDict, total=False):
    """The optional arguments of `fit_map`."""

    pool: int
    tokens: int | None
    context: int
    folds: int
    batch_tokens: int
    seed: int
    loss: float
    memory_gb: float
    neutral_texts: Sequence[str]
    progress: Progress | None


@overload
def fit_map(
    source: LanguageModel,
    target: LanguageModel,
    texts: Iterable[str],
    *,
    layers: tuple[int | float, int | float],
    **options: Unpack[FitOptions],
) -> FittedMap: ...


@overload
def fit_map(
    source: Sequence[LanguageModel],
    target: LanguageModel,
    texts: Iterable[str],
    *,
    layers: tuple[Sequence[Layers], int | float],
    **options: Unpack[FitOptions],
) -> FittedMap: ...


@overload
def fit_map(
    source: LanguageModel,
    target: LanguageModel,
    texts: Iterable[str],
    *,
    layers: tuple[Layers, Layers],
    **options: Unpack[FitOptions],
) -> FittedMap | MapGrid: ...


def fit_map(
    source: LanguageModel | Sequence[LanguageModel],
    target: LanguageModel,
    texts: Iterable[str],
    *,
    layers: tuple[Layers | Sequence[Layers], Layers],
    pool: int = 16,
    tokens: int | None = None,
    context: int = 256,
    folds: int = 10,
    batch_tokens: int = 8192,
    seed: int = 0,
    loss: float = 0.005,
    memory_gb: float = 24.0,
    neutral_texts: Sequence[str] = PARAGRAPHS,
    progress: Progress | None = None,
) -> FittedMap | MapGrid:
    """The closed-form ridge map from a layer of one model to a layer of another, or of every pair of layers.

    Both models run once over the texts, and before that over the first 65,536 tokens for their median norms.
    First positions and massive activations (over ten medians, at any of the layers) are excluded from the
    fit. A tenth of the documents chooses the ridge weight, and another tenth, which the map never sees, gives
    its FVU. Nothing is written.

    The models may have different tokenizers. Both then read the same text, each in its own tokens. A row is
    of spans of characters that begin and end where tokens of all models do: the last token of each model's
    (`pool=1`), or the mean over each model's tokens in `pool` spans. Sources of unlike tokenizers go through
    a span in steps, and one with fewer tokens stays at its last: their mean is over the steps.

    source    A model; or a list of models, whose states the map then reads side by side, each in units of its
              own size. All of them may have tokenizers of their own.
    texts     Each is a document; any iterable, read as far as `tokens` needs. Text like the contrastive
              prompts of the vectors helps most.
    layers    The source's and the target's: a block, or a relative depth in [0, 1), such as (0.5, 0.5). These
              give a `FittedMap`. Where a side is a list of them, "all", "every 4" or "auto", every pair of
              layers is fitted from the same pass, and a `MapGrid` is returned.
              "auto" stands for up to five blocks from a quarter to three quarters of the depth, since no text
              says which layer is best for a vector. `MapGrid.transfer` then reads the vector's own layer, and
              chooses the target layer by depth and by the vector's forecast.
              With several sources the first is a list with an entry for each, a layer or a list of layers,
              and the second is one layer.
    pool      Neighbouring tokens (or spans) of a document whose mean is one row of the fit.
    tokens    Training tokens, of the model with more of them; None takes all there are. Both held-out parts
              get an eighth of it at most.
    context   Tokens of a sequence that the models run over; at most, with two tokenizers.
    folds     Groups of documents whose sums are kept for forecasts.
    batch_tokens  Tokens of one forward pass.
    seed      Draws which documents are held out, and their order.
    loss      For several pairs: FVU that a map may lose by being stored at a lower rank, on either held-out
              part. A single map is stored whole.
    memory_gb  Most memory beside the models, in 1e9 bytes. More is refused before any text is read.
    neutral_texts  Texts on which the target's median residual norm, the unit of strength, is measured. Give
              those of `extract_vector`, so that transferred and native vectors have one unit.
    progress  Called with the tokens that are done and their number.

    Raises NotAligned for tokenizers that do not say which characters their tokens are of, InvalidValue for
    too few texts (with the tokens that there are and are needed), too little memory (with the bytes that are
    needed) and arguments out of range, NonFiniteActivations for states that are infinite or NaN.
    """
    documents = each_text(texts, "texts")
    neutral_texts = checked_texts(neutral_texts, "neutral_texts")
    for name, value, least in (
        ("folds", folds, 2),
        ("context", context, 2),
        ("batch_tokens", batch_tokens, 1),
        ("pool", pool, 1),
        ("seed", seed, 0),
    ):
        whole(name, value, least)
    if tokens is not None:
        whole("tokens", tokens, context)
    if not finite("loss", loss) >= 0:
        raise InvalidValue(f"loss={loss}; it must be at least 0")
    finite("memory_gb", memory_gb)
    stack = None if isinstance(source, LanguageModel) else stack_of(source, layers, neutral_texts)
    sources = [source] if isinstance(source, LanguageModel) else [*source]
    read: StateModel = sources[0] if stack is None else stack
    pair = layers if stack is None else (0, layers[1])
    selection = _selected(read, target, pair, pool)
    needed = needed_bytes(read, target, selection, folds, max(batch_tokens, context))
    check_memory(needed, selection, folds, memory_gb)
    first = [*islice(documents, SAMPLE_TEXTS)]
    if stack is not None:
        read = stack = StackedModel(stack.parts, first)
    kinds = (sources[0].tokenizer,) if stack is None else stack.tokenizers
    one = len(kinds) == 1 and same_tokens(kinds[0], target.tokenizer, first)
    corpus = _packed(chain(first, documents), kinds, None if one else target.tokenizer, context, tokens, seed)
    _check_enough(corpus, read, pool)

    medians = median_norms(
        read,
        target,
        selection.source_layers,
        selection.target_layers,
        corpus,
        at_most_tokens=MEDIAN_TOKENS,
        batch_tokens=batch_tokens,
    )
    device = with_room(with_float64(target.device), needed, "fitting the map")
    sums = summed(read, target, selection, corpus, medians, device, folds, batch_tokens, progress)
    norms = median_residual_norms(target, neutral_texts, selection.target_layers)
    card: dict[str, Any] = {
        "models": {side: _described(lm) for side, lm in zip(SIDES, (sources[0], target), strict=True)},
        "layers": {
            "source": list(selection.source_layers if stack is None else stack.parts[0].layers),
            "target": list(selection.target_layers),
        },
        **({} if stack is None else {"beside": _beside(stack)}),
        "residual_norms": [norms[layer] for layer in selection.target_layers],
        "corpus": {
            "digest": corpus.digest,
            "tokens": {split: corpus.rows(split) for split in SPLITS},
            **({"aligned": corpus.paired()} if corpus.aligned else {}),
            "documents_excluded": dict(corpus.documents_excluded),
            "context": context,
            "pool": pool,
            "filter": {**asdict(selection.filter), "token_ids": list(selection.filter.token_ids)},
        },
        "rows": sums.rows,
        "folds": folds,
        "tokens_excluded": sums.excluded,
    }
    return _single(sums, card) if all(map(one_layer, pair)) else _grid(sums, loss, card)


def _single(sums: PassSums, card: dict[str, Any]) -> FittedMap:
    pair = sums.test.source_layers[0], sums.test.target_layers[0]
    folds = pair_of(sums.folds, *pair)
    train, test = merge_all(folds), sums.test.pair(*pair)
    validation = sums.validation.pair(*pair)
    ridge = SharedRidge(train, validation)
    fit = ridge.fit(train, validation)
    affine = fit.map.to(torch.float32)
    card = {
        **card,
        "metrics": {
            "fvu": test.fvu_of(fit.map),
            "fvu_validation": fit.fvu_validation,
            "fvu_shuffled": shuffled_fvu(ridge, train, fit.weight, test),
            "ridge_weight": fit.weight,
        },
    }
    card["fingerprint"] = fingerprint({**card, "weight": tensor_digest(affine.weight)})
    return fitted_of(affine, tuple(fold.to("cpu") for fold in folds), card)


def _grid(sums: PassSums, loss: float, card: dict[str, Any]) -> MapGrid:
    fitted = fit_grid(sums.folds, sums.validation, sums.test, loss)
    maps = {pair: stored for pair, (stored, _) in fitted.items()}
    card = {**card, "loss": loss, "pairs": [asdict(figures) for _, figures in fitted.values()]}
    digests = [tensor_digest(each.affine().weight) for each in maps.values()]
    card["fingerprint"] = fingerprint({**card, "weights": digests})
    return MapGrid(maps, tuple(fold.to("cpu") for fold in sums.folds), card)


def _selected(source: StateModel, target: StateModel, layers: tuple[Any, Layers], pool: int) -> Selection:
    if not isinstance(layers, tuple | list) or len(layers) != 2:
        raise InvalidValue(
            f"layers={layers!r}; it must be a pair: (layer or layers of the source, of the target)"
        )
    blocks = [
        blocks_of(lm, named, f"layers[{side}]")
        for side, (lm, named) in enumerate(zip((source, target), layers, strict=True))
    ]
    return Selection(blocks[0], blocks[1], RowFilter(), pool)


def _packed(
    texts: Iterable[str],
    kinds: Sequence[Any],  # of the source models' tokenizers, those that cut texts in their own ways
    other: Any,  # the target's tokenizer, if it is another
    context: int,
    tokens: int | None,
    seed: int,
) -> PackedCorpus:
    held_out = None if tokens is None else max(context, tokens // 8)
    wanted: dict[Split, int | None] = {"train": tokens, "validation": held_out, "test": held_out}
    try:
        return pack(
            (Document(text) for text in texts),
            kinds if len(kinds) > 1 else kinds[0],
            context,
            wanted,
            target=other,
            end=() if len(kinds) > 1 else end_ids(kinds[0]),
            seed=seed,
        )
    except CorpusTooShort as error:
        raise InvalidValue(
            f"`texts` are too few: {error.tokens:,} tokens of them fall to {error.split}, and one sequence "
            f"of context={context} tokens is needed there. Each text is one document, and whole documents "
            "are held out: a tenth for validation, a tenth for test. Add texts, cut long ones, or lower "
            "`context`"
        ) from error
    except CorpusEmpty as error:
        raise InvalidValue(f"`texts` hold no document that can be used: {error}") from error


def _check_enough(corpus: PackedCorpus, source: StateModel, pool: int) -> None:
    """Raise InvalidValue where there are fewer rows than dimensions that the map reads."""
    tokens, needed = corpus.pairs("train"), source.width * pool
    if tokens < needed:
        raise InvalidValue(
            f"`texts` are too few: {tokens:,} training tokens make {tokens // pool:,} rows of pool={pool} "
            f"tokens, fewer than the {source.width:,} dimensions of {source.spec.name}. At least {needed:,} "
            f"training tokens are needed, {needed / FRACTIONS[0]:,.0f} in all; many more are better. Add "
            "texts, or lower `pool`"
        )


def _beside(stack: StackedModel) -> list[dict[str, Any]]:
    """The further sources, for a card."""
    return [
        {**_described(part.lm), "layers": list(part.layers), "unit": part.unit} for part in stack.parts[1:]
    ]


def _described(lm: LanguageModel) -> dict[str, Any]:
    # transformers knows it of the hub's models alone; a local folder is nobody else's
    commit = getattr(lm.model.config, "_commit_hash", None)
    return {
        "name": lm.spec.name,
        "path": lm.spec.path if commit else None,
        "revision": commit,
        "weights": lm.spec.weights,
        "seed": lm.spec.seed,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "depth": lm.depth,
        "width": lm.width,
    }
