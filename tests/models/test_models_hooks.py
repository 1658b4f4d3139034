import copy

import pytest
import torch
from model_families import ALL, DEPTH, FEW, SEQUENCES, VOCABULARY, WIDTH, hooks_in_force

from lrt.errors import InvalidValue
from lrt.models import Intervention, LanguageModel, capture, hooks, pad, positions_of, steer
from lrt.models.hooks import float32_head, head_at, hidden_of, stop_after

LAYERS = range(DEPTH)
# every family at one layer, few at three
FAMILY_LAYERS = [(family, 2) for family in ALL] + [
    (family, layer) for family in FEW for layer in (0, DEPTH - 1)
]


def tokens_of(seed: int, rows: int = 2, length: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (rows, length), generator=generator)


@pytest.mark.parametrize("family", ALL)
def test_captured_blocks_are_the_models_own_hidden_states(lm_of, family: str) -> None:
    lm = lm_of(family)
    tokens = tokens_of(0)
    # A copy, since transformers leaves hooks of its own behind after `output_hidden_states`.
    with torch.no_grad():
        own = copy.deepcopy(lm.model)(tokens, output_hidden_states=True, use_cache=False).hidden_states
    ours = lm.hidden_states(tokens, LAYERS)
    for layer in LAYERS[:-1]:
        torch.testing.assert_close(ours[layer], own[layer + 1], rtol=0, atol=0)
    # Transformers gives its last state after the final norm, we give the residual stream.
    assert not torch.allclose(ours[DEPTH - 1], own[DEPTH], atol=1e-2)
    norm = next(m for n, m in lm.stack.named_children() if n in ("norm", "ln_f", "final_layer_norm"))
    torch.testing.assert_close(norm(ours[DEPTH - 1]), own[DEPTH])


class Wide(torch.nn.Module):
    """A head by itself in float32."""

    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        self.head = copy.deepcopy(head).float()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(hidden.float())


@pytest.mark.parametrize("family", ALL)
def test_answers_are_read_off_a_head_in_float32(lm_of, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "HEAD_ROWS", 7)
    lm = copy.deepcopy(lm_of(family))
    tokens = tokens_of(0)
    whole = lm.logits(tokens)
    with float32_head(lm):  # of a model in float32 it is the head
        assert torch.equal(lm.logits(tokens), whole)
    lm.model.to(torch.bfloat16)
    own = copy.deepcopy(lm.model)
    own.set_output_embeddings(Wide(lm.model.get_output_embeddings()))
    with torch.no_grad():
        wide = own(tokens, use_cache=False).logits
    plain = lm.logits(tokens)
    with float32_head(lm):
        found = lm.logits(tokens)
        with head_at(lm, torch.tensor([[8], [3]])):
            some = lm.logits(tokens)
    torch.testing.assert_close(found, wide.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(some[:, 0], found[[0, 1], [8, 3]], rtol=1e-5, atol=1e-5)
    assert not torch.equal(found, plain)
    torch.testing.assert_close(found, plain, rtol=0.02, atol=0.02)
    assert torch.equal(lm.logits(tokens), plain)


@pytest.mark.parametrize(("family", "layer"), FAMILY_LAYERS)
def test_an_intervention_changes_its_block_by_itself_and_nothing_earlier(
    lm_of, add, vector, family: str, layer: int
) -> None:
    lm = lm_of(family)
    tokens = tokens_of(0)
    before = lm.hidden_states(tokens, LAYERS)
    # Rows differ: a hook that reaches the first row of a batch only, or all rows alike, fails.
    with steer(lm, [add(layer, 0.5, -1.0)]):
        after = lm.hidden_states(tokens, LAYERS)
    for earlier in range(layer):
        assert torch.equal(after[earlier], before[earlier])
    expected = before[layer] + torch.tensor([0.5, -1.0])[:, None, None] * vector
    torch.testing.assert_close(after[layer], expected)
    for later in range(layer + 1, DEPTH):
        changed = (after[later] - before[later]).norm(dim=-1)
        assert (changed > 1e-3).all()


@pytest.mark.parametrize(("family", "layer"), FAMILY_LAYERS)
def test_adding_the_difference_to_another_text_makes_the_model_read_that_text(
    lm_of, family: str, layer: int
) -> None:
    lm = lm_of(family)
    here, there = tokens_of(0), tokens_of(1)
    states, wanted = (lm.hidden_states(t, [layer])[layer] for t in (here, there))

    class Shift:
        def __init__(self) -> None:
            self.layer = layer

        def __call__(self, hidden, _positions):
            return hidden + (wanted - states)

    with steer(lm, [Shift()]):
        reached = lm.hidden_states(here, [layer])[layer]
    torch.testing.assert_close(reached, wanted)
    steered = lm.logits(here, interventions=[Shift()])
    torch.testing.assert_close(steered, lm.logits(there), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(steered, lm.logits(here), atol=1e-2)


@pytest.mark.parametrize("family", FEW)
def test_interventions_of_one_layer_apply_in_order_and_layers_add_up(lm_of, add, family: str) -> None:
    lm = lm_of(family)
    tokens = tokens_of(0)
    with steer(lm, [add(1, 0.25, 0.5), add(1, 0.75, 0.5)]):
        twice = lm.hidden_states(tokens, LAYERS)
    with steer(lm, [add(1, 1.0, 1.0)]):
        once = lm.hidden_states(tokens, LAYERS)
    for layer in LAYERS:
        torch.testing.assert_close(twice[layer], once[layer], rtol=1e-4, atol=1e-5)
    with steer(lm, [add(1, 1.0, 1.0)]), steer(lm, [add(2, 0.0, 0.0)]):
        nested = lm.hidden_states(tokens, [3])[3]
    torch.testing.assert_close(nested, once[3])


def test_everything_is_undone_after_an_exception(lm_of, add) -> None:
    lm = lm_of("llama")
    assert hooks_in_force(lm) == 0
    in_force = []

    def fail_inside() -> None:
        with capture(lm, [0, 1]), steer(lm, [add(1, 1.0)]):
            in_force.append(hooks_in_force(lm))
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert in_force == [4]  # two readers, one writer, one reader of positions
    assert hooks_in_force(lm) == 0

    class Broken:
        layer = 1

        def __call__(self, _hidden, _positions):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        lm.logits(tokens_of(0), interventions=[Broken()])
    assert hooks_in_force(lm) == 0


@pytest.mark.parametrize("bad", [DEPTH, -1])
def test_a_bad_layer_raises_its_own_error_before_anything_is_registered(lm_of, add, bad: int) -> None:
    lm = lm_of("llama")
    with (
        pytest.raises(InvalidValue, match=r"intervention\.layer"),
        steer(lm, [add(1, 1.0), add(bad, 1.0)]),
    ):
        pytest.fail("entered")
    with pytest.raises(InvalidValue), capture(lm, [0, bad]):
        pytest.fail("entered")
    assert hooks_in_force(lm) == 0


@pytest.mark.parametrize(
    "edit",
    [lambda h, _: h[:, :1], lambda h, _: h.double(), lambda h, _: h + h.new_zeros(3, 1, 1)],
    ids=["shape", "dtype", "broadcast over rows"],
)
def test_an_intervention_that_breaks_its_promise_is_refused(lm_of, edit) -> None:
    class Bad:
        layer = 1

        def __call__(self, hidden, positions):
            return edit(hidden, positions)

    with pytest.raises(ValueError, match="shape and dtype"):
        lm_of("llama").logits(tokens_of(0, rows=1), interventions=[Bad()])


def test_captured_states_are_copies_that_later_edits_do_not_reach(lm_of) -> None:
    lm = lm_of("llama")
    tokens = tokens_of(0)
    clean = lm.hidden_states(tokens, [1])[1]

    class InPlace:
        layer = 1

        def __call__(self, hidden, _positions):
            return hidden.mul_(0)

    with capture(lm, [1]) as found:
        lm.logits(tokens, interventions=[InPlace()])
    assert torch.equal(found[1], clean)
    assert not found[1].requires_grad


class Recorder:
    """Records the positions that it gets, and changes nothing."""

    layer = 1

    def __init__(self) -> None:
        self.positions: list[list[list[int]]] = []

    def __call__(self, hidden, positions):
        self.positions.append(positions.tolist())
        return hidden


def test_the_recorder_is_an_intervention() -> None:
    assert isinstance(Recorder(), Intervention)


@pytest.mark.parametrize("family", ALL)
def test_positions_are_absolute_under_padding_and_under_the_cache(lm_of, family: str) -> None:
    lm = lm_of(family)
    tokens, mask = pad(SEQUENCES, "left")
    recorder = Recorder()
    with steer(lm, [recorder]):
        lm.model.generate(tokens, attention_mask=mask, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert recorder.positions == [
        positions_of(mask).tolist(),
        [[7], [3], [5]],
        [[8], [4], [6]],
    ]


@pytest.mark.parametrize("family", FEW)
def test_positions_without_a_mask_start_at_zero_or_after_the_cache(lm_of, family: str) -> None:
    lm = lm_of(family)
    recorder = Recorder()
    with steer(lm, [recorder]), torch.no_grad():
        cache = lm.model(tokens_of(0, rows=1, length=3), use_cache=True).past_key_values
        lm.model(tokens_of(0, rows=1, length=2), past_key_values=cache)
    assert recorder.positions == [[[0, 1, 2]], [[3, 4]]]


def test_positions_given_by_the_caller_are_heard(lm_of) -> None:
    recorder = Recorder()
    lm = lm_of("llama")
    with steer(lm, [recorder]), torch.no_grad():
        lm.model(tokens_of(0, rows=2, length=2), position_ids=torch.tensor([[5, 6]]))
    assert recorder.positions == [[[5, 6], [5, 6]]]


@pytest.mark.parametrize("family", FEW)
def test_bfloat16_states_stay_bfloat16_and_are_added_to_in_float32(lm_of, add, vector, family: str) -> None:
    whole = lm_of(family)
    lm = LanguageModel(whole.spec, copy.deepcopy(whole.model).to(torch.bfloat16))
    tokens = tokens_of(0)
    before = lm.hidden_states(tokens, [1])[1]
    with steer(lm, [add(1, 0.5, -1.0)]):
        after = lm.hidden_states(tokens, [1])[1]
    assert before.dtype == after.dtype == torch.bfloat16
    shift = torch.tensor([0.5, -1.0])[:, None, None] * vector
    assert torch.equal(after, (before.float() + shift).bfloat16())
    assert lm.logits(tokens).dtype == torch.float32


def test_a_stop_ends_its_own_pass_only(lm_of) -> None:
    lm = lm_of("llama")
    reached = []
    with stop_after(lm, 2):
        with stop_after(lm, 0):
            lm.run(tokens_of(0))
            pytest.fail("went on")
        reached.append("inner")
        lm.run(tokens_of(0))
        pytest.fail("went on")
    assert reached == ["inner"]
    assert hooks_in_force(lm) == 0


def test_several_streams_are_refused() -> None:
    with pytest.raises(InvalidValue):
        hidden_of(torch.zeros(4, 1, 2, WIDTH))
    with pytest.raises(InvalidValue):
        hidden_of((None,))
