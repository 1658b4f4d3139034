"""Documents that share text with a suite: found by behaviour, and absent from whatever a map is fitted on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from stages import STORIES, Stages, corpus
from torch import Tensor
from upstream_files import model_written_folder

import lrt
from lrt.config.corpus import QuestionsSource
from lrt.corpora import SPLITS, text_id
from lrt.errors import InvalidValue
from lrt.mapping import MapForeign, Moments
from lrt.pipeline.evaluation import contamination_of
from lrt.pipeline.fit_data import FitData
from lrt.pipeline.nulls import untrained_moments
from lrt.pipeline.pair import UntrainedSource


def asking(stages: Stages, *texts: str, **settings: Any) -> Stages:
    """The same with further test items of the first behaviour."""
    first, *others = stages.suite
    items = tuple(replace(first.test[0], prompt=text) for text in texts)
    return stages.but(suite=(replace(first, test=(*first.test, *items)), *others), **settings)


def pages(stages: Stages, split: str = "train", count: int = 3) -> list[str]:
    """Texts of documents of a split of the corpus, which are in no behaviour of its suite."""
    packed = stages.text.packed
    owned = set(packed.splits[split].documents[1:-1].ravel().tolist())  # type: ignore[index]
    free = (text for id_, text in packed.texts if id_ in owned and id_ not in stages.excluded.ids)
    return [next(free) for _ in range(count)]


@pytest.fixture(scope="module")
def sharing(shared: Stages) -> Stages:
    """Three training pages, a validation page and a test page are items of the first behaviour."""
    texts = pages(shared) + pages(shared, "validation", 1) + pages(shared, "test", 1)
    return asking(shared, *texts)


def added(stages: Stages) -> set[int]:
    first, *_ = stages.suite
    return {text_id(item.prompt) for item in first.test[-5:]}


def data_of(stages: Stages, *parts: str, **how: Any) -> FitData:
    return stages.rows.of(stages.plan.candidates, parts, **how)


def rows_of(data: FitData, split: str) -> dict[str, Tensor]:
    batches = [*data.in_order.iterate(split, 512)]  # type: ignore[arg-type]
    return {name: torch.cat([batch[name] for batch in batches]) for name in ("source", "target", "document")}


def counting(rows: list[int]) -> Any:
    """A patch that notes how many rows are added to moments."""
    real: Callable[..., None] = Moments.update

    def update(self: Moments, x: Tensor, y: Tensor) -> None:
        rows.append(len(x))
        real(self, x, y)

    return mock.patch.object(Moments, "update", update)


def test_documents_are_found_by_behaviour(shared: Stages, sharing: Stages) -> None:
    first, second = (behaviour.name for behaviour in sharing.suite)
    before, now = shared.excluded.by_behaviour, sharing.excluded.by_behaviour
    assert added(sharing) == set(now[first]) - set(before[first])
    assert now[second] == before[second]
    assert sharing.excluded.ids == tuple(sorted({*now[first], *now[second]}))
    assert sharing.text.digest == shared.text.digest


def test_they_are_in_no_row_and_the_others_all_are(shared: Stages, sharing: Stages) -> None:
    taken = torch.tensor([*added(sharing)])
    for split in SPLITS:
        every, some = rows_of(data_of(shared), split), rows_of(data_of(sharing), split)
        kept = ~torch.isin(every["document"], taken)
        assert not kept.all()
        for name, values in some.items():
            assert torch.equal(values, every[name][kept])


def test_moments_without_them_are_those_of_the_rows_that_are_left(sharing: Stages) -> None:
    data = data_of(sharing)
    for name, moments in (("train", data.train_moments), *((s, data.moments[s]) for s in SPLITS[1:])):
        rows = rows_of(data, name)
        direct = Moments(32, 48, products="float64")
        direct.update(rows["source"], rows["target"])
        assert moments.count == len(rows["source"]) == data.in_order.rows[name]  # type: ignore[index]
        for sums in ("scatter_xx", "scatter_xy", "scatter_yy"):
            wanted = getattr(direct, sums)
            assert float((getattr(moments, sums) - wanted).norm()) < 1e-5 * float(wanted.norm())
    assert sum(fold.count for fold in data.folds) == data.train_moments.count


def test_another_suite_costs_its_documents_alone(empty: Stages) -> None:
    data = data_of(empty)
    _ = data.train_moments, data.shuffled, data.token_moments
    stores = empty.files("activations")
    rows: list[int] = []
    with counting(rows):
        other = data_of(asking(empty, *pages(empty)))
        _ = other.train_moments, other.shuffled, other.token_moments
    assert 0 < sum(rows) == data.train_moments.count - other.train_moments.count < 300
    assert empty.files("activations") == stores


def test_what_belongs_to_the_corpus_and_not_to_a_suite_stays(shared: Stages, sharing: Stages) -> None:
    """Single tokens, of which autoencoders are trained, and shuffled pairs, which say nothing."""
    tokens = [data_of(stages, tokens=True, every_document=True).facts for stages in (shared, sharing)]
    assert tokens[0] == tokens[1]
    assert data_of(shared).shuffled[0].count == data_of(sharing).shuffled[0].count
    assert data_of(shared).token_moments["kept"].count == data_of(sharing).token_moments["kept"].count


def test_the_untrained_source_sees_the_same_rows(sharing: Stages, untrained: UntrainedSource) -> None:
    data = data_of(sharing)
    massive_apart = data.data.rows_excluded["train"].get("massive", 0)
    assert abs(untrained_moments(data, untrained).count - data.train_moments.count) <= massive_apart


def test_on_the_fly_they_are_subtracted_too(sharing: Stages) -> None:
    flying = sharing.but(recording__states="none")
    data, stored = data_of(flying, shuffled=True), data_of(sharing)
    assert data.train_moments.count == stored.train_moments.count == data.in_order.rows["train"]
    wanted = stored.train_moments.scatter_xy
    assert float((data.train_moments.scatter_xy - wanted).norm()) < 1e-3 * float(wanted.norm())
    assert data.in_order.rows_excluded == stored.in_order.rows_excluded
    rows: list[int] = []
    with counting(rows):
        other = data_of(asking(flying, *pages(flying, count=1)), shuffled=True)
        _ = other.train_moments, other.shuffled
    assert 0 < sum(rows) < 100


def test_a_map_on_the_fly_leaves_them_out(copied: Stages, sharing: Stages) -> None:
    """Its test rows are read once more than its training rows, which must not hide their counts."""
    flying = copied.but(suite=sharing.suite, recording__states="none")
    card = flying.fitted()["whole corpus"]
    assert card["rows"] == data_of(sharing).data.rows


def test_maps_of_features_do_not_see_them(shared: Stages, sharing: Stages) -> None:
    every, some = (rows_of(data_of(stages, tokens=True), "train") for stages in (shared, sharing))
    assert added(sharing).isdisjoint(some["document"].tolist())
    assert len(some["document"]) < len(every["document"])
    analyses = [
        stages.but(analysis__sae=replace(stages.analysis.sae, features=16)).analyses
        for stages in (shared, sharing)
    ]
    one, other = (next(a for a in each.wanted if a.name == "sae").facts() for each in analyses)
    assert one["rows"] == other["rows"]  # the autoencoders'
    assert one["excluded"] != other["excluded"]


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_without_other_documents_is_reported_before_anything_is_fitted(
    shared: Stages, split: str
) -> None:
    packed = shared.text.packed
    owned = set(packed.splits[split].documents.ravel().tolist())  # type: ignore[index]
    stages = asking(shared, *(text for id_, text in packed.texts if id_ in owned))
    with pytest.raises(InvalidValue, match=f"all {len(owned)} {split} documents .*capitals"):
        stages.excluded.check({()})
    shared.excluded.check({()})


def test_a_part_without_other_documents_is_reported_for_its_map_alone(shared: Stages) -> None:
    packed, at = shared.text.packed, shared.text.packed.groups.index("questions")
    owned = {i for each in packed.splits.values() for i in each.documents[each.groups == at].tolist()}
    stages = asking(shared, *(text for id_, text in packed.texts if id_ in owned))
    stages.excluded.check({(), ("stories",)})
    with pytest.raises(InvalidValue, match=r"corpus\.sources questions"):
        stages.excluded.check({(), ("questions",)})


def test_the_card_names_the_behaviours_of_today(copied: Stages) -> None:
    first, second = copied.suite
    texts = tuple(pages(copied))
    for before, now in ((first, second), (second, first)):
        stages = copied.but(
            suite=tuple(
                replace(each, damage_texts=(*each.damage_texts, *texts)) if each is now else each
                for each in (first, second)
            )
        )
        documents = stages.fitted()["whole corpus"]["excluded"]["documents"]
        assert len(documents[now.name]) >= 3
        assert len(documents.get(before.name, ())) < 3


def test_both_answers_to_a_question_are_excluded_together(shared: Stages, tmp_path: Path) -> None:
    asked = QuestionsSource(path=str(model_written_folder(tmp_path)), tasks=("boldness",))
    stages = shared.but(folder=tmp_path / "artifacts", corpus=corpus(asked=asked, stories=STORIES))
    groups = stages.text.duplicate_groups
    id_, text = next((id_, text) for id_, text in stages.text.packed.texts if id_ in groups)
    found = asking(stages, text).excluded.by_behaviour[stages.suite[0].name]
    assert {id_, *(i for i, group in groups.items() if group == groups[id_])} <= set(found)
    assert len({i for i in found if groups.get(i) == groups[id_]}) == 2


# -- a map that was fitted before ----------------------------------------------------------------------


def test_a_map_fitted_with_other_exclusions_is_contaminated_and_says_so(copied: Stages) -> None:
    copied.fitted()
    folder = str(copied.maps.whole.folder)
    first, second = copied.suite
    for stages, seen in ((copied, 0), (asking(copied, *pages(copied), *pages(copied, "test", 1)), 3)):
        given = stages.but(evaluation__map=folder).maps.whole
        assert given.documents_seen == {first.name: seen, second.name: 0}
        assert ("3 documents" in contamination_of(given, stages.suite[0])) == bool(seen)
        assert contamination_of(given, second) == ""
        assert torch.equal(given.affine.weight, copied.maps.whole.affine.weight)
        assert given.fingerprint != copied.maps.whole.fingerprint


def test_of_a_map_of_a_part_only_its_own_text_counts(copied: Stages) -> None:
    copied.fitted()
    _, card = copied.maps.whole.open()
    stages = asking(copied, *pages(copied))
    name, packed = copied.suite[0].name, copied.text.packed
    by_part = [stages.excluded.seen_by(card["excluded"], (part,))[name] for part in packed.groups]
    assert len(by_part) == 2
    assert sum(n or 0 for n in by_part) == stages.excluded.seen_by(card["excluded"])[name] == 3


def test_of_a_map_of_another_corpus_nobody_knows(copied: Stages, tmp_path: Path) -> None:
    other = copied.but(folder=tmp_path / "other", corpus=replace(copied.corpus, seed=3))
    other.fitted()
    given = copied.but(evaluation__map=str(other.maps.whole.folder)).maps.whole
    assert set(given.documents_seen.values()) == {None}
    assert "not known" in contamination_of(given, copied.suite[0])


@pytest.mark.slow
def test_a_map_that_is_given_is_measured_with_its_note(copied: Stages) -> None:
    copied.fitted()
    mapping = copied.maps.whole.folder
    before = copied.files("maps")
    given = asking(copied, *pages(copied), evaluation__map=str(mapping))
    results = given.results()
    first, second = results["behaviours"]
    assert (first["documents_seen"], second["documents_seen"]) == (3, 0)
    assert "contaminated" in first["note"]
    assert "contaminated" not in second["note"]
    assert set(first["nulls"]) or not first["steers"]
    assert copied.files("maps") == before  # nothing is written into the folder of a map that is given


def test_a_map_of_other_layers_or_models_is_refused(copied: Stages, oracle: Stages) -> None:
    copied.fitted()
    folder = str(copied.maps.whole.folder)
    with pytest.raises(MapForeign, match=r"layers\.source"):
        _ = copied.but(evaluation__map=folder, layers=replace(copied.layers, source=0)).maps.whole.affine
    with pytest.raises(MapForeign, match=r"pair\.source"):
        _ = oracle.but(evaluation__map=folder, layers=copied.layers).maps.whole.affine


def test_a_map_of_the_library_is_evaluated_like_a_runs(copied: Stages, tmp_path: Path) -> None:
    """With figures of its own, and with nobody knowing what text it was fitted on."""
    models = copied.pair.source, copied.pair.target
    texts = [text for _, text in copied.text.packed.texts]
    grid = lrt.fit_map(*models, texts, layers=([0, 1], [2, 3]), pool=4, context=64)
    single = lrt.fit_map(*models, texts, layers=(1, 2), pool=4, context=64)
    own = copied.fitted()["whole corpus"]
    for name, mapping in (("grid", grid), ("single", single)):
        mapping.save(tmp_path / name)
        given = copied.but(evaluation__map=str(tmp_path / name)).maps.whole
        assert set(given.documents_seen.values()) == {None}
        card = given.card()
        assert card["metrics"]["fvu"] == pytest.approx(own["metrics"]["fvu"], rel=0.3)
        assert card["metrics"]["cosine_with_native"].keys() == own["metrics"]["cosine_with_native"].keys()
        assert name in card["solved"]["note"]
