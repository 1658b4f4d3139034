"""Every fault of a config is named by its path, all of them at once; old names answer with the new ones."""

import copy
from collections.abc import Iterable

import pytest
from config.composing import read
from omegaconf import OmegaConf
from running import composed

from lrt.config import ConfigError, Layers, read_config, read_section, refuse_old_names
from lrt.config.published import Published
from lrt.config.reading import RENAMED, RENAMED_VALUES, as_plain
from lrt.errors import UserError
from lrt.evaluation.suites import judges_of
from lrt.pipeline.grid_atlas import AtlasSettings

FILES = ("suite=files", "suite.paths=[a.json]")
REAL = ("suite=real", "suite.parts.texts.french=[F]", "suite.parts.texts.english=[F]")
TEXTS = ("suite=texts", "suite.french=[F]", "suite.english=[E]")


def faults(*settings: str, options: tuple[str, ...] = ()) -> list[str]:
    """The lines of the error that these settings cause, without its first."""
    with pytest.raises(ConfigError) as error:
        read(*settings, options=options)
    return [line.strip() for line in str(error.value).splitlines()[1:]]


SECTIONS = (
    "",
    "pair.",
    "pair.source.",
    "layers.",
    "corpus.",
    "corpus.tokens.",
    "corpus.sources.stories.",
    "corpus.sources.stories.plan.",
    "filter.",
    "recording.",
    "map.",
    "fit.",
    "batches.",
    "suite.",
    "evaluation.",
    "evaluation.grid.",
    "evaluation.during_training.",
    "analysis.",
    "analysis.sae.",
    "logging.",
    "paths.",
)


@pytest.mark.parametrize("section", SECTIONS)
def test_unknown_key_is_named_by_its_path(section: str) -> None:
    (fault,) = faults(f"{section}nonsense=1")  # it, and nothing else
    assert fault.startswith(f"{section}nonsense: ")


@pytest.mark.parametrize(
    ("setting", "options", "path"),
    [
        ("corpus.sources.stories.split=test", (), "corpus.sources.stories.split"),
        ("corpus.sources.stories.tasks=[a]", (), "corpus.sources.stories.tasks"),
        ("corpus.sources.stories.answer_field=a", (), "corpus.sources.stories.answer_field"),
        ("corpus.sources.mine={kind: text, paths: [a], plan: {kind: story}}", (), "corpus.sources.mine.plan"),
        ("corpus.sources.mine={kind: scenes, chat: true}", (), "corpus.sources.mine.chat"),
        ("fit.solver=optimum", (), "fit.solver"),
        ("fit.epochs=3", ("fit=closed_form",), "fit.epochs"),
        ("suite.paths=[a.json]", (), "suite.paths"),
        ("suite.test=7", FILES, "suite.test"),
        ("suite.harmful.nonsense=1", ("suite=refusal",), "suite.harmful.nonsense"),
        ("suite.parts.refusal.nonsense=1", REAL, "suite.parts.refusal.nonsense"),
        ("suite.names=[french]", REAL, "suite.names"),
    ],
)
def test_key_of_another_kind_is_named_by_its_path(setting: str, options: tuple[str, ...], path: str) -> None:
    (fault,) = faults(setting, options=options)
    assert fault.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("setting", "options", "path", "allowed"),
    [
        ("corpus.sources.stories.kind=book", (), "corpus.sources.stories", "'questions'"),
        (
            "corpus.sources.stories={weight: 1}",
            ("~corpus.sources.stories",),
            "corpus.sources.stories",
            "kind",
        ),
        ("fit.kind=sgd", (), "fit", "'closed_form'"),
        ("suite.kind=folder", (), "suite", "'storybook'"),
        ("suite.parts.mine={kind: combined}", REAL, "suite.parts.mine", "'storybook'"),
        ("suite.parts.mine={names: [a]}", REAL, "suite.parts.mine", "kind"),
    ],
)
def test_unknown_or_missing_kind_is_named(
    setting: str, options: tuple[str, ...], path: str, allowed: str
) -> None:
    (fault,) = faults(setting, options=options)
    assert fault.startswith(f"{path}: ")
    assert allowed in fault


@pytest.mark.parametrize(
    ("override", "path", "allowed"),
    [
        ("layers.source=middle", "layers.source", "'auto'"),
        ("layers.target=null", "layers.target", "None"),
        ("seed=1.5", "seed", "1.5"),
        ("seed=-1", "seed", "-1"),
        ("pool=0", "pool", "0"),
        ("batches.rows=many", "batches.rows", "'many'"),
        ("evaluate=perhaps", "evaluate", "'perhaps'"),
        ("suite=null", "suite", "None"),
        ("corpus.sources.stories=3", "corpus.sources.stories", "3"),
        ("map.kind=linear", "map.kind", "'orthogonal_penalty'"),
        ("logging.mode=sometimes", "logging.mode", "'disabled'"),
        ("pair.source.dtype=float8", "pair.source.dtype", "'float32'"),
        ("pair.target.device_map=all", "pair.target.device_map", "'balanced'"),
        ("fit.options=high", "fit.options", "'high'"),
        ("evaluation.grid.unit=logits", "evaluation.grid.unit", "'absolute'"),
        ("evaluation.grid.strengths=[0,high]", "evaluation.grid.strengths.1", "'high'"),
        ("evaluation.eval_split=train", "evaluation.eval_split", "'development'"),
        ("filter.token_ids=[a]", "filter.token_ids.0", "'a'"),
        ("corpus.sources.stories.rows=all", "corpus.sources.stories.rows", "'last_tokens'"),
        ("corpus.sources.stories.plan.kind=novel", "corpus.sources.stories.plan.kind", "'question'"),
    ],
)
def test_wrong_type_names_path_value_and_what_is_allowed(override: str, path: str, allowed: str) -> None:
    (fault,) = faults(override)
    assert fault.startswith(f"{path}: ")
    assert allowed in fault


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("evaluation.grid.strengths=[0.5,1.0]", "evaluation.grid.strengths=[0.5, 1.0]"),
        ("filter.max_norm_ratio=0.5", "filter.max_norm_ratio=0.5"),
        ("batches.rows=0", "batches.rows=0"),
        ("batches.workers=-1", "batches.workers=-1"),
        ("recording.batch_tokens=0", "recording.batch_tokens=0"),
        ("evaluation.during_training.points=0", "evaluation.during_training.points=0"),
        ("evaluation.random_draws=0", "evaluation.random_draws=0"),
        ("evaluation.max_rows=0", "evaluation.max_rows=0"),
        ("evaluation.folds=1", "evaluation.folds=1"),
        ("evaluation.resampled_draws=1", "evaluation.resampled_draws=1"),
        ("evaluation.temperature=-1", "evaluation.temperature=-1"),
        ("evaluation.behaviours=[french,french]", "evaluation.behaviours=['french', 'french']"),
        ("layers.target=[]", "layers.target"),
        ("corpus.tokens.test=100", "corpus.tokens.test=100"),
        ("pool=129", "pool=129"),
        ("analysis.memory_gb=0", "analysis.memory_gb=0"),
        ("analysis.fidelity_tokens=-1", "analysis.fidelity_tokens=-1"),
        ("analysis.fidelity_kinds=[low_rank]", "analysis.fidelity_kinds=['low_rank']"),
        ("analysis.sae.features=8", "analysis.sae.k"),
        ("analysis.sae={features: 8, k: 4, top: 9}", "analysis.sae.top=9"),
        ("analysis.sae={features: 8, k: 4, top: 4, source: a, target: b}", "analysis.sae.features=8"),
        ("analysis.sae.source=a", "analysis.sae.source=a"),
        ("analysis.sae.least_correlation=1", "analysis.sae.least_correlation=1"),
        # of one part of many, or one model of two: the section stands before the message
        ("corpus.sources.stories.repeat=0", "corpus.sources.stories: repeat=0"),
        ("corpus.sources.mine={kind: text}", "corpus.sources.mine: kind=text"),
        ("corpus.sources.mine={kind: jsonl}", "corpus.sources.mine: `path`"),
        ("corpus.sources.mine={kind: hub, path: a, answer_field: b}", "corpus.sources.mine: answer_field=b"),
        ("corpus.sources.mine={kind: questions, path: a}", "corpus.sources.mine: kind=questions"),
        ("corpus.sources.mine={kind: questions, tasks: [a]}", "corpus.sources.mine: `path`"),
        ("corpus.sources.mine={kind: questions, path: b, tasks: [a, a]}", "corpus.sources.mine: tasks="),
        ("pair.source.path=''", "pair.source: `path`"),
    ],
)
def test_impossible_value_is_named_by_its_path(override: str, path: str) -> None:
    (fault,) = faults(override)
    assert fault.startswith(path)  # and not `section: section.setting=...`


@pytest.mark.parametrize(
    ("setting", "options", "start"),
    [
        ("suite.formats=[essay]", ("suite=propensity",), "suite.formats.0: "),
        ("suite.test=1", ("suite=propensity",), "suite: test=1"),
        ("suite.judge={url: host, model: m}", ("suite=refusal",), "suite.judge: "),
        ("suite.names=[x]", ("suite=refusal",), "suite: names=['x']"),
        ("suite.french=[]", TEXTS, "suite: french=[]"),
        ("suite.paths=[]", FILES, "suite.paths=[]"),
        ("suite={kind: combined, parts: {}}", ("~suite.names",), "suite"),
    ],
)
def test_suites_name_their_faults_by_path(setting: str, options: tuple[str, ...], start: str) -> None:
    assert any(fault.startswith(start) for fault in faults(setting, options=options))


def test_a_judge_reads_no_variable_that_is_not_listed() -> None:
    def judge(key: str) -> str:
        return f"{{url: http://localhost, model: m, key_variable: {key}}}"

    for setting, options in (
        (f"suite.judge={judge('HF_TOKEN')}", ("suite=refusal",)),
        (f"suite.judge={judge('HF_TOKEN')}", FILES),
        (f"suite.parts.refusal.judge={judge('HF_TOKEN')}", REAL),
    ):
        assert any(
            "'HF_TOKEN'" in each and "judge_key_variables" in each
            for each in faults(setting, options=options)
        )
        config = read(setting, "judge_key_variables=[HF_TOKEN]", options=options)
        assert [each.key_variable for each in judges_of(config.suite)] == ["HF_TOKEN"]
    for key in ("''", "OPENAI_API_KEY"):
        read(f"suite.judge={judge(key)}", options=("suite=refusal",))


def test_all_faults_are_reported_together() -> None:
    lines = faults("nonsense=1", "seed=x", "map.kind=linear", "evaluation.grid.strengths=[1.0]")
    for path in ("nonsense:", "seed:", "map.kind:", "evaluation.grid.strengths=[1.0]"):
        assert any(line.startswith(path) for line in lines)


def test_values_are_read_as_they_are() -> None:
    config = read("layers.source=0.5", "layers.target=auto", "map.bias=false")
    assert config.layers == Layers((0.5,), "auto")
    assert config.map.bias is False
    assert read("corpus.sources.stories.fit_map_for=[a]").corpus.parts_for("a") == ("stories",)
    assert read().corpus.parts_for("a") == ()


def test_a_missing_value_and_a_bad_interpolation_are_config_errors() -> None:
    missing, circle = OmegaConf.create({"a": "???"}), OmegaConf.create({"a": "${b}", "b": "${a}"})
    for reading in (lambda: as_plain(missing), lambda: as_plain(circle), lambda: Published(circle)):
        with pytest.raises(ConfigError, match="a"):
            reading()
    assert issubclass(ConfigError, UserError)


def test_a_section_of_its_own_is_read_and_named_alike() -> None:
    config = OmegaConf.create(
        {"seed": 1, "atlas": {"source": 3, "target": "all", "memory_gb": 1.0, "checkpoint_every": 9}}
    )
    settings, rest = read_section(config, "atlas", AtlasSettings)
    assert settings == AtlasSettings(3, "all", 1.0, 9)
    assert rest == {"seed": 1}
    broken = copy.deepcopy(config)
    broken.atlas.layers = 3
    with pytest.raises(ConfigError, match=r"atlas\.layers: "):
        read_section(broken, "atlas", AtlasSettings)


# -- settings of earlier versions --------------------------------------------------------------------

OLD_KEYS = {
    "span": "pool",
    "filter.massive": "filter.max_norm_ratio",
    "corpus.sources.stories.carries": "corpus.sources.stories.fit_map_for",
    "evaluation.grid.shares": "evaluation.grid.ablation_fractions",
    "evaluation.items": "evaluation.eval_split",
    "evaluation.probe": "evaluation.during_training",
    "evaluation.probe.items": "evaluation.during_training.items",
    "evaluation.during_training.every": "evaluation.during_training.points",
    "analysis.cuts": "analysis.stitching_depths",
    "suite.ordinary": "suite.neutral_texts",
    "suite.parts.refusal.ordinary": "suite.parts.refusal.neutral_texts",
    "suite.judge.attempts": "suite.judge.max_retries",
    "suite.judge.pause": "suite.judge.backoff",
    "suite.judge.at_once": "suite.judge.max_concurrency",
    "suite.parts.refusal.judge.around": "suite.parts.refusal.judge.template_affixes",
    "ship_anyway": "allow_failed_checks",
    "lab.shelf": "lab.split",
}
OLD_VALUES = {
    ("recording.non_finite", "leave_out"): "'exclude'",
    ("corpus.sources.stories.rows", "spans"): "'pooled'",
    ("corpus.sources.stories.rows", "ends"): "'last_tokens'",
    ("suite.kind", "several"): "'combined'",
}


def test_every_renaming_is_tested() -> None:
    assert len(RENAMED) <= len(OLD_KEYS)
    assert len(RENAMED_VALUES) == len(OLD_VALUES)


@pytest.mark.parametrize(("old", "new"), OLD_KEYS.items())
@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_an_old_key_on_the_command_line_names_the_new_one(old: str, new: str, sign: str) -> None:
    with pytest.raises(ConfigError) as error:
        refuse_old_names(["seed=1", f"{sign}{old}=3"])
    assert f"{old} is now {new}" in str(error.value)


def test_new_keys_on_the_command_line_pass() -> None:
    refuse_old_names([f"{new}=3" for new in OLD_KEYS.values()] + ["spans=3", "corpus.span=1", "~layers"])


def of_judge(names: Iterable[str]) -> str:
    return "{url: 'http://a', model: m, " + ", ".join(f"{name}: 1" for name in names) + "}"


@pytest.mark.parametrize("old", [old for old in OLD_KEYS if not old.startswith(("ship", "lab"))])
def test_an_old_key_in_a_users_yaml_names_the_new_one(old: str) -> None:
    options: tuple[str, ...] = ()
    if old.startswith("suite"):
        options = REAL if "parts" in old else ("suite=refusal",)
    setting, new = f"{old}=1", OLD_KEYS[old]
    if ".judge." in old:
        section, name = old.rsplit(".", 1)
        setting = f"{section}={of_judge([name])}"
    elif old.startswith("evaluation.probe"):  # YAML nests it: the section is the unknown key
        setting, old, new = "evaluation.probe={every: 1}", "evaluation.probe", "evaluation.during_training"
    lines = faults(setting, options=options)
    assert any(line.startswith(old) and f"is now {new}" in line for line in lines)


@pytest.mark.parametrize(("setting", "new"), OLD_VALUES.items())
def test_an_old_value_names_the_new_one(setting: tuple[str, str], new: str) -> None:
    path, value = setting
    (fault,) = faults(f"{path}={value}")
    assert fault.startswith(path.removesuffix(".kind"))
    assert new in fault


def test_an_old_value_is_not_one_elsewhere() -> None:
    (fault,) = faults("logging.mode=spans")
    assert "'pooled'" not in fault


def test_an_old_name_in_a_config_of_another_command_names_the_new_one() -> None:
    config = OmegaConf.create({"evaluation": {"items": 3}})
    with pytest.raises(ConfigError, match=r"evaluation\.items"):
        read_config(config)


def test_the_home_folder_is_written_out_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/jo")
    hub = "{kind: hub, path: '~/set'}"
    config = read_config(
        composed("train", "paths.artifacts='~/a'", "ckpt_path='~/c.ckpt'", f"+corpus.sources.mine={hub}")
    )
    assert (config.paths.artifacts, config.ckpt_path) == ("/home/jo/a", "/home/jo/c.ckpt")
    assert config.corpus.sources["mine"].path == "/home/jo/set"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("tags=[2024]", """tags='["2024"]'"""),
        ("logging.project=2024", """logging.project='"2024"'"""),
        ("logging.project=1e5", """logging.project='"AS-TYPED"'"""),
        ("logging.project=true", """logging.project='"true"'"""),
        ("logging.project=null", """logging.project='"null"'"""),
    ],
)
def test_the_hint_how_to_quote_a_text_is_an_override(setting: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_config(composed("train", setting))
    assert hint in str(refused.value)
    value = as_plain(composed("train", hint.replace("'", "")))  # as a shell hands it over
    text = value["tags"][0] if setting.startswith("tags") else value["logging"]["project"]
    assert isinstance(text, str)
