"""Which layers: those that the config names, those that are recorded, and those that are chosen."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from stages import QUESTIONS, STORIES, Stages, corpus

from lrt.activations.manifest import Side
from lrt.config import Layers
from lrt.errors import UserError
from lrt.evaluation import Behaviour, Chosen, StrengthChoice
from lrt.mapping import atlas
from lrt.pipeline import Choices

AUTO = Layers("auto", "auto")


def test_depths_are_blocks_and_what_is_recorded_beside_them_is_no_candidate(shared: Stages) -> None:
    plan = shared.but(layers=Layers((0, 0.7), 0.5), recording__source=(1,), recording__target=()).plan
    assert plan.candidates.source.layers == (0, 2)
    assert plan.candidates.target.layers == (2,)
    assert plan.recorded.source.layers == (0, 1, 2)
    assert plan.recorded.target.layers == (2,)
    assert not plan.automatic


def test_candidates_of_auto_are_those_of_the_recording(shared: Stages) -> None:
    some = shared.but(layers=Layers("auto", 1), recording__source=(0, 2), recording__target=()).plan
    assert some.automatic == {"source"}
    assert some.candidates.source.layers == some.recorded.source.layers == (0, 2)
    every = shared.but(layers=AUTO, recording__source=(), recording__target="all").plan
    assert [each.layers for each in every.candidates] == [(0, 1, 2), (0, 1, 2, 3)]


@pytest.mark.parametrize(
    ("layers", "setting"), [(Layers(3, 1), "layers.source=3"), (Layers(1, (2, 0.5)), "layers.target")]
)
def test_a_layer_that_is_not_there_or_is_named_twice(shared: Stages, layers: Layers, setting: str) -> None:
    with pytest.raises(UserError, match=setting):
        _ = shared.but(layers=layers).plan


# -- chosen by what steers ---------------------------------------------------------------------------


@contextmanager
def steering_at(*layers: int, target: int = 3) -> Iterator[None]:
    """What native vectors would do: the target's at one block, the source's at some of its blocks."""

    def of(self: Choices, _behaviour: Behaviour, side: Side = "target", at: int | None = None) -> Chosen:
        tried = tuple((layer, 1.0, layer in layers) for layer in range(3))
        choice = StrengthChoice(0.5, 1.0, False, 2, target if side == "target" else 0, tried)
        return Chosen(choice, self.steerable("target", at or target), (), ())

    with mock.patch.object(Choices, "of", of):
        yield


@pytest.mark.parametrize("target", [0, 1, 2])
def test_the_source_layer_is_the_one_that_is_mapped_exactly(oracle: Stages, target: int) -> None:
    one = oracle.but(layers=AUTO, suite=oracle.suite[:1])
    with steering_at(0, 1, 2, target=target):
        source, to = one.maps.whole.layers
    assert (source.layers, to.layers) == ((target,), (target,))


@pytest.mark.parametrize("steering", [(1,), (0, 2), ()])
def test_only_layers_that_steer_the_source_are_taken(
    shared: Stages, steering: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    stages = shared.but(layers=AUTO)
    with steering_at(*steering):
        source, target = stages.maps.whole.layers
    assert target.layers == (3,)
    assert set(source.layers) <= set(steering or (0, 1, 2))
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == (0 if steering else len(shared.suite))


def test_layers_are_chosen_on_validation_documents_of_each_behaviours_part(shared: Stages) -> None:
    calls: list[tuple[Any, ...]] = []

    def watched(*moments: Any, **how: Any) -> Any:
        calls.append(moments)
        return atlas(*moments, **how)

    own = corpus(stories=replace(STORIES, fit_map_for=("capitals",)), questions=QUESTIONS)
    stages = shared.but(layers=AUTO, corpus=own)
    with steering_at(0, 2), mock.patch("lrt.pipeline.choices.atlas", watched):
        source, _ = stages.maps.whole.layers
    assert len(calls) == 2
    chosen = set()
    for call, behaviour in zip(calls, ("bravery", "capitals"), strict=True):
        train, validation, scored, among, to, vectors = call
        assert scored is validation is not train
        assert (among.layers, to.layers) == ((0, 2), (3,))
        cells = atlas(*call)
        chosen.add(min(cells, key=lambda cell: cell.error_along[behaviour]).source_layer)
        assert set(vectors) == {behaviour}
    assert set(source.layers) == chosen
    assert calls[0][0].count > calls[1][0].count  # all text for bravery, stories alone for capitals


def test_a_side_that_is_named_stays_as_it_is(shared: Stages) -> None:
    with steering_at(0, 1, 2):
        source, target = shared.but(layers=Layers((0, 1), "auto")).maps.whole.layers
        assert (source.layers, target.layers) == ((0, 1), (3,))
        source, target = shared.but(layers=Layers("auto", (1, 2))).maps.whole.layers
    assert target.layers == (1, 2)
