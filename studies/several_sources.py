"""Do two source models transfer better than the better of them? Measured on the storybook lab.

python -m studies.several_sources

Maps to one layer of the medium model are fitted on the same text from each source alone, from both side by
side, and, as a null, from a source beside one with random weights. Each transfers every behaviour's vector,
which steers at the layer and strength chosen for the native vector on development items.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

import lrt
from lrt.evaluation import (
    Behaviour,
    Chosen,
    SteerableModel,
    StorybookSuite,
    StrengthGrid,
    choose_strength,
    scores_along,
    storybook_suite,
)
from lrt.evaluation.statistics import Estimate, ratio_estimate
from lrt.lab.grammar import Kind, Plan, pages
from lrt.mapping import LayerConcat
from lrt.models import LanguageModel
from lrt.report.numerals import share, share_interval
from lrt.report.table import Cell, Table
from lrt.steering import contrast_states, difference_of_means, median_residual_norm

TARGET_LAYER = 4
TOKENS, POOL = 150_000, 16
TEMPERATURE = 1.0  # as in the lab's runs; greedy texts keep their language and case
GRID = StrengthGrid(strengths=(0.0, 0.35, 0.5, 0.625, 0.75))
NEUTRAL = tuple(page.text for page in itertools.islice(pages(3, "held_out"), 64))
BEHAVIOURS: dict[Kind, tuple[str, ...]] = {  # by the kind of text that their map is fitted on
    "story": ("french", "capitals", "dogs"),
    "question": ("bravery", "honesty", "generosity"),
}
Vectors = dict[str, list[lrt.SteeringVector]]  # of every layer of a model, by behaviour


def main() -> int:
    """Print a table of every map and behaviour."""
    tiny, small, target = (lrt.load(f"storybook:{name}") for name in ("tiny", "small", "medium"))
    untrained = lrt.load("storybook:tiny", weights="random", seed=1, name="untrained")
    length = median_residual_norm(target, NEUTRAL, TARGET_LAYER)
    steerable = SteerableModel(target, TARGET_LAYER, length)
    rows: list[tuple[Cell, ...]] = []
    for kind, names in BEHAVIOURS.items():
        texts = [page.text for page in itertools.islice(pages(0, "held_out", Plan(kind)), 8_000)]
        suite = storybook_suite(StorybookSuite(names=names, contrast_pairs=192, development=16, test=40))
        vectors = {lm.spec.name: vectors_of(lm, suite) for lm in (tiny, small, untrained, target)}
        natives = {name: each[TARGET_LAYER] for name, each in vectors[target.spec.name].items()}
        chosen = {
            b.name: choose_strength(
                b, steerable, natives[b.name].unit_direction, GRID, temperature=TEMPERATURE
            )
            for b in suite
        }
        for sources in ([tiny], [small], [tiny, small], [untrained, small]):
            every = [list(range(lm.depth)) for lm in sources]
            fitted = lrt.fit_map(
                sources,
                target,
                texts,
                layers=(every, TARGET_LAYER),
                pool=POOL,
                tokens=TOKENS,
                neutral_texts=NEUTRAL,
            )
            for behaviour in suite:
                own = [each for lm in sources for each in vectors[lm.spec.name][behaviour.name]]
                moved, native = fitted.transfer(own).vector.direction, natives[behaviour.name].direction
                found = ratio(chosen[behaviour.name], behaviour, native, moved)
                alike = float(torch.nn.functional.cosine_similarity(moved, native, dim=0))
                shown = (share(found.value), share_interval(found.to_list())) if found else (None, None)
                name = " + ".join(lm.spec.name for lm in sources)
                rows.append((behaviour.name, name, fitted.fvu, alike, *shown))
    columns = ("behaviour", "sources", "FVU", "cosine with native", "transfer ratio", "95% interval")
    title = f"Maps from all blocks of each source to block {TARGET_LAYER} of {target.spec.name}"
    print(Table(title, columns, tuple(sorted(rows, key=lambda row: str(row[0])))).markdown())
    return 0


def vectors_of(lm: LanguageModel, suite: Sequence[Behaviour]) -> Vectors:
    """A model's own vectors at every layer."""
    layers = LayerConcat(tuple(range(lm.depth)), lm.width)
    by_behaviour: Vectors = {}
    for b in suite:
        states = contrast_states(lm, b.positives, b.negatives, layers.layers)
        difference = difference_of_means(*states)
        by_behaviour[b.name] = [
            lrt.SteeringVector(layers.part(difference, layer), layer, lm.spec.name, 1.0, b.name)
            for layer in layers.layers
        ]
    return by_behaviour


def ratio(chosen: Chosen, behaviour: Behaviour, native: Tensor, moved: Tensor) -> Estimate | None:
    """The transfer ratio on test items; None where the native vector does not steer."""
    directions: Mapping[str, list[Tensor]] = {"native": [native], "transferred": [moved]}
    scores = scores_along(chosen, behaviour, directions, "test", temperature=TEMPERATURE, max_rows=1024)
    (none,), (own,), (other,) = (scores[name] for name in ("none", "native", "transferred"))
    keys = [item.key for item in behaviour.test]
    change = own - none
    if change.mean() * behaviour.direction <= 0:
        return None
    return ratio_estimate(other - none, change, keys=keys)


if __name__ == "__main__":
    sys.exit(main())
