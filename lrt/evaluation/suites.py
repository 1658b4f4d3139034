"""Temporary."""
from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from lrt.evaluation.behaviours import Behaviour, check_together, read_behaviours
from lrt.evaluation.judge import Judge
from lrt.evaluation.model_written import Propensity, propensity_suite
from lrt.evaluation.refusal import Refusal, refusal_suite
from lrt.evaluation.scorers import Classifier
from lrt.evaluation.storybook import NAMES, storybook_suite
from lrt.evaluation.texts import Texts, texts_suite
@dataclass(frozen=True)
class StorybookSuite:
    kind: Literal["storybook"] = "storybook"
    names: tuple[str, ...] = ()
    contrast_pairs: int = 384
    development: int = 24
    test: int = 60
    seed: int = 0
@dataclass(frozen=True)
class FilesSuite:
    kind: Literal["files"] = "files"
    paths: tuple[str, ...] = ()
@dataclass(frozen=True)
class CombinedSuite:
    parts: dict[str, Any]
    kind: Literal["combined"] = "combined"
def build_suite(settings: Any, tokenizer: Any) -> tuple[Behaviour, ...]:
    found = _built(settings, tokenizer)
    check_together(found)
    for scorer in {s for b in found for s in (b.scorer, *b.extra_scorers)}:
        if isinstance(scorer, Classifier | Judge):
            scorer.check()
    return found
def _built(settings, tokenizer):
    match settings:
        case CombinedSuite(): return tuple(b for part in settings.parts.values() for b in _built(part, tokenizer))
        case Propensity(): return propensity_suite(settings, tokenizer())
        case Refusal(): return refusal_suite(settings, tokenizer())
        case Texts(): return texts_suite(settings, tokenizer())
        case FilesSuite(): return read_behaviours(map(Path, settings.paths))
        case _: return storybook_suite(settings.names or NAMES, contrast_pairs=settings.contrast_pairs, development=settings.development, test=settings.test, seed=settings.seed)
