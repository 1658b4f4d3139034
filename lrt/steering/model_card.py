"""Model cards: README.md of a map or vector, with the hub's YAML header, from the data in its card."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lrt.models.sides import SIDES
from lrt.steering.vectors import SteeringVector

PAGE_FILE = "README.md"
_NO_LICENCE = (
    "None is stated. A map or vector is made with models and text whose licences may bind it: ask its author."
)
# figures of a map by the names that people read; those of the card's `pairs` may be others
_FIGURES = {
    "fvu": "FVU",
    "fvu_validation": "FVU, validation",
    "fvu_shuffled": "FVU, null of shuffled pairs",
    "optimum_fvu": "FVU of the reference ridge",
    "fvu_full": "FVU at full rank",
    "ridge_weight": "ridge weight",
    "rank": "rank",
    "change": "relative change of the weight",
}
_SEAL = "<!-- Written by lrt; a page that is edited is not replaced. {} -->\n"


def map_page(card: Mapping[str, Any], address: str, licence: str | None = None) -> str:
    """README.md of a map.

    card     As in `mapping.json`. Where it has `pairs`, a list of `{"source": layer, "target": layer,
             FIGURE: number, ...}`, each is a row of the table of layer pairs; else its `metrics` are the row.
    address  What `lrt.load_map` takes: `org/name`, or a folder.
    licence  The hub's identifier of a licence, such as "cc-by-4.0".
    """
    source, target = (card["models"][side] for side in SIDES)
    beside = card.get("beside") or []
    sources = " + ".join(_text(each["name"]) for each in (source, *beside))
    pairs = card.get("pairs") or [{**card["layers"], **_known(card["metrics"], _FIGURES)}]
    load_target = _quoted(target.get("path") or f"path/to/{target['name']}")
    sections = [
        f"# Map of steering vectors from {sources} to {_text(target['name'])}",
        f"Transfers steering vectors of {sources} to {_text(target['name'])}: an affine map of "
        f"their hidden states, {_layers_line(pairs)}. Made with lrt.",
        *(
            f"It reads {_text(each['name'])} layer {_value(each['layers'])} too. Give `transfer` a list: the "
            "vector of each source model, in this order."
            for each in beside
        ),
        "## Use",
        _code(
            "import lrt",
            "",
            f"large = lrt.load({load_target})",
            'vector = lrt.SteeringVector.load("my_vector")  # of the source model, at a layer of the map'
            if not beside
            else 'vector = [lrt.SteeringVector.load(name) for name in ("first", "second")]  # of each layer',
            f"result = lrt.load_map({_quoted(address)}).transfer(vector)",
            'print(result, *result.forecast.warnings, sep="\\n")',
            "with lrt.steer(large, result.vector, strength=0.4):",
            '    print(large.generate("Once upon a time"))',
        ),
        "## Models",
        _table(
            ("side", "model", "revision", "weights", "blocks", "width"),
            [
                (side, *(_value(model.get(key)) for key in _MODEL_KEYS))
                for side, model in (
                    ("source", source),
                    *(("source", each) for each in beside),
                    ("target", target),
                )
            ],
        ),
        f"Strength 1 adds a vector of the target's median residual norm: {_norms(card)}.",
        "## Layer pairs",
        _pairs_table(pairs),
        "FVU is the fraction of variance unexplained on held-out documents: 0 is a perfect map, 1 is the "
        "null of the mean; the null of shuffled pairs is "
        "an expectation over all shuffles. Layers are decoder blocks from 0; their outputs are mapped."
        + (
            f" Each map has the least rank that adds at most {card['loss']:g} to its FVU."
            if "loss" in card
            else ""
        ),
        "## Text",
        _table(
            ("fact", "value"), [*_facts("", card.get("corpus", {})), *_facts("rows", card.get("rows", {}))]
        ),
        "## Forecast",
        _forecast(card.get("sums")),
        "## Licence",
        _text(licence) if licence else _NO_LICENCE,
        f"Fingerprint: `{card['fingerprint']}`."
        + (f" Pulled from {_text(card['origin'])}." if card.get("origin") else ""),
    ]
    return _page(
        ["steering-vectors", "activation-steering", "lrt", "lrt-map"],
        [model["path"] for model in (source, *beside, target) if model.get("path")],
        licence,
        sections,
    )


def vector_page(vector: SteeringVector, address: str, licence: str | None = None) -> str:
    """README.md of a steering vector; arguments as of `map_page`."""
    facts: list[tuple[str, Any]] = [
        ("model", vector.model),
        ("layer", vector.layer),
        ("hook point", vector.hook_point),
        ("width", len(vector.direction)),
        ("norm", vector.norm),
        ("strength 1 adds a vector of length", vector.residual_norm),
        ("unit of strength", vector.unit),
        ("method", vector.method),
        ("operation", vector.operation),
        ("prompts (SHA-256)", vector.prompts or None),
        *((f"map: {name.replace('_', ' ')}", value) for name, value in (vector.map or {}).items()),
    ]
    title = f"{vector.behaviour or 'unnamed'}, of {vector.model} layer {vector.layer}"
    sections = [
        f"# Steering vector: {_text(title)}",
        "A direction in the residual stream. Made with lrt.",
        "## Use",
        _code(
            "import lrt",
            "",
            f"vector = lrt.SteeringVector.load(lrt.pull({_quoted(address)}))",
            f"model = lrt.load({_quoted(f'path/to/{vector.model}')})",
            "with lrt.steer(model, vector, strength=0.4):",
            '    print(model.generate("Once upon a time"))',
        ),
        "## What it is",
        _table(("fact", "value"), [(name, _value(value)) for name, value in facts]),
        "## Licence",
        _text(licence) if licence else _NO_LICENCE,
    ]
    return _page(["steering-vectors", "activation-steering", "lrt", "lrt-vector"], [], licence, sections)


_MODEL_KEYS = ("name", "revision", "weights", "depth", "width")


def _forecast(sums: Mapping[str, Any] | None) -> str:
    if not sums:
        return (
            "The sums are not here, so a transfer comes without a forecast of noise. Fit the map again and "
            "save it with its sums for one."
        )
    return (
        f"`{sums['file']}` ({_size(sums['bytes'])}) holds the sums of {sums['folds']} groups of documents. "
        "Every transfer is forecast from them by a jackknife at the map's ridge weight. `result.forecast` "
        "gives the signal-to-noise ratio of the transferred vector and the agreement of two halves of the "
        "documents, and warns by them."
    )


def _norms(card: Mapping[str, Any]) -> str:
    layers = card["layers"]["target"]
    norms = card["residual_norms"]
    return ", ".join(f"{_value(n)} at layer {_value(layer)}" for layer, n in zip(layers, norms, strict=True))


def _layers_line(pairs: Sequence[Mapping[str, Any]]) -> str:
    if len(pairs) > 1:
        return f"for {len(pairs)} pairs of layers"
    return f"from layer {_value(pairs[0]['source'])} to layer {_value(pairs[0]['target'])}"


def _pairs_table(pairs: Sequence[Mapping[str, Any]]) -> str:
    names = [name for name in dict.fromkeys(n for pair in pairs for n in pair) if name not in SIDES]
    head = ["source layer", "target layer", *(_FIGURES.get(name, name.replace("_", " ")) for name in names)]
    return _table(head, [[_value(pair.get(name)) for name in (*SIDES, *names)] for pair in pairs])


def _known(figures: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: figures[name] for name in names if figures.get(name) is not None}


def _facts(prefix: str, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Nested facts, one row each."""
    rows = []
    for name, value in facts.items():
        label = f"{prefix} {name}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            rows += _facts(label, value)
        else:
            rows.append((label, _value(value)))
    return rows


# -- Markdown ---------------------------------------------------------------------------------------


def _page(tags: Sequence[str], models: Sequence[str], licence: str | None, sections: Sequence[str]) -> str:
    header: dict[str, Any] = {"library_name": "lrt", "tags": list(tags)}
    if models:
        header["base_model"] = list(dict.fromkeys(models))
    if licence:
        header["license"] = licence
    lines = [f"{name}: {_quoted(value)}" for name, value in header.items()]
    return _sealed("\n".join(["---", *lines, "---", "", "\n\n".join(sections), "", ""]))


def _sealed(text: str) -> str:
    return text + _SEAL.format(hashlib.sha256(text.encode()).hexdigest())


def is_as_written(page: str) -> bool:
    """Whether a README.md is a model card as it was written here: nobody has edited it."""
    text, mark, _ = page.rpartition("<!--")
    return bool(mark) and page == _sealed(text)


def _quoted(value: Any) -> str:
    """JSON, which is YAML and Python too. Not in ASCII: they do not join the halves of an emoji."""
    return json.dumps(value, ensure_ascii=False)


def _code(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _value(value: Any) -> str:
    match value:
        case None | "" | [] | ():
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
        case list() | tuple():
            return ", ".join(map(_value, value))
    return _text(str(value))


def _text(value: Any) -> str:
    """One line in which Markdown and HTML mean nothing."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(value).split()))


def _size(count: int) -> str:
    return f"{count / 1e6:.3g} MB" if count >= 1e5 else f"{count:,} bytes"
