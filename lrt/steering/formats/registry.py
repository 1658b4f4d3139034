"""Every file format of steering vectors by its name; one function reads any of them, and one writes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrt.errors import InvalidValue
from lrt.steering.formats.control_vector import read_control_vector, write_control_vector
from lrt.steering.formats.directions import listed
from lrt.steering.formats.hotwire import read_hotwire, write_hotwire
from lrt.steering.formats.lm_eval import read_lm_eval, write_lm_eval
from lrt.steering.formats.steering_vectors import read_steering_vectors, write_steering_vectors
from lrt.steering.formats.tensors import read_tensors, write_tensors
from lrt.steering.formats.vllm_lens import read_vllm_lens, write_vllm_lens
from lrt.steering.vectors import SteeringVector


@dataclass(frozen=True)
class VectorFormat:
    """One file format.

    read      `(path, **what the format cannot say) -> [SteeringVector]`
    write     `(vectors, path, **what the format cannot know)`
    suffixes  Endings that say the format by themselves; `.pt` does not.
    """

    name: str
    read: Callable[..., list[SteeringVector]]
    write: Callable[..., None]
    suffixes: tuple[str, ...] = ()


def read_folder(path: Path) -> list[SteeringVector]:
    """The one vector of a folder that `SteeringVector.save` wrote, which says everything itself."""
    return [SteeringVector.load(Path(path))]


def write_folder(vectors: SteeringVector | Sequence[SteeringVector], path: Path) -> None:
    """Write one vector as `SteeringVector.save` does. Raises InvalidValue for another number of them."""
    vectors = listed(vectors)
    if len(vectors) != 1:
        raise InvalidValue(f"a folder holds one steering vector; got {len(vectors)}: write one folder each")
    vectors[0].save(Path(path))


FORMATS: dict[str, VectorFormat] = {
    each.name: each
    for each in (
        VectorFormat("lrt", read_folder, write_folder),
        VectorFormat("gguf", read_control_vector, write_control_vector, (".gguf",)),
        VectorFormat("steering-vectors", read_steering_vectors, write_steering_vectors),
        VectorFormat("lm-eval", read_lm_eval, write_lm_eval),
        VectorFormat("hotwire", read_hotwire, write_hotwire),
        VectorFormat("vllm-lens", read_vllm_lens, write_vllm_lens, (".json",)),
        VectorFormat("tensors", read_tensors, write_tensors, (".safetensors", ".npz", ".npy")),
    )
}
"""By name. Objects of repeng and steering-vectors have functions of their own (`from_repeng`)."""


def read_vector(path: Path | str, format: str | None = None, **facts: Any) -> list[SteeringVector]:
    """Read the steering vectors of a file, ordered by block.

    format  A name in `FORMATS`; may be omitted where the path says it: a folder of ours, `.gguf`,
            `.safetensors`, `.npz`, `.npy`, `.json` (vllm-lens).
    facts   What the file does not say, such as `model=`, `layer=`. Which ones a format needs is in the
            signature of its `read`, and in docs/formats.md.

    Raises InvalidValue that names the fact which is missing or not known to the format, and what the format's
    reader raises.
    """
    path = Path(path)
    chosen = _chosen(path, format)
    _check_facts(chosen.read, chosen.name, f"reading {path}", facts)
    return chosen.read(path, **facts)


def write_vectors(
    vectors: SteeringVector | Sequence[SteeringVector],
    path: Path | str,
    format: str | None = None,
    **facts: Any,
) -> None:
    """Write one steering vector, or one for each of several blocks of a model, replacing the file. Folders on
    the way are made.

    format, facts  As of `read_vector`; which facts a format needs is in the signature of its `write`. A path
                   without an ending is a folder of ours.

    Raises InvalidValue that names the fact which is missing or not known to the format, and what the format's
    writer raises. Nothing is written then.
    """
    path = Path(path)
    chosen = writing_format(path, format, **facts)
    place = next(each for each in path.absolute().parents if each.exists())
    if not place.is_dir():
        raise InvalidValue(f"{path} cannot be written: {place} is a file; name a place in a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen.write(vectors, path, **facts)


def writing_format(path: Path, format: str | None = None, **facts: Any) -> VectorFormat:
    """The format that `write_vectors` would write. Raises InvalidValue as it does, for format and facts."""
    chosen = _chosen(path, format)
    _check_facts(chosen.write, chosen.name, f"writing {path}", facts)
    return chosen


def _chosen(path: Path, name: str | None) -> VectorFormat:
    if name is not None:
        if name not in FORMATS:
            raise InvalidValue(f"format={name!r} must be one of {', '.join(FORMATS)}")
        return FORMATS[name]
    for form in FORMATS.values():
        if path.suffix in form.suffixes:
            return form
    if not path.is_file() and (path.is_dir() or not path.suffix):
        return FORMATS["lrt"]
    raise InvalidValue(
        f"format= is missing: {path} does not say it by its name. It must be one of {', '.join(FORMATS)}"
    )


def _check_facts(function: Callable[..., Any], name: str, doing: str, facts: dict[str, Any]) -> None:
    """Raise InvalidValue for facts that the function needs and lacks, or does not know."""
    known = _facts_of(function)
    if missing := [fact for fact, needed in known.items() if needed and fact not in facts]:
        raise InvalidValue(
            f"{doing}: {', '.join(f'{fact}=' for fact in missing)} must be given, since a file of the format "
            f"{name} does not say it. See docs/formats.md"
        )
    if unknown := [fact for fact in facts if fact not in known]:
        raise InvalidValue(
            f"{doing}: {', '.join(f'{fact}=' for fact in unknown)} has no meaning for the format {name}; it "
            f"takes {', '.join(f'{fact}=' for fact in known) or 'nothing'}"
        )


def _facts_of(function: Callable[..., Any]) -> dict[str, bool]:
    """The facts that a reader or writer takes, and whether it needs them."""
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default is each.empty for each in parameters if each.kind is each.KEYWORD_ONLY}


FACTS = frozenset(fact for form in FORMATS.values() for f in (form.read, form.write) for fact in _facts_of(f))
"""Names of the facts of all formats."""
