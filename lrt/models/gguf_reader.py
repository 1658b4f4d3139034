"""One fast reader of a GGUF file for everything that transformers asks of it.

transformers reads a file's header several times while it converts it: for the config, the weights and the
tokenizer. The package `gguf` makes a view of a memory map for every entry of a vocabulary, so each time takes
11 s for one of 262,144 words.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def one_reader(path: Path) -> Iterator[None]:
    """While it is open, `gguf.GGUFReader` of this file is one reader, which reads arrays fast.

    The file must be whole (`lrt.storage.gguf_file.check_gguf`): sizes are believed.
    """
    import gguf

    usual = gguf.GGUFReader
    reader = fast_reader(path)

    def reader_of(file: Any, *args: Any, **more: Any) -> Any:
        same = not args and not more and Path(file).resolve() == path.resolve()
        return reader if same else usual(file, *args, **more)

    gguf.GGUFReader = reader_of
    try:
        yield
    finally:
        gguf.GGUFReader = usual


def fast_reader(path: Path) -> Any:
    """A `gguf.GGUFReader` whose arrays are read from the bytes themselves. Its fields are the same."""
    import gguf
    import numpy as np

    array, text = gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.STRING

    class Reader(gguf.GGUFReader):  # type: ignore[misc]
        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type != array or self.byte_order != "I":
                return super()._get_field_parts(orig_offs, raw_type)
            data = np.asarray(self.data)  # slices of a plain array cost a tenth of a memory map's
            kind, start = data[orig_offs : orig_offs + 4].view(np.uint32), orig_offs + 12
            numbers = self.gguf_scalar_to_np.get(kind[0])
            if numbers is None and kind[0] != text:  # an array of arrays
                return super()._get_field_parts(orig_offs, raw_type)
            parts: list[Any] = [kind, data[orig_offs + 4 : start].view(np.uint64)]
            count, types = int(parts[1][0]), [array, gguf.GGUFValueType(kind[0])]
            if numbers is None:
                for _ in range(count):
                    (length,) = struct.unpack_from("=Q", data.data, start)
                    words = start + 8
                    parts += (data[start:words].view(np.uint64), data[words : words + length])
                    start = words + length
                indices = range(3, len(parts), 2)
            else:
                dtype = np.dtype(numbers)
                stop = start + count * dtype.itemsize
                values = data[start:stop].view(dtype)
                parts += (values[i : i + 1] for i in range(count))
                start, indices = stop, range(2, len(parts))
            return start - orig_offs, parts, list(indices), types[: 1 + bool(count)]

    return Reader(path)
