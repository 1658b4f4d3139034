from functools import partial

import pytest
import torch
from torch import Tensor

from lrt.evaluation import NULLS, ContrastStates, ModelStates, TransferMaps, directions, other_contrast
from lrt.evaluation.directions import HALVES, HALVINGS, RESAMPLED
from lrt.mapping import AffineMap, LayerConcat, Moments, merge_all, ridge_directions
from lrt.steering import Mapping

D_SOURCE, D_TARGET = 5, 7
Pair = tuple[Tensor, Tensor]
NORMS = dict.fromkeys(range(8), 1.0)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def affine(seed: int, bias: bool = True) -> AffineMap:
    return AffineMap(normal(seed, D_TARGET, D_SOURCE), normal(seed + 1, D_TARGET) * bias)


def mapping(affine: AffineMap, source_model: str = "small", layers: tuple[int, ...] = (3,)) -> Mapping:
    source, target = (
        LayerConcat((1,), affine.d_source),
        LayerConcat(layers, affine.d_target // len(layers)),
    )
    return Mapping(affine, source, target, source_model, "large", NORMS)


def contrast_states(
    source: Pair, target: Pair, untrained: Pair | None = None, layers: tuple[int, ...] = (3,)
) -> ContrastStates:
    stack, width = LayerConcat((1,), source[0].shape[1]), target[0].shape[1] // len(layers)
    return ContrastStates(
        "it",
        ModelStates(*source, stack, "small", NORMS),
        ModelStates(*target, LayerConcat(layers, width), "large", NORMS),
        () if untrained is None else (ModelStates(*untrained, stack, "untrained", NORMS),) * 2,
        "digest",
    )


def states_of(seed: int, untrained: bool = True) -> ContrastStates:
    source = normal(seed, 10, D_SOURCE) + 1, normal(seed + 1, 12, D_SOURCE)
    target = normal(seed + 2, 10, D_TARGET) + 1, normal(seed + 3, 12, D_TARGET)
    random = (normal(seed + 4, 10, D_SOURCE), normal(seed + 5, 12, D_SOURCE)) if untrained else None
    return contrast_states(source, target, random)


STATES = {"c": states_of(30), "a": states_of(10), "b": states_of(20)}
OWN = mapping(affine(1))
SHUFFLED, RESAMPLED_MAPS, UNTRAINED = ([affine(i) for i in seeds] for seeds in ((3, 5), (7, 9, 11), (13, 15)))


def maps_of(seed: int = 0) -> TransferMaps:
    return TransferMaps.of(
        OWN,
        STATES,
        shuffled=[m.directions for m in SHUFFLED],
        resampled=[m.directions for m in RESAMPLED_MAPS],
        untrained=[m.directions for m in UNTRAINED],
        seed=seed,
    )


MAPS = maps_of()


def directions_of(contrast: str = "a", seed: int = 0, maps: TransferMaps | None = None) -> dict[str, Tensor]:
    other, maps = other_contrast(contrast, STATES), maps or maps_of(seed)
    return directions(contrast, STATES, maps, other=other, layer=3, random_draws=4, seed=seed)


def unit(v: Tensor) -> Tensor:
    return v / v.norm()


def gap(states: ModelStates, rows: Tensor | None = None) -> Tensor:
    positive, negative = (
        side if rows is None else side[rows[: len(side)]] for side in (states.positive, states.negative)
    )
    return positive.mean(0) - negative.mean(0)


def test_halves_of_a_balanced_set_are_balanced() -> None:
    # a large direction that follows the answer, which alternates, and a small one of the behaviour
    answer = torch.tensor([1.0, -1.0]).repeat(8)[:, None] * torch.tensor([50.0, 0.0])
    positive = answer + torch.tensor([0.0, 1.0])
    states = {"it": contrast_states((positive, -positive), (positive, answer * -1))}
    identity = TransferMaps(mapping(AffineMap(torch.eye(2), torch.zeros(2))))
    halves = directions("it", states, identity, layer=3, random_draws=1, seed=0)
    torch.testing.assert_close(halves["native_half"], torch.tensor([[0.0, 1.0]]).repeat(2 * HALVINGS, 1))


@pytest.mark.parametrize(("positives", "negatives"), [(12, 12), (12, 9), (3, 3), (2, 5)])
def test_halves_share_no_prompt_and_are_the_same_in_both_models(positives: int, negatives: int) -> None:
    # a coordinate of its own for every prompt: which of them a vector is made of can be read off it
    width = positives + negatives
    sides = torch.eye(width)[:positives], torch.eye(width)[positives:]
    states = {"it": contrast_states(sides, sides)}
    identity = TransferMaps(mapping(AffineMap(torch.eye(width), torch.zeros(width))))
    of = directions("it", states, identity, layer=3, random_draws=1, seed=0)
    native, transferred = (of[name] != 0 for name in HALVES)
    assert len(native) == 2 * HALVINGS
    assert torch.equal(native, transferred)
    for one, other in native.view(HALVINGS, 2, width):
        assert torch.equal(one, ~other)
        for side in (one[:positives], one[positives:]):
            assert abs(2 * int(side.sum()) - len(side)) <= 2  # by neighbouring pairs
        if positives == negatives:
            assert torch.equal(one[:positives], one[positives:])
    if positives == 12:
        assert len({tuple(row.tolist()) for row in native}) > 2


def test_each_direction_is_what_it_says() -> None:
    of = directions_of("a")
    v = gap(STATES["a"].source)
    untrained = STATES["a"].untrained_sources
    wanted = {
        "native": [gap(STATES["a"].target)],
        "transferred": [OWN.affine.weight @ v],
        "paper_literal": [OWN.affine.weight @ v + OWN.affine.bias],
        "bias": [OWN.affine.bias],
        "shuffled": [m.weight @ v for m in SHUFFLED],
        "other": [OWN.affine.weight @ gap(STATES["b"].source)],
        "untrained_source": [m.weight @ gap(own) for m, own in zip(UNTRAINED, untrained, strict=True)],
    }
    for name, vectors in wanted.items():
        torch.testing.assert_close(of[name], torch.stack([unit(w) for w in vectors]), msg=name)
    assert set(of) == {*wanted, "random", *RESAMPLED, *HALVES} >= set(NULLS)
    for name, rows in of.items():
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)), msg=name)
    assert len(of["random"]) == 4
    assert len(of["resampled"]) == 3


def test_the_map_of_the_whole_corpus_is_evaluated_too() -> None:
    whole = affine(40)
    of = directions("a", STATES, MAPS, whole=mapping(whole), other="b", layer=3, random_draws=4, seed=0)
    torch.testing.assert_close(of["whole_corpus"][0], unit(whole.weight @ gap(STATES["a"].source)))
    without = directions_of("a")
    assert set(of) - set(without) == {"whole_corpus"}
    for name, rows in without.items():
        assert torch.equal(rows, of[name]), name


def test_every_contrast_is_the_other_of_exactly_one() -> None:
    transferred = {name: unit(OWN.affine.weight @ gap(s.source)) for name, s in STATES.items()}
    others = []
    for name in STATES:
        (row,) = directions_of(name)["other"]
        others.append(next(n for n, v in transferred.items() if torch.allclose(v, row, atol=1e-5)))
        assert others[-1] != name
    assert sorted(others) == sorted(STATES)


def test_draws_are_the_seeds() -> None:
    one, same, another = directions_of(seed=0), directions_of(seed=0), directions_of(seed=1)
    for name in ("random", "resampled", "native_half"):
        assert torch.equal(one[name], same[name])
        assert not torch.allclose(one[name], another[name])
    for name in ("transferred", "bias", "shuffled"):
        assert torch.equal(one[name], another[name])


def test_a_contrast_draws_the_same_prompts_whatever_others_there_are() -> None:
    alone = TransferMaps.of(OWN, {"a": STATES["a"]}, resampled=[m.directions for m in RESAMPLED_MAPS])
    torch.testing.assert_close(alone.resampled["a"], MAPS.resampled["a"])


def test_random_directions_have_no_direction() -> None:
    many = directions("a", STATES, MAPS, layer=3, random_draws=4000, seed=0)["random"]
    assert float(many.mean(0).norm()) < 0.05
    spread = many.T @ many / len(many)
    torch.testing.assert_close(spread, torch.eye(D_TARGET) / D_TARGET, atol=0.02, rtol=0)


def test_resampled_draws_prompts_as_well_as_maps() -> None:
    same_map = TransferMaps.of(OWN, STATES, resampled=[OWN.affine.directions] * 3)
    rows = directions_of(maps=same_map)["resampled"]
    (transferred,) = directions_of()["transferred"]
    assert all((rows @ transferred > 0.7).tolist())
    assert not torch.allclose(rows[0], rows[1], atol=1e-3)
    assert not torch.allclose(rows[0], transferred, atol=1e-3)


def test_a_draw_takes_the_same_prompts_for_both_vectors() -> None:
    pair = STATES["a"].source.positive, STATES["a"].source.negative
    same = {name: contrast_states(pair, pair) for name in "ab"}
    identity = mapping(AffineMap(torch.eye(D_SOURCE), torch.ones(D_SOURCE)))
    maps = TransferMaps.of(identity, same, resampled=[identity.affine.directions] * 3)
    of = directions("a", same, maps, layer=3, random_draws=1, seed=0)
    torch.testing.assert_close(of["resampled"], of["resampled_native"])
    assert not torch.allclose(of["resampled"][0], of["resampled"][1], atol=1e-3)


def paired_states(texts: int, spread: float = 10.0) -> ContrastStates:
    """Sides that are the same texts but for a small difference, as capitals are."""
    generator = torch.Generator().manual_seed(7)
    text = spread * torch.randn(texts, D_SOURCE, generator=generator)
    behaviour = torch.ones(D_SOURCE) + 0.1 * torch.randn(texts, D_SOURCE, generator=generator)
    return contrast_states((text + behaviour, text), (text + behaviour, text))


def redrawn(states: ContrastStates, draws: int) -> Tensor:
    identity = mapping(AffineMap(torch.eye(D_SOURCE), torch.zeros(D_SOURCE)))
    maps = TransferMaps.of(identity, {"a": states}, resampled=[identity.affine.directions] * draws)
    return directions("a", {"a": states}, maps, layer=3, random_draws=1, seed=0)["resampled"]


def test_prompts_are_drawn_with_the_partner_they_differ_from() -> None:
    vector = torch.nn.functional.normalize(torch.ones(D_SOURCE), dim=0)
    assert float((redrawn(paired_states(64), 20) @ vector).min()) > 0.99  # drawn apart: about .3


def test_a_draw_has_as_many_prompts_of_either_answer() -> None:
    """Answers alternate; the states tell of the answer alone, with the sign of the side."""
    answer = torch.tensor([1.0, -1.0] * 16)[:, None] * torch.ones(32, D_SOURCE)
    trait = torch.zeros(D_SOURCE)
    trait[0] = 1.0
    states = contrast_states((trait + answer, -answer), (trait + answer, -answer))
    torch.testing.assert_close(redrawn(states, 10), trait.expand(10, -1))


def test_sides_of_two_lengths_are_drawn_apart() -> None:
    pair = paired_states(64).source.positive, paired_states(64).source.negative[:9]
    states = contrast_states(pair, pair)
    assert len(redrawn(states, 3)) == 3


def test_conditions_that_cannot_be_built_are_skipped() -> None:
    bare = directions(
        "a",
        {"a": states_of(10, untrained=False)},
        TransferMaps(mapping(affine(1, bias=False))),
        layer=3,
        random_draws=1,
        seed=0,
    )
    assert set(bare) == {"native", "transferred", "paper_literal", "random", *HALVES}
    torch.testing.assert_close(bare["paper_literal"], bare["transferred"])
    one = contrast_states((normal(0, 1, 5), normal(1, 1, 5)), (normal(2, 1, 7), normal(3, 1, 7)))
    single = directions("a", {"a": one}, TransferMaps(OWN), layer=3, random_draws=1, seed=0)
    assert not set(HALVES) & set(single)  # one prompt a side has no halves


def test_a_zero_vector_is_a_zero_row() -> None:
    pair = (normal(0, 4, 5), normal(1, 4, 5))
    states = {"a": contrast_states(pair, (normal(2, 4, 7),) * 2)}
    assert not directions("a", states, TransferMaps(OWN), layer=3, random_draws=1, seed=0)["native"].any()


def test_vectors_are_of_each_layer_with_its_provenance() -> None:
    states = contrast_states(
        (normal(0, 4, 5), normal(1, 4, 5)), (normal(2, 4, 6), normal(3, 4, 6)), layers=(2, 7)
    )
    first, second = states.vectors("target")
    assert (first.layer, second.layer) == (2, 7)
    assert {(v.model, v.behaviour, v.prompts) for v in (first, second)} == {("large", "it", "digest")}
    assert torch.equal(torch.cat([first.direction, second.direction]), states.target_vector)
    (part,) = states.at((1,), (7,)).vectors("target")
    assert torch.equal(part.direction, second.direction)
    (own,) = states.vectors("source")
    assert torch.equal(own.direction, states.source_vector)


def test_a_float64_map_is_read_in_its_own_precision() -> None:
    wide = TransferMaps(mapping(OWN.affine.to(torch.float64)))
    rows = directions_of(maps=wide)
    torch.testing.assert_close(rows["transferred"], directions_of()["transferred"])
    assert {r.dtype for r in rows.values()} == {torch.float32}


def test_between_several_layers_it_is_the_named_one() -> None:
    whole, layers = directions_of("a"), (4, 1)

    def doubled(m: AffineMap) -> AffineMap:
        return AffineMap(torch.cat([m.weight, 2 * m.weight]), torch.cat([m.bias, 3 * m.bias]))

    states = {
        name: contrast_states(
            (s.source.positive, s.source.negative),
            (s.target.positive.repeat(1, 2), s.target.negative.repeat(1, 2)),
            (s.untrained_sources[0].positive, s.untrained_sources[0].negative),
            layers,
        )
        for name, s in STATES.items()
    }
    maps = TransferMaps.of(
        mapping(doubled(OWN.affine), layers=layers),
        states,
        shuffled=[doubled(m).directions for m in SHUFFLED],
        untrained=[doubled(m).directions for m in UNTRAINED],
    )
    for layer in layers:
        part = directions("a", states, maps, other="b", layer=layer, random_draws=4, seed=0)
        for name in ("native", "transferred", "bias", "shuffled", "other", "untrained_source"):
            torch.testing.assert_close(part[name], whole[name], msg=f"{name} at {layer}")
        assert part["random"].shape == (4, D_TARGET)


def test_refits_vary_as_other_corpora_of_the_same_parts_do() -> None:
    """A corpus of four parts, each of which maps the vector its own way. Other corpora have other documents,
    and their parts other weights. The interval over refits of one corpus must hold what they give on average;
    over its documents alone, it does not."""
    generator = torch.Generator().manual_seed(3)
    parts, folds, share = 4, 10, 0.5
    common = torch.randn(D_TARGET, D_SOURCE, generator=generator)
    own = common + 0.8 * torch.randn(parts, D_TARGET, D_SOURCE, generator=generator)
    prompt = normal(4, 1, D_SOURCE).repeat(8, 1), torch.zeros(8, D_SOURCE)  # all alike: prompts vary nothing
    states = {"it": contrast_states(prompt, (torch.zeros(8, D_TARGET),) * 2)}
    v, native = states["it"].source_vector, common @ states["it"].source_vector

    def corpus(weights: Tensor) -> list[list[Moments]]:  # by part and fold
        cells = []
        for part, weight in enumerate(weights.tolist()):
            x = torch.randn(folds, max(4, round(20 * weight)), D_SOURCE, generator=generator)
            y = x @ own[part].T + 0.5 * torch.randn(*x.shape[:2], D_TARGET, generator=generator)
            cells.append([Moments(D_SOURCE, D_TARGET) for _ in range(folds)])
            for moments, *rows in zip(cells[-1], x, y, strict=True):
                moments.update(*rows)
        return cells

    def score(image: Tensor) -> Tensor:
        return torch.nn.functional.cosine_similarity(image.double(), native.double(), dim=-1)

    values, errors = [], []
    for _ in range(20):
        cells = corpus((1 + share * torch.randn(parts, generator=generator)).clamp(min=0.1))
        by_fold = [merge_all(fold) for fold in zip(*cells, strict=True)]
        drawn = [torch.randint(folds, (folds,), generator=generator) for _ in range(12)]
        refits = [merge_all(by_fold, draw.bincount(minlength=folds).tolist()) for draw in drawn]
        whole = merge_all(by_fold)
        image = ridge_directions(whole, 1.0, v[None])
        rest = [ridge_directions(whole.without(merge_all(part)), 1.0, v[None]) for part in cells]
        values.append(score(image[0]))
        for part_weights in (0.0, 0.25):
            maps = TransferMaps.of(
                OWN,
                states,
                resampled=[partial(ridge_directions, each, 1.0) for each in refits],
                parts={"it": image - torch.cat(rest)},
                part_weights=part_weights,
            )
            errors.append(2.2 * score(maps.resampled["it"]).std())  # t of 11 degrees of freedom
    value = torch.stack(values)
    documents, both = torch.stack(errors).view(-1, 2).T
    covered = [float(((value - value.mean()).abs() <= e).double().mean()) for e in (documents, both)]
    assert covered[0] < 0.6
    assert covered[1] >= 0.85
    assert float(both.median()) < 6 * float(value.std())  # and it is no wider than it has to be
