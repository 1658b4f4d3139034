"""A stitched model: early blocks of the source, an affine map, late blocks of the target.

The paper's section 5 proposes it to save inference: the source runs up to its layer, the map takes its
hidden state to the target's layer, and the target runs from there to its own head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lrt.errors import InvalidValue
from lrt.mapping import AffineMap, LayerConcat
from lrt.models.capabilities import agrees, decodes_alike, resumes, trial_texts
from lrt.models.decoder_cache import empty_cache
from lrt.models.decoding import decode
from lrt.models.hooks import capture, head_at, resume_from, stop_after
from lrt.models.language_model import Keep, LanguageModel, as_logits, columns_of
from lrt.models.padding import check_mask, positions_of
from lrt.models.sampling import Sampling
from lrt.models.tokenization import check_same_tokenizer


@dataclass(frozen=True)
class Cost:
    """Memory and compute of a model, or of a part of one.

    parameters       Number of parameters; tied weights count once.
    flops_per_token  2 x the entries of every matrix that a token is multiplied by. Embedding lookups are
                     free. Norms, biases and attention scores, which grow with the context, are excluded.
                     All experts of a mixture count, so for it this is an upper bound.
    """

    parameters: int
    flops_per_token: int


@dataclass(frozen=True)
class StitchedCost:
    """Costs of a stitched model's four parts, and of both whole models."""

    early: Cost  # the source's embeddings and its blocks up to the deepest layer read
    affine: Cost
    late: Cost  # the target's blocks above the layer and its final norm
    head: Cost  # of the target
    source: Cost
    target: Cost

    @property
    def stitched(self) -> Cost:
        """The four parts together."""
        parts = (self.early, self.affine, self.late, self.head)
        return Cost(sum(p.parameters for p in parts), sum(p.flops_per_token for p in parts))

    def to_data(self) -> dict[str, dict[str, int]]:
        """Plain data, with the sum under `stitched`."""
        return {**asdict(self), "stitched": asdict(self.stitched)}


class Stitched:
    """A language model of the source up to `source_layers`, the map, and the target above `layer`.

    source_layers  Decoder blocks whose outputs, side by side in this order, the map reads.
    layer          The target's decoder block whose output is replaced by the mapped state.
    keep_first     Use the target's own state at position 0, where many models have a massive activation
                   that later tokens attend to and that map fits exclude. It needs the target's early
                   blocks in memory, for one token a sequence. The lab's models have no such activation.

    The map is applied in float32 and the mapped state cast to the target's dtype.

    Raises ValueError for layers that a model lacks and for a map of other widths. Raises InvalidValue for a
    target whose upper blocks read more than the residual stream. For models that do not share token ids,
    raises `TokenizersDiffer`, or InvalidValue where a model has no tokenizer.
    """

    def __init__(
        self,
        source: LanguageModel,
        target: LanguageModel,
        affine: AffineMap,
        source_layers: LayerConcat | Sequence[int],
        layer: int,
        *,
        keep_first: bool = False,
    ) -> None:
        check_token_ids(source, target)
        self.source, self.target, self.keep_first = source, target, keep_first
        self.source_layers = source_concat(source, source_layers)
        self.layer = target.resolve_layer(layer, "layer")
        if (affine.d_source, affine.d_target) != (self.source_layers.total, target.width):
            raise ValueError(
                f"the map is {affine.d_source} -> {affine.d_target}; source layers "
                f"{list(self.source_layers.layers)} of {source.spec.name} have width "
                f"{self.source_layers.total} side by side and a layer of {target.spec.name} has "
                f"{target.width}. Pass the layers that the map was fitted on; for a map to several target "
                "layers, its rows for one (`AffineMap.onto`)"
            )
        if not resumes(target, self.layer):
            raise InvalidValue(
                f"the blocks of {target.spec.name} above {self.layer} read more than that block's output, so "
                "they cannot run from a mapped state; use a target of another family"
            )
        self.affine = affine.to(torch.float32).to(target.device)

    def image(
        self,
        states: Mapping[int, Tensor],  # {source layer: [b, t, d_source]}
    ) -> Tensor:  # [b, t, d_target]
        """The source's states mapped to the target's layer, in the target's dtype and on its device."""
        stacked = torch.cat([states[at].to(self.target.device) for at in self.source_layers.layers], dim=-1)
        return self.affine.points(stacked).to(self.target.dtype)

    @torch.no_grad()
    def logits(
        self,
        tokens: Tensor,  # [b, t] long
        attention_mask: Tensor | None = None,  # [b, t]
        keep: Keep = None,
    ) -> Tensor:
        """Next-token logits, float32 `[b, k, V]`, at the columns that `keep` names (all, if None).

        Raises ValueError for tokens, a mask or columns that do not fit.
        """
        check_tokens(tokens, self.source, self.target)
        states = self.source.hidden_states(tokens, self.source_layers.layers, attention_mask)
        return self.logits_from(states, tokens, attention_mask, keep)

    @torch.no_grad()
    def logits_from(
        self,
        states: Mapping[int, Tensor],  # {source layer: [b, t, d_source]}
        tokens: Tensor,  # [b, t] long
        attention_mask: Tensor | None = None,  # [b, t]
        keep: Keep = None,
    ) -> Tensor:
        """`logits` from source states that are known already, to share one pass between stitched models."""
        mask = torch.ones_like(tokens) if attention_mask is None else attention_mask
        check_mask(mask, tokens.shape)
        columns = columns_of(keep, mask)
        hidden = self._entering(self.image(states), tokens, mask)

        def hooks(rows: slice, span: slice) -> AbstractContextManager[None]:
            return resume_from(self.target, self.layer, hidden[rows, span])

        return self.target.logits_under(hooks, tokens, attention_mask, columns)

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,  # [b, t] long
        attention_mask: Tensor | None = None,  # [b, t]
        *,
        max_new_tokens: int,
        eos_ids: tuple[int, ...] = (),
        sampling: Sampling | None = None,
    ) -> Tensor:
        """Continuations, long `[b, max_new_tokens]`: greedy, or sampled.

        Both models use a cache, so each new token runs through the stitched blocks once. Where a family's
        cache does not allow that, each new token runs a whole pass. A row that has ended is padded with the
        first of `eos_ids`. Ids that only one model's padded table has are never generated.

        Raises ValueError for tokens or a mask that do not fit, prompts padded on the right, fewer than
        one new token, or another number of seeds than of rows.
        """
        check_tokens(tokens, self.source, self.target)
        rows = len(tokens)
        tokens = tokens.to(self.target.device)
        mask = torch.ones_like(tokens) if attention_mask is None else attention_mask.to(tokens.device).long()
        check_mask(mask, tokens.shape)
        if not bool(mask[:, -1].all()):
            raise ValueError("prompts are padded on the right; generation needs padding on the left")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
        if sampling is not None and len(sampling.seeds) != rows:
            raise ValueError(f"{len(sampling.seeds)} seeds for {rows} prompts; pass one each")
        # an id that a padded table has beyond the other's would have no embedding there
        vocabulary = min(map(_vocabulary, (self.source, self.target)))
        caches = (empty_cache(self.source), empty_cache(self.target)) if self._decodes else None
        text = tokens

        def step(new: Tensor | None) -> Tensor:
            nonlocal text, mask
            if new is not None:
                mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
                text = torch.cat([text, new], dim=1)
            if caches is None:
                return self.logits(text, mask, "last")[:, -1]
            return self._step(text if new is None else new, mask, *caches)

        items, name = torch.arange(rows), f"{self.source.spec.name} stitched to {self.target.spec.name}"
        return decode(step, items, max_new_tokens, eos_ids, sampling, vocabulary=vocabulary, model=name)

    def cost(self) -> StitchedCost:
        """Parameters and FLOPs of the parts in use, and of both whole models.

        Modules beside the blocks count as early or late by their order of registration: embeddings
        come before the blocks, the final norm after. With `keep_first` the parameters of the target's early
        part count as `late`, its FLOPs do not.
        """
        deepest, seen = max(self.source_layers.layers), set[int]()
        below, _ = _beside_blocks(self.source)
        target_below, target_above = _beside_blocks(self.target)
        early = [*below, *self.source.blocks[: deepest + 1]]
        late = [*self.target.blocks[self.layer + 1 :], *target_above]
        only_first = [*target_below, *self.target.blocks[: self.layer + 1]] if self.keep_first else []
        head = [self.target.model.get_output_embeddings()]
        weight, bias = self.affine.weight.numel(), self.affine.bias.numel()
        return StitchedCost(
            early=Cost(_parameters(early, seen), _flops(early)),
            affine=Cost(weight + bias, 2 * weight),
            late=Cost(_parameters([*late, *only_first], seen), _flops(late)),
            head=Cost(_parameters(head, seen), _flops(head)),
            source=_whole(self.source),
            target=_whole(self.target),
        )

    def _entering(self, image: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """The mapped state; with `keep_first` the target's own state at position 0."""
        if not self.keep_first:
            return image
        first = positions_of(mask.to(image.device)) == 0
        beginning = tokens.to(image.device)[first][:, None]  # one token a row
        own = self.target.hidden_states(beginning, [self.layer])[self.layer]
        return torch.where(first[..., None], own, image)

    def _step(self, entering: Tensor, mask: Tensor, early: Any, late: Any) -> Tensor:
        """Logits `[b, V]` after the last of the tokens `entering [b, t]`; both caches grow."""
        rows, length = entering.shape
        layers = self.source_layers.layers
        with capture(self.source, layers) as states, stop_after(self.source, max(layers)):
            self.source.run(entering, mask, early, head=False)
        hidden = self.image(states)
        if length == mask.shape[1]:  # the prompt, and with it position 0
            hidden = self._entering(hidden, entering, mask)
        last = torch.full((rows, 1), length - 1)
        with resume_from(self.target, self.layer, hidden), head_at(self.target, last):
            logits = as_logits(self.target.run(entering, mask, late))[:, -1]
        # transformers reads the cached length from any block, so those that never run show another's
        above = late.layers[self.layer + 1 :]
        counting = [each for each in above if hasattr(each, "get_seq_length")]
        for index, below in enumerate(late.layers[: self.layer + 1]):
            alike = [each for each in above if type(each) is type(below)] or counting
            if alike:
                late.layers[index] = alike[0]
        return logits

    @cached_property
    def _decodes(self) -> bool:
        """Whether both caches can be used."""
        models = (self.source, self.target)

        def same() -> bool:
            text = trial_texts(min(models, key=_vocabulary), 2).to(self.target.device)
            caches = [empty_cache(lm) for lm in models]
            return decodes_alike(
                lambda new, mask: self._step(new, mask, *caches),
                lambda whole, mask: self.logits(whole, mask, "last")[:, -1],
                text,
                self.target.dtype,
            )

        what = "the cache of a stitched model does not hold, so each new token runs a whole pass"
        return all(lm.hides_padding for lm in models) and agrees(same, self.target, what)


def _vocabulary(lm: LanguageModel) -> int:
    """Rows of the embedding table, which may be padded."""
    return len(lm.model.get_input_embeddings().weight)


def source_concat(source: LanguageModel, source_layers: LayerConcat | Sequence[int]) -> LayerConcat:
    """Layers as a `LayerConcat` of the source's width.

    Raises ValueError for layers that the source lacks, repeated layers, and another width.
    """
    layers = source_layers.layers if isinstance(source_layers, LayerConcat) else tuple(source_layers)
    if isinstance(source_layers, LayerConcat) and source_layers.width != source.width:
        raise ValueError(
            f"source_layers has width {source_layers.width}; {source.spec.name} has hidden states of "
            f"{source.width}"
        )
    return LayerConcat(tuple(source.resolve_layer(at, "source_layers") for at in layers), source.width)


def check_token_ids(source: LanguageModel, target: LanguageModel) -> None:
    """Raise `TokenizersDiffer` unless both models have the same token ids.

    Without a tokenizer only the vocabulary sizes can be compared; raises InvalidValue where they differ.
    """
    if source.tokenizer is not None and target.tokenizer is not None:
        check_same_tokenizer(source.tokenizer, target.tokenizer)
        return
    sizes = source.text_config.vocab_size, target.text_config.vocab_size
    if sizes[0] != sizes[1]:
        raise InvalidValue(
            f"{source.spec.name} has a vocabulary of {sizes[0]} and {target.spec.name} of {sizes[1]}, so "
            "their token ids differ; use two models of one family (or, where one vocabulary is only padded, "
            "load both with their tokenizers)"
        )


def check_tokens(tokens: Tensor, *models: LanguageModel) -> None:
    """Raise ValueError unless `tokens` is a non-empty long `[b, t]` of ids in every model's vocabulary."""
    if tokens.ndim != 2 or not tokens.numel() or tokens.dtype != torch.long:
        raise ValueError(
            f"tokens have shape {list(tokens.shape)} and dtype {tokens.dtype}; they must be a long tensor "
            "[rows, length] with at least one row and one token"
        )
    low, high = int(tokens.min()), int(tokens.max())
    for lm in models:
        if low < 0 or high >= lm.text_config.vocab_size:
            raise ValueError(
                f"token ids are in {low}..{high}; {lm.spec.name} has 0..{lm.text_config.vocab_size - 1}: "
                "encode the text with its tokenizer"
            )


def _beside_blocks(lm: LanguageModel) -> tuple[list[nn.Module], list[nn.Module]]:
    """Modules that the decoder stack registers before its blocks, and after them."""
    below: list[nn.Module] = []
    above: list[nn.Module] = []
    side = below
    for child in lm.stack.children():
        if any(block is lm.blocks[0] for block in child.children()):
            side = above
        else:
            side.append(child)
    return below, above


def _parameters(modules: Iterable[nn.Module], seen: set[int]) -> int:
    """Number of parameters of modules, except those whose id is in `seen`, which is updated."""
    count = 0
    for module in modules:
        for weight in module.parameters():
            if id(weight) not in seen:
                seen.add(id(weight))
                count += weight.numel()
    return count


def _flops(modules: Iterable[nn.Module]) -> int:
    matrices = (
        weight.numel()
        for outer in modules
        for module in outer.modules()
        if not isinstance(module, nn.Embedding)
        for weight in module.parameters(recurse=False)
        if weight.ndim >= 2
    )
    return 2 * sum(matrices)


def _whole(lm: LanguageModel) -> Cost:
    below, above = _beside_blocks(lm)
    run = [*below, *lm.blocks, *above, lm.model.get_output_embeddings()]
    return Cost(_parameters([lm.model], set()), _flops(run))
