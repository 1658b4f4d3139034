import torch
from torch import Tensor

from lrt.evaluation import NULLS, ContrastStates, TransferMaps, directions
from lrt.evaluation.directions import RESAMPLED
from lrt.mapping import AffineMap, LayerConcat

D_SOURCE, D_TARGET = 5, 7
STACK = LayerConcat((3,), D_TARGET)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def affine(seed: int, bias: bool = True) -> AffineMap:
    return AffineMap(normal(seed, D_TARGET, D_SOURCE), normal(seed + 1, D_TARGET) * bias)


def states_of(seed: int, untrained: bool = True) -> ContrastStates:
    source = normal(seed, 10, D_SOURCE) + 1, normal(seed + 1, 12, D_SOURCE)
    target = normal(seed + 2, 10, D_TARGET) + 1, normal(seed + 3, 12, D_TARGET)
    random = (normal(seed + 4, 10, D_SOURCE), normal(seed + 5, 12, D_SOURCE)) if untrained else None
    return ContrastStates(source, target, random)


STATES = {"c": states_of(30), "a": states_of(10), "b": states_of(20)}
MAPS = TransferMaps(affine(1), (affine(3), affine(5)), tuple(affine(i) for i in (7, 9, 11)), affine(13))


def found(contrast: str = "a", seed: int = 0, maps: TransferMaps = MAPS) -> dict[str, Tensor]:
    return directions(contrast, STATES, maps, stack=STACK, layer=3, random_draws=4, seed=seed)


def unit(v: Tensor) -> Tensor:
    return v / v.norm()


def gap(pair: tuple[Tensor, Tensor]) -> Tensor:
    return pair[0].mean(0) - pair[1].mean(0)


def test_halves_of_a_balanced_set_are_balanced() -> None:
    # a large direction that follows the answer, which alternates, and a small one of the behaviour
    answer = torch.tensor([1.0, -1.0]).repeat(8)[:, None] * torch.tensor([50.0, 0.0])
    positive = answer + torch.tensor([0.0, 1.0])
    states = {"it": ContrastStates((positive, -positive), (positive, answer * -1))}
    identity = TransferMaps(AffineMap(torch.eye(2), torch.zeros(2)))
    halves = directions("it", states, identity, stack=LayerConcat((0,), 2), layer=0, random_draws=1, seed=0)
    torch.testing.assert_close(halves["native_half"], torch.tensor([[0.0, 1.0]]).repeat(2, 1))


def test_each_direction_is_what_it_says() -> None:
    of = found("a")
    v = gap(STATES["a"].source)
    untrained_source = STATES["a"].untrained_source
    assert untrained_source is not None
    assert MAPS.untrained_source is not None
    wanted = {
        "native": [gap(STATES["a"].target)],
        "native_half": [
            gap(tuple(side[torch.arange(len(side)) % 4 < 2] for side in STATES["a"].target)),
            gap(tuple(side[torch.arange(len(side)) % 4 > 1] for side in STATES["a"].target)),
        ],
        "transferred": [MAPS.affine.weight @ v],
        "paper_literal": [MAPS.affine.weight @ v + MAPS.affine.bias],
        "bias": [MAPS.affine.bias],
        "shuffled": [m.weight @ v for m in MAPS.shuffled],
        "other": [MAPS.affine.weight @ gap(STATES["b"].source)],
        "untrained_source": [MAPS.untrained_source.weight @ gap(untrained_source)],
    }
    for name, vectors in wanted.items():
        torch.testing.assert_close(of[name], torch.stack([unit(w) for w in vectors]), msg=name)
    assert set(of) == {*wanted, "random", *RESAMPLED} >= set(NULLS)
    for name, rows in of.items():
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)), msg=name)
    assert len(of["random"]) == 4
    assert len(of["resampled"]) == 3


def test_the_map_of_the_whole_corpus_stands_beside_one_of_a_part() -> None:
    whole = affine(40)
    of = directions("a", STATES, MAPS, whole=whole, stack=STACK, layer=3, random_draws=4, seed=0)
    torch.testing.assert_close(of["whole_corpus"][0], unit(whole.weight @ gap(STATES["a"].source)))
    without = found("a")
    assert set(of) - set(without) == {"whole_corpus"}
    for name, rows in without.items():
        assert torch.equal(rows, of[name]), name


def test_every_contrast_is_the_other_of_exactly_one() -> None:
    carried = {name: unit(MAPS.affine.weight @ gap(s.source)) for name, s in STATES.items()}
    others = []
    for name in STATES:
        (row,) = found(name)["other"]
        others.append(next(n for n, v in carried.items() if torch.allclose(v, row, atol=1e-5)))
        assert others[-1] != name
    assert sorted(others) == sorted(STATES)


def test_draws_are_the_seeds() -> None:
    one, same, another = found(seed=0), found(seed=0), found(seed=1)
    for name in ("random", "resampled"):
        assert torch.equal(one[name], same[name])
        assert not torch.allclose(one[name], another[name])
    for name in ("transferred", "bias", "shuffled", "native_half"):
        assert torch.equal(one[name], another[name])


def test_random_directions_have_no_direction() -> None:
    many = directions("a", STATES, MAPS, stack=STACK, layer=3, random_draws=4000, seed=0)["random"]
    assert float(many.mean(0).norm()) < 0.05
    spread = many.T @ many / len(many)
    torch.testing.assert_close(spread, torch.eye(D_TARGET) / D_TARGET, atol=0.02, rtol=0)


def test_resampled_draws_prompts_as_well_as_maps() -> None:
    same_map = TransferMaps(MAPS.affine, resampled=(MAPS.affine,) * 3)
    rows = found(maps=same_map)["resampled"]
    (carried,) = found()["transferred"]
    assert all((rows @ carried > 0.7).tolist())
    assert not torch.allclose(rows[0], rows[1], atol=1e-3)
    assert not torch.allclose(rows[0], carried, atol=1e-3)


def test_a_draw_takes_the_same_prompts_for_both_vectors() -> None:
    pair = STATES["a"].source
    same = {"a": ContrastStates(pair, pair), "b": ContrastStates(pair, pair)}
    identity = AffineMap(torch.eye(D_SOURCE), torch.ones(D_SOURCE))
    maps = TransferMaps(identity, resampled=(identity,) * 3)
    of = directions("a", same, maps, stack=LayerConcat((3,), D_SOURCE), layer=3, random_draws=1, seed=0)
    torch.testing.assert_close(of["resampled"], of["resampled_native"])
    assert not torch.allclose(of["resampled"][0], of["resampled"][1], atol=1e-3)


def paired_states(texts: int, spread: float = 10.0) -> ContrastStates:
    """Sides that are the same texts but for a small difference, as capitals are."""
    generator = torch.Generator().manual_seed(7)
    text = spread * torch.randn(texts, D_SOURCE, generator=generator)
    behaviour = torch.ones(D_SOURCE) + 0.1 * torch.randn(texts, D_SOURCE, generator=generator)
    return ContrastStates((text + behaviour, text), (text + behaviour, text))


def redrawn(states: ContrastStates, draws: int) -> Tensor:
    identity = AffineMap(torch.eye(D_SOURCE), torch.zeros(D_SOURCE))
    maps = TransferMaps(identity, resampled=(identity,) * draws)
    stack = LayerConcat((3,), D_SOURCE)
    return directions("a", {"a": states}, maps, stack=stack, layer=3, random_draws=1, seed=0)["resampled"]


def test_prompts_are_drawn_with_the_partner_they_differ_from() -> None:
    vector = torch.nn.functional.normalize(torch.ones(D_SOURCE), dim=0)
    assert float((redrawn(paired_states(64), 20) @ vector).min()) > 0.99  # drawn apart: about .3


def test_a_draw_has_as_many_prompts_of_either_answer() -> None:
    """Answers alternate; the states tell of the answer alone, with the sign of the side."""
    answer = torch.tensor([1.0, -1.0] * 16)[:, None] * torch.ones(32, D_SOURCE)
    trait = torch.zeros(D_SOURCE)
    trait[0] = 1.0
    states = ContrastStates((trait + answer, -answer), (trait + answer, -answer))
    torch.testing.assert_close(redrawn(states, 10), trait.expand(10, -1))


def test_sides_of_two_lengths_are_drawn_apart() -> None:
    one, other = paired_states(64).source
    states = ContrastStates((one, other[:9]), (one, other[:9]))
    assert len(redrawn(states, 3)) == 3


def test_what_there_is_nothing_to_make_of_is_left_out() -> None:
    bare = directions(
        "a",
        {"a": states_of(10, untrained=False)},
        TransferMaps(affine(1, bias=False)),
        stack=STACK,
        layer=3,
        random_draws=1,
        seed=0,
    )
    assert set(bare) == {"native", "native_half", "transferred", "paper_literal", "random"}
    torch.testing.assert_close(bare["paper_literal"], bare["transferred"])


def test_a_float64_map_is_read_in_its_own_precision() -> None:
    wide = TransferMaps(AffineMap(MAPS.affine.weight.double(), MAPS.affine.bias.double()))
    rows = found(maps=wide)
    torch.testing.assert_close(rows["transferred"], found()["transferred"])
    assert {r.dtype for r in rows.values()} == {torch.float32}


def test_of_several_layers_it_is_the_one_asked_for() -> None:
    whole = found("a")
    stack = LayerConcat((4, 1), D_TARGET)  # two layers, each as wide as the one above

    def doubled(m: AffineMap) -> AffineMap:
        return AffineMap(torch.cat([m.weight, 2 * m.weight]), torch.cat([m.bias, 3 * m.bias]))

    maps = TransferMaps(
        doubled(MAPS.affine),
        [doubled(m) for m in MAPS.shuffled],
        [doubled(m) for m in MAPS.resampled],
        MAPS.untrained_source and doubled(MAPS.untrained_source),
    )
    states = {
        name: ContrastStates(
            s.source, (s.target[0].repeat(1, 2), s.target[1].repeat(1, 2)), s.untrained_source
        )
        for name, s in STATES.items()
    }
    for layer in stack.layers:
        part = directions("a", states, maps, stack=stack, layer=layer, random_draws=4, seed=0)
        for name in ("native", "transferred", "bias", "shuffled", "other", "untrained_source"):
            torch.testing.assert_close(part[name], whole[name], msg=f"{name} at {layer}")
        assert part["random"].shape == (4, D_TARGET)
