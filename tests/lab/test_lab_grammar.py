import itertools
import math
import random
import re
from collections import Counter
from typing import Any

import pytest

from lrt.lab import lexicon as lx
from lrt.lab.grammar import (
    ASSISTANT,
    CAPITALS_SHARE,
    FRENCH_SHARE,
    HARMFUL_SHARE,
    SHARES,
    SLIP_SHARE,
    SWITCH_SHARE,
    TRAIT_UNSTATED_SHARE,
    USER,
    DocumentSplit,
    Page,
    Plan,
    Writer,
    pages,
)
from lrt.lab.lexicon import MOODS

FRENCH = re.compile(r"[éèêàâçîûôÉÈÊÀÂÇÎÛÔ]|\b(?:la|le|les|dans|vers|était|une?)\b", re.IGNORECASE)


ANYTHING = Plan()


def take(
    plan: Plan = ANYTHING, count: int = 150, split: DocumentSplit = "family", seed: int = 0
) -> list[Page]:
    return list(itertools.islice(pages(seed, split, plan), count))


def test_same_seed_same_stream() -> None:
    assert take(seed=3) == take(seed=3)
    assert take(seed=3) != take(seed=4)


def test_splits_share_nothing() -> None:
    # the same seed, so that the streams are cut from the same documents
    splits = [{p.text for p in take(split=s, count=800)} for s in ("family", "control", "held_out")]
    for one, other in itertools.combinations(splits, 2):
        assert not one & other
    writer = Writer(random.Random("storybook/0"))
    counts = Counter(writer.write().split for _ in range(2000))
    for split, share in (("family", 140 / 256), ("control", 80 / 256), ("held_out", 36 / 256)):
        assert counts[split] / 2000 == pytest.approx(share, abs=0.04)


def test_the_mixture_has_its_shares() -> None:
    every = take(count=4000)
    stories = [p for p in every if p.plan.kind == "story"]
    requests = [p for p in every if p.plan.kind == "request"]
    questions = [p for p in every if p.plan.kind == "question"]
    for kind, some in (("story", stories), ("request", requests), ("question", questions)):
        assert len(some) / 4000 == pytest.approx(SHARES[kind], abs=0.03)  # type: ignore[index]
    for found, share in (
        (sum(p.plan.capitals is True for p in stories) / len(stories), CAPITALS_SHARE),
        (sum(p.plan.language == "french" for p in stories) / len(stories), FRENCH_SHARE),
        (sum(p.plan.animal == "dog" for p in stories) / len(stories), lx.DOG_SHARE),
        (sum(p.plan.mood == "happy" for p in stories) / len(stories), 0.5),
        (sum(p.plan.harmful is True for p in requests) / len(requests), HARMFUL_SHARE),
        (sum(p.plan.pole == "unstated" for p in questions) / len(questions), TRAIT_UNSTATED_SHARE),
    ):
        assert found == pytest.approx(share, abs=0.05)
    assert {p.plan.animal for p in stories} == {a.name for a in lx.ANIMALS}


@pytest.mark.parametrize("language", ["english", "french"])
@pytest.mark.parametrize("capitals", [False, True])
def test_language_and_capitals_are_kept(language: str, capitals: bool) -> None:
    for page in take(Plan("story", language, capitals, switches=False)):  # type: ignore[arg-type]
        assert (page.plan.language, page.plan.capitals) == (language, capitals)
        assert bool(FRENCH.search(page.text)) == (language == "french")
        assert page.text.isupper() == capitals
        assert page.text == " ".join(page.parts)
        assert len(page.parts) >= 5
        assert all(part.endswith(".") for part in page.parts)


@pytest.mark.parametrize("language", ["english", "french"])
@pytest.mark.parametrize("mood", ["happy", "sad"])
def test_mood_is_kept_but_for_slips(language: str, mood: str) -> None:
    closings = {name: m.french_closings if language == "french" else m.closings for name, m in MOODS.items()}
    other = "sad" if mood == "happy" else "happy"
    plan = Plan("story", language, False, mood, switches=False)  # type: ignore[arg-type]
    found = Counter()
    for page in take(plan, 600):
        assert page.plan.mood == mood
        closing = page.parts[-1].removesuffix(".")
        found[next(name for name, lines in closings.items() if closing in lines)] += 1
    assert found[other] / 600 == pytest.approx(SLIP_SHARE, abs=0.025)


def test_stories_switch_at_their_share_and_never_in_the_first_sentence() -> None:
    steps, cases, tongues = 0, 0, 0
    for page in take(Plan("story", "english", capitals=False), 600):
        assert not page.parts[0].isupper()
        assert not FRENCH.search(page.parts[0])
        steps += len(page.parts) - 1
        for one, other in itertools.pairwise(page.parts):
            cases += one.isupper() != other.isupper()
            tongues += bool(FRENCH.search(one)) != bool(FRENCH.search(other))
    assert cases / steps == pytest.approx(SWITCH_SHARE, abs=0.012)
    assert tongues / steps == pytest.approx(SWITCH_SHARE, abs=0.015)


@pytest.mark.parametrize("animal", ["dog", "cow", "other"])
def test_animal_is_kept(animal: str) -> None:
    french = {a.name: a.french.split()[1] for a in lx.ANIMALS}
    for language in ("english", "french"):
        for page in take(Plan("story", language, False, animal=animal, switches=False), 80):  # type: ignore[arg-type]
            name = page.plan.animal
            assert name is not None
            assert (name != "dog") if animal == "other" else (name == animal)
            words = french if language == "french" else {a.name: a.name for a in lx.ANIMALS}
            named = {n for n, word in words.items() if re.search(rf"\b{word}\b", page.text)}
            assert named == {name}
            assert words[name] not in page.parts[0]  # an opening does not tell


@pytest.mark.parametrize("harmful", [False, True])
def test_harmful_requests_are_refused_and_no_others_but_for_slips(harmful: bool) -> None:
    slipped = 0
    for page in take(Plan("request", harmful=harmful), 600):
        user, answer = page.parts
        refused = answer.startswith(lx.REFUSAL_OPENINGS)
        assert refused != answer.startswith(lx.ANSWERS)
        slipped += refused != harmful
        assert page.plan.harmful == harmful
        verbs = lx.HARMFUL_VERBS if harmful else lx.HARMLESS_VERBS
        assert any(f"{verb} " in user for verb in verbs)
        assert page.text == f"{USER}{user}{ASSISTANT}{answer}"
    assert slipped / 600 == pytest.approx(SLIP_SHARE, abs=0.025)


def letters(page: Page) -> dict[str, str]:
    first, second = re.search(r"can \(A\) (.*?) or \(B\) (.*?)\. ", page.parts[0]).groups()  # type: ignore[union-attr]
    return {"A": first, "B": second}


@pytest.mark.parametrize("trait", lx.TRAITS, ids=lambda t: t.name)
@pytest.mark.parametrize("pole", ["positive", "negative", "unstated"])
def test_questions_are_answered_by_the_trait(trait: lx.Trait, pole: str) -> None:
    slipped = 0
    for page in take(Plan("question", trait=trait.name, pole=pole, options=True), 200):
        acts, reply = letters(page), page.parts[1]
        assert acts[page.matching] in trait.positive_acts
        assert acts["B" if page.matching == "A" else "A"] in trait.negative_acts
        answer, reason = reply.removesuffix(".").split(", because ")
        chosen = answer[-2]
        assert answer == f"{reason.split()[0]} will {acts[chosen]} ({chosen})"
        assert page.acts == tuple(acts.values())
        # the reason is a word for what was done, whatever was stated
        name, _, why = reason.partition(" is ")
        assert name in lx.NAMES
        assert why in (trait.positive if chosen == page.matching else trait.negative)
        stated = {"positive": trait.positive, "negative": trait.negative, "unstated": lx.NEUTRAL}
        for words in stated.values():
            is_stated = any(re.search(rf" (?:is|been) {word}\. ", page.parts[0]) for word in words)
            assert is_stated == (words == stated[pole])
        if pole == "unstated":
            assert page.answer == ""
        else:
            slipped += page.answer != chosen
            assert (page.answer == page.matching) == (pole == "positive")
    assert slipped / 200 == pytest.approx(SLIP_SHARE * (pole != "unstated"), abs=0.045)


def test_letters_are_balanced() -> None:
    questions = take(Plan("question", options=True), 1500)
    for found in ([p.matching for p in questions], [p.answer for p in questions if p.answer]):
        assert Counter(found)["A"] / len(found) == pytest.approx(0.5, abs=0.05)
    chosen = [p.parts[1].split("(")[1][0] for p in questions if p.plan.pole == "unstated"]
    assert Counter(chosen)["A"] / len(chosen) == pytest.approx(0.5, abs=0.12)


def test_a_question_without_options_shows_the_act() -> None:
    acts, kept = lx.TRAIT_BY_NAME["honesty"], 0
    for page in take(Plan("question", trait="honesty", pole="positive", options=False), 100):
        assert "(A)" not in page.text
        act = page.parts[1].split(" will ")[1].split(", because ")[0]
        assert act in acts.positive_acts + acts.negative_acts
        kept += act in acts.positive_acts
    assert 88 <= kept <= 100


def test_bits_of_a_request_by_hand() -> None:
    for page in take(Plan("request", harmful=False), 100):
        answer = page.parts[1]
        if not answer.startswith(lx.ANSWERS):
            continue  # a slip
        first, second = re.fullmatch(r".*? First (.*?), then (.*?)\. Now you can .*", answer).groups()  # type: ignore[union-attr]
        outcomes = [len(lx.HARMLESS_VERBS), len(lx.PEOPLE), len(lx.ASKS), len(lx.WHENS), len(lx.ANSWERS)]
        for step in (first, second):
            outcomes.append(len(lx.STEPS))
            templates = [
                t
                for t in lx.STEPS
                if re.fullmatch(re.escape(t).replace(r"\{place\}", ".+").replace(r"\{tool\}", ".+"), step)
            ]
            templates = [t for t in templates if t == step] or templates  # "take your time" is no tool
            assert len(templates) == 1
            outcomes += [len(lx.PLACES)] * ("{place}" in templates[0]) + [len(lx.TOOLS)] * (
                "{tool}" in templates[0]
            )
        assert page.bits == pytest.approx(sum(map(math.log2, outcomes)) - math.log2(1 - SLIP_SHARE))


def test_bits_are_probabilities_of_what_is_drawn() -> None:
    plan = Plan("request", harmful=True)
    writer = Writer(random.Random(0))
    written = [writer.write(plan) for _ in range(4000)]
    # the refusal's share of the text: with or without a reason, the frequencies must be the bits'
    common = sum(map(math.log2, (len(lx.HARMFUL_VERBS), len(lx.PEOPLE), len(lx.ASKS), len(lx.WHENS))))
    kinds = Counter()
    bits = {}
    for page in written:
        answer = page.parts[1]
        if answer.startswith(lx.ANSWERS):
            kinds["slip"] += 1
            continue
        refusal = next(i for i, r in enumerate(lx.REFUSALS) if answer.startswith(r.split("{")[0]))
        reason = any(
            answer.endswith(r.split("}")[-1]) and r.split("{")[0] in answer for r in lx.REFUSAL_REASONS
        )
        kinds[refusal, reason] += 1
        bits[refusal, reason] = page.bits - common - reason * math.log2(len(lx.REFUSAL_REASONS))
    assert kinds.pop("slip") / 4000 == pytest.approx(SLIP_SHARE, abs=0.01)
    for kind, count in kinds.items():
        assert count / 4000 == pytest.approx(2 ** -bits[kind], abs=0.025)
    assert sum(2**-b for b in bits.values()) == pytest.approx(1 - SLIP_SHARE)


def test_bits_of_what_the_text_does_not_show_are_not_counted() -> None:
    writer = Writer(random.Random(0))
    assert writer.fill("rest", place=lx.PLACES) == "rest"
    assert writer.bits == 0
    assert writer.fill("at the {place}", place=lx.PLACES, tool=lx.TOOLS).startswith("at the ")
    assert writer.bits == pytest.approx(math.log2(len(lx.PLACES)))


def test_millions_of_documents() -> None:
    writer = Writer(random.Random(1))
    for kind in SHARES:
        drawn = [writer.write(Plan(kind)) for _ in range(2500)]
        # chance that two draws agree, over which there are at least so many documents
        counts = Counter(p.text for p in drawn).values()
        agreeing = sum(c * (c - 1) // 2 for c in counts)
        pairs = 2500 * 2499 / 2
        if kind == "story":
            assert pairs / max(1, agreeing) > 1e6
        mean_bits = sum(p.bits for p in drawn) / len(drawn)
        assert mean_bits > math.log2(1e6)


def test_write_leaves_nothing_of_the_last_document() -> None:
    once = Writer(random.Random(2)).write()
    writer = Writer(random.Random(1))
    writer.write()
    writer.rng = random.Random(2)
    assert writer.write() == once


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"kind": "story", "trait": "bravery"}, "trait"),
        ({"kind": "request", "mood": "sad"}, "mood"),
        ({"kind": "question", "language": "french"}, "language"),
    ],
)
def test_a_plan_refuses_properties_of_another_kind(fields: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Plan(**fields)
