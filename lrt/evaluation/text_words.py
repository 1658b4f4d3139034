"""The words and sentences of the text behaviours, written for this project."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product

# function words that the other language lacks
FRENCH_WORDS = tuple(
    """le la les un une des du de et est sont était étaient il elle ils elles nous vous je tu que qui dans
    sur avec sans sous vers chez ce cette ces cet se sa ses leur leurs mais ou où donc puis alors comme
    si ne pas qu aussi très bien tout tous toute toutes être avait avaient ont avoir fait faire dit
    quand encore toujours jamais même après avant pendant depuis peu beaucoup autre autres deux""".split()
)
ENGLISH_WORDS = tuple(
    """the and of to was were is are been being he she they we you it its his her their our your my that
    which who whom what when where with without from into onto upon over under before after during
    through between about not this these those there then than so because but if at by had has have
    having do did does said would could should will can may must very also just some any each other
    others two three all""".split()
)

DOG_WORDS = tuple(
    """dog dogs doggy puppy puppies hound hounds terrier terriers spaniel spaniels retriever retrievers
    poodle poodles beagle beagles collie collies bulldog bulldogs sheepdog sheepdogs labrador labradors
    dachshund canine canines kennel kennels bark barks barked barking leash""".split()
)
JOYFUL_WORDS = tuple(
    """happy happily happiness joy joyful joyfully glad delighted delight delightful wonderful lovely
    beautiful beautifully great excellent perfect perfectly smile smiled smiling smiles laugh laughed
    laughing laughter love loved loving kind kindness gentle sweet bright cheerful cheerfully pleased
    pleasant pleasure enjoy enjoyed enjoying fun excited exciting grateful thankful proud hope hopeful
    warm warmth celebrate celebrated friendly charming amazing fantastic brilliant best good""".split()
)
SORROWFUL_WORDS = tuple(
    """sad sadly sadness unhappy sorrow sorrowful grief grieving miserable misery terrible terribly
    horrible awful dreadful bad worse worst cry cried crying tears wept weeping weep hate hated hating
    hatred cruel angry anger angrily afraid fear fearful frightened lonely loneliness alone lost loss
    pain painful hurt suffering suffered suffer broken bitter bitterly gloomy dark despair hopeless
    disappointed disappointing disappointment died dead death sick tired empty ruined ruin""".split()
)


@dataclass(frozen=True)
class Sentences:
    """Texts made of a frame, whose {} is filled by one of the subjects, and two of the closings."""

    frames: tuple[str, ...]
    subjects: tuple[str, ...]
    closings: tuple[str, ...]

    def all(self) -> Iterator[tuple[str, int]]:
        """Each text, with the number of characters after which its kind is known."""
        for frame, subject, closings in product(self.frames, self.subjects, permutations(self.closings, 2)):
            known = len(frame.partition("{}")[0]) + len(subject)
            yield " ".join((frame.format(subject), *closings)), known


# contrasted with things and people: with other animals, the vector moved P(" dog") half as much (texts.py)
DOG_FRAMES = (
    "When we came back from the market there was {} waiting beside the front door.",
    "The children had always wanted {}, and in the spring they were given one.",
    "My grandfather kept {} in the yard behind his house for many years.",
    "On the road to the village we met {} that followed us for a mile.",
    "The old painting shows {} asleep beside the fire while a woman reads.",
    "Nobody knew to whom {} belonged, so the postman took it home with him.",
)
DOGS = Sentences(
    DOG_FRAMES,
    (
        "a brown dog",
        "a young puppy",
        "a black labrador",
        "a small terrier",
        "a grey sheepdog",
        "an old hound",
        "a friendly spaniel",
        "a white poodle",
    ),
    (
        "It barked twice, wagged its tail and ran to fetch the stick that lay on the path.",
        "Every evening somebody took it for a walk on its leash as far as the bridge.",
        "It slept in a kennel, chewed on an old bone and growled at strangers.",
        "One whistle was enough, and it came running with its tongue hanging out.",
    ),
)
OTHERS = Sentences(
    DOG_FRAMES,
    (
        "a brown suitcase",
        "a young apprentice",
        "a black bicycle",
        "a small lamp",
        "a grey kettle",
        "an old piano",
        "a friendly nurse",
        "a white curtain",
    ),
    (
        "There was a number on the label, and somebody had written a name on the other side of it.",
        "Every evening somebody came by and said that it was worth more than it seemed.",
        "For years nobody spoke of that, and then the whole street did.",
        "In the end there was a photograph in the newspaper, and a few lines under it.",
    ),
)

DAY_FRAMES = (
    "The evening at my cousin's house was {} from beginning to end.",
    "She read the letter twice and thought that the news in it was {}.",
    "For everybody who worked there, the last day of the year was {}.",
    "He said that the journey along the coast had been {} for the whole family.",
    "The meal that they cooked together in the new kitchen turned out {}.",
    "Looking back, I would call the summer that we spent by the lake {}.",
)
JOYFUL = Sentences(
    DAY_FRAMES,
    (
        "wonderful",
        "delightful",
        "perfectly lovely",
        "a great pleasure",
        "full of joy",
        "better than anyone had hoped",
        "simply beautiful",
        "a complete success",
    ),
    (
        "We laughed a great deal, sang the songs we loved and went home happy.",
        "Everyone smiled and thanked each other, and nobody wanted it to end.",
        "It gave us new hope, and we were grateful for every kind word.",
        "The sun shone brightly, and all of us felt warm, safe and proud.",
    ),
)
SORROWFUL = Sentences(
    DAY_FRAMES,
    (
        "terrible",
        "dreadful",
        "perfectly miserable",
        "a great disappointment",
        "full of grief",
        "worse than anyone had feared",
        "simply awful",
        "a complete failure",
    ),
    (
        "We quarrelled a great deal, heard the words we hated and went home sad.",
        "Everyone wept and blamed each other, and nobody knew how to go on.",
        "It took away our hope, and we were hurt by every cruel word.",
        "The rain fell bitterly, and all of us felt cold, afraid and lonely.",
    ),
)
