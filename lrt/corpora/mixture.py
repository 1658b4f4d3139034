"""Several sources of documents interleaved into one stream, in fixed shares of text."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from lrt.corpora.documents import Document
from lrt.errors import InvalidValue

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One source of a mixture. `weight` is its share of the text (characters), relative to the others."""

    name: str
    documents: Iterable[Document]
    weight: float = 1.0


def mixture(parts: Sequence[Part]) -> Iterator[Document]:
    """Interleave the parts so that every prefix of the stream has about the wanted shares of characters.

    The next document always comes from the part that lags furthest behind its share, so the order is
    deterministic. A part that runs out is logged; the others go on. Every document's `source` becomes the
    name of its part.

    Raises InvalidValue for no parts, for two parts of one name, and for a weight that is not positive.
    """
    names = [part.name for part in parts]
    if not parts:
        raise InvalidValue("corpus.sources is empty; name at least one source")
    if len(set(names)) != len(names):
        raise InvalidValue(f"corpus.sources has a name twice: {names}; every source needs its own name")
    for part in parts:
        if not part.weight > 0:
            raise InvalidValue(
                f"corpus.sources.{part.name}.weight={part.weight}; a weight must be positive "
                "(remove the source instead)"
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
                log.info("corpus source %s has no more documents; the mixture goes on without it", name)
            continue
        # an empty text must still count, or a part of empty texts would be drawn for ever
        written[name] += max(1, len(document.text))
        yield replace(document, source=name)
