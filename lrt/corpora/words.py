"""Words of texts in any script.

Most scripts write spaces between words, where a word is a run of letters. Scripts without spaces (Han, Kana,
Thai, Khmer and others) have no such mark: there, a word is found wherever its characters stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from itertools import pairwise
from unicodedata import normalize

import regex

SCRIPTS_WITHOUT_SPACES = (
    *("Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Nushu", "Tangut", "Khitan_Small_Script"),
    *("Thai", "Lao", "Khmer", "Myanmar", "Tibetan", "Javanese", "Balinese"),
    *("Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet", "Ahom"),
)
# Also the marks of length and voice that both Kana share, and the point between Tibetan syllables.
_UNSPACED = (
    r"[[[\p{L}\p{M}\p{Nl}]&&[" + "".join(rf"\p{{Script={s}}}" for s in SCRIPTS_WITHOUT_SPACES) + "]]"
    r"\u30fc\u3099\u309a\u0f0b]"
)
_SPACED = rf"[[\p{{L}}\p{{M}}\p{{Nl}}]--{_UNSPACED}]"
_LETTER = r"[a-z\p{L}\p{M}\p{Nl}\u0f0b]"  # every character of the two
# A consonant after one of these belongs to the syllable before: Khmer and Burmese stacking signs, and vowels
# that Thai and Lao write before their consonant.
_JOINED = r"[\p{Indic_Syllabic_Category=Invisible_Stacker}\p{Logical_Order_Exception}]"
# Korean has spaces, but writes particles and the copula at the end of the word before them. After a particle
# of place or manner there may be one of extent, one of topic, and the polite ending.
_PARTICLES = (
    "들?(?:(?:이었습니다|였습니다|이었다|였다|입니다|입니까|이에요|예요|이다|이야|야|이고|이며|이지만)|"
    "이?라(?:고|는|도|면|서|며|던|지만)(?:는|도|요)?|"
    "(?:(?:에게서|한테서|에서|에게|한테|으로서|으로써|으로|로서|로써|로|처럼|까지|부터|마다|조차|마저|보다|"
    "밖에|만큼|대로|같이|이나|이랑|하고|께서|께|에|와|과|나|랑|만|도)"
    "(?:부터|까지|처럼|보다|조차|마저|밖에|만큼|만|라도)?(?:은|는|이|가|을|를|의|도|만|나)?요?|"
    "(?:은|는|이|가|을|를|의|도|만|나)요?)?)"
)
# Persian writes these endings after a half-space: plural, possession, copula, comparison.
_ENDING = "ها|های|هایی|(?:هایم|هایت|هایش|هایمان|هایتان|هایشان)|ام|ات|اش|ای|ایم|اید|اند|مان|تان|شان|تر|ترین|را"

_compiled = partial(regex.compile, flags=regex.V1)  # which has differences of sets
_IGNORED = _compiled(r"\p{Default_Ignorable_Code_Point}+")
# Vowel signs that Arabic and Hebrew may omit, and the stroke that stretches an Arabic word.
_OPTIONAL = _compiled(r"[[\p{Mn}&&[\p{Block=Arabic}\p{Block=Hebrew}]]\u0640]+")
_HALF_SPACE = _compiled(r"(?<=[\p{Script=Arabic}\p{Mn}])\u200c(?=\p{Script=Arabic})")
_ENDINGS = _compiled(rf"(?:\u200c(?:{_ENDING}))+$")
_RUN = _compiled(rf"[{_LETTER}\u200c]+")
_INNER = _compiled(rf"{_UNSPACED}|\p{{Script=Hangul}}")  # where a word may be a part of a run of letters
_ONE_WORD = _compiled(rf"[\p{{L}}\p{{Nl}}]{_LETTER}*")
_BLANK = _compiled(r"[\s\p{Cc}\p{Default_Ignorable_Code_Point}]*")
# Also the ornaments, primes and accents that stand for quotation marks, and Markdown's emphasis.
QUOTES = r"\p{Quotation_Mark}\u275b-\u2760\U0001f676-\U0001f678\u2032\u2033`´*"
# Besides, what cannot be seen, Markdown's marks of quotations, headings and items, and the dashes of speech
_OPENING = _compiled(
    rf"(?:[\s\p{{Cc}}\p{{Cf}}\p{{Default_Ignorable_Code_Point}}\u2800《〈【_{QUOTES}]"
    r"|~~|>+|(?:#{1,6}|[-+–—―])\s)+"
)
# What counts as one word where nothing separates words, by their mean lengths
_UNIT = rf"(?:\p{{Script=Han}}{{1,2}}|[{_UNSPACED}--\p{{Script=Han}}]{{1,4}})"
_UNSPACED_LETTER = _compiled(_UNSPACED)
_RUNS = _compiled(rf"{_UNSPACED}+|[\w--{_UNSPACED}]+")
_COUNTED = _compiled(rf"{_UNIT}|[\w--{_UNSPACED}]+")
_SPAN = _compiled(rf"{_UNIT}[^\w\s]*|[\S--{_UNSPACED}]+")


def fold(text: str) -> str:
    """The form in which texts and words are compared.

    Equal are: Unicode normal forms, wide and narrow letters, upper and lower case (also ß and SS, and the
    Turkish letters i and ı), with and without the vowel signs of Arabic and Hebrew. Characters that cannot
    be seen are removed; a zero-width space becomes a space.
    """
    if text.isascii():
        return text.lower()
    text = _IGNORED.sub("", normalize("NFKC", text.replace("\u200b", " ")))
    text = normalize("NFKC", normalize("NFD", text).casefold())
    return str(_OPTIONAL.sub("", text)).replace("i\u0307", "i").replace("ı", "i")


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen."""
    return _BLANK.fullmatch(text) is not None


def after_opening(text: str) -> str:
    """The text without quotation marks, Markdown and invisible characters at its start."""
    opening = _OPENING.match(text)
    return text[opening.end() :] if opening else text


def is_word(word: str) -> bool:
    """Whether a folded word is a single word, which `find_words` finds in texts."""
    return _ONE_WORD.fullmatch(word) is not None and find_words((word,), word) == [word]


def find_words(words: tuple[str, ...], text: str) -> list[str]:
    """The occurrences of folded words in a text, in order; of several at one place, the longest.

    Where a word begins or ends with a letter of a script with spaces, no letter of such a script may stand
    beside it. Korean words may have particles at their end, Persian ones endings after a half-space.
    """
    occurrences: list[str] = []
    listed = _set(words)
    for run in _RUN.findall("\u200c".join(map(fold, _HALF_SPACE.split(text)))):
        whole = run.replace("\u200c", "")
        if _INNER.search(whole):
            occurrences += _pattern(words).findall(whole)
        elif whole in listed:
            occurrences.append(whole)
        elif whole != run and (stem := _ENDINGS.sub("", run).replace("\u200c", "")) in listed:
            occurrences.append(stem)
    return occurrences


def starts_with_word(text: str, word: str) -> bool:
    """Whether a text, after its opening marks, starts with a word; compared as in `find_words`."""
    return _pattern((fold(word),)).match(fold(after_opening(text))) is not None


def count_words(text: str) -> int:
    """Number of words. In scripts without spaces, two Han characters or four others count as one."""
    return len(_COUNTED.findall(text))


def is_spaced(text: str) -> bool:
    """Whether no letter of a text is of a script without spaces."""
    return text.isascii() or _UNSPACED_LETTER.search(text) is None


def pieces(text: str, *, inner: bool = False) -> list[str]:
    """What a text consists of: words, and in scripts without spaces every two characters side by side.

    inner  Only those that are also pieces of every longer text with this one in it. There are some if the
           text has at least three words.
    """
    runs = _RUNS.findall(text)
    if inner:  # a word at either end may be a part of a longer one there
        first, last = (not _is_paired(run) for run in (runs[0], runs[-1]))
        runs = runs[first : len(runs) - last]
    return [piece for run in runs for piece in (map("".join, pairwise(run)) if _is_paired(run) else [run])]


def _is_paired(run: str) -> bool:
    return len(run) > 1 and not is_spaced(run)


def word_ends(text: str) -> Iterator[int]:
    """Where words end, with the punctuation after them; as `count_words`, but only spaces part words."""
    return (match.end() for match in _SPAN.finditer(text))


@cache
def _set(words: tuple[str, ...]) -> frozenset[str]:
    return frozenset(words)


@cache
def _pattern(words: tuple[str, ...]) -> regex.Pattern[str]:
    """Finds words inside a run of letters."""
    longest_first = "|".join(sorted(map(regex.escape, {*words}), key=lambda word: (-len(word), word)))
    return _compiled(
        rf"(?<!{_JOINED})(?:(?<!{_SPACED})|(?={_UNSPACED}))(?:{longest_first or '(?!)'})"
        rf"(?!\p{{M}})(?:(?<={_UNSPACED})|(?={_PARTICLES}(?!{_SPACED})))"
    )
