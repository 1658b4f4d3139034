"""What changes an artifact's name and what does not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lrt.runtime.pipeline import Pipeline
from lrt.runtime.schema import read_config
from lrt.runtime.session import Session
from running import Workshop, composed

from lrt.corpora import Decontaminator
from lrt.storage.fingerprint import file_digests, fingerprint

Made = Callable[..., Pipeline]
SHARED = ("suite", "exclusion", "source", "target")


@pytest.fixture(scope="module")
def made(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The pipeline of some settings; no model is run."""
    artifacts = tmp_path_factory.mktemp("artifacts")

    def of(*more: str) -> Pipeline:
        settings = Workshop(pair_folder, artifacts).settings(*more)
        config = read_config(composed("train", *settings))
        return Pipeline(config, Session(config, {"overrides": []}, "train"))

    plain = of()

    def sharing(*more: str) -> Pipeline:
        pipeline = of(*more)
        # costly to make, and no setting of these tests changes them
        same = ("suite", "exclusion") if any(m.startswith("pair.source") for m in more) else SHARED
        vars(pipeline).update({name: getattr(plain, name) for name in same})
        return pipeline

    return sharing


def test_order_of_keys_does_not_count() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})


def test_what_is_not_plain_is_refused() -> None:
    with pytest.raises(TypeError, match="PosixPath cannot be part of a fingerprint"):
        fingerprint({"a": Path("x")})


def test_files_of_one_name_both_count(tmp_path: Path) -> None:
    files = [tmp_path / part / "stories.txt" for part in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.write_text(file.parent.name)
    before = file_digests(tuple(map(str, files)))
    files[0].write_text("changed")
    assert file_digests(tuple(map(str, files))) != before


def test_place_of_files_does_not_count(tmp_path: Path) -> None:
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "stories.txt").write_text("same")
    one, other = (file_digests((str(tmp_path / part),)) for part in ("a", "b"))
    assert one == other


@pytest.mark.parametrize(
    ("override", "store", "map_", "studies"),
    [
        # nothing that shows or speeds up changes a result
        ("batches.workers=2", True, True, True),
        ("trainer.enable_progress_bar=true", True, True, True),
        ("trainer.log_every_n_steps=7", True, True, True),
        ("logging.project=other", True, True, True),
        ("paths.report=elsewhere", True, True, True),
        ("evaluation.max_rows=8", True, True, True),
        ("evaluation.behaviours=[french]", True, True, True),
        ("pair.name=another", True, True, True),
        # the same states for every map, the same map for every evaluation
        ("evaluation.random_draws=3", True, True, False),
        ("evaluation.grid.unit=absolute", True, True, False),
        ("evaluation.grid.ablation_fractions=[0.0,1.0]", True, True, True),  # nothing here is ablated
        ("fit.epochs=2", True, False, False),
        ("map.bias=false", True, False, False),
        ("filter.max_norm_ratio=5", True, False, False),
        # this tokenizer closes documents, and those of such a part are left open
        ("corpus.sources.requests.rows=last_tokens", False, False, False),
        ("corpus.sources.requests.repeat=2", True, False, False),
        ("batches.rows=256", True, False, False),
        ("+trainer.accumulate_grad_batches=2", True, False, False),
        ("trainer.devices=2", True, False, False),
        ("seed=1", True, False, False),
        ("layers.source=2", False, False, False),
        ("recording.target=[0]", False, False, False),
        ("recording.source=[1]", True, True, True),  # is recorded as it is
        ("recording.states=int8", False, False, False),
        ("corpus.seed=1", False, False, False),
        ("corpus.tokens.test=2048", False, False, False),
        ("pair.source.dtype=bfloat16", False, False, False),
    ],
)
def test_what_each_setting_makes_anew(
    made: Made, override: str, store: bool, map_: bool, studies: bool
) -> None:
    one, other = made(), made(override)
    assert (one.store_fingerprint == other.store_fingerprint) is store
    assert (one.whole.fingerprint == other.whole.fingerprint) is map_
    assert (one.studies_fingerprint == other.studies_fingerprint) is studies


def test_absolute_strengths_are_the_length_of_what_is_added(made: Made) -> None:
    norms = {"source.1": 7.0, "target.2": 9.0}
    unit = torch.eye(4)[0]
    for setting, strength, length in (("residual_norm", 0.5, 7.0), ("absolute", 4.5, 1.0)):
        run = made(f"evaluation.grid.unit={setting}")
        vars(run)["median_norms"] = norms
        (cell,) = run.steerable("target", 2).cells("native", unit, [strength], 1)
        assert torch.equal(cell.offset, 4.5 * unit)
        assert run.steerable("source", 1).length == length


def test_layers_of_one_store_have_maps_of_their_own(made: Made) -> None:
    one, other = (made("recording.source=[0,1]", f"layers.source={layer}") for layer in (0, 1))
    assert one.store_fingerprint == other.store_fingerprint
    assert one.whole.fingerprint != other.whole.fingerprint


def test_behaviours_whose_texts_are_not_in_the_corpus_record_nothing_anew(made: Made) -> None:
    one, other = made(), made("suite.names=[french]")
    digest = {
        "suite": other.suite[:1],
        "exclusion": Decontaminator(["a text that no page of the lab has in it"]),
    }
    vars(other).update(digest)
    assert other.exclusion.digest != one.exclusion.digest
    assert other.store_fingerprint == one.store_fingerprint
    page = next(other._documents("stories", other.config.corpus.sources["stories"])).text
    left_out = made("suite.names=[capitals]")
    vars(left_out).update({"suite": other.suite[:1], "exclusion": Decontaminator([page])})
    assert left_out.store_fingerprint != one.store_fingerprint


def test_place_and_name_of_a_model_do_not_count(made: Made, pair_folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(pair_folder / "little")
    assert made(f"pair.source.path={moved}").whole.fingerprint == made().whole.fingerprint
    swapped = made(f"pair.source.path={pair_folder / 'big'}")
    assert swapped.store_fingerprint != made().store_fingerprint
