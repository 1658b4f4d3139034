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
from statistics import median

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
from lrt.lab.grammar import pages
from lrt.models import LanguageModel
from lrt.report import Table
from lrt.report.numerals import share

TARGET_LAYER = 3
TOKENS, POOL = 300_000, 16
GRID = StrengthGrid(strengths=(0.0, 0.35, 0.5, 0.75, 1.0))
NEUTRAL = tuple(page.text for page in itertools.islice(pages(3, "held_out"), 64))


def main() -> int:
    """Print one row for each set of sources: FVU, and the medians over behaviours of cosine and ratio."""
    tiny, small, target = (lrt.load(f"storybook:{name}") for name in ("tiny", "small", "medium"))
    untrained = lrt.load("storybook:tiny", weights="random", seed=1, name="tiny, untrained")
    texts = [page.text for page in itertools.islice(pages(0, "held_out"), 12_000)]
    suite = storybook_suite(StorybookSuite(contrast_pairs=192, development=12, test=40))
    length = lrt.extract_vector(
        target, ["one", "two"], ["three", "four"], TARGET_LAYER, neutral_texts=NEUTRAL
    ).residual_norm
    steerable = SteerableModel(target, TARGET_LAYER, length)
    natives = {b.name: vector_of(target, b, TARGET_LAYER) for b in suite}
    chosen = {
        b.name: choose_strength(b, steerable, natives[b.name].unit_direction, GRID, temperature=0.0)
        for b in suite
    }
    rows = []
    for sources in ([tiny], [small], [tiny, small], [untrained, small]):
        layers = [list(range(lm.depth)) for lm in sources]
        fitted = lrt.fit_map(
            sources,
            target,
            texts,
            layers=(layers, TARGET_LAYER),
            pool=POOL,
            tokens=TOKENS,
            neutral_texts=NEUTRAL,
        )
        moved = {b.name: transferred(fitted, sources, b) for b in suite}
        ratios = {b.name: ratio(chosen[b.name], b, natives[b.name].direction, moved[b.name]) for b in suite}
        name = " + ".join(lm.spec.name for lm in sources)
        rows.append((name, fitted, moved, ratios))
        print(
            name,
            fitted.fvu,
            {n: r and (round(r.value, 3), [round(x, 2) for x in r.to_list()]) for n, r in ratios.items()},
            flush=True,
        )
    known = [b.name for b in suite if all(ratios[b.name] for *_, ratios in rows)]
    print(
        Table(
            f"Sources of a map to layer {TARGET_LAYER} of {target.spec.name}, {len(known)} behaviours",
            ("sources", "FVU", "median cosine with native", "median transfer ratio"),
            tuple(
                (
                    name,
                    fitted.fvu,
                    median(cosine(moved[n], natives[n].direction) for n in known),
                    share(median(found.value for n in known if (found := ratios[n]))),
                )
                for name, fitted, moved, ratios in rows
            ),
        ).markdown()
    )
    return 0


def vector_of(lm: LanguageModel, behaviour: Behaviour, layer: int) -> lrt.SteeringVector:
    """A model's own vector of a behaviour."""
    return lrt.extract_vector(
        lm, behaviour.positives, behaviour.negatives, layer, behaviour=behaviour.name, neutral_texts=NEUTRAL
    )


def transferred(fitted: lrt.FittedMap, sources: Sequence[LanguageModel], behaviour: Behaviour) -> Tensor:
    """`[d_target]`, from the vectors of every layer of every source."""
    vectors = [vector_of(lm, behaviour, layer) for lm in sources for layer in range(lm.depth)]
    return fitted.transfer(vectors).vector.direction


def ratio(chosen: Chosen, behaviour: Behaviour, native: Tensor, moved: Tensor) -> Estimate | None:
    """The transfer ratio on test items; None where the native vector does not steer."""
    directions: Mapping[str, list[Tensor]] = {"native": [native], "transferred": [moved]}
    scores = scores_along(chosen, behaviour, directions, "test", temperature=0.0, max_rows=1024)
    (none,), (own,), (other,) = (scores[name] for name in ("none", "native", "transferred"))
    keys = [item.key for item in behaviour.test]
    change = own - none
    if change.mean() * behaviour.direction <= 0:
        return None
    return ratio_estimate(other - none, change, keys=keys)


def cosine(one: Tensor, other: Tensor) -> float:
    """Cosine of two `[d]`."""
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


if __name__ == "__main__":
    sys.exit(main())
