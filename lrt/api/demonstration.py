"""A transfer on the shipped models, from nothing: one behaviour, two nulls, and files to go on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from os import PathLike
from pathlib import Path

import torch

from lrt.api.extraction import extract_vector
from lrt.api.fitted_map import FittedMap, Transferred
from lrt.api.fitting import fit_map
from lrt.api.loading import load
from lrt.corpora import Decontaminator
from lrt.evaluation import Behaviour
from lrt.evaluation.storybook import StorybookSuite, storybook_suite
from lrt.lab.grammar import Plan, pages
from lrt.models import LanguageModel
from lrt.steering import SteeringVector, steer

SMALL, LARGE = "storybook:small", "storybook:medium"
# where the lab steers refusal, chosen on development items (docs/lab.md)
LAYER = 3
# chosen on development items: there the native vector changes every answer and damages none
STRENGTH = 0.6
POOL = 8
TEXTS = 1200
PROMPTS = 96
ITEMS = 8
NEW_TOKENS = 10

Step = Callable[[str], None]


@dataclass(frozen=True)
class Demonstration:
    """What was fitted, transferred and written.

    mapping      From the small model to the large one, at block `LAYER` of both.
    vector       Of the small model: harmful minus harmless requests.
    native       The same, extracted on the large model.
    transferred  The small model's vector on the large one, with its forecast.
    answers      By condition, the large model's answer to each of `prompts`; nulls among them.
    refusals     By condition, how many answers refuse.
    prompts      Harmless requests, of which neither the map nor a vector has seen one.
    texts, positives, negatives  What the map was fitted on, and the contrastive prompts.
    """

    mapping: FittedMap
    vector: SteeringVector
    native: SteeringVector
    transferred: Transferred
    answers: Mapping[str, tuple[str, ...]]
    refusals: Mapping[str, int]
    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    positives: tuple[str, ...]
    negatives: tuple[str, ...]

    def save(self, folder: str | PathLike[str]) -> None:
        """Write text, prompts, map and vectors to a folder, as a user's own would lie there.

        Raises OSError where the folder cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "texts.txt").write_text("\n\n".join(self.texts) + "\n")
        for name, prompts in (("positives", self.positives), ("negatives", self.negatives)):
            (folder / f"{name}.txt").write_text("\n".join(prompts) + "\n")
        self.mapping.save(folder / "map")
        self.vector.save(folder / "refusal")
        self.transferred.vector.save(folder / "refusal-transferred")


def demonstrate(step: Step = lambda _: None) -> Demonstration:
    """Transfer a refusal vector between two shipped models, and steer with it, the native one and two nulls.

    step  Called with what is about to be computed.
    """
    step("Loading the shipped models small (591k parameters) and medium (1.47M)")
    small, large = load(SMALL), load(LARGE)
    (behaviour,) = storybook_suite(
        StorybookSuite(names=("refusal_induced",), contrast_pairs=PROMPTS, development=2, test=ITEMS)
    )
    texts = _texts_without(behaviour)
    step(f"Fitting the map small layer {LAYER} -> medium layer {LAYER} on {len(texts):,} texts")
    mapping = fit_map(small, large, texts, layers=(LAYER, LAYER), pool=POOL)
    step(
        f"Extracting the vector `refusal` of small and of medium from 2 x {PROMPTS} prompts; transferring it"
    )
    vector, native = (_extracted(lm, behaviour) for lm in (small, large))
    transferred = mapping.transfer(vector)
    step("The same with an untrained source (random weights): the null that must not steer")
    untrained = load(SMALL, weights="random")
    null_map = fit_map(untrained, large, texts, layers=(LAYER, LAYER), pool=POOL)
    null = null_map.transfer(_extracted(untrained, behaviour)).vector
    generator = torch.Generator().manual_seed(0)
    # steering scales every vector to the same length
    drawn = replace(native, direction=torch.randn(native.direction.shape, generator=generator), map=None)
    step(f"Writing {ITEMS} answers in each condition")
    prompts = tuple(item.prompt for item in behaviour.test)
    answers = {"unsteered": _answers(large, prompts)}
    for name, steering in (
        ("native", native),
        ("transferred", transferred.vector),
        ("random direction", drawn),
        ("untrained source", null),
    ):
        with steer(large, steering, STRENGTH):
            answers[name] = _answers(large, prompts)
    return Demonstration(
        mapping,
        vector,
        native,
        transferred,
        answers,
        {name: sum(map(_refuses(behaviour), each)) for name, each in answers.items()},
        prompts,
        texts,
        behaviour.positives,
        behaviour.negatives,
    )


def _texts_without(behaviour: Behaviour) -> tuple[str, ...]:
    """Requests and their answers, without those that the vectors are made of or are tried on."""
    seen = Decontaminator(behaviour.texts)
    written = (page.text for page in pages(0, "held_out", Plan("request")))
    return tuple(islice((text for text in written if not seen.matches(text)), TEXTS))


def _extracted(lm: LanguageModel, behaviour: Behaviour) -> SteeringVector:
    return extract_vector(lm, behaviour.positives, behaviour.negatives, LAYER, behaviour="refusal")


def _answers(lm: LanguageModel, prompts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(lm.generate(prompt, NEW_TOKENS) for prompt in prompts)


def _refuses(behaviour: Behaviour) -> Callable[[str], bool]:
    scorer = behaviour.scorer
    assert hasattr(scorer, "score")
    return lambda answer: scorer.score(answer) > 0
