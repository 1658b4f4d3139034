"""Stage 3: states of the contrastive prompts and the vectors that they give."""

from dataclasses import replace
from unittest import mock

import torch
from stages import SCALE, Stages
from storybook_models import semi_orthogonal

from lrt.pipeline import UntrainedSource, contrasts_of
from lrt.pipeline.vectors import prompts_digests

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


def test_an_untrained_sources_unit_is_the_norm_of_its_own_states(
    shared: Stages, untrained: UntrainedSource
) -> None:
    stages = shared.but(untrained=untrained)
    for name, states in stages.vectors.states.items():
        assert shared.vectors.states[name].untrained_source is None
        assert states.untrained_source is not None
        assert not torch.equal(states.untrained_source.positive, states.source.positive)
        own = stages.vectors.layers.source.part(states.untrained_source.positive, 1).norm(dim=1).median()
        assert states.untrained_source.residual_norms[1] == float(own)
