"""Everything that can be known to be wrong before work begins, reported before work begins."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from lrt.config.errors import ConfigError
from lrt.config.schema import Config
from lrt.corpora.alignment import check_offsets
from lrt.evaluation import Behaviour
from lrt.evaluation.storybook import NAMES as STORYBOOK_BEHAVIOURS
from lrt.mapping import ClosedFormSpec, FitSpec, layer_concat_bytes
from lrt.models import check_same_tokenizer
from lrt.models.prompts import encode_prompts
from lrt.models.sides import SIDES
from lrt.pipeline.analyses.autoencoders import check_candidates
from lrt.pipeline.existing_map import open_existing
from lrt.pipeline.layers import LayerPair, LayerPlan
from lrt.pipeline.map_training import FitSettings
from lrt.pipeline.pair import ModelPair

log = logging.getLogger(__name__)


def check_recording(pair: ModelPair, suite: Sequence[Behaviour], plan: LayerPlan) -> None:
    """Raises UserError for models, layers and prompts of which states cannot be recorded or read."""
    tokenizers = {side: pair.models[side].tokenizers for side in SIDES}
    if pair.aligned:
        for side in SIDES:
            for tokenizer in tokenizers[side]:
                check_offsets(tokenizer, side)
        log.info(
            "the models have different tokenizers: rows are spans of characters that all of them cut out"
        )
    else:
        samples = [text for b in suite for text in (*b.positives[:4], *b.negatives[:4])]
        check_same_tokenizer(tokenizers["source"][0], tokenizers["target"][0], samples)
    for side, behaviour in product(SIDES, suite):
        b = pair.read_by(side, behaviour)
        prompts = (*b.positives, *b.negatives, *(item.prompt for item in b.items))
        for tokenizer in tokenizers[side]:
            encode_prompts(tokenizer, prompts)
    log.info(
        "%s%s",
        "to choose among: " if plan.automatic else "",
        " -> ".join(pair.models[side].places(plan.candidates.of(side).layers) for side in SIDES),
    )


def check_run(
    config: Config,
    fit: FitSettings,
    pair: ModelPair,
    suite: Sequence[Behaviour],
    plan: LayerPlan,
    *,
    fits: bool = True,
) -> None:
    """Raises UserError for layers, map, fit, tokenizers, behaviours and Trainer settings that cannot run.

    fits  Whether maps are fitted, and not only evaluated.
    """
    fit.check()
    _check_existing_map(config, pair, plan, fits)
    source, target = plan.candidates
    if plan.automatic:  # at least one of each will be chosen
        config.map.check(source.width, target.width)
    else:
        config.map.check(source.total, target.total)
    _check_solver(fit, plan.candidates)
    if not config.recording.keeps_states:
        _check_on_the_fly(config, fit, plan)
    if pair.aligned:
        _check_aligned(config, fit)
    if "source" not in pair.steered:
        _check_several_sources(config, fit, pair)
    names = {behaviour.name for behaviour in suite}
    evaluation, sae = config.evaluation, config.analysis.sae
    check_names("evaluation.behaviours", evaluation.behaviours, names)
    check_names("evaluation.during_training.behaviours", evaluation.during_training.behaviours, names)
    # the lab's may stay named while others are studied
    for part, settings in config.corpus.sources.items():
        known = names | set(STORYBOOK_BEHAVIOURS)
        check_names(f"corpus.sources.{part}.fit_map_for", settings.fit_map_for, names, known)
    check_names("analysis.sae.behaviours", sae.behaviours, names, names | set(STORYBOOK_BEHAVIOURS))
    price = config.analysis.price.behaviours
    check_names("analysis.price.behaviours", price, names, names | set(STORYBOOK_BEHAVIOURS))
    if plan.automatic:  # the rest once the layers are known, before the fit
        _check_automatic_memory(config, plan)
        check_candidates(sae, plan.candidates)
    check_recording(pair, suite, plan)


def _check_existing_map(config: Config, pair: ModelPair, plan: LayerPlan, fits: bool) -> None:
    folder = config.evaluation.map
    if folder is None:
        return
    if fits:
        raise ConfigError(
            f"evaluation.map={folder}: that map was fitted before, and this command fits one. Use "
            "evaluate.py (lrt evaluate), or remove evaluation.map"
        )
    if plan.automatic:
        raise ConfigError(
            f"evaluation.map={folder} is between layers of its own: set layers.source and layers.target to "
            "them, not to auto"
        )
    open_existing(Path(folder), plan.candidates, pair)


def check_names(
    setting: str, wanted: Iterable[str], suite: Iterable[str], known: Iterable[str] | None = None
) -> None:
    """Raises ConfigError for a behaviour that is not in the suite (nor among `known`, where given)."""
    for name in wanted:
        if name not in set(suite if known is None else known):
            raise ConfigError(
                f"{setting} holds {name!r}, which is not in the suite: {', '.join(sorted(suite))}"
            )


def _check_solver(fit: FitSettings, layers: LayerPair) -> None:
    source, target = layers
    match fit.fit:
        case ClosedFormSpec(solver="identity") if source.total != target.total:
            raise ConfigError(
                f"fit.solver=identity needs equal widths, the map is {source.total} -> {target.total}: "
                "use layers of equal width and number, or another solver"
            )
        case ClosedFormSpec(solver="embeddings") if len(source.layers) + len(target.layers) > 2:
            raise ConfigError(
                "fit.solver=embeddings knows one map for all layers, so it takes one of each model; got "
                f"layers.source={list(source.layers)} and layers.target={list(target.layers)}"
            )


def _check_on_the_fly(config: Config, fit: FitSettings, plan: LayerPlan) -> None:
    needs = {
        "layers=auto": bool(plan.automatic),
        f"evaluation.untrained_draws={config.evaluation.untrained_draws}": config.evaluation.untrained_draws
        > 0,
        f"analysis.fidelity_tokens={config.analysis.fidelity_tokens}": config.analysis.fidelity_tokens > 0,
        "analysis.sae": config.analysis.sae.wanted,
    }
    if reading := [setting for setting, reads in needs.items() if reads]:
        raise ConfigError(
            f"recording.states=none keeps no states, and these settings read them: {', '.join(reading)}. Set "
            "evaluation.untrained_draws=0 analysis.fidelity_tokens=0 and the like, or "
            "recording.states=native"
        )
    if isinstance(fit.fit, FitSpec):
        if (count := fit.processes) > 1:
            raise ConfigError(
                f"recording.states=none: a gradient fit on the fly runs in one process, and trainer.* starts "
                f"{count}; set trainer.devices=1, or recording.states=native"
            )
        if config.batches.workers:
            raise ConfigError(
                f"batches.workers={config.batches.workers}: threads read ahead from a store, and "
                "recording.states=none has none; set batches.workers=0, or recording.states=native"
            )


def _check_aligned(config: Config, fit: FitSettings) -> None:
    why = "the two models have different tokenizers, so an id is another token in each"
    if config.filter.token_ids:
        raise ConfigError(f"filter.token_ids={list(config.filter.token_ids)}: {why}; remove it")
    if isinstance(fit.fit, ClosedFormSpec) and fit.fit.solver == "embeddings":
        raise ConfigError(
            f"fit.solver=embeddings pairs the models' embeddings of one token id: {why}; choose another "
            "solver"
        )


def _check_several_sources(config: Config, fit: FitSettings, pair: ModelPair) -> None:
    refused = {
        f"evaluation.map={config.evaluation.map}": config.evaluation.map is not None,
        "fit.solver=embeddings": isinstance(fit.fit, ClosedFormSpec) and fit.fit.solver == "embeddings",
        "fit.solver=identity": isinstance(fit.fit, ClosedFormSpec) and fit.fit.solver == "identity",
        f"analysis.sae.features={config.analysis.sae.features}": config.analysis.sae.wanted,
    }
    if settings := [setting for setting, is_set in refused.items() if is_set]:
        raise ConfigError(
            f"{', '.join(settings)}: these are of one source model, and pair.source names several "
            f"({pair.names['source']}); leave them out, or name one source"
        )


def _check_automatic_memory(config: Config, plan: LayerPlan) -> None:
    source, target = plan.recorded
    limit = config.analysis.memory_bytes
    need = layer_concat_bytes(source, target, 6)  # three splits, and the part of each that is solved
    if "source" in plan.automatic and need > limit:
        raise ConfigError(
            f"layers.source=auto among {len(source.layers)} source layers of {source.width} and "
            f"{len(target.layers)} target layers of {target.width} needs {need / 1e9:.3g} GB of memory and "
            f"analysis.memory_gb={limit / 1e9:.3g}: name fewer candidates (recording.source, "
            "recording.target), or raise analysis.memory_gb"
        )
