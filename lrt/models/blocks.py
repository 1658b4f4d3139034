"""The numbered decoder blocks inside any transformers model: how they are found, and what reads them."""

from typing import Any, Protocol

from torch import nn

from lrt.errors import InvalidValue

UNCUT = "length_before_cut"
"""Attribute of a list of blocks of which only the first are there."""


class NoBlocks(InvalidValue):
    """The model has no single list of decoder blocks that could be numbered."""


class BlockModel(Protocol):
    """A model whose decoder blocks are addressed by number; `LanguageModel` is one.

    model   The transformers model.
    stack   The module in it that runs the blocks.
    blocks  The decoder blocks, in order.
    """

    model: Any
    stack: nn.Module
    blocks: list[nn.Module]

    @property
    def block_output_length(self) -> int:
        """Length of the tuple that a block returns, 0 where it returns the bare hidden state."""
        ...

    def resolve_layer(self, layer: int | float, setting: str) -> int:
        """The block index of a layer. Raises InvalidValue, naming `setting`, where there is none."""
        ...


def find_blocks(model: Any) -> tuple[nn.Module, nn.ModuleList]:
    """The module that runs the decoder blocks, and the blocks in order.

    model  A transformers model for causal language modelling.

    The blocks are the outermost `ModuleList` whose length is the config's `num_hidden_layers`, of several the
    one in the model's decoder. Module names are not used: every family has its own. Raises `NoBlocks`, with
    every list in the model, where none or more than one fits.
    """
    depth = model.config.get_text_config(decoder=True).num_hidden_layers
    modules: dict[str, nn.Module] = dict(model.named_modules())
    lists = {name: m for name, m in modules.items() if isinstance(m, nn.ModuleList)}
    fitting: list[str] = []
    for name, blocks in lists.items():
        # Parents come before children. So a list of as many experts as there are blocks is recognised as
        # lying inside a block.
        inside = any(name.startswith(f"{outer}.") for outer in fitting)
        if getattr(blocks, UNCUT, len(blocks)) == depth and not inside:
            fitting.append(name)
    if len(fitting) > 1 and hasattr(model, "get_decoder"):  # a vision tower may be as deep
        inner = set(model.get_decoder().modules())
        fitting = [name for name in fitting if lists[name] in inner] or fitting
    if len(fitting) != 1:
        every_list = ", ".join(f"{name} ({len(blocks)})" for name, blocks in lists.items()) or "none"
        number = "no list" if not fitting else f"{len(fitting)} lists ({', '.join(fitting)})"
        raise NoBlocks(
            f"{type(model).__name__} is not supported: it has {number} of {depth} modules "
            "(num_hidden_layers) that could be its decoder blocks, and must have exactly one. Module lists: "
            f"{every_list}. Choose a model of another family"
        )
    owner = modules[fitting[0].rpartition(".")[0]]
    return owner, lists[fitting[0]]


def blocks_name(model: Any) -> str:
    """The name of the list of decoder blocks within `model.base_model`, as `layers` or `h`."""
    _, blocks = find_blocks(model)
    modules: dict[str, nn.Module] = dict(model.base_model.named_modules())
    return next(name for name, module in modules.items() if module is blocks)


def keep_first_blocks(model: Any, count: int) -> None:
    """Remove a model's decoder blocks from block `count` on. Raises `NoBlocks` as `find_blocks`."""
    _, blocks = find_blocks(model)
    setattr(blocks, UNCUT, len(blocks))
    del blocks[count:]
