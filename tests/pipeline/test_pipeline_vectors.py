"""Stage 3: states of the contrastive prompts and the vectors that they give."""

from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from stages import SCALE, Stages
from storybook_models import semi_orthogonal

from lrt.evaluation import Behaviour
from lrt.models import LanguageModel
from lrt.pipeline import UntrainedSource, contrasts_of
from lrt.pipeline.vectors import needed_contrasts, prompts_digests
from lrt.steering import contrast_states

NEVER = AssertionError("made again")


def test_native_vectors_of_an_image_are_the_image_of_the_sources(oracle: Stages) -> None:
    q = SCALE * semi_orthogonal(48, 32).float()
    layers = oracle.vectors.layers
    for states in oracle.vectors.states.values():
        for layer in range(3):
            source = layers.source.part(states.source_vector, layer)
            target = layers.target.part(states.target_vector, layer)
            torch.testing.assert_close(target, q @ source, rtol=1e-3, atol=1e-4)


def test_they_are_read_without_a_model_the_second_time(shared: Stages) -> None:
    once = shared.vectors
    with mock.patch("lrt.pipeline.vectors.contrast_states", side_effect=NEVER):
        again = shared.but().vectors
    for name, states in once.states.items():
        assert torch.equal(states.source.positive, again.states[name].source.positive)
        assert torch.equal(states.target.negative, again.states[name].target.negative)


def test_some_layers_are_columns_of_all(shared: Stages) -> None:
    layers = shared.plan.candidates  # 1 of 3, and 2 of 4
    every = shared.vectors
    for name, states in every.at(layers).items():
        part = every.layers.source.part(every.states[name].source_vector, 1)
        assert torch.equal(states.source_vector, part)


def test_behaviours_of_one_contrast_share_its_vector(shared: Stages) -> None:
    one, other = shared.suite
    twin = replace(one, name="twin", contrast=one.contrast)
    contrasts = contrasts_of((one, twin, other))
    assert set(contrasts) == {one.contrast, other.contrast}
    assert contrasts[one.contrast] is one
    assert prompts_digests(contrasts) == prompts_digests(contrasts_of(shared.suite))


def three(stages: Stages) -> Stages:
    """With a third contrast whose texts are those of another, so that the corpus stays as it is."""
    bravery = next(behaviour for behaviour in stages.suite if behaviour.name == "bravery")
    twin = replace(
        bravery,
        name="zeal",
        contrast="zeal",
        positives=bravery.positives[::2],
        negatives=bravery.negatives[::2],
    )
    return stages.but(suite=(*stages.suite, twin))


def test_vectors_are_those_of_what_is_evaluated_and_of_its_nulls(shared: Stages) -> None:
    capitals, bravery, zeal = three(shared).suite
    suite = (zeal, capitals, bravery)

    def needed(*evaluated: Behaviour, steered: tuple[str, ...] = ()) -> set[str]:
        return set(needed_contrasts(suite, evaluated, steered))

    # in alphabetical order bravery, capitals, zeal: the next one is the null, and the first follows the last
    assert needed(bravery) == {bravery.contrast, capitals.contrast}
    assert needed(zeal) == {zeal.contrast, bravery.contrast}
    assert needed(*suite) == {behaviour.contrast for behaviour in suite}
    # steered during training or by features: the vector alone; a name of another suite is none of these
    assert needed(bravery, steered=("zeal", "dogs")) == {behaviour.contrast for behaviour in suite}
    assert needed(steered=("zeal",)) == {zeal.contrast}
    assert set(needed_contrasts([bravery], [bravery])) == {bravery.contrast}


def test_one_behaviour_is_measured_without_the_vectors_of_the_rest(copied: Stages) -> None:
    every = three(copied)
    one = every.but(evaluation__behaviours=("bravery",))
    (measured,) = one.studied()
    assert "other" in {each.condition for each in measured.study.measurements}
    assert set(one.vectors.states) == {"bravery", "capitals"}
    assert len(copied.files("states")) == 2 * 2  # of two sets in two models
    # a further behaviour extracts its own set alone
    more, zeal = every.but(evaluation__behaviours=("zeal", "bravery")), every.suite[-1]
    extracted: list[int] = []

    def counting(lm: LanguageModel, *prompts: Any) -> Any:
        extracted.append(len(prompts[0]))
        return contrast_states(lm, *prompts)

    with mock.patch("lrt.pipeline.vectors.contrast_states", counting):
        _ = more.vectors
    assert extracted == [len(zeal.positives)] * 2
    # what was measured is what a run over the whole suite measures
    before = copied.files("measurements")
    every.fitted()
    every.studies.measure(one.evaluated)
    assert copied.files("measurements") == before


def test_an_untrained_sources_unit_is_the_norm_of_its_own_states(
    shared: Stages, untrained: UntrainedSource
) -> None:
    stages = shared.but(untrained=(untrained,))
    for name, states in stages.vectors.states.items():
        assert not shared.vectors.states[name].untrained_sources
        (null,) = states.untrained_sources
        assert not torch.equal(null.positive, states.source.positive)
        own = stages.vectors.layers.source.part(null.positive, 1).norm(dim=1).median()
        assert null.residual_norms[1] == float(own)
