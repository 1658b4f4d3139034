import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_behaviours import choice_behaviour, text_behaviour
from torch import Tensor

from lrt.evaluation import Behaviour, Item, SteerableModel, SteeringCondition, damage, measure
from lrt.evaluation.behaviours import Operation
from lrt.evaluation.measuring import choice_tokens, end_tokens, opening_tokens
from lrt.evaluation.multiple_choice import MultipleChoiceItem
from lrt.evaluation.scorers import Choice, CrossEntropy, RefusalLogOdds
from lrt.evaluation.side_effects import SideEffectSet
from lrt.models import LanguageModel, hooks
from lrt.steering import Ablation, Addition, SteeringVector, steer

LAYER = 1
TEXTS = ("One morning, Mia walked to the barn.", "The sun was high.", "The dog barked and ran away from Tom.")


def conditions(lm: LanguageModel) -> list[SteeringCondition]:
    generator = torch.Generator().manual_seed(5)
    one, other = (
        torch.nn.functional.normalize(torch.randn(lm.width, generator=generator), dim=0) for _ in range(2)
    )
    return [
        SteeringCondition("none", 0.0, torch.zeros(lm.width)),
        SteeringCondition("native", 0.0, 0 * one),
        SteeringCondition("native", 0.5, 4 * one),
        SteeringCondition("random", 0.5, 8 * other, draw=1),
    ]


def addition(cell: SteeringCondition) -> Addition:
    """The same condition by hooks, as a user would steer."""
    length = float(cell.offset.norm())
    vector = SteeringVector(cell.offset if length else torch.ones_like(cell.offset), LAYER, "m", length)
    return Addition(vector, 1.0)


def test_propensity_is_the_logit_gap_of_whole_steered_passes(story_lm: LanguageModel) -> None:
    behaviour = choice_behaviour()
    measured = measure(story_lm, LAYER, behaviour, "test", behaviour.test, conditions(story_lm))
    assert len(measured) == 4 * 4
    tokenizer = story_lm.tokenizer
    rows = iter(measured)
    for item in behaviour.test:
        for cell in conditions(story_lm):
            row = next(rows)
            assert (row.behaviour, row.split, row.item, row.key) == ("bravery", "test", item.id, item.key)
            assert (row.condition, row.draw, row.strength) == (cell.condition, cell.draw, cell.strength)
            ids = torch.tensor([tokenizer(item.prompt)["input_ids"]])
            logits = story_lm.logits(ids, interventions=[addition(cell)], keep="last")[0, 0]
            ours, theirs = (tokenizer.convert_tokens_to_ids(a) for a in (item.matching, item.other))
            gap = float(logits[ours] - logits[theirs])
            assert row.value == pytest.approx(gap, abs=2e-4)
            assert row.probability == pytest.approx(torch.sigmoid(torch.tensor(gap)).item(), abs=1e-4)
    values = {(r.item, r.condition, r.strength): r.value for r in measured}
    for item in behaviour.test:
        assert values[item.id, "native", 0.0] == values[item.id, "none", 0.0]
        assert abs(values[item.id, "native", 0.5] - values[item.id, "none", 0.0]) > 1e-2


def test_the_engine_steers_as_steer_does(story_lm: LanguageModel) -> None:
    """Each row of a batch has the logits of its item alone under `lrt.steering.steer`."""
    behaviour, tokenizer = choice_behaviour(), story_lm.tokenizer
    vector = SteeringVector(torch.randn(32, generator=torch.Generator().manual_seed(2)), LAYER, "m", 4.0)
    model = SteerableModel(story_lm, LAYER, vector.residual_norm)
    strengths = [-0.5, 0.0, 0.75]
    cells = model.conditions("native", vector.unit_direction, strengths, 1)
    rows = iter(measure(story_lm, LAYER, behaviour, "test", behaviour.test, cells))
    for item in behaviour.test:
        tokens = torch.tensor([tokenizer(item.prompt)["input_ids"]])
        for strength in strengths:
            with steer(story_lm, vector, strength):
                logits = story_lm.logits(tokens, keep="last")[0, 0]
            pair = (tokenizer.convert_tokens_to_ids(a) for a in (item.matching, item.other))
            matching, other = (float(logits[token]) for token in pair)
            assert next(rows).value == pytest.approx(matching - other, abs=2e-4)


def test_texts_are_those_of_steered_greedy_generation(story_lm: LanguageModel) -> None:
    behaviour = text_behaviour()
    measured = measure(story_lm, LAYER, behaviour, "test", behaviour.test, conditions(story_lm))
    tokenizer = story_lm.tokenizer
    rows = iter(measured)
    for item in behaviour.test:
        for cell in conditions(story_lm):
            row = next(rows)
            ids = torch.tensor([tokenizer(item.prompt)["input_ids"]])
            with hooks.steer(story_lm, [addition(cell)]):
                new = story_lm.model.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False
                )[0, ids.shape[1] :].tolist()
            ends = [at for at, token in enumerate(new) if token in end_tokens(story_lm)]
            text = tokenizer.decode(new[: ends[0]] if ends else new)
            assert row.text == text
            assert not isinstance(behaviour.scorer, type(None))
            assert row.value == behaviour.scorer.score(text)  # type: ignore[union-attr]
    assert len({row.text for row in measured}) > 3


@pytest.mark.parametrize("behaviour", [choice_behaviour(), text_behaviour()], ids=lambda b: b.name)
def test_batching_does_not_show(behaviour: Behaviour, story_lm: LanguageModel) -> None:
    every = conditions(story_lm)
    whole = measure(story_lm, LAYER, behaviour, "test", behaviour.test, every)
    assert len(whole) == len(behaviour.test) * len(every)
    # 3 splits an item's conditions; 9 takes two items at once
    for max_rows in (3, 9):
        parts = measure(story_lm, LAYER, behaviour, "test", behaviour.test, every, max_rows=max_rows)
        assert [replace(r, value=0, probability=None) for r in parts] == [
            replace(r, value=0, probability=None) for r in whole
        ]
        for part, one in zip(parts, whole, strict=True):
            assert part.value == pytest.approx(one.value, abs=2e-4)
    alone = [
        row
        for item in behaviour.test
        for cell in every
        for row in measure(story_lm, LAYER, behaviour, "test", [item], [cell])
    ]
    for part, one in zip(alone, whole, strict=True):
        assert part.text == one.text
        assert part.value == pytest.approx(one.value, abs=2e-4)


def test_draws_are_an_items_own_in_every_condition_and_batch(story_lm: LanguageModel) -> None:
    behaviour, every = text_behaviour(), conditions(story_lm)

    def texts(items: Any, chosen: list[SteeringCondition], **options: Any) -> list[str | None]:
        rows = measure(story_lm, LAYER, behaviour, "test", items, chosen, temperature=1.0, **options)
        return [row.text for row in rows]

    whole = texts(behaviour.test, every)
    assert texts(behaviour.test, every) == whole
    assert texts(behaviour.test, every, max_rows=5) == whole
    assert [t for i in behaviour.test for c in every for t in texts([i], [c])] == whole
    none, zero, native, _ = (whole[i :: len(every)] for i in range(len(every)))
    assert zero == none != native
    greedy = [r.text for r in measure(story_lm, LAYER, behaviour, "test", behaviour.test, every[:1])]
    assert none != greedy
    other = [replace(item, prompted="another id, so other random numbers") for item in behaviour.test]
    assert texts(other, every[:1]) != none


def test_nothing_to_do_is_nothing_done(story_lm: LanguageModel) -> None:
    behaviour = text_behaviour()
    assert measure(story_lm, LAYER, behaviour, "test", [], conditions(story_lm)) == []
    assert measure(story_lm, LAYER, behaviour, "test", behaviour.test, []) == []


def test_damage_is_cross_entropy_and_kl_a_token(story_lm: LanguageModel) -> None:
    behaviour = text_behaviour()
    every = conditions(story_lm)
    whole = damage(story_lm, LAYER, behaviour, "test", every)
    singly = damage(story_lm, LAYER, behaviour, "test", every, max_rows=1)
    sums = torch.zeros(len(every), 2, dtype=torch.float64)
    plain_total, count = 0.0, 0
    for text in behaviour.damage_texts_of("test"):
        ids = torch.tensor([story_lm.tokenizer(text)["input_ids"]])
        wanted = ids[0, 1:, None]
        plain = story_lm.logits(ids)[0, :-1].double().log_softmax(-1)
        plain_total -= float(plain.gather(1, wanted).sum())
        count += len(wanted)
        for index, cell in enumerate(every):
            logits = story_lm.logits(ids, interventions=[addition(cell)])
            steered = logits[0, :-1].double().log_softmax(-1)
            sums[index, 0] -= steered.gather(1, wanted).sum()
            sums[index, 1] += (plain.exp() * (plain - steered)).sum()
    for measured, alone, cell, (entropy, kl) in zip(
        whole, singly, every, (sums / count).tolist(), strict=True
    ):
        assert (measured.behaviour, measured.condition, measured.draw) == ("dogs", cell.condition, cell.draw)
        assert measured.cross_entropy == pytest.approx(entropy, abs=1e-4)
        assert measured.rise == pytest.approx(entropy - plain_total / count, abs=1e-4)
        assert measured.kl == pytest.approx(kl, abs=1e-4)
        assert measured.relative == pytest.approx(measured.rise / (plain_total / count), abs=1e-4)
        assert alone.cross_entropy == pytest.approx(measured.cross_entropy, abs=1e-4)
        assert alone.kl == pytest.approx(measured.kl, abs=1e-4)
    assert whole[0].rise == whole[0].kl == whole[1].rise == 0
    assert min(whole[2].kl, whole[3].kl) > 1e-3


PHRASES = ("I cannot", "Sorry", "I will not")


def log_odds_behaviour(operation: Operation = "add") -> Behaviour:
    return replace(text_behaviour(), scorer=RefusalLogOdds(PHRASES), operation=operation)


def test_refusal_log_odds_are_of_first_tokens_against_all_others(story_lm: LanguageModel) -> None:
    behaviour = log_odds_behaviour()
    every = conditions(story_lm)
    measured = measure(story_lm, LAYER, behaviour, "test", behaviour.test, every)
    tokenizer = story_lm.tokenizer
    rows = iter(measured)
    for item in behaviour.test:
        ids = tokenizer(item.prompt)["input_ids"]
        # by another road: what the tokenizer makes of prompt and phrase together
        first = {tokenizer(item.prompt + phrase)["input_ids"][len(ids)] for phrase in PHRASES}
        assert len(first) == 2
        for cell in every:
            row = next(rows)
            logits = story_lm.logits(torch.tensor([ids]), interventions=[addition(cell)], keep="last")[0, 0]
            share = float(logits.double().softmax(-1)[sorted(first)].sum())
            assert row.probability == pytest.approx(share, rel=1e-3)
            assert row.value == pytest.approx(math.log(share / (1 - share)), abs=1e-3)
            assert row.text is None
    parts = measure(story_lm, LAYER, behaviour, "test", behaviour.test, every, max_rows=3)
    assert [r.value for r in parts] == pytest.approx([r.value for r in measured], abs=2e-4)
    assert len({round(r.value, 3) for r in measured}) > len(behaviour.test)


def test_a_prompt_that_a_phrase_merges_into_is_refused() -> None:
    assert opening_tokens(Merging(), "Which?", ("yes", "you", "no")) == (ids("Which?"), sorted([121, 110]))
    with pytest.raises(ValueError, match=r"'A\)'.*'Which\? \('"):
        opening_tokens(Merging(), "Which? (", ("A)",))
    with pytest.raises(ValueError, match="''"):
        opening_tokens(Merging(), "Which?", ("",))


def ablations(lm: LanguageModel, cell: SteeringCondition) -> list[Ablation]:
    """The same condition by hooks: from every block."""
    length = float(cell.offset.norm())
    vector = SteeringVector(cell.offset if length else torch.ones_like(cell.offset), LAYER, "m", 1.0)
    return [Ablation(vector, layer, cell.strength if length else 0.0) for layer in range(lm.depth)]


def test_ablation_is_out_of_every_block(story_lm: LanguageModel) -> None:
    every = conditions(story_lm)
    tokenizer = story_lm.tokenizer
    choice = replace(choice_behaviour(), operation="ablate")
    written = replace(text_behaviour(), operation="ablate")
    for behaviour in (choice, written):
        for max_rows in (1024, 3):
            measured = measure(story_lm, LAYER, behaviour, "test", behaviour.test, every, max_rows=max_rows)
            rows = iter(measured)
            for item in behaviour.test:
                ids = torch.tensor([tokenizer(item.prompt)["input_ids"]])
                for cell in every:
                    row = next(rows)
                    edits = ablations(story_lm, cell)
                    if behaviour.is_choice:
                        logits = story_lm.logits(ids, interventions=edits, keep="last")[0, 0]
                        ours, theirs = (
                            tokenizer.convert_tokens_to_ids(a) for a in (item.matching, item.other)
                        )
                        assert row.value == pytest.approx(float(logits[ours] - logits[theirs]), abs=2e-4)
                        continue
                    with hooks.steer(story_lm, edits):
                        new = story_lm.model.generate(
                            ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False
                        )[0, ids.shape[1] :].tolist()
                    ends = [at for at, token in enumerate(new) if token in end_tokens(story_lm)]
                    assert row.text == tokenizer.decode(new[: ends[0]] if ends else new)
        values = {(r.item, r.condition, r.strength): r.value for r in measured}
        plain = [values[i.id, "none", 0.0] for i in behaviour.test]
        assert plain == [values[i.id, "native", 0.0] for i in behaviour.test]
        if behaviour.is_choice:
            assert plain != pytest.approx([values[i.id, "native", 0.5] for i in behaviour.test], abs=1e-2)


def test_the_layer_of_an_ablated_direction_does_not_count(story_lm: LanguageModel) -> None:
    """Neither does its sign or length: a projection."""
    behaviour = replace(choice_behaviour(), operation="ablate")
    every = conditions(story_lm)
    turned = [replace(cell, offset=-3 * cell.offset) for cell in every]
    one = measure(story_lm, 0, behaviour, "test", behaviour.test, every)
    other = measure(story_lm, 2, behaviour, "test", behaviour.test, turned)
    assert [r.value for r in one] == pytest.approx([r.value for r in other], abs=1e-4)


def test_damage_of_an_ablation_is_of_every_block(story_lm: LanguageModel) -> None:
    behaviour = log_odds_behaviour("ablate")
    every = conditions(story_lm)
    measured = damage(story_lm, LAYER, behaviour, "test", every)
    for row, cell in zip(measured, every, strict=True):
        total, count = 0.0, 0
        for text in behaviour.damage_texts_of("test"):
            ids = torch.tensor([story_lm.tokenizer(text)["input_ids"]])
            logits = story_lm.logits(ids, interventions=ablations(story_lm, cell))[0, :-1]
            total -= float(logits.double().log_softmax(-1).gather(1, ids[0, 1:, None]).sum())
            count += ids.shape[1] - 1
        assert row.cross_entropy == pytest.approx(total / count, abs=1e-4)
    assert measured[0].rise == measured[1].rise == 0
    assert abs(measured[2].rise) > 1e-4


class Merging:
    """Letters one token each, but `(A`, `(B` and `) ` are one token too, as many tokenizers have it."""

    bos_token = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:  # noqa: ARG002
        pieces = re.findall(r"\([AB]|\) |.", text, re.DOTALL)
        return {"input_ids": [sum(ord(c) << 8 * i for i, c in enumerate(p)) for p in pieces]}


def ids(text: str) -> list[int]:
    return Merging()(text)["input_ids"]


@pytest.mark.parametrize(
    ("prompt", "ours", "theirs", "context", "parted"),
    [
        ("Which? ", "(A)", "(B)", "Which? ", ("(A", "(B")),
        ("Which? (", "A)", "B)", "Which? ", ("(A", "(B")),  # merges back into the prompt
        ("Which? ", "yes", "no", "Which? ", ("y", "n")),
        ("Which? ", "I will", "I am", "Which? I ", ("w", "a")),  # parts later
    ],
)
def test_answers_part_where_their_tokens_do(
    prompt: str, ours: str, theirs: str, context: str, parted: tuple[str, str]
) -> None:
    measured = choice_tokens(Merging(), Item(prompt, matching=ours, other=theirs))
    assert measured == (ids(context), [ids(parted[0])[0], ids(parted[1])[0]])


@pytest.mark.parametrize(("ours", "theirs"), [("yes", "yes, sir"), ("yes", "yes")])
def test_answers_that_do_not_part_are_refused(ours: str, theirs: str) -> None:
    with pytest.raises(ValueError, match="yes"):
        choice_tokens(Merging(), Item("Which? ", matching=ours, other=theirs))


def test_letters_of_the_family(family_tokenizer: Any) -> None:
    context, letters = choice_tokens(family_tokenizer, choice_behaviour().test[0])
    assert family_tokenizer.decode(letters) in ("AB", "BA")
    assert family_tokenizer.decode(context).endswith("<|assistant|>(")


# -- memory ------------------------------------------------------------------------------------------


class Small(LanguageModel):
    """A model on a device that holds only so many rows of a batch."""

    holds = 1000

    def run(self, tokens: Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(tokens) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return super().run(tokens, *args, **kwargs)


def everything(lm: LanguageModel, temperature: float) -> tuple[list[Any], list[Any], list[float]]:
    """Rows, generated texts, and figures of choices, openings and damage, under every condition."""
    choice, text, cells = choice_behaviour(), text_behaviour(), conditions(lm)
    opening = replace(text, scorer=RefusalLogOdds((" I", " We")))
    texts = measure(lm, LAYER, text, "test", text.test, cells, temperature=temperature)
    scored = [
        row
        for behaviour in (choice, opening)
        for row in measure(lm, LAYER, behaviour, "test", behaviour.test, cells)
    ]
    damages = damage(lm, LAYER, choice, "test", cells)
    names = [(row.item, row.condition, row.draw, row.strength) for row in (*texts, *scored)]
    figures = [row.value for row in scored] + [row.cross_entropy for row in damages] + [r.kl for r in damages]
    return names, [row.text for row in texts], figures


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("holds", "gigabytes"), [(1000, 1e-6), (1000, 1e-3), (5, None), (2, None), (1, None)]
)
def test_memory_does_not_show(
    holds: int, gigabytes: float | None, temperature: float, story_lm: LanguageModel
) -> None:
    whole = everything(story_lm, temperature)
    spec = replace(story_lm.spec, batch_memory_gb=gigabytes)
    lm = Small(spec, story_lm.model, story_lm.tokenizer)
    lm.holds, lm.answers = holds, story_lm.answers  # what its family allows is found out with three rows
    parts = everything(lm, temperature)
    assert parts[:2] == whole[:2]
    assert parts[2] == pytest.approx(whole[2], abs=1e-4)


def test_a_row_that_does_not_fit_is_an_error(story_lm: LanguageModel) -> None:
    lm = Small(story_lm.spec, story_lm.model, story_lm.tokenizer)
    lm.holds = 0
    with pytest.raises(torch.OutOfMemoryError):
        everything(lm, 0.0)


# -- side effects ------------------------------------------------------------------------------------


def as_set(behaviour: Behaviour, scorer: Any, items: tuple[Item, ...]) -> SideEffectSet:
    return SideEffectSet("capability", "test", scorer, items, (1.0,) * len(items), behaviour.operation)


@pytest.mark.parametrize("operation", ["add", "ablate"])
def test_cross_entropy_of_each_text_adds_up_to_the_damage(
    story_lm: LanguageModel, operation: Operation
) -> None:
    behaviour = replace(choice_behaviour(), operation=operation, damage_texts=TEXTS)
    texts = as_set(behaviour, CrossEntropy(), tuple(map(Item, TEXTS)))
    rows = measure(story_lm, LAYER, texts, "test", texts.items, conditions(story_lm), max_rows=3)
    tokens = [len(story_lm.tokenizer(text)["input_ids"]) - 1 for text in TEXTS]
    both = replace(behaviour, damage_texts=tuple(text for text in TEXTS for _ in range(2)))
    for cell, whole in zip(
        conditions(story_lm), damage(story_lm, LAYER, both, "test", conditions(story_lm)), strict=True
    ):
        values = [
            row.value for row in rows if (row.condition, row.strength) == (cell.condition, cell.strength)
        ]
        mean = sum(v * t for v, t in zip(values, tokens, strict=True)) / sum(tokens)
        assert mean == pytest.approx(whole.cross_entropy, abs=1e-5)


def test_of_several_answers_the_correct_one_is_held_against_the_largest(story_lm: LanguageModel) -> None:
    answers = (" brave", " timid", " happy", " sad")
    names = ("Mia", "Tom", "Anna")
    items = tuple(
        MultipleChoiceItem(f"{name} is", "", answers[0], answers[1], further=answers[2 : 2 + more])
        for more, name in enumerate(names)  # with two, three and four answers in one batch
    )
    several = as_set(choice_behaviour(), Choice(), items)
    rows = measure(story_lm, LAYER, several, "test", items, conditions(story_lm))
    pairs = [
        [Item(item.prompt, "", item.matching, other) for other in (item.other, *item.others)]
        for item in items
    ]
    for index, against in enumerate(pairs):
        alone = measure(story_lm, LAYER, several, "test", against, conditions(story_lm))
        for cell, row in enumerate(rows[index * 4 : index * 4 + 4]):
            gaps = [alone[pair * 4 + cell].value for pair in range(len(against))]
            assert row.value == pytest.approx(min(gaps), abs=1e-4)
            assert row.probability == pytest.approx(1 / (1 + sum(math.exp(-gap) for gap in gaps)), abs=1e-4)


def test_answers_that_differ_at_several_places_are_refused() -> None:
    item = MultipleChoiceItem("Which? ", "", "xa", "xb", further=("ya",))
    with pytest.raises(ValueError, match="Which"):
        choice_tokens(Merging(), item)
