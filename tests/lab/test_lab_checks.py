import re
from typing import Any

import pytest
import torch

from lrt.errors import InvalidValue
from lrt.lab import lexicon as lx
from lrt.lab.checks import Check, examine
from lrt.lab.grammar import Plan, pages
from lrt.models import LanguageModel

NAMES = [
    "refuses harmful requests",
    "refuses harmless requests",
    "keeps language and case",
    "answers trait questions",
]


def test_sides_of_a_limit() -> None:
    assert Check("x", 0.95, 0.95, ">=").passed
    assert not Check("x", 0.94, 0.95, ">=").passed
    assert Check("x", 0.03, 0.03, "<=").passed
    assert not Check("x", 0.04, 0.03, "<=").passed
    data = Check("x", 0.123456, 0.1, "<=").to_data()
    assert data == {"name": "x", "value": 0.1235, "limit": 0.1, "relation": "<=", "passed": False}


def test_an_untrained_model_fails_its_checks(story_lm: LanguageModel) -> None:
    found = examine(story_lm, items=12)
    assert [c["name"] for c in found["checks"]] == NAMES
    assert found["held_out_documents"] == 12
    checks = {c["name"]: c for c in found["checks"]}
    for failed in (NAMES[0], NAMES[2], NAMES[3]):
        assert not checks[failed]["passed"], failed
    assert checks[NAMES[1]]["passed"]  # it never refuses
    assert found["cross_entropy"] > 5 > found["grammar_entropy"] > 0
    assert examine(story_lm, items=12) == found


def test_the_cross_entropy_is_of_the_documents(story_lm: LanguageModel) -> None:
    import random

    found = examine(story_lm, items=6)
    stream = pages(random.Random("checks/entropy/0").getrandbits(62), "held_out", Plan())
    total, count, bits = 0.0, 0, 0.0
    tokenizer: Any = story_lm.tokenizer
    for _ in range(6):
        page = next(stream)
        ids = torch.tensor([[*tokenizer(page.text)["input_ids"], tokenizer.eos_token_id]])
        scores = story_lm.logits(ids)[0, :-1].log_softmax(-1)
        total -= float(scores.gather(1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
        bits += page.bits
    assert found["cross_entropy"] == pytest.approx(total / count, abs=1e-3)
    assert found["grammar_entropy"] == pytest.approx(bits * 0.6931472 / count, abs=1e-3)


def states_trait(prompt: str, words: tuple[str, ...]) -> bool:
    return any(re.search(rf" (?:is|been) {word}\. ", prompt) for word in words)


class Knowing:
    """Continues each prompt by the grammar's own document: what a perfect model would write."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def __call__(self, _lm: Any, prompts: list[str], _new: int) -> list[str]:
        self.prompts += prompts
        return [self.answer(p) for p in prompts]

    def answer(self, prompt: str) -> str:
        if "<|user|>" not in prompt:
            language = "é" if any(w in prompt.lower() for w in (" vers ", " était", "là,")) else ""
            text = (
                " Puis Marie suivit le chien dans la niche."
                if language
                else " Then the dog had a puppy in it."
            )
            return text.upper() if prompt.isupper() else text
        if "What does" in prompt:
            acts = re.search(r"can \(A\) (.*?) or \(B\) (.*?)\. ", prompt).groups()  # type: ignore[union-attr]
            words = next(w for t in lx.TRAITS for w in (t.positive, t.negative) if states_trait(prompt, w))
            trait = next(t for t in lx.TRAITS if words in (t.positive, t.negative))
            mine = trait.positive_acts if words == trait.positive else trait.negative_acts
            chosen = next(a for a in acts if a in mine)
            return f"She will {chosen} ({'AB'[acts.index(chosen)]}), because she is {words[0]}."
        harmful = any(f"{verb} ".lower() in prompt.lower() for verb in lx.HARMFUL_VERBS)
        return "I cannot do that." if harmful else "Of course. First make a plan."


def test_a_perfect_writer_passes_and_a_silent_one_does_not(
    story_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    knowing = Knowing()
    monkeypatch.setattr("lrt.lab.checks.continue_texts", knowing)
    values = {c["name"]: c["value"] for c in examine(story_lm, items=40)["checks"]}
    assert [values[name] for name in NAMES] == [1.0, 0.0, 1.0, 1.0]
    assert len(knowing.prompts) == 40 + 40 + 40 + 40
    monkeypatch.setattr("lrt.lab.checks.continue_texts", lambda _lm, prompts, _new: [""] * len(prompts))
    values = {c["name"]: c["value"] for c in examine(story_lm, items=8)["checks"]}
    assert values[NAMES[2]] == values[NAMES[3]] == 0.0


def test_letters_are_scored(story_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for letter in "AB":
        reply = f"She will do it ({letter}), because not ({letter})."
        monkeypatch.setattr(
            "lrt.lab.checks.continue_texts", lambda _lm, prompts, _new, reply=reply: [reply] * len(prompts)
        )
        checks = {c["name"]: c["value"] for c in examine(story_lm, items=60)["checks"]}
        shares.append(checks[NAMES[3]])
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert min(shares) > 0.3


def test_too_few_items(story_lm: LanguageModel) -> None:
    with pytest.raises(InvalidValue):
        examine(story_lm, items=3)
