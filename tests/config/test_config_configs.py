"""Every config that is shipped composes, is valid, and fits the signatures it will be bound to."""

import copy
import inspect
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from lrt.runtime.entry import CONF
from lrt.runtime.pretrain import Order
from lrt.runtime.recorded import Recorded
from lrt.runtime.schema import Combined, Config, ConfigError, Layers, read_config
from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter
from running import composed

from lrt.evaluation import Refusal, Texts
from lrt.evaluation.storybook import NAMES
from lrt.lab.pretraining import FamilyMember
from lrt.mapping import FitSpec

OWN = ("pair=own", "pair.source.path=SMALL", "pair.target.path=LARGE")
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
    found = [f"{file.parent.name}={file.stem}" for file in sorted(CONF.glob("*/*.yaml"))]
    return [option for option in found if not option.startswith("lab=")]


@cache
def config_of(option: str) -> Config:
    pair = () if option.startswith(("pair=", "experiment=paper")) else OWN
    return read_config(composed("train", *pair, option, *GIVEN.get(option, ())))


@cache
def whole() -> DictConfig:
    return composed("train", *OWN)


@cache
def of_suite(name: str) -> DictConfig:
    return composed("train", *OWN, name, *GIVEN.get(name, ()))


def read(*settings: str, suite: str = "") -> Config:
    """The config with `path=value` changed or added, as Hydra's `path=value` and `+path=value` do."""
    config = copy.deepcopy(of_suite(suite) if suite else whole())
    for setting in settings:
        path, value = setting.split("=", 1)
        OmegaConf.update(config, path, yaml.safe_load(value), force_add=True)
    return read_config(config)


@pytest.mark.parametrize("option", options())
def test_option_composes_is_valid_and_binds(option: str) -> None:
    config = config_of(option)
    config.map.check(96, 144)  # widths of the default pair
    config.fit.check(config.map)
    if isinstance(config.fit, FitSpec):
        torch_optimizer = getattr(torch.optim, config.fit.optimizer)
        inspect.signature(torch_optimizer).bind([], lr=config.fit.learning_rate, **config.fit.options)
    inspect.signature(L.Trainer).bind(**config.trainer, **config.fit.trainer_options())
    if config.suite.kind == "storybook":
        names = config.suite.names or NAMES
        assert set(names) <= set(NAMES)
        assert set(config.evaluation.during_training.behaviours) <= set(names)


def test_train_and_evaluate_compose_the_same() -> None:
    # or evaluate.py would look for another map than the one train.py made
    assert composed("train", *OWN, output="x") == composed("evaluate", *OWN, output="x")


def test_adamw_is_the_paper() -> None:
    fit = read_config(composed("train", *OWN, "fit=adamw")).fit
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
    assert sources["pile"].path == "monology/pile-uncopyrighted"
    whole = sum(source.weight for source in sources.values())
    assert sum(s.weight for s in sources.values() if s.chat) / whole == pytest.approx(chats)
    assert config.analysis.sae.wanted == (name == "paper_sae")


@pytest.mark.parametrize("option", ["pair=gemma-2-2b-9b", "pair=storybook"])
def test_a_pair_can_be_taken_the_other_way_round(option: str) -> None:
    there, back = config_of(option).pair, read_config(composed("train", option, "pair.reverse=true")).pair
    assert (back.source, back.target) == (there.target, there.source)
    assert back.name == f"{there.name}, reversed"
    assert not back.reverse  # it is in order now: who reads it does not turn it back


@pytest.mark.parametrize("pair", [o for o in options() if o.endswith(("to-it", "to-instruct"))])
def test_what_was_made_of_a_base_model_writes_the_chats(pair: str) -> None:
    assert config_of(pair).pair.template == "target"
    assert read_config(composed("train", pair, "pair.reverse=true")).pair.template == "source"


@pytest.mark.parametrize(
    ("template", "of_source", "of_target", "taken"),
    [
        ("auto", "one", "other", "one"),
        ("auto", None, "other", "other"),
        ("source", "one", "other", "one"),
        ("target", "one", "other", "other"),
    ],
)
def test_chats_are_written_in_the_template_asked_for(
    template: str, of_source: str | None, of_target: str, taken: str
) -> None:
    def model(chat_template: str | None) -> SimpleNamespace:
        return SimpleNamespace(tokenizer=SimpleNamespace(chat_template=chat_template))

    run = SimpleNamespace(
        config=SimpleNamespace(pair=SimpleNamespace(template=template)),
        source=model(of_source),
        target=model(of_target),
    )
    assert Recorded._template(run).chat_template == taken  # type: ignore[arg-type]


def test_local_copies_are_found_by_the_last_part_of_the_id(tmp_path: Path) -> None:
    pair = "pair=qwen2.5-coder-0.5b-1.5b-instruct"
    gguf, folder = tmp_path / "qwen2.5-coder-0.5b-instruct", tmp_path / "Qwen2.5-Coder-1.5B-Instruct"
    for each in (gguf, folder):
        each.mkdir()
    (gguf / "model.gguf").touch()
    (folder / "config.json").touch()
    (folder / "also.gguf").touch()  # the folder is whole without it
    given = (pair, f"pair.models={tmp_path}", "pair.source.revision=main")
    found = read_config(composed("train", *given)).pair
    assert (found.source.path, found.target.path) == (str(gguf / "model.gguf"), str(folder))
    assert found.source.revision is None
    assert found.source.name == "Qwen2.5-Coder-0.5B-Instruct"
    turned = read_config(composed("train", *given, "pair.reverse=true")).pair
    assert (turned.source, turned.target) == (found.target, found.source)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "has the folders none"),
        (("other/model.gguf",), "has the folders other"),
        (("qwen2.5-coder-0.5b-instruct/readme",), "has the GGUF files none"),
        (
            ("qwen2.5-coder-0.5b-instruct/a.gguf", "qwen2.5-coder-0.5b-instruct/b.gguf"),
            "has the GGUF files a.gguf, b.gguf",
        ),
    ],
)
def test_a_local_copy_that_is_not_there(files: tuple[str, ...], message: str, tmp_path: Path) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    given = ("pair=qwen2.5-coder-0.5b-1.5b-instruct", f"pair.models={tmp_path}")
    with pytest.raises(ConfigError, match=r"no copy of Qwen/Qwen2.5-Coder-0.5B.*config\.json") as told:
        read_config(composed("train", *given))
    assert message in str(told.value)


def test_a_mixture_takes_more_parts_and_fewer() -> None:
    added = "+corpus.sources.more={kind: jsonl, path: FILE, chat: true, weight: 0.2}"
    changed = (
        *GIVEN["corpus=mixture"][:2],
        added,
        "~corpus.sources.french",
        "corpus.sources.chats.weight=0.5",
    )
    sources = read_config(composed("train", *OWN, "corpus=mixture", *changed)).corpus.sources
    assert {name: source.weight for name, source in sources.items()} == {
        "general": 0.6,
        "chats": 0.5,
        "more": 0.2,
    }


def test_pairs_of_the_hub_are_of_one_owner_and_none_is_named_twice() -> None:
    names = [option for option in options() if option.startswith("pair=") and "storybook" not in option]
    found = {option: config_of(option).pair for option in names if option != "pair=own"}
    assert len(found) >= 18
    for option, pair in found.items():
        assert pair.source.path != pair.target.path, option
        assert pair.source.path.split("/")[0] == pair.target.path.split("/")[0], option
        assert pair.source.dtype == pair.target.dtype, option
    assert len({pair.name for pair in found.values()}) == len(found)


@pytest.mark.parametrize("member", sorted(file.stem for file in (CONF / "lab").glob("*.yaml")))
def test_family_member_composes_and_is_valid(member: str) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="pretrain"):
        config = compose("pretrain", overrides=[f"lab={member}"])
    order = TypeAdapter(Order).validate_python(OmegaConf.to_container(config, resolve=True))
    assert isinstance(order.lab, FamilyMember)
    assert order.lab.name == member
    assert Path(order.work).name == member
    assert order.lab.width % order.lab.heads == 0


SECTIONS = (
    "",
    "pair.",
    "pair.source.",
    "layers.",
    "corpus.",
    "corpus.tokens.",
    "corpus.sources.stories.",
    "filter.",
    "recording.",
    "map.",
    "fit.",
    "batches.",
    "suite.",
    "evaluation.",
    "evaluation.grid.",
    "evaluation.during_training.",
    "logging.",
    "paths.",
)


@pytest.mark.parametrize("section", SECTIONS)
def test_unknown_key_is_named_with_its_path(section: str) -> None:
    with pytest.raises(ConfigError) as e:
        read(f"{section}nonsense=1")
    (fault,) = str(e.value).splitlines()[1:]  # it, and nothing else
    assert fault.startswith(f"  {section}nonsense: is not a setting")


@pytest.mark.parametrize(
    ("override", "path", "said"),
    [
        ("layers.source=middle", "layers.source", "valid integer"),
        ("layers.target=null", "layers.target", "valid integer"),
        ("seed=1.5", "seed", "valid integer"),
        ("batches.rows=many", "batches.rows", "valid integer"),
        ("evaluate=perhaps", "evaluate", "valid boolean"),
        ("map.rank=high", "map.rank", "valid integer"),
        ("map.kind=linear", "map.kind", "'full', 'low_rank', 'orthogonal' or 'orthogonal_penalty'"),
        ("logging.mode=sometimes", "logging.mode", "'offline', 'online' or 'disabled'"),
        ("pair.source.dtype=float8", "pair.source.dtype", "'float32'"),
        ("fit.options=high", "fit.options", "valid dictionary"),
        ("evaluation.grid.unit=logits", "evaluation.grid.unit", "'residual_norm' or 'absolute'"),
        ("evaluation.grid.strengths=[0,high]", "evaluation.grid.strengths", "valid number"),
        ("filter.token_ids=[a]", "filter.token_ids", "valid integer"),
    ],
)
def test_wrong_type_names_path_value_and_what_is_allowed(override: str, path: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(override)
    message = str(error.value)
    assert f"\n  {path}" in message
    assert said in message
    assert override.split("=")[1].strip("[]").split(",")[-1].replace("null", "None") in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("evaluation.grid.strengths=[0.5,1.0]", "evaluation.grid.strengths=[0.5, 1.0] has no 0"),
        ("evaluation.grid.strengths=[0.0,1.0,0.5]", "must rise"),
        ("filter.max_norm_ratio=0.5", "filter.max_norm_ratio is 0.5"),
        ("batches.rows=0", "batches.rows=0; it must be at least 1"),
        ("batches.workers=-1", "batches.workers=-1; it must be at least 0"),
        ("evaluation.during_training.every=0", "evaluation.during_training.every=0"),
        ("evaluation.random_draws=0", "no result stands without its nulls"),
        ("evaluation.resampled_draws=1", "must be 0 or at least 2"),
        ("evaluation.max_rows=0", "evaluation.max_rows=0; it must be at least 1"),
        ("evaluation.behaviours=[french,french]", "names one twice"),
        ("evaluation.eval_split=train", "'development' or 'test'"),
        ("recording.batch_tokens=0", "recording.batch_tokens=0; it must be at least 1"),
        ("corpus.tokens.validation=0", "every split holds at least one sequence of corpus.context=128"),
        ("corpus.tokens.test=100", "corpus.tokens.test=100"),
        ("pool=129", "pool=129 is longer than a sequence of corpus.context=128"),
        ("evaluation.temperature=-1", "temperature=-1"),
        ("suite.kind=files", "needs `paths`"),
        ("corpus.sources.mine.kind=text", "needs `paths`"),
        ("corpus.sources.mine.kind=jsonl", "needs `path`"),
        (
            "corpus.sources.mine={kind: text, paths: [a], plan: {kind: story}}",
            "belongs to kind=storybook",
        ),
        ("corpus.sources.stories.split=test", "split=test belongs to kind=hub, not to kind=storybook"),
        (
            "corpus.sources.mine={kind: jsonl, path: a, answer_field: b}",
            "answer_field=b is a part of a conversation",
        ),
        ("corpus.sources.mine={kind: questions, path: a}", "kind=questions needs `tasks`"),
        ("corpus.sources.mine={kind: questions, tasks: [a]}", "kind=questions needs `path`"),
        ("corpus.sources.stories.tasks=[a]", "belongs to kind=questions"),
        ("corpus.sources.stories.repeat=0", "repeat=0; rows are given at least once"),
        ("corpus.sources.stories.rows=all", "'spans', 'tokens' or 'ends'"),
        ("pair.target.device_map=all", "'auto', 'balanced', 'balanced_low_0' or 'sequential'"),
        ("corpus.sources.stories.answer_field=a", "answer_field=a belongs to kind=jsonl or hub"),
        ("corpus.sources.stories.paths=[a]", "paths=('a',) belongs to kind=text"),
        ("suite.paths=[a.json]", "suite.paths=('a.json',) belongs to kind=files, not to kind=storybook"),
    ],
)
def test_impossible_value_is_refused_with_the_config(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(override)
    assert said in str(error.value)


def test_all_faults_are_told_together() -> None:
    with pytest.raises(ConfigError) as error:
        read("nonsense=1", "seed=x", "map.kind=linear", "evaluation.grid.strengths=[1.0]")
    for path in ("nonsense:", "seed:", "map.kind:", "evaluation.grid.strengths=[1.0]"):
        assert f"\n  {path}" in str(error.value)


def test_a_settings_path_is_said_once() -> None:
    with pytest.raises(ConfigError) as error:
        read("evaluation.grid.strengths=[1.0]")
    assert "evaluation.grid: " not in str(error.value)


def test_options_of_the_lab_are_refused_for_files() -> None:
    with pytest.raises(ConfigError, match=r"suite\.test=7 belongs to kind=storybook, not to kind=files"):
        read("suite.kind=files", "suite.paths=[a.json]", "suite.test=7")


@pytest.mark.parametrize(
    ("suite", "setting", "said"),
    [
        ("suite=propensity", "suite.nonsense=1", "suite.nonsense: is not a setting"),
        ("suite=propensity", "suite.formats=[essay]", "suite.formats.0: Input should be 'caa' or 'open'"),
        ("suite=propensity", "suite.test=1", "test of at least 2"),
        ("suite=refusal", "suite.harmful.nonsense=1", "suite.harmful.nonsense: is not a setting"),
        ("suite=refusal", "suite.judge={url: host, model: m}", "suite.judge: Judge needs a http(s) `url`"),
        ("suite=refusal", "suite.names=[x]", "names=['x'] of a refusal suite"),
        ("suite=texts", "suite.french=[]", "needs text files under `french`"),
        ("suite=real", "suite.nonsense=1", "suite.nonsense: is not a setting"),
        ("suite=real", "suite.parts.refusal.nonsense=1", "suite.parts.refusal.nonsense: is not a setting"),
        ("suite=real", "suite.parts.mine={kind: several}", "suite.parts.mine"),
        ("suite=files", "suite.kind=folder", "suite: kind='folder'; allowed: 'storybook', 'files', "),
    ],
)
def test_suites_name_their_faults_by_path(suite: str, setting: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(setting, suite=suite)
    told = str(error.value).splitlines()[1:]
    assert len(told) == 1
    assert said in told[0]
    assert "kind=refusal." not in told[0]


def test_the_suites_defaults_are_those_of_their_configs() -> None:
    for name, files in (
        ("propensity", ()),
        ("refusal", ("harmful", "harmless")),
        ("texts", ("french", "english")),
    ):
        settings = read(suite=f"suite={name}").suite
        given = {file: getattr(settings, file) for file in files}
        assert settings == type(settings)(**given)


def test_suites_are_put_together_under_names_of_their_own() -> None:
    suite = read("suite.parts.more={kind: storybook, names: [bravery]}", suite="suite=real").suite
    assert isinstance(suite, Combined)
    assert {name: part.kind for name, part in suite.parts.items()} == {
        "propensity": "propensity",
        "refusal": "refusal",
        "texts": "texts",
        "more": "storybook",
    }
    # three of the names that the default probe follows are there, so no setting must be changed
    texts, refusal = suite.parts["texts"], suite.parts["refusal"]
    assert isinstance(texts, Texts)
    assert isinstance(refusal, Refusal)
    assert {"french", "dogs", "refusal_induced"} <= {*texts.names, *refusal.names}


def test_the_schemas_defaults_are_those_of_the_shipped_config() -> None:
    differing: list[str] = []

    def compare(value: Any, path: str) -> None:
        for each in fields(value):
            mine, where = getattr(value, each.name), f"{path}{each.name}"
            if is_dataclass(mine):
                compare(mine, f"{where}.")
            elif each.default is not MISSING and each.default != mine:
                differing.append(f"{where}: {each.default} in the schema, {mine} in conf/")

    config = read()
    for section in ("filter", "recording", "batches", "suite", "evaluation", "logging"):
        compare(getattr(config, section), f"{section}.")
    # the probe of the storybook names the storybook's behaviours
    assert [d.split(":")[0] for d in differing] == ["evaluation.during_training.behaviours"]


def plain(config: Config) -> Any:
    return TypeAdapter(Config).dump_python(config)


def test_reading_keeps_every_value() -> None:
    config = plain(read("layers.source=0.5", "layers.target=3", "seed=3", "map.bias=false"))
    assert config["layers"] == {"source": (0.5,), "target": (3,)}
    assert config["seed"] == 3
    assert config["map"]["bias"] is False
