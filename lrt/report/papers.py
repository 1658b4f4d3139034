"""Settings of published work that one command runs: what they are, a run's results in one compact file, and
the page of all files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrt.errors import InvalidValue
from lrt.report.answers import paper_table
from lrt.report.contents import headline, provenance_facts
from lrt.report.dose_tables import dose_table, verdicts
from lrt.report.fidelity_tables import fidelity_table
from lrt.report.numerals import figure, format_layers
from lrt.report.plain import plain
from lrt.report.table import Table, escape_markdown
from lrt.report.terminal import headline_brief
from lrt.report.transfer_tables import null_table

FORMAT = 1


@dataclass(frozen=True)
class PaperSetting:
    """A setting of published work, run by `experiment=NAME`.

    reported  What the work reports on it.
    differs   What our run does in another way.
    """

    name: str
    title: str
    source: str
    reported: str
    differs: str


_LRT = "*Linear Representation Transferability Hypothesis* (2506.00653)"
_CHEN = "*Transferring Linear Features Across Language Models With Model Stitching* (2506.06609)"
_STITCHED = "Capitals, dogs and a mood stand beside it. States before a layer are outputs of the block below."

SETTINGS: dict[str, PaperSetting] = {
    setting.name: setting
    for setting in (
        PaperSetting(
            "paper_base",
            "The paper: Gemma-2 2b -> 9b",
            _LRT,
            "Sample-wise r of 13 multiple-choice tasks from .73 to .98 (Table 1).",
            "The Pile without its copyrighted parts. Base models answer in plain text.",
        ),
        PaperSetting(
            "paper_chat",
            "The paper: Gemma-2 2b-it -> 9b-it",
            _LRT,
            "The same table, and refusal (section 3.3).",
            "The Pile without its copyrighted parts. Refusal by the phrases that open an answer.",
        ),
        PaperSetting(
            "chen_gemma",
            "Chen et al.: Gemma-2 2b -> 9b, a language",
            _CHEN,
            "French in .69 of continuations transferred, .09 native; German .83 and .85.",
            "French by function words, after other openings. The map is solved from 2M tokens, not trained "
            "on 200M. Their text, prompts and strengths were not checked.",
        ),
        PaperSetting(
            "chen_pythia",
            "Chen et al.: Pythia 70m -> 160m",
            _CHEN,
            "Cross-entropy of the stitched model 3.99, 27% above the target's.",
            _STITCHED,
        ),
        PaperSetting(
            "chen_gpt2",
            "Chen et al.: GPT-2 small -> medium",
            _CHEN,
            "Cross-entropy of the stitched model 3.08, 11% above the target's.",
            _STITCHED,
        ),
        PaperSetting(
            "unlock_svamp",
            "UNLOCK: Qwen2.5 1.5B -> 7B, SVAMP",
            "*The Master Key Hypothesis* (2604.06377), code: rishabbala/Steering-Vector-Transfer",
            "Its script has this pair and set, rank 16 and strength .05 at every block. Its figure was not "
            "checked.",
            "One block is steered. The map is reduced-rank regression, with a bias, on other problems of the "
            "training split. The prompts are worded anew. An untrained source, random vectors and shuffled "
            "pairs stand beside it.",
        ),
    )
}

KEPT = ("pair", "layers", "pool", "map", "split", "fidelity", "configurations_tried", "seconds", "provenance")
KEPT_OF_BEHAVIOUR = (
    *("name", "metric", "kind", "direction", "operation", "items", "layer", "strength", "strength_unit"),
    *("unsteered", "native", "native_change_ci", "transferred", "paper_literal", "prompt", "prompt_ratio"),
    *("source", "source_unsteered", "steers", "ratio", "ratio_ci", "ratio_ci_map", "ratio_refits", "dose"),
    *("verdict", "nulls", "null_details", "damage", "matched_damage", "side_effects", "propensity", "note"),
    *("curves", "forecast", "given_away", "map"),
)


def compact(results: Mapping[str, Any], setting: str, dry_run: bool) -> dict[str, Any]:
    """A run's results file: every headline figure with its intervals and nulls, and what made it.

    results  The record of the run (`report/results.json`). Texts that models wrote are not in the file.
    dry_run  Whether tiny untrained models stood in the places of those of the setting.
    """
    record: dict[str, Any] = plain(results)
    behaviours = [
        {name: each[name] for name in KEPT_OF_BEHAVIOUR if name in each} for each in record["behaviours"]
    ]
    return {
        "format": FORMAT,
        "setting": setting,
        "dry_run": dry_run,
        **{name: record[name] for name in KEPT if name in record},
        "behaviours": behaviours,
    }


def check_file(record: Any, name: str) -> None:
    """Raise InvalidValue for what is no results file of a real run; `name` is the file's."""
    parts = {"pair": dict, "layers": dict, "provenance": dict, "behaviours": list}
    if (
        not isinstance(record, dict)
        or record.get("format") != FORMAT
        or not all(isinstance(record.get(part), kind) for part, kind in parts.items())
    ):
        raise InvalidValue(
            f"{name} is no results file of this version: `make reproduce-papers SETTING=NAME` writes one"
        )
    if record.get("setting") not in SETTINGS:
        raise InvalidValue(
            f"{name} is of the setting {record.get('setting')!r}; known: {', '.join(SETTINGS)}"
        )
    if record.get("dry_run") is not False:
        raise InvalidValue(f"{name} is of a dry run, whose numbers mean nothing: run the setting itself")


INTRODUCTION = """\
# Settings of published work

Six settings of three papers. One command runs a setting on a GPU and writes one results file. This page takes
it in.

```sh
make reproduce-papers SETTING=unlock_svamp DRY_RUN=1   # on tiny untrained models: does it run here?
make reproduce-papers SETTING=unlock_svamp             # the setting itself, to unlock_svamp.json
python -m studies.papers unlock_svamp.json             # into docs/results/papers, and this page anew
```

- **A dry run** makes models of the same architecture, blocks and ratio of heads, with few dimensions and
  random weights, and small sets in the formats of their owners. It needs no network. Its numbers mean
  nothing, and this page refuses its file.
- **Before a run starts**, it compares the size of the models with the free memory of the GPUs. It says
  how many tokens the models read, and how long that takes at least. Recording compares its store with
  the free disk.
- **To send results back**, open a pull request with the file, or attach it to an issue. It holds no text
  that a model wrote.
- **Gated**: Gemma, and LMSYS-Chat-1M of `paper_chat` (`hf auth login`).
- **Further settings** go behind: `lrt reproduce chen_gemma corpus.tokens.train=10000000`.
"""


def papers_page(files: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of all settings, as Markdown. `files` are results files of real runs, by name.

    Raises InvalidValue as `check_file`.
    """
    for name, record in files.items():
        check_file(record, name)
    rows = [
        (setting.name, setting.title, sum(record["setting"] == setting.name for record in files.values()))
        for setting in SETTINGS.values()
    ]
    overview = Table("Settings", ("setting", "what", "results here"), tuple(rows))
    sections = [
        part
        for setting in SETTINGS.values()
        for part in _section(setting, {n: r for n, r in files.items() if r["setting"] == setting.name})
    ]
    return "\n\n".join(part.rstrip() for part in (INTRODUCTION, overview.markdown(), *sections)) + "\n"


def _section(setting: PaperSetting, files: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    yield f"## {setting.title.replace('->', '→')}"
    yield (
        f"{setting.source}; `experiment={setting.name}`.\n\n- **Reported there**: {setting.reported}\n"
        f"- **Different here**: {setting.differs}"
    )
    if not files:
        yield "No results yet."
    for name, record in files.items():
        yield f"### {escape_markdown(name)}"
        yield escape_markdown(headline(record))
        yield escape_markdown(verdicts(record))
        tables = (
            headline_brief(record),
            dose_table(record),
            null_table(record),
            paper_table(record),
            fidelity_table(record),
            Table("What made them", ("what", "value"), tuple(_facts(record))),
        )
        yield from (table.markdown() for table in tables if table.rows)


def _facts(record: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    models = [
        (side, f"{m.get('path') or m['name']} at {m.get('revision') or 'a local copy'}, {m.get('dtype')}")
        for side in ("source", "target")
        for m in [record["pair"][side]]
    ]
    blocks = [(f"{side} blocks", format_layers(record["layers"][side])) for side in ("source", "target")]
    hours = figure(sum((record.get("seconds") or {}).values()) / 3600)
    known = [fact for fact in provenance_facts(record["provenance"]) if not fact[0].startswith("fingerprint")]
    return [*models, *blocks, ("hours", hours), *known]
