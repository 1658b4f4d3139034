"""Fitting a map straight from a pass of both models over texts, without a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import chain, islice
from typing import Any

from lrt.activations import RowFilter, Selection, median_norms, paired_rows
from lrt.api.fitted_map import FittedMap
from lrt.api.texts import checked_texts, each_text
from lrt.corpora import SPLITS, CorpusEmpty, CorpusTooShort, Document, PackedCorpus, Split, end_ids, pack
from lrt.corpora.splits import FRACTIONS
from lrt.errors import InvalidValue
from lrt.evaluation.neutral_texts import PARAGRAPHS
from lrt.mapping import (
    GroupedMoments,
    LayerConcat,
    Moments,
    layer_concat_bytes,
    merge_all,
    ridge_path,
    solving_bytes,
)
from lrt.models import LanguageModel, check_same_tokenizer
from lrt.models.hardware import with_float64, with_room
from lrt.models.sides import SIDES
from lrt.steering import Mapping, median_residual_norm
from lrt.storage.fingerprint import fingerprint, tensor_digest

# tokens whose norms the medians are of
MEDIAN_TOKENS = 65_536
SAMPLE_TEXTS = 16  # both tokenizers must cut them alike

Progress = Callable[[int, int], None]


def fit_map(
    source: LanguageModel,
    target: LanguageModel,
    texts: Iterable[str],
    *,
    layers: tuple[int | float, int | float],
    pool: int = 16,
    tokens: int | None = None,
    context: int = 256,
    folds: int = 10,
    batch_tokens: int = 8192,
    seed: int = 0,
    neutral_texts: Sequence[str] = PARAGRAPHS,
    progress: Progress | None = None,
) -> FittedMap:
    """The closed-form ridge map from a layer of one model to a layer of another.

    Both models run once over the texts, and before that over the first 65,536 tokens for their median norms.
    First positions and massive activations (over ten medians) are excluded from the fit.
    A tenth of the documents chooses the ridge weight, and another tenth, which the map never sees, gives its
    FVU. Nothing is written.

    texts     Each is a document; any iterable, read as far as `tokens` needs. Text like the contrastive
              prompts of the vectors helps most.
    layers    The source's and the target's block, or relative depths in [0, 1), such as (0.5, 0.5).
    pool      Neighbouring tokens of a document whose mean is one row of the fit.
    tokens    Training tokens; None takes all there are. Both held-out parts get an eighth of it at most.
    context   Tokens of a sequence that the models run over.
    folds     Groups of documents whose sums are kept for forecasts.
    batch_tokens  Tokens of one forward pass.
    seed      Draws which documents are held out, and their order.
    neutral_texts  Texts on which the target's median residual norm, the unit of strength, is measured. Give
              those of `extract_vector`, so that transferred and native vectors have one unit.
    progress  Called with the tokens that are done and their number.

    Raises TokenizersDiffer for models that turn text into other ids, InvalidValue for too few texts (with the
    tokens that there are and are needed) and arguments out of range, NonFiniteActivations for states that
    are infinite or NaN.
    """
    documents = each_text(texts, "texts")
    neutral_texts = checked_texts(neutral_texts, "neutral_texts")
    blocks = _blocks(source, target, layers)
    selection = Selection((blocks[0],), (blocks[1],), RowFilter(), pool)
    for name, value, least in (
        ("folds", folds, 2),
        ("tokens", tokens, context),
        ("batch_tokens", batch_tokens, 1),
    ):
        if value is not None and value < least:
            raise InvalidValue(f"{name}={value}; it must be at least {least}")
    first = [*islice(documents, SAMPLE_TEXTS)]
    check_same_tokenizer(source.tokenizer, target.tokenizer, first)
    corpus = _packed(chain(first, documents), source, context, tokens, seed)
    _check_enough(corpus, source, pool)

    medians = median_norms(
        source,
        target,
        selection.source_layers,
        selection.target_layers,
        corpus,
        at_most_tokens=MEDIAN_TOKENS,
        batch_tokens=batch_tokens,
    )
    concats = (
        LayerConcat(selection.source_layers, source.width),
        LayerConcat(selection.target_layers, target.width),
    )
    needed = layer_concat_bytes(*concats, 2 * (folds + 4)) + solving_bytes(*concats)
    device = with_room(with_float64(target.device), needed, "fitting the map")
    sums, excluded = _summed(
        source, target, selection, corpus, medians, device, folds, batch_tokens, progress
    )
    by_fold = tuple(fold for fold in sums["train"] if fold.count)
    (validation,), (test,) = sums["validation"], sums["test"]
    train = merge_all(by_fold or sums["train"])
    fit = ridge_path(train, validation)
    fvu = test.fvu_of(fit.map)
    affine = fit.map.to(train.mean_x.float().dtype)
    norm = median_residual_norm(target, neutral_texts, blocks[1])
    card: dict[str, Any] = {
        "models": {side: _described(lm) for side, lm in zip(SIDES, (source, target), strict=True)},
        "layers": {"source": [blocks[0]], "target": [blocks[1]]},
        "residual_norms": [norm],
        "corpus": {
            "digest": corpus.digest,
            "tokens": {split: corpus.rows(split) for split in SPLITS},
            "documents_excluded": dict(corpus.documents_excluded),
            "context": context,
            "pool": pool,
            "filter": {**asdict(selection.filter), "token_ids": list(selection.filter.token_ids)},
        },
        "rows": {split: sum(each.count for each in sums[split]) for split in SPLITS},
        "tokens_excluded": dict(excluded),
        "metrics": {"fvu": fvu, "fvu_validation": fit.fvu_validation, "ridge_weight": fit.weight},
    }
    card["fingerprint"] = fingerprint({**card, "weight": tensor_digest(affine.weight)})
    mapping = Mapping(
        affine, *concats, source.spec.name, target.spec.name, {blocks[1]: norm}, card["fingerprint"]
    )
    return FittedMap(mapping, fit.weight, tuple(fold.to("cpu") for fold in by_fold), card)


def _blocks(
    source: LanguageModel, target: LanguageModel, layers: tuple[int | float, int | float]
) -> tuple[int, int]:
    if not isinstance(layers, tuple | list) or len(layers) != 2:
        raise InvalidValue(
            f"layers={layers!r}; it must be a pair: (layer of the source, layer of the target)"
        )
    return source.resolve_layer(layers[0], "layers[0]"), target.resolve_layer(layers[1], "layers[1]")


def _packed(
    texts: Iterable[str], source: LanguageModel, context: int, tokens: int | None, seed: int
) -> PackedCorpus:
    held_out = None if tokens is None else max(context, tokens // 8)
    wanted: dict[Split, int | None] = {"train": tokens, "validation": held_out, "test": held_out}
    try:
        return pack(
            (Document(text) for text in texts),
            source.tokenizer,
            context,
            wanted,
            end=end_ids(source.tokenizer),
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


def _check_enough(corpus: PackedCorpus, source: LanguageModel, pool: int) -> None:
    """Raise InvalidValue where there are fewer rows than dimensions that the map reads."""
    tokens, needed = corpus.rows("train"), source.width * pool
    if tokens < needed:
        raise InvalidValue(
            f"`texts` are too few: {tokens:,} training tokens make {tokens // pool:,} rows of pool={pool} "
            f"tokens, fewer than the {source.width:,} dimensions of {source.spec.name}. At least {needed:,} "
            f"training tokens are needed, {needed / FRACTIONS[0]:,.0f} in all; many more are better. Add "
            "texts, or lower `pool`"
        )


def _summed(
    source: LanguageModel,
    target: LanguageModel,
    selection: Selection,
    corpus: PackedCorpus,
    medians: dict[str, float],
    device: Any,
    folds: int,
    batch_tokens: int,
    progress: Progress | None,
) -> tuple[dict[Split, list[Moments]], Counter[str]]:
    """Moments by split, of training rows one for each fold; excluded training tokens by reason."""
    total = sum(corpus.rows(split) for split in SPLITS)
    sums: dict[Split, list[Moments]] = {}
    excluded: Counter[str] = Counter()
    done = 0
    for split in SPLITS:
        count = folds if split == "train" else 1
        sums[split] = [Moments(source.width, target.width, device=device) for _ in range(count)]
        grouped = GroupedMoments(sums[split])
        for rows in paired_rows(
            source,
            target,
            selection,
            corpus,
            split,
            medians=medians,
            batch_tokens=batch_tokens,
            device=device,
        ):
            (x,), (y,) = rows.source.values(), rows.target.values()
            grouped.add(x, y, rows.document % count)
            if split == "train":
                excluded.update(rows.excluded)
            if progress is not None:
                progress(done + rows.sequences * corpus.context, total)
        grouped.flush()
        done += corpus.rows(split)
    return sums, excluded


def _described(lm: LanguageModel) -> dict[str, Any]:
    return {
        "name": lm.spec.name,
        "path": lm.spec.path,
        # the commit, where transformers knows it
        "revision": getattr(lm.model.config, "_commit_hash", None) or lm.spec.revision,
        "weights": lm.spec.weights,
        "seed": lm.spec.seed,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "depth": lm.depth,
        "width": lm.width,
    }
