"""Early blocks of one model, an affine map, late blocks of another: one language model of two.

The paper's section 5 proposes it to save inference: the source reads the text up to its layer, the
map carries the hidden state over, and the target goes on from there to its own head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrt.mapping import AffineMap, LayerConcat
from lrt.models.hooks import capture, head_at, resume_from, stop_after
from lrt.models.language_model import Keep, LanguageModel, as_logits, columns_of
from lrt.models.padding import check_mask, positions_of
from lrt.models.prefix import Sampling, empty_cache
from lrt.models.tokenization import check_same_tokenizer


@dataclass(frozen=True)
class Cost:
    """What a model, or a part of one, takes.

    parameters       Numbers to hold in memory; tied weights count once.
    flops_per_token  2 x the entries of every matrix that the token is multiplied by (a multiply and
                     an add each). Lookups in embeddings are free; norms, biases and the attention
                     scores, which grow with the context, are left out. All experts of a mixture
                     count, so there it is an upper bound.
    """

    parameters: int
    flops_per_token: int


@dataclass(frozen=True)
class StitchedCost:
    """A stitched model's parts, beside both whole models."""

    early: Cost  # the source's embeddings and its blocks up to the deepest layer read
    affine: Cost
    late: Cost  # the target's blocks above the layer and its final norm
    head: Cost  # the target's
    source: Cost
    target: Cost

    @property
    def stitched(self) -> Cost:
        """The four parts together."""
        parts = (self.early, self.affine, self.late, self.head)
        return Cost(sum(p.parameters for p in parts), sum(p.flops_per_token for p in parts))

    def to_data(self) -> dict[str, dict[str, int]]:
        """Plain figures, `stitched` among them."""
        return {**asdict(self), "stitched": asdict(self.stitched)}


class Stitched:
    """The source up to `source_layers`, the map, the target from above `layer` on.

    source_layers  Blocks whose outputs, side by side in this order, the map takes.
    layer          The target's block in whose output's place the image stands.
    keep_first     Leave the target its own state at position 0, where many models keep a massive
                   activation that later tokens attend to and that fits leave out. It costs the target's
                   early blocks on one token a sequence, so they must stay in memory. The lab's models
                   have none.

    The map is applied in float32 and its image cast to the target's dtype. Raises ValueError for
    layers that are no blocks, a map of other widths, a target whose upper blocks read more than the
    residual stream, and `TokenizersDiffer` (or ValueError where a model came without tokenizer and the
    sizes of the vocabularies differ) for models that do not share token ids.
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
        self.stack = source_stack(source, source_layers)
        self.layer = target.resolve_layer(layer, "layer")
        if (affine.d_source, affine.d_target) != (self.stack.total, target.width):
            raise ValueError(
                f"the map takes {affine.d_source} columns to {affine.d_target}; source layers "
                f"{list(self.stack.layers)} of {source.spec.name} have {self.stack.total} side by side "
                f"and a layer of {target.spec.name} has {target.width}. Give the layers that the map was "
                "fitted on; of a map to several target layers, the rows of one"
            )
        if getattr(target.text_config, "num_kv_shared_layers", 0):
            raise ValueError(
                f"{target.spec.name} shares keys and values between its blocks (num_kv_shared_layers="
                f"{target.text_config.num_kv_shared_layers}), so its upper blocks cannot be run from a "
                "hidden state alone; take a target of another family"
            )
        self.affine = affine.to(torch.float32).to(target.device)

    def image(
        self,
        states: Mapping[int, Tensor],  # {source layer: [b, t, d_source]}
    ) -> Tensor:  # [b, t, d_target]
        """The source's states carried to the target's layer, in the target's dtype and place."""
        stacked = torch.cat([states[at].to(self.target.device) for at in self.stack.layers], dim=-1)
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
        states = self.source.hidden_states(tokens, self.stack.layers, attention_mask)
        return self.logits_from(states, tokens, attention_mask, keep)

    @torch.no_grad()
    def logits_from(
        self,
        states: Mapping[int, Tensor],  # {source layer: [b, t, d_source]}
        tokens: Tensor,  # [b, t] long
        attention_mask: Tensor | None = None,  # [b, t]
        keep: Keep = None,
    ) -> Tensor:
        """`logits` where the source has been run already: many cuts, one pass of the source."""
        mask = torch.ones_like(tokens) if attention_mask is None else attention_mask
        check_mask(mask, tokens.shape)
        columns = columns_of(keep, mask)
        hidden = self._entering(self.image(states), tokens, mask)
        with resume_from(self.target, self.layer, hidden), head_at(self.target, columns):
            return as_logits(self.target.run(tokens, attention_mask))

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,  # [b, t] long
        attention_mask: Tensor | None = None,  # [b, t]
        *,
        max_new_tokens: int,
        eos_ids: tuple[int, ...] = (),
        sampling: Sampling | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Continuations, long `[b, max_new_tokens]`: greedy, or drawn as `sampling` says.

        Both halves keep their keys and values, so each new token runs through the stitched blocks
        once. A row that ended is filled up with the first of `eos_ids`.

        progress  Called after each token with the number of rows it was drawn for.

        Raises ValueError for tokens or a mask that do not fit, prompts padded on the right, fewer than
        one new token, or another number of seeds than of rows.
        """
        check_tokens(tokens, self.source, self.target)
        rows = len(tokens)
        tokens = tokens.to(self.target.device)
        mask = torch.ones_like(tokens) if attention_mask is None else attention_mask.to(tokens.device).long()
        check_mask(mask, tokens.shape)
        if not bool(mask[:, -1].all()):
            raise ValueError("generation needs prompts padded on the left; these are on the right")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens}; at least 1 is needed")
        if sampling is not None and len(sampling.seeds) != rows:
            raise ValueError(f"{len(sampling.seeds)} seeds for {rows} prompts; give one each")
        early, late = empty_cache(self.source), empty_cache(self.target)
        eos = torch.tensor(eos_ids, dtype=torch.long, device=tokens.device)
        new = tokens.new_full((rows, max_new_tokens), eos_ids[0] if eos_ids else 0)
        ended = torch.zeros(rows, dtype=torch.bool, device=tokens.device)
        entering = tokens
        for step in range(max_new_tokens):
            scores = self._step(entering, mask, early, late)
            if sampling is not None:
                noise = sampling.noise(step, scores.shape[1]).to(scores.device)
                scores = scores / sampling.temperature + noise
            token = scores.argmax(dim=-1).to(tokens.device)
            new[:, step] = torch.where(ended, new[:, step], token)
            ended |= torch.isin(token, eos)
            if progress is not None:
                progress(rows)
            if bool(ended.all()):
                break
            entering = new[:, step : step + 1]
            mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
        return new

    def cost(self) -> StitchedCost:
        """Parameters and FLOPs of the parts in use and of both whole models.

        What a model has beside its blocks belongs to the side of them where it registers it:
        embeddings before, the final norm after. With `keep_first` the target's early part is held in
        memory too and counts as `late`; per token it costs nothing.
        """
        deepest, seen = max(self.stack.layers), set[int]()
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
        """The image, or at position 0 the target's own state."""
        if not self.keep_first:
            return image
        first = positions_of(mask.to(image.device)) == 0
        beginning = tokens.to(image.device)[first][:, None]  # each row has exactly one
        own = self.target.hidden_states(beginning, [self.layer])[self.layer]
        return torch.where(first[..., None], own, image)

    def _step(self, entering: Tensor, mask: Tensor, early: Any, late: Any) -> Tensor:
        """Logits `[b, V]` after the last of the tokens `entering [b, t]`; both caches grow."""
        rows, length = entering.shape
        layers = self.stack.layers
        with capture(self.source, layers) as states, stop_after(self.source, max(layers)):
            self.source.run(entering, mask, early, head=False)
        hidden = self.image(states)
        if length == mask.shape[1]:  # the prompt, and with it position 0
            hidden = self._entering(hidden, entering, mask)
        last = torch.full((rows, 1), length - 1)
        with resume_from(self.target, self.layer, hidden), head_at(self.target, last):
            logits = as_logits(self.target.run(entering, mask, late))[:, -1]
        # Masks and positions follow from the length of any block's keys, and those that never run
        # would say that nothing has been read.
        blank = hidden.new_zeros(rows, 1, length, 1)
        for below in late.layers[: self.layer + 1]:
            below.update(blank, blank)
        return logits


def source_stack(source: LanguageModel, source_layers: LayerConcat | Sequence[int]) -> LayerConcat:
    """Layers as a `LayerConcat` of the source's width.

    Raises ValueError for layers that the source lacks or that are named twice, and for a stack of
    another width.
    """
    layers = source_layers.layers if isinstance(source_layers, LayerConcat) else tuple(source_layers)
    if isinstance(source_layers, LayerConcat) and source_layers.width != source.width:
        raise ValueError(
            f"the stack of source layers is of width {source_layers.width}; {source.spec.name} has hidden "
            f"states of {source.width}"
        )
    return LayerConcat(tuple(source.resolve_layer(at, "source_layers") for at in layers), source.width)


def check_token_ids(source: LanguageModel, target: LanguageModel) -> None:
    """Raise ValueError (`TokenizersDiffer` of two tokenizers) unless token ids mean the same in both.

    Of a model without a tokenizer the size of the vocabulary is all that can be compared.
    """
    if source.tokenizer is not None and target.tokenizer is not None:
        check_same_tokenizer(source.tokenizer, target.tokenizer)
        return
    ours, theirs = source.text_config.vocab_size, target.text_config.vocab_size
    if ours != theirs:
        raise ValueError(
            f"{source.spec.name} has a vocabulary of {ours} and {target.spec.name} of {theirs}, so they "
            "read different token ids; take two models of one family (or, where one vocabulary is only "
            "padded, load both with their tokenizers, which are then compared)"
        )


def check_tokens(tokens: Tensor, *models: LanguageModel) -> None:
    """Raise ValueError unless `tokens` is a non-empty long `[b, t]` of ids that every model has."""
    if tokens.ndim != 2 or not tokens.numel() or tokens.dtype != torch.long:
        raise ValueError(
            f"tokens have shape {list(tokens.shape)} and dtype {tokens.dtype}; allowed: a long tensor "
            "[rows, length] with at least one row and one token"
        )
    low, high = int(tokens.min()), int(tokens.max())
    for lm in models:
        if low < 0 or high >= lm.text_config.vocab_size:
            raise ValueError(
                f"token ids lie in {low}..{high}; {lm.spec.name} has 0..{lm.text_config.vocab_size - 1}. "
                "Encode the text with its tokenizer"
            )


def _beside_blocks(lm: LanguageModel) -> tuple[list[nn.Module], list[nn.Module]]:
    """What the decoder stack registers before its blocks, and after them."""
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
    """How many the modules have that are not yet among `seen`, which grows."""
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
