"""Stage 1: the two models, and where a result came from."""

import subprocess
from pathlib import Path
from unittest import mock

import pytest
from stages import RECORDING

from lrt.config import Layers, PairSettings
from lrt.errors import InvalidValue, UserError
from lrt.models import ModelNotLoadable, ModelSpec
from lrt.models.chat_template import ChatTemplate
from lrt.pipeline import ModelPair, UntrainedSource, load_pair, plan_layers
from lrt.pipeline import provenance as module
from lrt.pipeline.provenance import provenance


def specs(folder: Path) -> tuple[ModelSpec, ModelSpec]:
    return ModelSpec(path=str(folder / "little")), ModelSpec(path=str(folder / "big"))


def test_sides_names_and_templates(tiny_pair: ModelPair, pair_folder: Path, tmp_path: Path) -> None:
    assert tiny_pair.model("source") is tiny_pair.source
    assert tiny_pair.model("target") is tiny_pair.target
    assert tiny_pair.names == {"source": "little", "target": "big"}
    assert tiny_pair.template == ChatTemplate.of(tiny_pair.source.tokenizer)
    target = load_pair(PairSettings("p", *specs(pair_folder), template="target"), tmp_path, {"source": 2})
    assert target.template == ChatTemplate.of(target.target.tokenizer)
    assert len(target.source.blocks) == 2  # no more than are needed
    assert target.identities == tiny_pair.identities


def test_arguments_of_the_template_are_checked_before_weights_are_read(
    pair_folder: Path, tmp_path: Path
) -> None:
    settings = PairSettings("p", *specs(pair_folder), template_kwargs={"enable_thinking": False})
    with (
        mock.patch("lrt.pipeline.pair.load", side_effect=AssertionError),
        pytest.raises(InvalidValue, match="enable_thinking"),
    ):
        load_pair(settings, tmp_path)


def test_weights_are_loaded_when_they_are_needed(pair_folder: Path, tmp_path: Path) -> None:
    settings = PairSettings("p", *specs(pair_folder))
    with mock.patch("lrt.pipeline.pair.load", side_effect=AssertionError("loaded")):
        pair = load_pair(settings, tmp_path, weights=False)
        # layers, names and templates are known from the files alone
        plan = plan_layers(Layers((0, 0.7), "auto"), RECORDING, pair)
        assert [each.layers for each in plan.candidates] == [(0, 2), (0, 1, 2, 3)]
        assert [each.width for each in plan.candidates] == [32, 48]
        with pytest.raises(UserError, match=r"layers\.source=3"):
            plan_layers(Layers(3, 1), RECORDING, pair)
        assert pair.names == {"source": "little", "target": "big"}
        with pytest.raises(AssertionError, match="loaded"):
            _ = pair.target
    assert pair.target is pair.model("target")
    assert pair.target.tokenizer is pair.models["target"].tokenizer


def test_a_model_that_is_not_there(pair_folder: Path, tmp_path: Path) -> None:
    source, _ = specs(pair_folder)
    with pytest.raises(ModelNotLoadable, match="nowhere"):
        load_pair(PairSettings("p", source, ModelSpec(path=str(tmp_path / "nowhere"))), tmp_path)


def test_the_untrained_source_has_the_architecture_and_other_weights(
    untrained: UntrainedSource, tiny_pair: ModelPair
) -> None:
    assert untrained.identity != tiny_pair.identities["source"]
    model = untrained.model
    assert (model.depth, model.width) == (tiny_pair.source.depth, tiny_pair.source.width)
    one, other = (lm.model.get_input_embeddings().weight for lm in (model, tiny_pair.source))
    assert not (one == other).all()


def test_every_draw_of_untrained_sources_has_weights_of_its_own(pair_folder: Path) -> None:
    spec = ModelSpec(path=str(pair_folder / "little"))
    draws = UntrainedSource.draws(spec, 5, 3, pair_folder / "cache")
    assert len({each.identity["seed"] for each in draws}) == len({each.name for each in draws}) == 3
    assert UntrainedSource.draws(spec, 5, 0, pair_folder / "cache") == ()


def test_provenance_outside_of_a_checkout_and_on_a_gpu() -> None:
    failed = subprocess.CalledProcessError(128, "git")
    with (
        mock.patch("subprocess.run", side_effect=failed),
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda.device_count", return_value=2),
        mock.patch("torch.cuda.get_device_name", return_value="H100"),
    ):
        there = provenance()
    assert there["commit"] is None
    assert there["machine"] == "2 x H100"
    assert "torch" in provenance()["versions"]


def test_the_commit_runs_nothing_that_the_repository_s_configuration_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        author = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *author, *words], cwd=tmp_path, check=True, capture_output=True)

    file, ran = tmp_path / "a.txt", tmp_path / "ran"
    file.write_text("one")
    git("init", "-q")
    (tmp_path / ".gitattributes").write_text("* filter=e=vil\n")
    git("add", ".")
    git("commit", "-qm", "one")
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    clean = provenance()["commit"]
    for key in ("filter.e=vil.clean", "filter.e=vil.process"):
        git("config", key, f"touch {ran}; cat")
    git("config", "filter.e=vil.required", "true")
    file.write_text("two")
    assert provenance()["commit"] == f"{clean}-dirty"
    assert not ran.exists()
