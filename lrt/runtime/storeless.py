"""Rows straight from a pass of both models, for runs that keep no states (`recording.states=none`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrt.activations import Batch, NoRows, PartRules, Selection, median_norms, paired_rows
from lrt.corpora import SPLITS, Split
from lrt.mapping import Moments
from lrt.runtime.caches import CacheCorrupt, cache_read
from lrt.runtime.schema import ConfigError
from lrt.storage.fingerprint import fingerprint
from lrt.storage.sealed import read_sealed, write_sealed

if TYPE_CHECKING:
    from lrt.runtime.recorded import Recorded

# Whose norms the medians are of that tell massive tokens: a limit of many medians asks for no more, and all
# training tokens, which a store takes, would be a pass of its own.
MEDIAN_TOKENS = 65_536


class StorelessRows:
    """The rows of a selection as a store's stream would give them in order, every time by another pass.

    How many there are is known when a split has been passed over, and kept beside the moments; until then
    its tokens are told.
    """

    def __init__(self, run: Recorded, selection: Selection, folder: Path) -> None:
        self._run, self._selection = run, selection
        self._file = folder / f"{fingerprint({'selection': selection, 'run': run.pass_facts})}.json"

    @property
    def rows(self) -> dict[Split, int]:
        """Rows to fit on, by split; tokens of splits that were not passed over yet."""
        counted = self._counted()
        tokens = self._run.packed.rows
        return {split: counted[split]["rows"] if split in counted else tokens(split) for split in SPLITS}

    @property
    def rows_excluded(self) -> dict[Split, dict[str, int]]:
        """Tokens that leave, by split and reason. Raises CacheCorrupt where that is lost."""
        counted = self._counted()
        if "train" not in counted:
            raise CacheCorrupt(
                f"what left the fit was kept in {self._file}, which is gone; delete the folder moments "
                f"beside {self._file.parent} and run the command again"
            )
        return {split: counted.get(split, {}).get("left_out", {}) for split in SPLITS}

    def _counted(self) -> dict[str, Any]:
        if not self._file.is_file():
            return {}
        with cache_read(self._file):
            return read_sealed(self._file)

    def iterate(self, split: Split, batch_rows: int | None = None) -> Iterator[Batch]:  # noqa: ARG002
        """Batches as the passes make them, of any size; `source`, `target` float32 and `document`.

        Raises NoRows for a training split of which the filter leaves nothing.
        """
        run, selection = self._run, self._selection
        rows, left_out = 0, Counter[str]()
        for part in paired_rows(
            run.source,
            run.target,
            selection.source_layers,
            selection.target_layers,
            run.packed.splits[split],
            filter=selection.filter,
            pool=selection.pool,
            medians=run.median_norms,
            batch_tokens=run.config.recording.batch_tokens,
            non_finite=run.config.recording.non_finite,
            rules=PartRules.of(selection, run.packed.groups),
        ):
            left_out.update(part.left_out)
            if len(part.document) == 0:
                continue
            rows += len(part.document)
            yield {
                "source": torch.cat([part.source[layer] for layer in selection.source_layers], dim=1),
                "target": torch.cat([part.target[layer] for layer in selection.target_layers], dim=1),
                "document": part.document,
            }
        if split == "train" and rows == 0:
            raise NoRows(
                "the filter leaves no training row; loosen filter.max_norm_ratio or filter.token_ids, or give more text"
            )
        self._file.parent.mkdir(parents=True, exist_ok=True)
        counted: dict[str, Any] = {**self._counted(), split: {"rows": rows, "left_out": dict(left_out)}}
        write_sealed(self._file, counted)


class ShuffledPairs:
    """Moments of pairs whose target rows are permuted among those of a window, gathered beside the true ones.

    A store's are permuted over the whole corpus. Documents come in an order drawn at random, so a window is a
    sample of them; a row meets one of its own document as rarely as the window is long.

    window_rows  Rows that are held, in float32.
    """

    def __init__(self, draws: Sequence[Moments], window_rows: int, seed: int) -> None:
        self._draws, self._window_rows = draws, window_rows
        self._held: list[tuple[Tensor, Tensor]] = []
        self._generator = torch.Generator().manual_seed(seed)

    def add(self, source: Tensor, target: Tensor) -> None:
        """Takes paired rows `[n, d_source]` and `[n, d_target]`."""
        self._held.append((source, target))
        if sum(len(x) for x, _ in self._held) >= self._window_rows:
            self.end()

    def end(self) -> None:
        """Sums what is held."""
        if not self._held:
            return
        x, y = (torch.cat(side) for side in zip(*self._held, strict=True))
        self._held = []
        for moments in self._draws:
            moments.update(x, y[torch.randperm(len(y), generator=self._generator)])


def pass_medians(run: Recorded, file: Path) -> dict[str, float]:
    """Median norms by `source.LAYER` and `target.LAYER` of the first training tokens, made or found."""
    if not file.is_file():
        source, target = run.recorded_stacks
        with run.session.working("median norms"):
            found = median_norms(
                run.source,
                run.target,
                source.layers,
                target.layers,
                run.packed.splits["train"],
                at_most_tokens=MEDIAN_TOKENS,
                batch_tokens=run.config.recording.batch_tokens,
                non_finite=run.config.recording.non_finite,
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(file, found)
    with cache_read(file):
        return read_sealed(file)


def check_storeless(run: Recorded) -> None:
    """Raises ConfigError for what needs states that are kept."""
    config = run.config
    needs = {
        f"fit.kind={config.fit.kind}": config.fit.kind != "closed_form",
        "layers=auto": run.automatic,
        "evaluation.untrained_source=true": config.evaluation.untrained_source,
        f"analysis.fidelity_tokens={config.analysis.fidelity_tokens}": config.analysis.fidelity_tokens > 0,
        "analysis.sae": config.analysis.sae.wanted,
    }
    asked = [setting for setting, wanted in needs.items() if wanted]
    if asked:
        raise ConfigError(
            f"recording.states=none keeps no states, and these settings would read them: {', '.join(asked)}. "
            "Give fit=closed_form evaluation.untrained_source=false analysis.fidelity_tokens=0 and the like, "
            "or set recording.states=native"
        )
