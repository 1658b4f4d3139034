"""`layers: auto`: the layers of both models, chosen by what their own vectors do on development items."""

from __future__ import annotations

import logging

from lrt.evaluation import Behaviour
from lrt.mapping import LayerConcat, atlas, choose_layers, of_layers, stack_bytes
from lrt.runtime.rows import Rows
from lrt.runtime.schema import ConfigError
from lrt.runtime.vectors import Vectors

log = logging.getLogger(__name__)


def check_memory(run: Vectors) -> None:
    """Raises ConfigError where the moments of all candidates would not fit in memory."""
    stacks, limit = run.recorded_stacks, run.config.analysis.memory_gb * 1e9
    need = stack_bytes(*stacks, 6)  # three splits, and the part of each that is solved
    if run.config.layers.source == "auto" and need > limit:
        source, target = stacks
        raise ConfigError(
            f"layers.source=auto among {len(source.layers)} source layers of {source.width} and "
            f"{len(target.layers)} target layers of {target.width} needs {need / 1e9:.3g} GB of memory and "
            f"analysis.memory_gb={limit / 1e9:.3g}: name fewer candidates (recording.source, "
            "recording.target), or raise analysis.memory_gb"
        )


def _by_parts(each: tuple[tuple[str, ...], Behaviour]) -> tuple[str, ...]:
    return each[0]


def automatic_layers(run: Vectors) -> tuple[LayerConcat, LayerConcat]:
    """The layers that the suite's behaviours ask for.

    Of the target, for each behaviour, the candidate at which its native vector does most on development
    items. Of the source the candidate with the least error along the vector to that layer, on validation
    documents, among those at which the source's own vector steers the source; where it steers at none,
    among all, and the log says so. The layers of all behaviours are laid side by side. A side that the
    config names stays as it is.
    """
    source, target = run.candidates
    chosen_source, chosen_target = set(source.layers), set(target.layers)
    if run.config.layers.target == "auto":
        chosen_target = {run.chosen(behaviour).choice.layer for behaviour in run.suite}
    if run.config.layers.source == "auto":
        chosen_source = set()
        held: tuple[tuple[str, ...], Rows] | None = None  # of one set of parts at a time
        for parts, behaviour in sorted(((run.parts_that_carry(b), b) for b in run.suite), key=_by_parts):
            if held is None or held[0] != parts:
                held = parts, Rows(run, parts, run.recorded_stacks, folds=1)
            rows = held[1]
            tried = run.chosen(behaviour, "source").choice.by_layer
            steering = tuple(layer for layer, _, steers in tried if steers)
            if not steering:
                log.warning("%s: the source's own vector steers it at no candidate layer", behaviour.name)
            among, to = steering or source.layers, run.chosen(behaviour).choice.layer
            # what is chosen on test documents cannot be tested on them
            train, validation = (
                of_layers(moments, rows.stacks, among, (to,))
                for moments in (rows.train_moments, rows.moments["validation"])
            )
            pair = LayerConcat(among, source.width), LayerConcat((to,), target.width)
            states = run.states_at(pair)[behaviour.contrast]
            cells = atlas(
                train,
                validation,
                validation,
                *pair,
                {behaviour.contrast: (states.source_vector, states.target_vector)},
                bias=run.config.map.bias,
            )
            chosen_source.add(choose_layers(cells, behaviour.contrast, among, to))
    found = (
        LayerConcat(tuple(sorted(chosen_source)), source.width),
        LayerConcat(tuple(sorted(chosen_target)), target.width),
    )
    log.info("layers chosen: source %s, target %s", list(found[0].layers), list(found[1].layers))
    return found
