"""What each setting makes anew: the states, the map, the measurements."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stages import QUESTIONS, STORIES, TRAINER, Stages, corpus

from lrt.activations import RowFilter
from lrt.config import Layers, PairSettings
from lrt.evaluation import StrengthGrid
from lrt.mapping import FitSpec, MapSpec
from lrt.models import ModelSpec
from lrt.pipeline import load_pair
from lrt.pipeline.maps import map_fingerprint
from lrt.storage.fingerprint import file_digests, fingerprint


def names(stages: Stages) -> tuple[str, str]:
    """Of the states and of the map of these settings; nothing is made but the text's digest."""
    data = stages.rows.of(stages.plan.candidates)
    return stages.states.fingerprint, map_fingerprint(data, stages.fit_settings)


@pytest.fixture(scope="module")
def plain(shared: Stages) -> Stages:
    """A gradient fit."""
    return shared.but(fit=FitSpec(epochs=1), recording__source=(), recording__target=())


GRID = StrengthGrid((-1.0, 0.0, 0.5, 1.0))
SHOWN = {**TRAINER, "enable_progress_bar": True, "log_every_n_steps": 7}
QUESTIONED = {"stories": STORIES, "questions": QUESTIONS}


@pytest.mark.parametrize(
    ("setting", "states", "map_"),
    [
        # nothing that shows or speeds up changes a result
        ({"batches": "workers"}, True, True),
        ({"trainer": SHOWN}, True, True),
        ({"evaluation__max_rows": 8}, True, True),
        ({"evaluation__behaviours": ("bravery",)}, True, True),
        ({"recording__verify": False}, True, True),
        # the same states for every map, the same map for every evaluation
        ({"evaluation__random_draws": 3}, True, True),
        ({"evaluation__folds": 3}, True, True),
        ({"evaluation__grid": replace(GRID, unit="absolute")}, True, True),
        ({"corpus": corpus(**{**QUESTIONED, "stories": replace(STORIES, fit_map_for=("x",))})}, True, True),
        ({"fit": FitSpec(epochs=2)}, True, False),
        ({"map": MapSpec(bias=False)}, True, False),
        ({"filter": RowFilter(max_norm_ratio=5)}, True, False),
        ({"pool": 2}, True, False),
        ({"products": "float64"}, True, False),
        ({"corpus": corpus(**{**QUESTIONED, "stories": replace(STORIES, repeat=2)})}, True, False),
        ({"batches": "rows"}, True, False),
        ({"trainer": {**TRAINER, "accumulate_grad_batches": 2}}, True, False),
        ({"trainer": {**TRAINER, "devices": 2}}, True, False),
        ({"seed": 1}, True, False),
        ({"layers": Layers(2, 2)}, False, False),
        ({"recording__target": (0,)}, False, False),
        ({"recording__source": (1,)}, True, True),  # is recorded as it is
        ({"recording__states": "int8"}, False, False),
        ({"recording__batch_tokens": 512}, False, False),
        ({"recording__rows_per_shard": 1024}, False, False),
        ({"recording__non_finite": "exclude"}, False, False),
        ({"corpus": replace(corpus(), seed=1)}, False, False),
        ({"corpus": corpus(held_out=512)}, False, False),
        # this tokenizer closes documents, and those of such a part are left open
        ({"corpus": corpus(**{**QUESTIONED, "stories": replace(STORIES, rows="last_tokens")})}, False, False),
    ],
)
def test_what_each_setting_makes_anew(
    plain: Stages, setting: dict[str, Any], states: bool, map_: bool
) -> None:
    if isinstance(changed := setting.get("batches"), str):
        setting = {"batches": replace(plain.batches, **{changed: 2})}
    one, other = names(plain), names(plain.but(**setting))
    assert (one[0] == other[0], one[1] == other[1]) == (states, map_)


def test_layers_of_one_store_have_maps_of_their_own(shared: Stages) -> None:
    one, other = (names(shared.but(layers=Layers(layer, 2))) for layer in (0, 1))
    assert one[0] == other[0]
    assert one[1] != other[1]


@pytest.mark.parametrize(("temperature", "same"), [(0.0, True), (1.0, False)])
def test_sampled_texts_of_another_sampler_are_not_reused(
    shared: Stages, monkeypatch: pytest.MonkeyPatch, temperature: float, same: bool
) -> None:
    def facts() -> tuple[Any, str]:
        stages = shared.but(evaluation__temperature=temperature)
        return stages.choices.facts(stages.suite[0], "target"), stages.studies.fingerprint

    before = facts()
    monkeypatch.setattr("lrt.models.sampling.SAMPLER", 0)
    assert [one == other for one, other in zip(before, facts(), strict=True)] == [same, same]


def test_no_behaviour_records_anew_and_one_whose_texts_are_in_the_corpus_has_another_map(
    plain: Stages,
) -> None:
    def asking(text: str) -> Stages:
        behaviour = plain.suite[0]
        item = replace(behaviour.items[0], prompt=text)
        return plain.but(suite=(replace(behaviour, test=(*behaviour.test, item)), *plain.suite[1:]))

    page = next(plain.text.documents("stories")).text
    assert names(asking("a text that no page of the lab has in it")) == names(plain)
    assert names(asking(page))[0] == names(plain)[0]
    assert names(asking(page))[1] != names(plain)[1]


def test_place_and_name_of_a_model_do_not_count(plain: Stages, pair_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").symlink_to(pair_folder / "little")

    def pair_of(name: str, source: Path, **how: Any) -> Stages:
        specs = ModelSpec(path=str(source), **how), ModelSpec(path=str(pair_folder / "big"))
        return plain.but(pair=load_pair(PairSettings(name, *specs), tmp_path))

    assert names(pair_of("another", tmp_path / "moved")) == names(plain)
    assert names(pair_of("tiny", pair_folder / "big"))[0] != names(plain)[0]
    assert names(pair_of("tiny", pair_folder / "little", dtype="bfloat16"))[0] != names(plain)[0]


# -- the fingerprint itself --------------------------------------------------------------------------


def test_order_of_keys_does_not_count() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})


def test_what_is_not_plain_is_refused() -> None:
    with pytest.raises(TypeError, match="PosixPath"):
        fingerprint({"a": Path("x")})


def test_content_of_files_counts_and_their_place_does_not(tmp_path: Path) -> None:
    files = [tmp_path / part / "stories.txt" for part in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.write_text("same")
    one, other = (file_digests((str(file.parent),)) for file in files)
    assert one == other
    # files of one name both count
    both = file_digests(tuple(map(str, files)))
    files[0].write_text("changed")
    assert file_digests(tuple(map(str, files))) != both


def test_files_that_change_their_folders_are_another_set(tmp_path: Path) -> None:
    """A set in a local folder has its splits by the names of folders."""
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").write_text(name)
    before = file_digests((str(tmp_path),))
    (tmp_path / "train").rename(tmp_path / "validation")
    (tmp_path / "test").rename(tmp_path / "train")
    assert file_digests((str(tmp_path),)) != before
    assert file_digests((str(tmp_path / "train"),)) == [("a.jsonl", before[0][1])]
