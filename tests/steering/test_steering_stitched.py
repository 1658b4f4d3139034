import copy

import pytest
import torch
from models.every_family import build
from models.model_families import DEPTH, SEQUENCES, VOCABULARY, WIDTH, hooks_in_force, tiny
from storybook_models import image_of, semi_orthogonal, tiny_llama
from transformers import AutoConfig, AutoModelForCausalLM

from lrt.errors import InvalidValue
from lrt.mapping import AffineMap, LayerConcat
from lrt.models import LanguageModel, ModelSpec, Sampling, TokenizersDiffer, capture, pad
from lrt.models.prompts import encode
from lrt.steering.stitched import Stitched

FEW = ["bloom", "gemma2", "gpt2", "llama"]
TEXTS = ["Once there was a dog.", "Tom ran to the barn and saw a cat", "She"]
C = 2.5
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def random_map(columns: int, rows: int, seed: int = 0) -> AffineMap:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) / columns**0.5
    return AffineMap(weight, torch.randn(rows, generator=generator))


def identity_map(width: int = WIDTH) -> AffineMap:
    return AffineMap(torch.eye(width), torch.zeros(width))


def shared(family: str) -> LanguageModel:
    return tiny(family, seed=1)


@pytest.fixture(scope="module")
def lms() -> dict[str, LanguageModel]:
    return {family: tiny(family) for family in FEW}


@pytest.mark.parametrize("family", FEW)
def test_a_model_stitched_to_itself_by_the_identity_is_itself(
    lms: dict[str, LanguageModel], family: str
) -> None:
    lm = lms[family]
    tokens, mask = pad(SEQUENCES, "right")
    for layer in (0, 2, DEPTH - 1):
        stitched = Stitched(lm, lm, identity_map(), (layer,), layer)
        logits, own = stitched.logits(tokens, mask), lm.logits(tokens, mask)
        torch.testing.assert_close(logits[mask.bool()], own[mask.bool()], **CLOSE)
        last = stitched.logits(tokens, mask, keep="last")
        torch.testing.assert_close(last, lm.logits(tokens, mask, keep="last"), **CLOSE)
    # the identity between different layers is another model
    other = Stitched(lm, lm, identity_map(), (2,), 0).logits(tokens, mask)
    assert float((other - own)[mask.bool()].abs().max()) > 0.1
    assert hooks_in_force(lm) == 0


@pytest.mark.parametrize("target_width", [32, 48], ids=["rotated", "wider"])
def test_into_its_exact_image_a_model_stays_itself(story_lm: LanguageModel, target_width: int) -> None:
    q = semi_orthogonal(target_width, story_lm.width)
    target = image_of(story_lm, q, C)
    tokens, mask = pad(encode(story_lm.tokenizer, TEXTS))
    rotation = AffineMap(C * q, torch.zeros(target_width, dtype=torch.float64))
    logits = Stitched(story_lm, target, rotation, (1,), 1).logits(tokens, mask, keep="last")
    own = target.logits(tokens, mask, keep="last")
    torch.testing.assert_close(logits, own, rtol=1e-3, atol=1e-3)
    wrong = random_map(story_lm.width, target_width)
    worse = Stitched(story_lm, target, wrong, (1,), 1).logits(tokens, mask, keep="last")
    assert float((worse - own).abs().max()) > 100 * float((logits - own).abs().max())


@pytest.mark.parametrize("family", FEW)
def test_cached_generation_equals_whole_passes(lms: dict[str, LanguageModel], family: str) -> None:
    """Every family once as source and once as target, from one source layer and from two."""
    source, target = lms[family], lms[FEW[FEW.index(family) - 1]]
    keep_first = FEW.index(family) % 2 == 0
    tokens, mask = pad(SEQUENCES, "left")
    top, noise = DEPTH - 1, Sampling(0.7, (3, 4, 5))
    cuts = ((1,), 0), ((2, 0), 2)
    for layers, layer in cuts[FEW.index(family) // 2 :][:1]:
        affine = random_map(len(layers) * WIDTH, WIDTH)
        stitched = Stitched(source, target, affine, layers, layer, keep_first=keep_first)
        for sampling in (None, noise):
            with capture(target, [top]) as states:
                new = stitched.generate(tokens, mask, max_new_tokens=4, sampling=sampling)
            for row, sequence in enumerate(SEQUENCES):
                text = list(sequence)
                for step in range(4):
                    with capture(target, [top]) as whole:
                        scores = stitched.logits(torch.tensor([text]), keep="last")[0, 0]
                    if sampling is None:
                        text.append(int(scores.argmax()))
                    else:
                        text.append(int(sampling.draws(torch.tensor([row])).tokens(scores[None], step)))
                assert new[row].tolist() == text[-4:]
                # Tokens alone would forgive small errors: the state of the last decoding step too.
                torch.testing.assert_close(states[top][row, 0], whole[top][0, -1], **CLOSE)
        greedy = stitched.generate(tokens, mask, max_new_tokens=4)
        assert greedy.tolist() != new.tolist()
    assert hooks_in_force(source) == hooks_in_force(target) == 0


def test_each_new_token_runs_through_the_stitched_blocks_once(lms: dict[str, LanguageModel]) -> None:
    source, target = lms["llama"], lms["gpt2"]
    tokens, mask = pad(SEQUENCES, "left")
    stitched = Stitched(source, target, random_map(WIDTH, WIDTH), (1,), 2)
    # the first use finds out whether the caches hold; those passes are not counted
    stitched.generate(tokens, mask, max_new_tokens=1)
    runs: dict[str, list[int]] = {}

    def count(name: str):  # type: ignore[no-untyped-def]
        def hook(_module, _args, output):  # type: ignore[no-untyped-def]
            runs.setdefault(name, []).append(output.shape[1] if torch.is_tensor(output) else 0)

        return hook

    # the feed-forward parts, since a skipped block still shows at its own hooks
    handles = [b.mlp.register_forward_hook(count(f"source {i}")) for i, b in enumerate(source.blocks)]
    handles += [b.mlp.register_forward_hook(count(f"target {i}")) for i, b in enumerate(target.blocks)]
    try:
        stitched.generate(tokens, mask, max_new_tokens=4)
    finally:
        for handle in handles:
            handle.remove()
    # the prompt of 7 columns and then 3 tokens, one by one
    assert runs == {name: [7, 1, 1, 1] for name in ("source 0", "source 1", "target 3")}


def test_an_ended_row_is_filled_and_the_others_go_on(lms: dict[str, LanguageModel]) -> None:
    stitched = Stitched(lms["llama"], lms["llama"], identity_map(), (1,), 1)
    tokens, mask = pad(SEQUENCES, "left")
    free = stitched.generate(tokens, mask, max_new_tokens=6).tolist()
    end = next(row[2] for row in free if row[2] not in row[:2])
    held = stitched.generate(tokens, mask, max_new_tokens=6, eos_ids=(end, VOCABULARY - 1)).tolist()
    for one, other in zip(free, held, strict=True):
        stop = min((one.index(e) + 1 for e in (end, VOCABULARY - 1) if e in one), default=6)
        assert other == one[:stop] + [end] * (6 - stop)
    assert held != free


def test_several_source_layers_are_read_in_the_order_given(lms: dict[str, LanguageModel]) -> None:
    lm, target = lms["llama"], lms["gpt2"]
    tokens = torch.tensor([SEQUENCES[0]])
    affine = random_map(2 * WIDTH, WIDTH)
    logits = Stitched(lm, target, affine, (3, 1), 1).logits(tokens)
    swapped = AffineMap(torch.cat([affine.weight[:, WIDTH:], affine.weight[:, :WIDTH]], dim=1), affine.bias)
    same = Stitched(lm, target, swapped, LayerConcat((1, 3), WIDTH), 1).logits(tokens)
    torch.testing.assert_close(logits, same, **CLOSE)
    assert not torch.allclose(logits, Stitched(lm, target, affine, (1, 3), 1).logits(tokens), atol=1e-2)
    # a second layer of no weight changes nothing
    one = AffineMap(affine.weight[:, :WIDTH].contiguous(), affine.bias)
    blind = AffineMap(torch.cat([one.weight, torch.zeros(WIDTH, WIDTH)], dim=1), affine.bias)
    alone = Stitched(lm, target, one, (3,), 1).logits(tokens)
    torch.testing.assert_close(Stitched(lm, target, blind, (3, 1), 1).logits(tokens), alone, **CLOSE)


def test_with_the_first_state_kept_the_first_prediction_is_the_targets_own(
    lms: dict[str, LanguageModel],
) -> None:
    source, target = lms["llama"], lms["gemma2"]
    tokens, mask = pad(SEQUENCES, "left")
    affine = random_map(WIDTH, WIDTH)
    first = mask.argmax(dim=1)[:, None]
    own = target.logits(tokens, mask, keep=first)
    with_first = Stitched(source, target, affine, (1,), 1, keep_first=True)
    torch.testing.assert_close(with_first.logits(tokens, mask, keep=first), own, **CLOSE)
    plain = Stitched(source, target, affine, (1,), 1)
    assert not torch.allclose(plain.logits(tokens, mask, keep=first), own, atol=1e-2)
    # later tokens attend to it
    assert not torch.allclose(
        plain.logits(tokens, mask, keep="last"), with_first.logits(tokens, mask, keep="last"), atol=1e-2
    )


def test_the_map_works_in_float32_and_the_target_in_its_own_dtype(lms: dict[str, LanguageModel]) -> None:
    model = AutoModelForCausalLM.from_config(lms["llama"].model.config).to(torch.bfloat16)
    target = LanguageModel(ModelSpec(path="tiny/bf16"), model)
    weight = torch.full((WIDTH, WIDTH), 1 / WIDTH, dtype=torch.float64)
    bias = torch.zeros(WIDTH, dtype=torch.float64)
    stitched = Stitched(lms["llama"], target, AffineMap(weight, bias), (1,), 1)
    # in bf16 the small parts would be lost beside the large one
    states = torch.full((1, 1, WIDTH), 1 / 256)
    states[..., 0] = 1.0
    image = stitched.image({1: states})
    assert image.dtype == torch.bfloat16
    assert float(image[0, 0, 0]) == float(torch.tensor((1 + 31 / 256) / WIDTH).bfloat16())
    tokens = torch.tensor([SEQUENCES[0]])
    assert bool(stitched.logits(tokens).isfinite().all())
    assert stitched.generate(tokens, max_new_tokens=3).shape == (1, 3)


def test_cost_counts_the_parts_in_use(lms: dict[str, LanguageModel]) -> None:
    """By hand, for a llama of width 32 with 8-wide heads, 4 queries and 2 keys, feed-forward 48."""
    source, target = lms["llama"], shared("llama")
    cost = Stitched(source, target, random_map(2 * WIDTH, WIDTH), (0, 2), 1).cost()
    matrices = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48
    block, vocabulary = matrices + 2 * 32, VOCABULARY * 32
    assert (cost.early.parameters, cost.early.flops_per_token) == (vocabulary + 3 * block, 2 * 3 * matrices)
    assert (cost.affine.parameters, cost.affine.flops_per_token) == (64 * 32 + 32, 2 * 64 * 32)
    assert (cost.late.parameters, cost.late.flops_per_token) == (2 * block + 32, 2 * 2 * matrices)
    assert (cost.head.parameters, cost.head.flops_per_token) == (vocabulary, 2 * vocabulary)
    assert cost.source == cost.target
    assert cost.source.parameters == source.model.num_parameters()
    assert cost.source.flops_per_token == 2 * (4 * matrices + vocabulary)
    parts = (cost.early, cost.affine, cost.late, cost.head)
    assert cost.stitched.parameters == sum(part.parameters for part in parts)
    assert cost.stitched.flops_per_token == sum(part.flops_per_token for part in parts)
    assert cost.to_data()["stitched"]["parameters"] == cost.stitched.parameters


@pytest.mark.parametrize("family", FEW)
def test_cut_where_it_stands_a_model_costs_itself_and_the_map(
    lms: dict[str, LanguageModel], family: str
) -> None:
    lm = lms[family]
    for layer in (0, 2, DEPTH - 1):
        cost = Stitched(lm, lm, identity_map(), (layer,), layer).cost()
        assert cost.stitched.parameters == lm.model.num_parameters() + WIDTH * WIDTH + WIDTH
        assert cost.stitched.flops_per_token == cost.target.flops_per_token + 2 * WIDTH * WIDTH
    other = shared(family)
    plain, with_first = (
        Stitched(lm, other, identity_map(), (1,), 2, keep_first=first).cost() for first in (False, True)
    )
    # the target's early half must stay in memory, but no token but the first runs through it
    below = other.model.num_parameters() - plain.late.parameters - plain.head.parameters
    assert with_first.late.parameters - plain.late.parameters == below > 0
    assert with_first.stitched.flops_per_token == plain.stitched.flops_per_token


def test_tied_weights_count_once() -> None:
    config = AutoConfig.for_model(
        "gpt2", vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=4, n_positions=16
    )
    lm = LanguageModel(ModelSpec(path="tied"), AutoModelForCausalLM.from_config(config))
    cost = Stitched(lm, lm, identity_map(), (0,), 0).cost()
    assert cost.head.parameters == 0
    assert cost.head.flops_per_token == 2 * VOCABULARY * WIDTH
    assert cost.stitched.parameters == lm.model.num_parameters() + WIDTH * WIDTH + WIDTH


def test_what_does_not_fit_is_refused(lms: dict[str, LanguageModel], story_lm: LanguageModel) -> None:
    lm = lms["llama"]
    good = identity_map()
    with pytest.raises(ValueError, match="source_layers=4"):
        Stitched(lm, lm, good, (4,), 1)
    with pytest.raises(ValueError, match="layer=-1"):
        Stitched(lm, lm, good, (1,), -1)
    with pytest.raises(ValueError, match=r"32 -> 32.*\[0, 1\].* 64"):
        Stitched(lm, lm, good, (0, 1), 1)
    with pytest.raises(ValueError, match="32 -> 64"):
        Stitched(lm, lm, random_map(WIDTH, 2 * WIDTH), (0,), 1)
    with pytest.raises(ValueError, match="width 16"):
        Stitched(lm, lm, good, LayerConcat((1,), 16), 1)
    with pytest.raises(ValueError, match=r"\[\]"):
        Stitched(lm, lm, good, (), 1)
    with pytest.raises(ValueError, match="61"):
        Stitched(lm, story_lm, random_map(WIDTH, story_lm.width), (1,), 1)


def test_other_tokenizers_are_refused(story_lm: LanguageModel) -> None:
    class Other:
        def get_vocab(self) -> dict[str, int]:
            ids = story_lm.tokenizer.get_vocab()
            first, second = sorted(ids, key=ids.__getitem__)[5:7]
            return ids | {first: ids[second], second: ids[first]}

    other = tiny_llama(story_lm.tokenizer)
    other.tokenizer = Other()
    with pytest.raises(TokenizersDiffer, match="tokenizers"):
        Stitched(story_lm, other, identity_map(story_lm.width), (1,), 1)


def test_a_target_that_shares_keys_between_blocks_is_refused(lms: dict[str, LanguageModel]) -> None:
    lm = LanguageModel(ModelSpec("tiny/shared"), build("gemma4_text"))
    with pytest.raises(InvalidValue):
        Stitched(lms["llama"], lm, identity_map(), (1,), 1)
    Stitched(lm, lms["llama"], identity_map(), (1,), 1)  # as a source it is read only


@pytest.mark.parametrize("family", ["mamba", "qwen3_5_text", "rwkv"])
def test_families_of_other_caches_are_stitched_too(lms: dict[str, LanguageModel], family: str) -> None:
    lm = LanguageModel(ModelSpec(f"tiny/{family}"), build(family))
    tokens, mask = pad(SEQUENCES, "left")
    for source, target in ((lm, lms["llama"]), (lms["llama"], lm)):
        stitched = Stitched(source, target, random_map(WIDTH, WIDTH), (1,), 1)
        padded = stitched.logits(tokens, mask, "last")
        new = stitched.generate(tokens, mask, max_new_tokens=3)
        for row, sequence in enumerate(SEQUENCES):
            text = list(sequence)
            for step in range(3):
                logits = stitched.logits(torch.tensor([text]), keep="last")[0]
                if step == 0:
                    torch.testing.assert_close(padded[row], logits, **CLOSE)
                text.append(int(logits.argmax()))
            assert new[row].tolist() == text[-3:]


@pytest.mark.parametrize(("source_rows", "target_rows"), [(61, 80), (80, 61)])
def test_ids_that_only_one_padded_table_has_are_never_generated(
    lms: dict[str, LanguageModel], source_rows: int, target_rows: int
) -> None:
    source, target = (LanguageModel(lms["llama"].spec, copy.deepcopy(lms["llama"].model)) for _ in range(2))
    for lm, rows in ((source, source_rows), (target, target_rows)):
        lm.model.resize_token_embeddings(rows, mean_resizing=False)
        lm.tokenizer = SameTokens()
    with torch.no_grad():  # the padding of the larger head would win
        target.model.lm_head.weight[61:] = 100 * target.model.lm_head.weight[7]
    tokens, mask = pad(SEQUENCES, "left")
    for sampling in (None, Sampling(0.7, (3, 4, 5))):
        stitched = Stitched(source, target, random_map(WIDTH, WIDTH), (1,), 1)
        new = stitched.generate(tokens, mask, max_new_tokens=6, sampling=sampling)
        assert int(new.max()) < 61


class SameTokens:
    def get_vocab(self) -> dict[str, int]:
        return {str(at): at for at in range(61)}


def test_tokens_that_do_not_fit_are_refused(lms: dict[str, LanguageModel]) -> None:
    stitched = Stitched(lms["llama"], lms["gpt2"], identity_map(), (1,), 1)
    good, mask = pad(SEQUENCES, "right")
    for bad in (torch.empty(0, 4, dtype=torch.long), torch.empty(2, 0, dtype=torch.long), good[0]):
        with pytest.raises(ValueError, match="shape"):
            stitched.logits(bad)
    with pytest.raises(ValueError, match=r"5\.\.61"):
        stitched.logits(torch.tensor([[5, VOCABULARY]]))
    with pytest.raises(ValueError, match="right"):
        stitched.generate(good, mask, max_new_tokens=2)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        stitched.generate(good[:1], max_new_tokens=0)
    with pytest.raises(ValueError, match="1 seeds"):
        stitched.generate(good, max_new_tokens=1, sampling=Sampling(1.0, (1,)))
