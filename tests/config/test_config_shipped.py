"""Every shipped config composes, reads, and fits the signatures that it will be bound to."""

import inspect
from functools import cache
from pathlib import Path

import lightning as L
import pytest
import torch
from config.composing import OWN
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter
from running import ROOT, composed

from lrt.cli.atlas import AtlasSettings
from lrt.cli.composing import CONF
from lrt.cli.pretrain import Order
from lrt.cli.record import RecordSettings
from lrt.config import Config, Layers, read_config, read_section
from lrt.config.defaults import NODES
from lrt.config.reading import as_plain
from lrt.evaluation import Refusal, Texts
from lrt.evaluation.storybook import NAMES
from lrt.evaluation.suites import CombinedSuite
from lrt.mapping import FitSpec

# what a user has to give with an option
GIVEN = {
    "pair=own": OWN[1:],
    "corpus=text": ("corpus.sources.text.paths=[FOLDER]",),
    "corpus=hub": ("corpus.sources.hub.path=ID",),
    "corpus=jsonl": ("corpus.sources.jsonl.path=FILE",),
    "corpus=mixture": (
        "corpus.sources.general.paths=[FOLDER]",
        "corpus.sources.chats.path=FILE",
        "corpus.sources.french.paths=[FOLDER]",
    ),
    "experiment=paper_sae": (
        "analysis.sae.source=FOLDER",
        "analysis.sae.target=FOLDER",
        "suite.french=[FILE]",
        "suite.english=[FILE]",
    ),
    "suite=files": ("suite.paths=[FILE]", "evaluation.during_training.behaviours=[]"),
    "suite=texts": ("suite.french=[FILE]", "suite.english=[FILE]"),
    "suite=real": ("suite.parts.texts.french=[FILE]", "suite.parts.texts.english=[FILE]"),
}


def options() -> list[str]:
    every = [f"{file.parent.name}={file.stem}" for file in sorted(CONF.glob("*/*.yaml"))]
    return [option for option in every if not option.startswith("lab=")]


@cache
def config_of(option: str) -> Config:
    pair = () if option.startswith(("pair=", "experiment=paper", "experiment=real")) else OWN
    return read_config(composed("train", *pair, option, *GIVEN.get(option, ())))


@pytest.mark.parametrize("option", options())
def test_option_composes_reads_and_binds(option: str) -> None:
    config = config_of(option)
    config.map.check(96, 144)  # widths of the default pair
    config.fit.check(config.map)
    if isinstance(config.fit, FitSpec):
        optimizer = getattr(torch.optim, config.fit.optimizer)
        inspect.signature(optimizer).bind([], lr=config.fit.learning_rate, **config.fit.options)
    inspect.signature(L.Trainer).bind(**config.trainer, **config.fit.trainer_options())
    if config.suite.kind == "storybook":
        names = config.suite.names or NAMES
        assert set(names) <= set(NAMES)
        assert set(config.evaluation.during_training.behaviours) <= set(names)


@pytest.mark.parametrize("name", ["evaluate", "record", "atlas"])
def test_commands_share_the_settings_of_training(name: str) -> None:
    # or evaluate.py would look for another map than the one that train.py made
    train, other = (as_plain(composed(each, *OWN, output="x")) for each in ("train", name))
    assert (train.pop("task_name"), other.pop("task_name")) == ("train", name)
    if name != "evaluate":
        other.pop(name)
    assert other == train


@pytest.mark.parametrize(("name", "kind"), [("atlas", AtlasSettings), ("record", RecordSettings)])
def test_sections_of_other_commands_read_beside_the_rest(name: str, kind: type) -> None:
    settings, rest = read_section(composed(name, *OWN), name, kind)
    assert isinstance(settings, kind)
    assert name not in rest
    assert read_config(rest).task_name == name


def test_the_coverage_study_composes() -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "studies" / "conf"), version_base="1.3", job_name="coverage"):
        config = compose("coverage", overrides=[f"hydra.searchpath=[file://{CONF}]"])
    read = read_config(config)
    assert (read.task_name, read.evaluation.eval_split) == ("coverage", "development")
    assert len(read.corpus.sources) > 3


@pytest.mark.parametrize("member", sorted(file.stem for file in (CONF / "lab").glob("*.yaml")))
def test_family_member_composes_and_reads(member: str) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="pretrain"):
        config = compose("pretrain", overrides=[f"lab={member}"])
    order = TypeAdapter(Order).validate_python(OmegaConf.to_container(config, resolve=True))
    assert order.lab.name == member
    assert Path(order.work).name == member
    assert order.lab.width % order.lab.heads == 0


def swept(line: str) -> list[list[str]]:
    """The jobs of the first and last value of each `name=a,b` of a multirun's line."""
    parsed = OverridesParser.create().parse_overrides(line.split())
    values = [[f"{o.get_key_element()}={v}" for v in _values(o)] for o in parsed]
    return [[each[0] for each in values], [each[-1] for each in values]]


def _values(override: object) -> list[str]:
    if override.is_sweep_override():  # type: ignore[attr-defined]
        return list(override.sweep_string_iterator())  # type: ignore[attr-defined]
    return [override.get_value_element_as_str()]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "line",
    [
        "experiment=sweep layers.source=1,2,3 layers.target=2,3,4",
        "experiment=sweep pair=storybook-tiny-small,storybook-small-disjoint-medium layers.source=0.6",
        "experiment=micro fit=sgd_micro,adamw,closed_form map=full,low_rank,orthogonal_penalty",
        "experiment=micro debug=default,limit,overfit,profiler",
    ],
)
def test_multirun_overrides_read(line: str) -> None:
    first, last = (read_config(composed("train", *job)) for job in swept(line))
    assert first != last


def test_options_of_a_group_replace_each_other() -> None:
    """What one option of `fit`, `map` or `suite` sets does not reach another."""
    adamw = config_of("fit=adamw").fit
    assert isinstance(adamw, FitSpec)
    assert (adamw.optimizer, adamw.options) == ("AdamW", {})
    assert read_config(composed("train", *OWN, "fit=sgd", "map=low_rank")).map.rank == 32
    assert config_of("map=full").map.rank is None


@pytest.mark.parametrize("option", [option for option in options() if option.startswith("debug=")])
def test_debugging_runs_one_process_on_the_cpu_without_wandb(option: str) -> None:
    config = config_of(option)
    assert config.task_name == "debug"
    assert (config.trainer["accelerator"], config.trainer["devices"]) == ("cpu", 1)
    assert config.trainer["detect_anomaly"]
    assert config.logging.mode == "disabled"


# -- the paper ---------------------------------------------------------------------------------------


def test_adamw_is_the_paper() -> None:
    fit = config_of("fit=adamw").fit
    assert isinstance(fit, FitSpec)
    assert (fit.optimizer, fit.learning_rate, fit.epochs) == ("AdamW", 1e-4, 4)
    assert (fit.whitening, fit.schedule, fit.ridge) == ("none", "constant", False)


@pytest.mark.parametrize(
    ("name", "models", "rate", "chats"),
    [
        ("paper_base", ("google/gemma-2-2b", "google/gemma-2-9b"), 1e-4, 0.0),
        ("paper_chat", ("google/gemma-2-2b-it", "google/gemma-2-9b-it"), 1e-3, 0.33),
        ("paper_sae", ("google/gemma-2-2b", "google/gemma-2-9b"), 1e-4, 0.0),
    ],
)
def test_the_papers_trainings_are_those_of_its_table_2(
    name: str, models: tuple[str, str], rate: float, chats: float
) -> None:
    config = config_of(f"experiment={name}")
    assert (config.pair.source.path, config.pair.target.path) == models
    assert config.layers == Layers((20,), (20,))
    fit, tokens = config.fit, config.corpus.tokens
    assert isinstance(fit, FitSpec)
    assert (fit.optimizer, fit.learning_rate, fit.options, fit.epochs) == ("AdamW", rate, {}, 4)
    assert (fit.whitening, fit.schedule, fit.ridge, fit.gradient_clip) == ("none", "constant", False, None)
    assert (config.map.kind, config.map.bias, config.pool) == ("full", True, 1)
    assert (tokens.train, tokens.validation) == (9_000_000, 1_000_000)
    assert (config.corpus.context, config.batches.rows) == (512, 32 * 512)
    sources = config.corpus.sources
    assert sources["pile"].path == "monology/pile-uncopyrighted"  # type: ignore[union-attr]
    whole = sum(source.weight for source in sources.values())
    in_chats = sum(source.weight for source in sources.values() if getattr(source, "chat", False))
    assert in_chats / whole == pytest.approx(chats)
    assert config.analysis.sae.wanted == (name == "paper_sae")


# -- pairs, mixtures, combined suites ----------------------------------------------------------------


OF_TWO_FAMILIES = {
    "pair=smollm2-135m-qwen2.5-coder-0.5b-instruct",
    "pair=smollm2-135m-qwen2.5-coder-1.5b-instruct",
    "pair=gemma-3-270m-qwen2.5-coder-1.5b-instruct",
    "pair=qwen2.5-coder-0.5b-smollm2-135m-instruct",
}


def test_pairs_of_the_hub_are_of_one_owner_and_none_is_named_twice() -> None:
    names = [o for o in options() if o.startswith("pair=") and "storybook" not in o and o != "pair=own"]
    pairs = {option: config_of(option).pair for option in names}
    assert len(pairs) >= 18
    for option, pair in pairs.items():
        assert pair.source.path != pair.target.path, option
        one_owner = pair.source.path.split("/")[0] == pair.target.path.split("/")[0]
        assert one_owner != (option in OF_TWO_FAMILIES), option
        assert pair.source.dtype == pair.target.dtype, option
    assert len({pair.name for pair in pairs.values()}) == len(pairs)


@pytest.mark.parametrize("pair", [o for o in options() if o.endswith(("to-it", "to-instruct"))])
def test_a_base_model_and_its_chat_model_use_the_chat_models_template(pair: str) -> None:
    assert config_of(pair).pair.template == "target"
    assert read_config(composed("train", pair, "pair.reverse=true")).pair.template == "source"


def test_a_mixture_takes_more_parts_and_fewer() -> None:
    mixture: DictConfig = composed(
        "train",
        *OWN,
        "corpus=mixture",
        *GIVEN["corpus=mixture"][:2],
        "+corpus.sources.more={kind: jsonl, path: FILE, chat: true, weight: 0.2}",
        "~corpus.sources.french",
        "corpus.sources.chats.weight=0.5",
    )
    weights = {name: source.weight for name, source in read_config(mixture).corpus.sources.items()}
    assert weights == {"general": 0.6, "chats": 0.5, "more": 0.2}


def test_suites_are_combined_under_names_of_the_users_choice() -> None:
    more = "+suite.parts.more={kind: storybook, names: [bravery]}"
    suite = read_config(composed("train", *OWN, "suite=real", *GIVEN["suite=real"], more)).suite
    assert isinstance(suite, CombinedSuite)
    kinds = {"propensity": "propensity", "refusal": "refusal", "texts": "texts", "more": "storybook"}
    assert {name: part.kind for name, part in suite.parts.items()} == kinds
    # the behaviours that training evaluates by default are among them, so no setting must be changed
    texts, refusal = suite.parts["texts"], suite.parts["refusal"]
    assert isinstance(texts, Texts)
    assert isinstance(refusal, Refusal)
    followed = config_of("suite=real").evaluation.during_training.behaviours
    assert set(followed) <= {*texts.names, *refusal.names}


def test_every_node_of_defaults_is_used_by_a_shipped_config() -> None:
    text = "".join(file.read_text() for file in CONF.rglob("*.yaml"))
    assert [node for node in NODES if f"/defaults/{node}@" not in text] == []
