"""Combined sources as one stream, in given shares of text."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from lrt.corpora.documents import Document

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One source of a mixture. `weight` is its share of the text (characters), relative to the
    others.
    """

    name: str
    documents: Iterable[Document]
    weight: float = 1.0


def mixture(parts: Sequence[Part]) -> Iterator[Document]:
    """Interleaves the parts so that every prefix of the stream holds about the given shares of
    characters.

    The next document always comes from the part that lags furthest behind its share, so the order
    is fixed by the parts alone. A part that runs out is left out from there on (and told in the
    log). Every document's `source` is its part's name.

    Raises:
        ValueError: no parts, two of one name, or a weight that is not positive.
    """
    names = [part.name for part in parts]
    if not parts:
        raise ValueError("corpus.sources is empty; name at least one source")
    if len(set(names)) != len(names):
        raise ValueError(f"corpus.sources has a name twice: {names}; every source needs its own")
    for part in parts:
        if not part.weight > 0:
            raise ValueError(
                f"corpus.sources.{part.name}.weight is {part.weight}; a weight must be positive "
                "(leave the source out instead)"
            )
    return _interleave(parts)


def _interleave(parts: Sequence[Part]) -> Iterator[Document]:
    streams = {part.name: iter(part.documents) for part in parts}
    weights = {part.name: part.weight for part in parts}
    written = dict.fromkeys(streams, 0)
    while streams:
        name = min(streams, key=lambda n: written[n] / weights[n])  # ties: the part named first
        document = next(streams[name], None)
        if document is None:
            del streams[name]
            if streams:
                log.info("corpus source %s is used up; the mixture goes on without it", name)
            continue
        # an empty text must still count, or a part of empty texts would be drawn for ever
        written[name] += max(1, len(document.text))
        yield replace(document, source=name)
