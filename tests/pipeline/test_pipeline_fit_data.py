"""Rows of the corpus or of its parts, and their moments."""

import shutil
from collections import Counter
from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pretend_devices import pretend_cuda
from stages import QUESTIONS, SCALE, STORIES, Stages, corpus
from storybook_models import semi_orthogonal
from upstream_files import model_written_folder

from lrt.activations import PartRule
from lrt.config import ConfigError
from lrt.config.corpus import QuestionsSource
from lrt.mapping import Moments
from lrt.pipeline.fit_data import FitData, shared_ids

IDS = st.integers(0, 2**63 - 1)
NEVER = AssertionError("gathered again")


@given(st.lists(IDS, max_size=20), st.dictionaries(IDS, IDS, max_size=8))
def test_near_duplicates_have_the_id_that_they_share(others: list[int], groups: dict[int, int]) -> None:
    documents = [*others, *groups, *others]
    shared = shared_ids(torch.tensor(documents, dtype=torch.int64), groups)
    assert shared.tolist() == [groups.get(document, document) for document in documents]


def data_of(stages: Stages, *parts: str) -> FitData:
    return stages.rows.of(stages.plan.candidates, parts)


def whole(data: FitData, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(data.in_order.iterate(split, batch_rows=512))  # type: ignore[arg-type]
    return torch.cat([b["source"] for b in batches]), torch.cat([b["target"] for b in batches])


def test_moments_are_those_of_the_rows(shared: Stages) -> None:
    data = data_of(shared)
    for split, moments in (("train", data.train_moments), ("test", data.moments["test"])):
        x, y = whole(data, split)
        direct = Moments(32, 48, products="float64")
        direct.update(x, y)
        assert moments.count == len(x) == data.in_order.rows[split]
        torch.testing.assert_close(moments.mean_x, x.double().mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(moments.scatter_xy, direct.scatter_xy, rtol=1e-4, atol=1e-2)
    assert sum(fold.count for fold in data.folds) == data.train_moments.count


def test_the_reference_ridge_of_an_image_is_the_map_that_made_it(oracle: Stages) -> None:
    fit = data_of(oracle).reference_ridge
    assert fit.fvu_validation < 1e-4
    q = SCALE * semi_orthogonal(48, 32)
    seen = data_of(oracle).train_moments.scatter_xx
    error = (fit.map.weight.double() - q) @ torch.linalg.cholesky(seen + 1e-6 * torch.eye(32)).double()
    assert float(error.norm() / (q @ torch.linalg.cholesky(seen)).norm()) < 0.01


def test_moments_are_gathered_once(shared: Stages) -> None:
    data = data_of(shared)
    once = data.train_moments, data.shuffled, data.token_moments
    with mock.patch("lrt.mapping.Moments.update", side_effect=NEVER):
        again = data_of(shared.but())
        assert torch.equal(again.train_moments.scatter_xy, once[0].scatter_xy)
        assert torch.equal(again.shuffled[0].scatter_xy, once[1][0].scatter_xy)
        assert again.token_moments["kept"].count == once[2]["kept"].count


def test_parts_are_disjoint_and_make_the_whole(shared: Stages) -> None:
    counts = {name: data_of(shared, *name).train_moments.count for name in ((), ("stories",), ("questions",))}
    assert counts[()] == counts["stories",] + counts["questions",]
    assert data_of(shared, "stories").name == "stories"
    assert data_of(shared, "stories", "questions").name == "stories and questions"
    assert data_of(shared).name == "whole corpus"


def test_single_tokens_are_each_counted_once_whatever_the_parts_say(shared: Stages) -> None:
    data = data_of(shared)
    tokens = shared.rows.of(shared.plan.candidates, tokens=True, folds=1)
    test = shared.corpus.tokens.test
    assert data.token_moments["unfiltered"].count == test
    assert data.token_moments["kept"].count == tokens.moments["test"].count < test
    assert len(tokens.folds) == 1


def test_folds_are_in_the_order_of_their_numbers(shared: Stages) -> None:
    """A file's entries come in another order: `train/10` before `train/2`."""
    data = data_of(shared.but(evaluation__folds=12))
    names = [f"train/{n}" for n in range(12)]
    assert [m.count for m in data.folds] == [c for n in names if (c := data.moments[n].count)]
    documents = torch.cat([b["document"] for b in data.in_order.iterate("train", batch_rows=512)])
    assert [data.moments[n].count for n in names] == torch.bincount(documents % 12, minlength=12).tolist()


def test_shuffled_pairs_keep_the_marginals_and_lose_the_relation(shared: Stages) -> None:
    data = data_of(shared.but(evaluation__shuffled_draws=2))
    true = data.train_moments
    one, other = data.shuffled
    for draw in (one, other):
        assert draw.count == true.count
        torch.testing.assert_close(draw.mean_y, true.mean_y, rtol=1e-4, atol=1e-5)
        assert float(draw.scatter_xy.norm()) < 0.6 * float(true.scatter_xy.norm())
    assert not torch.equal(one.scatter_xy, other.scatter_xy)


def test_on_the_fly_moments_are_those_of_a_store(shared: Stages) -> None:
    flying = shared.but(recording__states="none")
    data = flying.rows.of(flying.plan.candidates, shuffled=True)
    stored = data_of(shared)
    assert data.train_moments.count == stored.train_moments.count
    scatter = stored.train_moments.scatter_xy
    torch.testing.assert_close(
        data.train_moments.scatter_xy, scatter, rtol=1e-3, atol=1e-4 * float(scatter.abs().max())
    )
    assert data.token_moments["kept"].count == stored.token_moments["kept"].count
    (shuffled,) = data.shuffled  # gathered in the same pass
    assert shuffled.count == stored.train_moments.count
    assert float(shuffled.scatter_xy.norm()) < 0.6 * float(scatter.norm())
    assert {n for n in data.moments if n.startswith("shuffled")} == {"shuffled/0"}
    with pytest.raises(ConfigError, match=r"recording\.states"):
        _ = data.data


@pytest.fixture(scope="module")
def answered(shared: Stages, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """A part that gives the last tokens of its documents, three times each: questions answered both ways."""
    folder = tmp_path_factory.mktemp("answered")
    evals = str(model_written_folder(folder / "evals"))
    asked = QuestionsSource(path=evals, tasks=("boldness",), rows="last_tokens", repeat=3, weight=0.5)
    return shared.but(
        folder=folder / "artifacts",
        corpus=corpus(asked=asked, stories=STORIES, questions=QUESTIONS, train=6144),
        layers=shared.layers,
    )


def test_last_tokens_of_documents_are_rows_as_often_as_wanted(answered: Stages) -> None:
    store = answered.states.record()
    assert store is not None
    part = data_of(answered, "asked")
    assert part.selection.rules == (PartRule("asked", "last_tokens", 3),)
    rows = part.in_order.rows["train"]
    assert rows % 3 == 0
    columns = [*store.stream("train", ["group", "document", "position"])]
    group, document, position = (
        torch.cat([rows[name] for rows in columns]) for name in ("group", "document", "position")
    )
    # documents of the part that end, and begin, within a sequence
    ends = (document[1:] != document[:-1]) & (group[:-1] == store.plan.groups.index("asked"))
    begins = torch.where((document[1:] != document[:-1]) | (position[1:] < position[:-1]), 1, 0)
    first = torch.where(begins.bool(), torch.arange(1, len(document)), 0).cummax(0).values
    inside = torch.cat([torch.tensor([False]), position[first] > 0])[:-1]
    assert 3 * int((ends & inside).sum()) - 3 <= rows <= 3 * int((ends & inside).sum())
    assert rows > 15


def test_both_answers_to_a_question_are_in_one_fold(answered: Stages) -> None:
    groups = answered.text.duplicate_groups
    assert set(Counter(groups.values()).values()) == {2}
    data = data_of(answered)
    documents = torch.cat([b["document"] for b in data.in_order.iterate("train", batch_rows=512)])
    assert torch.isin(documents, torch.tensor(list(groups))).any()
    counts = [data.moments[f"train/{n}"].count for n in range(2)]
    assert counts == torch.bincount(shared_ids(documents, groups) % 2, minlength=2).tolist()
    assert counts != torch.bincount(documents % 2, minlength=2).tolist()


def test_another_repetition_is_another_fit_on_the_same_states(answered: Stages) -> None:
    sources = dict(answered.corpus.sources)
    sources["asked"] = replace(sources["asked"], repeat=1)
    once = answered.but(corpus=replace(answered.corpus, sources=sources))
    assert once.states.fingerprint == answered.states.fingerprint
    assert data_of(once).facts != data_of(answered).facts
    part, thrice = data_of(once, "asked"), data_of(answered, "asked")
    assert 3 * part.in_order.rows["train"] == thrice.in_order.rows["train"]


def test_moments_on_a_device_are_those_of_the_cpu(shared: Stages, copied: Stages) -> None:
    """Summed and solved there, and none of the results are left there."""
    expected = data_of(shared)
    fits = expected.reference_ridge, expected.shuffled, expected.token_moments["kept"]
    cuda, room = torch.device("cuda:0"), {"enough": 64 << 30, "none": 1000}
    for name, free in room.items():
        empty = copied.but(folder=copied.folder / name)
        for kind in ("activations", "corpora", "shared_documents"):
            shutil.copytree(copied.folder / kind, empty.folder / kind)
        with (
            pretend_cuda() as copies,
            mock.patch("torch.cuda.mem_get_info", lambda *_, free=free: (free, 80 << 30)),
            mock.patch.object(FitData, "device", cuda),
        ):
            data = data_of(empty)
            assert data.train_moments.device == (cuda if name == "enough" else torch.device("cpu"))
            assert copies["to cuda"] > 0
            same_sums(data.train_moments, expected.train_moments)
            same_sums(data.token_moments["kept"], fits[2])
            same_sums(data.shuffled[0], fits[1][0])
            assert torch.equal(data.reference_ridge.map.weight, fits[0].map.weight)


def same_sums(found: Moments, expected: Moments) -> None:
    found, expected = found.to("cpu"), expected.to("cpu")
    for one, other in zip(found.tensors().values(), expected.tensors().values(), strict=True):
        assert torch.equal(one, other)
