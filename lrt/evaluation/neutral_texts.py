"""Neutral texts, on which side effects are measured where a behaviour is no kind of text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from lrt.corpora import CorpusError, Unit, texts_of
from lrt.corpora.words import word_ends

COUNT = 48  # half of them to choose strengths
LEAST_WORDS, MOST_WORDS = 20, 80

# written for this project: many subjects, and no answer, refusal or trait
PARAGRAPHS = (
    "The harbour was built in three stages. The oldest quay, at the foot of the hill, still carries the "
    "iron rings to which fishing boats were tied, while the long breakwater was added when steamers began "
    "to call twice a week with mail and coal.",
    "To repot a fern, water it well the day before and loosen the soil around the edge with a knife. "
    "Choose a pot only slightly larger than the old one, cover the hole with gravel, and keep the plant "
    "out of direct sun until new fronds appear.",
    "A glacier moves because ice under pressure deforms slowly, and because a thin film of water lets it "
    "slide over the rock beneath. In summer the film is thicker and the ice travels faster, carrying "
    "stones that scratch long grooves into the valley floor.",
    "The library opens at nine on weekdays and at ten on Saturdays. Readers may borrow up to eight books "
    "for three weeks, and renew them once by telephone or at the desk, provided that nobody else has "
    "asked for them in the meantime.",
    "Bread rises because yeast feeds on sugar in the dough and gives off gas. The gas is caught in a net "
    "of gluten, which forms when flour is wetted and kneaded, so that a dough which is worked for too "
    "short a time stays flat and heavy.",
    "The committee met in the spring to compare four plans for the new bridge. Two were set aside because "
    "of their cost, a third because its piers would have stood in the shipping channel, and the last was "
    "sent back to the engineers with a list of questions.",
    "Migrating birds find their way by several means at once. They keep the sun or the stars at a steady "
    "angle, follow coasts and rivers that they know, and seem to sense the direction of the earth's "
    "magnetic field when clouds hide the sky.",
    "She took the early train because the later one stopped at every village. By the time it reached the "
    "junction the carriage was nearly empty, and she spread her papers on the opposite seat and began to "
    "read the report from the beginning.",
    "The word comes from an old term for a wooden frame on which cloth was stretched to dry. Weavers set "
    "these frames up in open fields, and many towns still have a street that is named after the place "
    "where they once stood.",
    "In the first half the visitors kept the ball for long periods without coming close to the goal. "
    "After the break the home side pressed higher up the field, won a corner, and scored from it with a "
    "header at the far post.",
    "Copper was among the first metals to be worked, since it is sometimes found pure and can be hammered "
    "into shape while cold. Mixed with a little tin it becomes bronze, which is harder, melts at a lower "
    "heat and fills a mould more evenly.",
    "The map shows the coast as it was before the marsh was drained. Where the road now runs straight "
    "across the fields there was a winding inlet, deep enough at high tide for barges that brought timber "
    "to the mill.",
    "A lens bends light because light travels more slowly in glass than in air. Rays that pass through "
    "the curved edge are turned more than those near the middle, and with the right curve all of them "
    "meet in a single point behind the glass.",
    "The museum's second room is given to clocks. The earliest of them has only one hand and had to be "
    "set by a sundial each morning, but the later ones, with a pendulum, lost no more than a few seconds "
    "in the course of a day.",
    "Rent is due on the first of the month and includes water but not heating. Bicycles can be left in "
    "the yard, the laundry is shared between two floors, and the caretaker asks that parcels be collected "
    "within a week of their arrival.",
    "Sound travels about four times faster in water than in air. A whale's low call can therefore be "
    "heard across a whole bay, and where a layer of cold water guides it, over hundreds of kilometres of "
    "open sea.",
    "The novel follows two sisters who inherit a print shop from an uncle whom they never met. One wants "
    "to sell the presses and leave, the other learns to set type, and for most of the book neither tells "
    "the other what she has decided.",
    "Rainfall here is spread evenly over the year, although the heaviest showers come in late summer. The "
    "soil is light and drains within hours, so farmers grow rye and potatoes rather than wheat, and keep "
    "sheep on the steeper land.",
    "To find the area of the field, divide it into triangles and measure the base and the height of each. "
    "Half their product is the area of one triangle, and the sum over all of them is the area of the "
    "whole, however crooked its border.",
    "The orchestra tuned, the lights went down, and for a moment nothing could be heard but the rain on "
    "the roof. Then the cellos began, very softly, with the theme that the whole first movement is made "
    "of.",
    "A census was taken every ten years, always on the same night in April. For each house the clerk "
    "wrote down the names of those who slept there, their ages and trades, and the parish in which they "
    "had been born.",
    "Tea reached the town by two roads, one along the river and one over the pass. The second was shorter "
    "by nine days but was closed by snow for half of the year, and merchants who chose it carried their "
    "loads on mules.",
    "The program reads a list of numbers from a file, sorts them and writes out the largest ten. If the "
    "file is missing it says so and stops, and lines that hold anything other than a number are counted "
    "and left out.",
    "Coral grows in clear, warm and shallow water, where enough light reaches the algae that live inside "
    "it. When the sea becomes too warm the coral drives the algae out, turns white, and dies unless the "
    "water cools again within some weeks.",
)


def neutral_texts(
    paths: Sequence[str | Path] = (), unit: Unit = "paragraph", seed: int = 0
) -> tuple[str, ...]:
    """Up to `COUNT` passages of text files, cut at `MOST_WORDS` words; without files the project's own.

    Raises CorpusError (of `lrt.corpora`) for a path that cannot be read, or files without a passage of
    `LEAST_WORDS` words.
    """
    if not paths:
        return PARAGRAPHS
    passages = [text.strip() for text in texts_of(paths, unit) if len([*word_ends(text)]) >= LEAST_WORDS]
    if not passages:
        raise CorpusError(
            f"neutral_texts: {', '.join(map(str, paths))} has no {unit} of {LEAST_WORDS} words or more; "
            "name other files, or another unit"
        )
    chosen = random.Random(seed).sample(passages, min(COUNT, len(passages)))
    return tuple(up_to_word(text, MOST_WORDS) for text in chosen)


def up_to_word(text: str, words: int) -> str:
    """The first words of a text, white space unchanged, so that decontamination still finds them in it."""
    ends = list(islice(word_ends(text), words))
    return text[: ends[-1]] if ends else text
