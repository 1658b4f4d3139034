from dataclasses import dataclass, replace

import pytest
import torch
from models.model_families import DEPTH, VOCABULARY, WIDTH, hooks_in_force, tiny
from storybook_models import image_of, semi_orthogonal, tiny_llama
from torch import Tensor

from lrt.evaluation.fidelity import FidelityRow, StitchingDepth, fidelity, inside_documents, stitching_depths
from lrt.lab.grammar import pages
from lrt.mapping import AffineMap, LayerConcat
from lrt.models import LanguageModel
from lrt.models.prompts import encode
from lrt.steering.stitched import Stitched

C, LAYER, LENGTH = 2.5, 1, 24
FEW = ["bloom", "gemma2", "gpt2", "llama"]


@dataclass
class World:
    source: LanguageModel
    target: LanguageModel
    rotation: AffineMap
    tokens: Tensor
    mean: Tensor

    def rows(self, maps: dict[str, AffineMap], **options: object) -> dict[str, FidelityRow]:
        table = fidelity(
            self.source,
            self.target,
            LayerConcat((LAYER,), self.source.width),
            LAYER,
            maps,
            self.tokens,
            self.mean,
            **options,  # type: ignore[arg-type]
        )
        return {row.name: row for row in table}


@pytest.fixture(scope="module", params=[48], ids=["wider"])
def world(request: pytest.FixtureRequest, story_lm: LanguageModel) -> World:
    """A target that is the exact image of its source (design, section 7)."""
    q = semi_orthogonal(request.param, story_lm.width)
    target = image_of(story_lm, q, C)
    stream = pages(5, "held_out")
    texts = [next(stream).text for _ in range(40)]
    long = [ids[:LENGTH] for ids in encode(story_lm.tokenizer, texts) if len(ids) >= LENGTH]
    tokens = torch.tensor(long[:10])
    # text the models are made to find likely, or an untrained model has no loss to lose
    lead = target.model.generate(
        tokens[:, :4], max_new_tokens=LENGTH - 4, min_new_tokens=LENGTH - 4, do_sample=False
    )
    mean = target.hidden_states(lead, [LAYER])[LAYER].flatten(0, 1).mean(dim=0)
    return World(story_lm, target, AffineMap((C * q).float(), torch.zeros(len(q))), lead, mean)


def mean_only(world: World) -> AffineMap:
    return AffineMap(torch.zeros(world.target.width, world.source.width), world.mean)


def random_map(columns: int, rows: int, size: float = 1.0, seed: int = 0) -> AffineMap:
    generator = torch.Generator().manual_seed(seed)
    weight = size * torch.randn(rows, columns, generator=generator) / columns**0.5
    return AffineMap(weight, torch.zeros(rows))


def test_the_exact_map_is_the_target_itself(world: World) -> None:
    rows = world.rows({"exact": world.rotation})
    assert list(rows) == ["target", "source", "mean ablated", "exact"]
    target, exact = rows["target"], rows["exact"]
    assert exact.kl is not None
    assert exact.agreement is not None
    assert exact.loss_recovered is not None
    assert abs(exact.kl.value) < 1e-5
    assert exact.agreement.value == 1
    assert exact.loss_recovered.value == pytest.approx(1, abs=1e-4)
    assert exact.cross_entropy.value == pytest.approx(target.cross_entropy.value, abs=1e-4)
    # its source is the same language model in another space
    assert rows["source"].cross_entropy.value == pytest.approx(target.cross_entropy.value, abs=1e-4)
    assert target.loss_recovered is not None
    assert target.loss_recovered.value == 1
    assert target.kl is not None
    assert target.kl.value == 0


def test_wrong_maps_are_far_off(world: World) -> None:
    size = float(world.rotation.weight.norm()) / world.target.width**0.5  # of the rotation's own norm
    wrong = {f"random {seed}": random_map(32, world.target.width, size, seed) for seed in range(3)}
    rows = world.rows({"exact": world.rotation, **wrong})
    exact = rows["exact"]
    assert exact.kl is not None
    for name in wrong:
        row = rows[name]
        assert row.kl is not None
        assert row.agreement is not None
        assert row.loss_recovered is not None
        assert row.kl.low > 100 * max(exact.kl.high, 1e-5)
        assert row.agreement.high < 0.5
        assert row.loss_recovered.high < 0.5


def test_the_map_to_the_mean_is_the_mean_ablated_row(world: World) -> None:
    rows = world.rows({"mean only": mean_only(world)})
    ablated, only = rows["mean ablated"], rows["mean only"]
    assert replace(only, name="mean ablated") == ablated
    assert only.loss_recovered is not None
    assert only.loss_recovered.value == 0
    assert ablated.cross_entropy.low > rows["target"].cross_entropy.high


@pytest.mark.parametrize("keep_first", [False, True])
def test_the_figures_are_those_of_the_stitched_model(world: World, keep_first: bool) -> None:
    """Two roads: the table from shared passes in batches, and by hand from whole logits."""
    affine = random_map(world.source.width, world.target.width, 2.0, seed=1)
    scored = torch.ones_like(world.tokens, dtype=torch.bool)
    scored[::2, 5:9] = False
    row = world.rows({"random": affine}, scored=scored, keep_first=keep_first, batch_rows=3)["random"]
    stitched = Stitched(world.source, world.target, affine, (LAYER,), LAYER, keep_first=keep_first)
    scored[:, : 2 if keep_first else 1] = False
    mask, following = scored[:, 1:], world.tokens[:, 1:]
    ours = stitched.logits(world.tokens)[:, :-1].double().log_softmax(-1)[mask]
    own = world.target.logits(world.tokens)[:, :-1].double().log_softmax(-1)[mask]
    loss = -ours.gather(1, following[mask][:, None]).mean()
    kl = (own.exp() * (own - ours)).sum(-1).mean()
    agreement = (own.argmax(-1) == ours.argmax(-1)).double().mean()
    assert row.tokens == int(scored.sum())
    assert row.sequences == len(world.tokens)
    assert row.cross_entropy.value == pytest.approx(float(loss), abs=1e-4)
    assert row.kl is not None
    assert row.kl.value == pytest.approx(float(kl), abs=1e-4)
    assert row.agreement is not None
    assert row.agreement.value == pytest.approx(float(agreement), abs=1e-9)


def test_loss_recovered_is_its_formula_and_intervals_hold_their_value(world: World) -> None:
    share = 0.3
    half = AffineMap(share * world.rotation.weight, (1 - share) * world.mean)
    rows = world.rows({"part": half})
    ce = {name: row.cross_entropy.value for name, row in rows.items()}
    ratio = (ce["mean ablated"] - ce["part"]) / (ce["mean ablated"] - ce["target"])
    part = rows["part"]
    assert part.loss_recovered is not None
    assert part.loss_recovered.value == pytest.approx(ratio)
    assert 0.05 < ratio < 0.999  # between the two ends
    for estimate in (part.cross_entropy, part.kl, part.agreement, part.loss_recovered):
        assert estimate is not None
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.low < estimate.high


def test_batches_change_nothing_and_progress_counts_sequences(world: World) -> None:
    batches: list[int] = []
    maps = {"random": random_map(world.source.width, world.target.width)}
    one = world.rows(maps, batch_rows=100)
    many = world.rows(maps, batch_rows=4, progress=batches.append)
    assert batches == [4, 4, 2]
    for name, row in one.items():
        assert many[name].cross_entropy.value == pytest.approx(row.cross_entropy.value, abs=1e-5)
        assert many[name].cross_entropy.low == pytest.approx(row.cross_entropy.low, abs=1e-5)


@pytest.mark.parametrize("family", FEW)
def test_a_models_own_state_in_its_place_is_the_intact_model(family: str) -> None:
    lm = tiny(family)
    tokens = torch.randint(3, VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(0))
    own = AffineMap(torch.eye(WIDTH), torch.zeros(WIDTH))
    for layer in (0, DEPTH - 1):
        mean = lm.hidden_states(tokens, [layer])[layer].flatten(0, 1).mean(dim=0)
        rows = fidelity(lm, lm, (layer,), layer, {"own": own}, tokens, mean)
        of = {row.name: row for row in rows}
        assert of["own"].kl is not None
        assert abs(of["own"].kl.value) < 1e-5
        assert of["own"].cross_entropy.value == pytest.approx(of["target"].cross_entropy.value, abs=1e-5)
        # the target's tail is the model: the source's row ran through all blocks in one pass
        assert of["source"].cross_entropy.value == pytest.approx(of["target"].cross_entropy.value, abs=1e-5)
        whole = lm.logits(tokens)[:, :-1].log_softmax(-1)
        loss = -whole.gather(2, tokens[:, 1:, None]).mean()
        assert of["target"].cross_entropy.value == pytest.approx(float(loss), abs=1e-5)
        assert of["mean ablated"].kl is not None
        assert of["mean ablated"].kl.value > 0.05
    assert hooks_in_force(lm) == 0


def test_several_source_layers_side_by_side(world: World) -> None:
    """A second layer of no weight changes nothing; the order of the stack is that of the columns."""
    source, target = world.source, world.target
    blind = AffineMap(
        torch.cat([torch.zeros_like(world.rotation.weight), world.rotation.weight], dim=1),
        world.rotation.bias,
    )
    for layers, close in (((0, LAYER), True), ((LAYER, 0), False)):
        row = fidelity(source, target, layers, LAYER, {"blind": blind}, world.tokens, world.mean)[-1]
        assert row.agreement is not None
        assert (row.agreement.value == 1) == close


def test_an_error_at_the_first_position_alone_is_of_no_account_where_it_is_kept(world: World) -> None:
    """The first block mixes no positions, and source and target part over one token, the first."""
    tokenizer = world.source.tokenizer
    unused = next(t for t in range(20, len(tokenizer)) if not bool((world.tokens == t).any()))
    tokens = torch.cat([torch.full_like(world.tokens[:, :1], unused), world.tokens], dim=1)
    source = tiny_llama(tokenizer)
    source.model.model.layers[0].self_attn.o_proj.weight.data.zero_()
    target = image_of(source, world.rotation.weight.double() / C, C)
    source.model.model.embed_tokens.weight.data[unused] *= -7
    for keep in (False, True):
        row = fidelity(
            source, target, (0,), 0, {"exact": world.rotation}, tokens, world.mean, keep_first=keep
        )[-1]
        assert row.tokens == tokens.numel() - len(tokens) * (2 if keep else 1)
        assert row.kl is not None
        assert row.agreement is not None
        assert (abs(row.kl.value) < 1e-5) == keep
        assert (row.agreement.value == 1) == keep
        assert keep or row.kl.value > 1e-2


def test_tokens_after_a_boundary_are_not_scored() -> None:
    documents = torch.tensor([[7, 7, 7, 2, 2], [2, 2, 5, 9, 9]])
    assert inside_documents(documents).int().tolist() == [[0, 1, 1, 0, 1], [0, 1, 0, 0, 1]]


def test_no_loss_to_recover_is_no_ratio() -> None:
    """A target whose state at the layer never varies loses nothing with its mean."""
    lm = tiny("llama")
    for block in lm.blocks[1:]:
        for weight in (block.self_attn.o_proj.weight, block.mlp.down_proj.weight):
            weight.data.zero_()
    lm.model.lm_head.weight.data.zero_()
    tokens = torch.arange(3, 33).view(3, 10)
    maps = {"own": AffineMap(torch.eye(WIDTH), torch.zeros(WIDTH))}
    for row in fidelity(lm, lm, (1,), 1, maps, tokens, torch.zeros(WIDTH)):
        assert row.loss_recovered is None
        assert row.cross_entropy.value == pytest.approx(torch.tensor(VOCABULARY).log().item(), abs=1e-5)


def test_a_source_with_a_padded_head_has_a_loss_but_no_divergence(story_lm: LanguageModel) -> None:
    source = tiny_llama(story_lm.tokenizer)
    source.model.resize_token_embeddings(len(story_lm.tokenizer) + 8)
    tokens = torch.arange(20, 60).view(4, 10)
    rows = fidelity(source, story_lm, (LAYER,), LAYER, {}, tokens, torch.zeros(story_lm.width))
    assert [row.name for row in rows] == ["target", "source", "mean ablated"]
    assert rows[1].kl is rows[1].agreement is None
    assert rows[1].cross_entropy.value > 0
    assert rows[2].kl is not None
    assert rows[1].to_data()["kl"] is None
    assert set(rows[2].to_data()["kl"]) == {"value", "low", "high"}


def test_cuts_give_the_stitched_models_loss_at_each_depth(world: World) -> None:
    worse = random_map(2 * world.source.width, world.target.width)
    cuts = {2: ((1, 0), worse), 0: ((0,), world.rotation), 1: (LayerConcat((1,), 32), world.rotation)}
    batches: list[int] = []
    cuts_by_depth = stitching_depths(
        world.source,
        world.target,
        cuts,
        world.tokens,
        batch_rows=6,
        keep_first=False,
        progress=batches.append,
    )
    assert batches == [6, 4]
    assert [cut.layer for cut in cuts_by_depth] == [0, 1, 2]
    assert [cut.depth for cut in cuts_by_depth] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [cut.source_layers for cut in cuts_by_depth] == [(0,), (1,), (1, 0)]
    intact = world.rows({})["target"].cross_entropy.value
    for cut in cuts_by_depth[:2]:
        assert cut.cross_entropy.value == pytest.approx(intact, abs=1e-4)
    assert cuts_by_depth[2].cross_entropy.value > intact + 0.5
    by_table = fidelity(
        world.source, world.target, (1, 0), 2, {"worse": worse}, world.tokens, torch.zeros(world.target.width)
    )[-1]
    assert cuts_by_depth[2].cross_entropy.value == pytest.approx(by_table.cross_entropy.value, abs=1e-4)
    assert cuts_by_depth[2].cross_entropy.low == pytest.approx(by_table.cross_entropy.low, abs=1e-4)
    # deeper cuts leave less of the target
    late = [cut.cost.late.parameters for cut in cuts_by_depth]
    assert late == sorted(late, reverse=True)
    assert isinstance(cuts_by_depth[0], StitchingDepth)
    assert (
        cuts_by_depth[0].to_data()["cost"]["stitched"]["flops_per_token"]
        == cuts_by_depth[0].cost.stitched.flops_per_token
    )


def test_arguments_that_do_not_fit_are_refused_before_a_model_runs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("a model ran")

    monkeypatch.setattr(LanguageModel, "run", run)
    good, tokens, mean = world.rotation, world.tokens, world.mean

    def attempt(
        layers: object = (LAYER,), layer: int = LAYER, name: str = "m", affine: AffineMap = good, **options
    ) -> None:  # type: ignore[no-untyped-def]
        arguments = {"tokens": tokens, "mean_state": mean} | options
        fidelity(world.source, world.target, layers, layer, {name: affine}, **arguments)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="layer=3"):
        attempt(layer=3)
    with pytest.raises(ValueError, match="source_layers=9"):
        attempt(layers=(9,))
    with pytest.raises(ValueError, match="5 ->"):
        attempt(affine=random_map(5, world.target.width))
    with pytest.raises(ValueError, match="'source'"):
        attempt(name="source")
    with pytest.raises(ValueError, match="shape"):
        attempt(tokens=torch.empty(0, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="int32"):
        attempt(tokens=tokens.int())
    with pytest.raises(ValueError, match="10 of 10"):
        attempt(tokens=tokens[:, :1])
    with pytest.raises(ValueError, match="first 2"):
        attempt(tokens=tokens[:, :2], keep_first=True)
    some = torch.ones_like(tokens, dtype=torch.bool)
    some[3] = False
    with pytest.raises(ValueError, match="1 of 10"):
        attempt(scored=some)
    with pytest.raises(ValueError, match="scored"):
        attempt(scored=some.int())
    with pytest.raises(ValueError, match="mean_state"):
        attempt(mean_state=mean[:-1])
    with pytest.raises(ValueError, match="mean_state"):
        attempt(mean_state=mean * torch.nan)
    with pytest.raises(ValueError, match="batch_rows=0"):
        attempt(batch_rows=0)
    with pytest.raises(ValueError, match="61"):
        fidelity(tiny("llama"), without_tokenizer(world.target), (1,), 1, {}, tokens, mean)
    with pytest.raises(ValueError, match="cuts"):
        stitching_depths(world.source, world.target, {}, tokens)
    with pytest.raises(ValueError, match="layer=7"):
        stitching_depths(world.source, world.target, {7: ((1,), good)}, tokens)


def without_tokenizer(lm: LanguageModel) -> LanguageModel:
    return LanguageModel(lm.spec, lm.model)


def test_predictions_that_are_not_finite_are_refused(world: World) -> None:
    broken = without_tokenizer(world.target)
    huge = AffineMap(world.rotation.weight * 1e38, world.rotation.bias)
    with pytest.raises(ValueError, match="huge"):
        fidelity(world.source, broken, (LAYER,), LAYER, {"huge": huge}, world.tokens, world.mean)


def test_memory_does_not_show(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = {"exact": world.rotation}
    cuts = {LAYER: ([LAYER], world.rotation)}
    whole = world.rows(maps), stitching_depths(world.source, world.target, cuts, world.tokens)
    run = LanguageModel.run

    def small(self: LanguageModel, tokens: Tensor, *args: object, **kwargs: object) -> object:
        if len(tokens) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, tokens, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(world.target, "memory_factor", 1.0)
    monkeypatch.setattr(LanguageModel, "run", small)
    done: list[int] = []
    parts = (
        world.rows(maps, progress=done.append),
        stitching_depths(world.source, world.target, cuts, world.tokens),
    )
    assert (sum(done), max(done)) == (len(world.tokens), 2)
    for one, other in zip((*whole[0].values(), *whole[1]), (*parts[0].values(), *parts[1]), strict=True):
        assert one.cross_entropy.value == pytest.approx(other.cross_entropy.value, rel=1e-5)
