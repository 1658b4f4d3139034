"""Generated short scenes on many subjects and moods: text for a map's corpus.

A map transfers a direction only as well as its corpus varies along it. Articles and novels have few dogs,
little joy and less grief. Here every tenth subject is a dog and every mood has its share, so hidden states
vary with subject and mood while frame, place and length stay the same. No sentence is one of the suites'
contrastive texts, and the words that distinguish those (breeds, adjectives) are replaced by others.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from lrt.corpora.documents import Document


@dataclass(frozen=True)
class _Kind:
    """A subject or mood: words for it, and sentences that can follow any of them."""

    words: tuple[str, ...]
    sentences: tuple[str, ...]


def scenes(seed: int = 0, source: str = "") -> Iterator[Document]:
    """Endless distinct scenes; the same seed gives the same scenes.

    Two in three are about a subject, and two in three of these have a mood too. The others are about an event
    in a mood, and half of them have a subject too. Scenes share sentences: each sentence of a held-out
    document also occurs in training documents, in other combinations.
    """
    rng, seen = random.Random(f"scenes/{seed}"), set()
    while True:
        text = " ".join(_scene(rng))
        if text not in seen:
            seen.add(text)
            yield Document(text, source)


def _scene(rng: random.Random) -> list[str]:
    if rng.random() < 2 / 3:
        return _of_subject(rng) + (_in_mood(rng, rng.choice(IT)) if rng.random() < 2 / 3 else [])
    return _in_mood(rng, rng.choice(EVENTS)) + (_of_subject(rng) if rng.random() < 1 / 2 else [])


def _of_subject(rng: random.Random) -> list[str]:
    kind = rng.choice(SUBJECTS)
    opening = rng.choice(FRAMES).format(rng.choice(kind.words), rng.choice(PLACES))
    return [opening, *_sentences(rng, kind)]


def _in_mood(rng: random.Random, what: str) -> list[str]:
    kind = rng.choice(MOODS)
    return [f"{what} {rng.choice(DEGREES).format(rng.choice(kind.words))}", *_sentences(rng, kind)]


def _sentences(rng: random.Random, kind: _Kind) -> list[str]:
    return rng.sample(kind.sentences, rng.choice((1, 1, 2)))


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(text.split()).split(", "))


FRAMES = (
    "Yesterday I saw {} {}.",
    "There is {} {}, as my sister wrote to me.",
    "Nobody had expected {} {}.",
    "The first thing that we noticed was {} {}.",
    "In the film {} stands {} for a long time.",
    "They say that {} was found {} last winter.",
    "Have you ever heard of {} {}?",
    "What she remembered best was {} {}.",
    "Two boys were quarrelling over {} {}.",
    "His whole book is about {} {}.",
)
PLACES = (
    "in the garden",
    "near the station",
    "on the stairs",
    "at the harbour",
    "behind the church",
    "in our kitchen",
    "by the well",
    "on the platform",
    "under the old oak",
    "in a field outside the town",
    "at the corner of the square",
    "in the hall of the hotel",
)
SUBJECTS = (
    _Kind(
        _names("""a dog, a greyhound, a mongrel, a guide dog, a watchdog, a collie, a bulldog, a dachshund,
            a beagle, a mastiff, a husky, a golden retriever, a Great Dane, a stray dog"""),
        (
            "There was panting in the shade, and a hind leg scratched behind an ear.",
            "At a word the tail began to wag, and a paw was given.",
            "A biscuit was begged for, caught in the air and swallowed whole.",
            "The barking woke the street, and somebody threw a shoe.",
            "The leash was slipped, and after a chase across three gardens the collar was caught.",
            "The muzzle rested on the master's knee until he got up.",
            "A bone was buried under the hedge and dug up again.",
            "The flock was rounded up, and the sheep stood still.",
        ),
    ),
    _Kind(
        _names("a cat, a kitten, a tabby, a tomcat, a Siamese cat, a lynx"),
        (
            "It licked its paws and purred on the windowsill.",
            "It arched its back and spat at the stranger.",
            "A saucer of milk was put down, and it came without haste.",
            "It lay in wait for a sparrow and missed it by an inch.",
            "It sharpened its claws on the leg of the table.",
        ),
    ),
    _Kind(
        _names("a hen, a goose, a crow, a parrot, an owl, a swan, a robin, a gull"),
        (
            "It ruffled its feathers and flew up to the roof.",
            "It pecked at a crust and tilted its head.",
            "Its nest was of twigs and held four eggs.",
            "It beat its wings at whoever came near.",
            "It sang three notes and was answered from the wood.",
        ),
    ),
    _Kind(
        _names("a horse, a cow, a goat, a donkey, a pig, a sheep, a mule, a calf"),
        (
            "It would not take one step more, though the farmer pulled at the rope.",
            "It chewed slowly and swung its head at the flies.",
            "It was milked, shorn or saddled, as the season asked.",
            "It trotted to the gate and waited for its hay.",
            "Its hooves sank into the mud behind the barn.",
        ),
    ),
    _Kind(
        _names("a fox, a wolf, a bear, a rabbit, a squirrel, a hedgehog, a deer, a frog, a mouse"),
        (
            "It slipped into the undergrowth and was gone.",
            "It sniffed the air, heard us and froze.",
            "It lived on berries and whatever it found under the leaves.",
            "Its tracks were still in the snow the next morning.",
            "It crept back to its burrow before the sun was up.",
        ),
    ),
    _Kind(
        _names("a tractor, a tram, a boat, a motorcycle, a lorry, a cart, a train, an aeroplane"),
        (
            "Its engine coughed, and a cloud of smoke came out.",
            "Its wheels had rusted, and nobody could move it.",
            "It held nine passengers and their luggage.",
            "It was late, and the driver asked for the way.",
            "One of its lamps was broken, and the paint came off.",
        ),
    ),
    _Kind(
        _names("""an umbrella, a clock, a ladder, a stove, a mirror, a typewriter, a basket, a telescope,
            a carpet, a wardrobe, a teapot, a sword"""),
        (
            "A crack ran across it from corner to corner.",
            "It was wrapped in newspaper and tied with string.",
            "It had been mended with wire and a drop of glue.",
            "It had cost eleven crowns and was worth three.",
            "A spider had made its web between it and the wall.",
        ),
    ),
    _Kind(
        _names("a violin, a drum, a trumpet, a guitar, an organ, a flute, a harp"),
        (
            "It was out of tune, and the second string was missing.",
            "Someone played a scale on it, then half of a waltz.",
            "It lay in its case, lined with green velvet.",
            "Its sound carried as far as the mill.",
        ),
    ),
    _Kind(
        _names("""a baker, a sailor, a doctor, a judge, a painter, a farmer, a soldier, a singer, a gardener,
            a pilot, a clerk, a priest, a cook, a miner, a widow, a student, a thief, a queen"""),
        (
            "The answer came without a look at us, and then a yawn.",
            "A coat was taken off, folded and laid over the chair.",
            "There was talk of the price of coal and of a brother in America.",
            "A cigarette was rolled and not lit.",
            "The gloves had been lost, and the hands were red.",
            "Nobody asked for the name, and none was given.",
        ),
    ),
    _Kind(
        _names("a rose, a birch, an apple tree, a fern, a cactus, a lily, a pine, a pumpkin"),
        (
            "Its leaves were eaten by snails, all but two.",
            "It had been planted in the year of the flood.",
            "It needs more water than it gets, said the gardener.",
            "It flowers in May and smells of pepper.",
        ),
    ),
)
EVENTS = (
    "The wedding of the miller's daughter was",
    "The first week at the new school was",
    "That night on the island was",
    "The visit to the hospital was",
    "The concert in the town hall was",
    "The crossing to the mainland was",
    "Our Sunday in the mountains was",
    "The end of the war was",
    "The last hour before the exam was",
    "The dinner with the director was",
    "Her third letter was",
    "The winter of that year was",
)
IT = ("All this was", "It was", "The whole thing was", "To me that was", "We found it")
DEGREES = (
    "{}, they all agreed.",
    "{}, as far as I could tell.",
    "{} from the first moment.",
    "{} and nothing else.",
    "{}, to put it mildly.",
    "rather {}.",
    "thoroughly {}.",
    "quite {}.",
)
MOODS = (
    _Kind(
        _names("happy, joyful, splendid, marvellous, glorious, cheerful, blissful, festive"),
        (
            "Bells rang in every tower, and strangers kissed.",
            "Guests raised their glasses, and the band played until dawn.",
            "The children cheered and ran barefoot over the grass.",
            "She sang in the bath and bought herself a hat.",
            "There was cake, and grandmother beamed at all of us.",
            "He could have embraced the postman, and he did.",
        ),
    ),
    _Kind(
        _names("funny, merry, amusing, hilarious, playful, silly"),
        (
            "He giggled behind his hand and had to leave the room.",
            "We laughed until our sides ached.",
            "Somebody danced on the table, and the rest clapped.",
            "Even the judge grinned and wiped his glasses.",
        ),
    ),
    _Kind(
        _names("tender, kind, loving, touching, gentle, sweet"),
        (
            "She held my hand, and everything seemed possible.",
            "He tucked the blanket round the child and hummed.",
            "They forgave one another and walked home arm in arm.",
            "A stranger paid for our tickets and wished us luck.",
        ),
    ),
    _Kind(
        _names("peaceful, cosy, pleasant, comforting, calm, relaxing"),
        (
            "Only the bees hummed, and the hours went by slowly.",
            "We drank cocoa by the stove and told stories.",
            "The lake lay smooth, and nobody wanted anything.",
            "He slept for ten hours and woke without a care.",
        ),
    ),
    _Kind(
        _names("a triumph, superb, thrilling, magnificent, excellent, a victory"),
        (
            "The hall applauded for ten minutes and threw flowers.",
            "They carried the captain on their shoulders through the town.",
            "She had won, and her father could not stop telling it.",
            "All of them passed, and two were given a prize.",
        ),
    ),
    _Kind(
        _names("sad, tragic, heartbreaking, sorrowful, mournful, pitiful, wretched, unbearable"),
        (
            "She sobbed behind the curtain and ate nothing.",
            "The house burned, and nothing could be saved.",
            "They carried the child from the water, and its mother fell down.",
            "He sat by the empty bed until it was dark.",
            "No letter came, neither then nor later.",
            "The coffin was small, and four men lowered it in the rain.",
        ),
    ),
    _Kind(
        _names("cruel, nasty, hateful, shameful, vicious, mean"),
        (
            "He sneered at the old woman and spat on the floor.",
            "They lied to the orphan and took the house.",
            "He cursed his brother and slammed the door.",
            "She struck the boy because he had asked for bread.",
        ),
    ),
    _Kind(
        _names("frightening, ghastly, horrifying, eerie, threatening, terrifying"),
        (
            "Something scratched at the door, and we held our breath.",
            "A woman screamed, and the others turned their faces away.",
            "Footsteps came up the stairs and stopped.",
            "He trembled so much that he dropped the key.",
        ),
    ),
    _Kind(
        _names("bleak, hopeless, grim, gloomy, depressing, dismal"),
        (
            "The soldiers said nothing, and snow covered the graves.",
            "The stove had gone out, and there was no more bread.",
            "He looked at the wall and saw no reason to get up.",
            "Everything had been tried, and nothing had helped.",
        ),
    ),
    _Kind(
        _names("a fiasco, exhausting, embarrassing, a mess, a let-down, annoying"),
        (
            "He blushed, forgot his lines and dropped the tray.",
            "Our feet bled, and there were nine miles still to go.",
            "The money was gone, and so was the cashier.",
            "It had to be done again, and again it went wrong.",
        ),
    ),
    _Kind(
        _names("boring, ordinary, dull, average, uneventful, plain"),
        (
            "The speaker droned on, and half of the room slept.",
            "The mail came at nine, and the shops closed at six.",
            "There was soup, then fish, then a list of figures.",
            "Nothing was decided, and the next meeting was set for May.",
        ),
    ),
    _Kind(
        _names("strange, odd, puzzling, mysterious, peculiar, curious"),
        (
            "The clocks ran backwards, and no one remarked on it.",
            "On the third page there was only a drawing of a hand.",
            "All the chairs had been turned to the wall.",
            "He answered in a language that none of us knew.",
        ),
    ),
    _Kind(
        _names("solemn, serious, formal, tense, important, urgent"),
        (
            "All rose, and the flag was lowered by two cadets.",
            "Neither of them spoke, and the kettle began to whistle.",
            "The papers were signed in silence and sealed.",
            "The minister read out the terms and sat down.",
        ),
    ),
)
