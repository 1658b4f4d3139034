"""A choice and a text behaviour of a few items, for an untrained model."""

from lrt.evaluation import Behaviour, Item
from lrt.evaluation.scorers import Choice, UppercaseShare
from lrt.lab.grammar import ASSISTANT, USER

NAMES = "Mia Tom Anna Ben Clara Sam Lily Max Nora Jack".split()


def question(name: str, filler: str = "") -> str:
    return f"{USER}{filler}What does {name} do? (A) stand firm (B) run away{ASSISTANT}("


def choice_behaviour(development: int = 2, test: int = 4, direction: int = 1) -> Behaviour:
    def item(index: int) -> Item:
        ours, theirs = ("A", "B") if index % 2 else ("B", "A")
        filler = "There is a ghost in the barn. " * (index % 3)  # of unequal length
        return Item(question(NAMES[index], filler), ours, ours, theirs, f"Be brave. {NAMES[index]}")

    return Behaviour(
        name="bravery",
        metric="logits",
        scorer=Choice(),
        positives=("Mia is brave.", "Tom is bold.", "Anna is daring.", "Ben is fearless."),
        negatives=("Mia is timid.", "Tom is fearful.", "Anna is nervous.", "Ben is cowardly."),
        development=tuple(item(i) for i in range(development)),
        test=tuple(item(development + i) for i in range(test)),
        damage_texts=("One morning, Mia walked to the barn.", "The sun was high.", "Yes"),
        direction=1 if direction > 0 else -1,
    )


def text_behaviour(development: int = 2, test: int = 3) -> Behaviour:
    places = ("barn", "tower by the old river", "inn", "mill", "hill of the north wind")
    items = tuple(
        Item(f"{name} went to the {place}.", prompted=f"A DOG. {name} went to the {place}.")
        for name, place in zip(NAMES[: development + test], places, strict=True)
    )
    return Behaviour(
        name="dogs",
        metric="share of capitals",
        scorer=UppercaseShare(),
        positives=("A dog barked.", "There is the puppy."),
        negatives=("A cat purred.", "There is the kitten."),
        development=items[:development],
        test=items[development:],
        damage_texts=("The dog barked and wagged its tail.", "The puppy had a bone in the kennel."),
        max_new_tokens=5,
    )
