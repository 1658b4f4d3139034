"""Finding the numbered stack of decoder blocks inside any transformers model."""

from typing import Any

from torch import nn


class NoBlocks(ValueError):
    """The model has no single list of decoder blocks that we could number."""


def find_blocks(model: Any) -> tuple[nn.Module, list[nn.Module]]:
    """The module that runs the decoder blocks, and the blocks in order.

    model  A transformers model for causal language modelling.

    The stack is the outermost `ModuleList` as long as the config's `num_hidden_layers`. Nothing is
    guessed from names, of which every family has its own. Raises `NoBlocks`, naming every list
    that was found, where none or more than one fits.
    """
    depth = model.config.get_text_config(decoder=True).num_hidden_layers
    modules: dict[str, nn.Module] = dict(model.named_modules())
    lists = {name: m for name, m in modules.items() if isinstance(m, nn.ModuleList)}
    fitting: list[str] = []
    for name, stack in lists.items():
        # Parents come before children, so a mixture of as many experts as there are blocks
        # is known to lie inside one of them.
        inside = any(name.startswith(f"{outer}.") for outer in fitting)
        if len(stack) == depth and not inside:
            fitting.append(name)
    if len(fitting) != 1:
        found = ", ".join(f"{name} ({len(stack)})" for name, stack in lists.items()) or "none"
        what = "no list" if not fitting else f"{len(fitting)} lists ({', '.join(fitting)})"
        raise NoBlocks(
            f"{type(model).__name__} has {what} of {depth} modules (num_hidden_layers) that could "
            f"be its decoder blocks; the lists in it are: {found}"
        )
    owner = modules[fitting[0].rpartition(".")[0]]
    return owner, list(lists[fitting[0]])
