from types import SimpleNamespace

import pytest
from model_families import ALL, DEPTH, WIDTH
from torch import nn

from lrt.models import NoBlocks
from lrt.models.blocks import find_blocks


@pytest.mark.parametrize("family", ALL)
def test_every_family_is_a_numbered_stack(lm_of, family: str) -> None:
    lm = lm_of(family)
    assert (lm.depth, lm.width) == (DEPTH, WIDTH)
    assert len({type(block) for block in lm.blocks}) == 1
    # Transformers numbers the attention of each block itself (for its cache).
    numbers = [next(m.layer_idx for m in block.modules() if hasattr(m, "layer_idx")) for block in lm.blocks]
    assert numbers == list(range(DEPTH))
    assert any(list(child.children()) == lm.blocks for child in lm.stack.children())


def fake(**lists: int) -> nn.Module:
    model = nn.Module()
    text = SimpleNamespace(num_hidden_layers=3)
    model.config = SimpleNamespace(get_text_config=lambda **_: text)
    for name, length in lists.items():
        setattr(model, name, nn.ModuleList([nn.Linear(1, 1) for _ in range(length)]))
    return model


def test_lists_of_other_lengths_and_lists_inside_blocks_are_passed_over() -> None:
    model = fake(adapters=2, layers=3)
    for block in model.layers:
        block.experts = nn.ModuleList([nn.Linear(1, 1) for _ in range(3)])
    owner, blocks = find_blocks(model)
    assert owner is model
    assert blocks is model.layers


def test_no_stack_is_an_error_that_names_what_was_found() -> None:
    with pytest.raises(NoBlocks, match="heads"):
        find_blocks(fake(adapters=2, heads=5))
    with pytest.raises(NoBlocks):
        find_blocks(fake())


def test_two_stacks_are_an_error_that_names_both() -> None:
    with pytest.raises(NoBlocks, match="vision"):
        find_blocks(fake(text=3, vision=3))
