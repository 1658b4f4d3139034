"""Ordinary text of many kinds is no degenerate text, and broken text is."""

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from lrt.corpora.words import word_ends
from lrt.evaluation.neutral_texts import PARAGRAPHS
from lrt.evaluation.text_quality import TextQuality, degenerate_fault
from lrt.lab.grammar import Plan, pages

ROOT = Path(__file__).parents[2]

ORDINARY = {
    "one word": "Yes.",
    "a letter": "(A)",
    "a number": "1,000,000,000",
    "emphasis": "No, no, no! I will not do it.",
    "a list": "1. Milk\n2. Bread\n3. Eggs\n4. Milk for the cat\n5. Tea",
    "bullets": "- red\n- green\n- blue\n- red again",
    "code": "def add(a, b):\n    return a + b\n\n\nfor i in range(10):\n    print(add(i, i))",
    "brackets": 'x = {"a": [1, 2, (3, 4)], "b": {}}; y = f(x["a"][0]) ** 2 - (x["a"][1] or 0)',
    "table": "| name | n |\n| --- | ---: |\n| red | 12 |\n| green | 7 |",
    "equation": "If 2x + 3 = 11, then 2x = 8, so x = 4.",
    "capitals": "IT WAS A WONDERFUL DAY. ON MONDAY, MIA WENT TO THE HARBOUR AND BOUGHT A BOAT.",
    "French": "C'était une belle journée d'été, et les enfants jouaient au bord de la rivière.",
    "German": "Die Donaudampfschifffahrtsgesellschaft sucht einen neuen Kapitän für den Sommer.",
    "Russian": "Вчера вечером мы долго гуляли по берегу реки и говорили о новой книге.",
    "Greek": "Χθες το βράδυ περπατήσαμε πολλή ώρα δίπλα στη θάλασσα και μιλήσαμε.",
    "Arabic": "ذهبنا مساء أمس في نزهة طويلة على ضفة النهر وتحدثنا عن الكتاب الجديد.",
    "Hebrew": "אתמול בערב טיילנו זמן רב לאורך הנהר ודיברנו על הספר החדש.",
    "Hindi": "कल शाम हम नदी के किनारे देर तक घूमते रहे और नई किताब के बारे में बातें करते रहे।",
    "Thai": "เมื่อวานตอนเย็นเราเดินเล่นริมแม่น้ำเป็นเวลานานและคุยกันเรื่องหนังสือเล่มใหม่",
    "Chinese": "昨天晚上我们沿着河边散步了很久，谈论那本新出版的书和明年的旅行计划。",
    "Japanese": "昨日の夜、私たちは川のそばを長い間散歩して、新しい本について話しました。APIも使いました。",
    "Korean": "어제 저녁 우리는 강가를 오래 걸으며 새 책에 대해 이야기했습니다.",
    "Chinese with English": "请先安装 Python 3.11，然后运行 pip install torch，最后打开 Jupyter Notebook。",
    "three scripts": "The Greek letter λ and the Cyrillic letter ж both stand in this sentence of words.",
    "translations": "English: hello; Russian: привет; Chinese: 你好; Arabic: مرحبا; Greek: γεια σου",
    "lines of translations": "- Hello (English)\n- Привет (Russian)\n- 你好 (Chinese)\n- مرحبا\n- नमस्ते",
    "a form": "Name: ____________________  Date: ____________",
    "a title": "Notes\n========================\nNone.",
    "a numbered list of one answer": "1. Yes\n2. Yes\n3. Yes\n4. Yes\n5. Yes\n6. Yes\n7. Yes",
    "digits": "The number is 1000000000000000000000, in binary 0101010101010101.",
    "emoji": "Great job! 🎉🎉🎉 See you tomorrow 👋",
    "cut within a character": "Il a mangé une crêpe \ufffd",
    "a long cry": "Nooooooooooooo! she shouted across the yard, and everyone in the house came running.",
}
BROKEN = {
    "nothing": ("", "empty"),
    "white space": (" \n\n\t", "empty"),
    "punctuation": ("!!! ... ??? ,,,", "empty"),
    "one word": ("dog dog dog dog dog dog dog dog", "loop"),
    "a word after a start": ("Sure! The dog dog dog dog dog dog dog dog dog", "loop"),
    "two words": ("le chat le chat le chat le chat le", "loop"),
    "a sentence": ("Once there was a dog. " + "I am sorry, I cannot. " * 4, "loop"),
    "lines": ("I cannot help.\n" * 6, "loop"),
    "a letter": ("a" * 60, "loop"),
    "letters": ("lalalalalalalalalalala", "loop"),
    "Chinese": ("我不能" * 8, "loop"),
    "Thai": ("ไม่" * 12, "loop"),
    "case": ("Dog dog DOG dog Dog dog DOG", "loop"),
    "few pairs": (
        " ".join(random.Random(0).choices(["la", "le", "de"], k=40)),
        "repetitive",
    ),
    "bytes": ("\ufffd\ufffdabc\ufffd\ufffd d\ufffd", "garbled"),
    "control": ("ab\x00\x01c\x02\x03 d", "garbled"),
    "symbols": ("}})];{{([<>|}}~~^^]])a;;{{", "garbled"),
    "scripts": ("the 的 как 한 los ми と und 中 над la 新 под", "garbled"),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_answers_are_not_degenerate(name: str) -> None:
    assert degenerate_fault(ORDINARY[name]) is None


@pytest.mark.parametrize("name", BROKEN)
def test_broken_answers_are(name: str) -> None:
    text, fault = BROKEN[name]
    assert degenerate_fault(text) == fault


def windows(text: str, words: int) -> Iterator[str]:
    """The whole text in passages of so many words, as an answer is cut off."""
    ends = [0, *word_ends(text)]
    for start in range(0, len(ends) - words, words):
        yield text[ends[start] : ends[start + words]]


def prose() -> str:
    return "\n".join(PARAGRAPHS)


def stories() -> str:
    return "\n".join(page.text for page in islice(pages(3, "held_out", Plan("story")), 150))


def source_code() -> str:
    return "\n".join(path.read_text() for path in sorted((ROOT / "lrt" / "evaluation").glob("s*.py")))


def lists() -> str:
    return (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(("read", "most"), [(prose, 0.0), (stories, 0.0), (source_code, 0.01), (lists, 0.01)])
@pytest.mark.parametrize("words", [8, 24, 64])
def test_passages_of_real_text_are_not_degenerate(read: object, most: float, words: int) -> None:
    assert callable(read)
    passages = list(islice(windows(read(), words), 400))
    faulty = [each for each in passages if degenerate_fault(each) is not None]
    assert len(passages) > 10
    assert len(faulty) <= most * len(passages), faulty[:3]


def test_what_is_made_of_them_by_repeating_is() -> None:
    for passage in islice(windows(prose(), 8), 40):
        assert degenerate_fault(" ".join([passage] * 4)) in ("loop", "repetitive")


def test_length_and_variety() -> None:
    quality = TextQuality.of("The dog saw the dog, saw the dog")
    assert quality.words == 8
    assert quality.distinct == pytest.approx(3 / 7)  # the dog, dog saw, saw the
    assert TextQuality.of("Yes.").distinct is None
