from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from small_behaviours import choice_behaviour, text_behaviour
from torch.utils.data import DataLoader

from lrt.errors import InvalidValue
from lrt.evaluation import SteerableModel, SteeringEvalCallback, TrackedBehaviour, measure
from lrt.evaluation.callbacks import (
    DURING_TRAINING_FVU,
    RANDOM_DRAWS,
    TOGETHER,
    during_training,
    evaluation_steps,
)
from lrt.mapping import AffineMap, FitHistory, FitSpec, LayerConcat, MapModule, MapSpec, Moments
from lrt.models import LanguageModel
from lrt.steering import Mapping, SteeringVector

WIDTH, BATCH, BATCHES = 32, 16, 10


class Pairs(L.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(BATCH * BATCHES, WIDTH, generator=generator)
        turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q
        self.y = self.x @ turn.T

    def train_dataloader(self) -> Any:
        rows = [{"source": a, "target": b} for a, b in zip(self.x, self.y, strict=True)]
        return DataLoader(rows, batch_size=BATCH)  # type: ignore[arg-type]

    val_dataloader = train_dataloader


def module(pairs: Pairs) -> MapModule:
    moments = Moments(WIDTH, WIDTH)
    moments.update(pairs.x, pairs.y)
    return MapModule.from_moments(MapSpec("full"), FitSpec(epochs=2, ridge=False), moments)


def fit(callbacks: list[L.Callback], folder: Path, **options: Any) -> L.Trainer:
    pairs = Pairs()
    settings: dict[str, Any] = {"max_epochs": 2, **options}
    checkpoint = settings.pop("ckpt_path", None)
    trainer = L.Trainer(
        logger=False,
        callbacks=callbacks,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        log_every_n_steps=1,
        **settings,
    )
    trainer.fit(module(pairs), datamodule=pairs, ckpt_path=checkpoint)
    return trainer


class StopAfterEpoch(L.Callback):
    def on_train_epoch_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        trainer.should_stop = True


def mapping_of(affine: AffineMap) -> Mapping:
    layers = LayerConcat((0,), WIDTH), LayerConcat((1,), WIDTH)
    return Mapping(affine, *layers, "small", "large", {1: 4.0})


def callback(lm: LanguageModel, points: int = 4, behaviours: Any = None) -> SteeringEvalCallback:
    generator = torch.Generator().manual_seed(3)
    native = SteeringVector(torch.randn(WIDTH, generator=generator), 1, "large", 4.0)
    vector = SteeringVector(torch.randn(WIDTH, generator=generator), 0, "small", 2.0)
    model = SteerableModel(lm, 1, 4.0)
    tracked = [
        TrackedBehaviour(b, model, [vector], native, 1.0)
        for b in behaviours or [choice_behaviour(), text_behaviour()]
    ]
    return SteeringEvalCallback(tracked, mapping_of, fvu_of, points, items=2)


def fvu_of(affine: AffineMap) -> float:
    pairs = Pairs()
    moments = Moments(WIDTH, WIDTH)
    moments.update(pairs.x, pairs.y)
    return moments.fvu_of(affine)


@pytest.mark.parametrize(
    ("total", "points"), [(592, 10), (200, 10), (12, 10), (10, 10), (3, 10), (1, 1), (9, 1)]
)
def test_points_are_of_the_whole_fit_and_denser_at_its_start(total: int, points: int) -> None:
    steps = evaluation_steps(total, points)
    assert len(steps) == min(total, points)
    assert steps[-1] == total
    assert steps == sorted(set(steps))
    if len(steps) > 1:
        assert steps[0] == 1
        gaps = [b - a for a, b in pairwise(steps)]
        assert gaps == sorted(gaps) or total < 2 * points


def test_each_point_has_the_scores_beside_the_maps_error(story_lm: LanguageModel, tmp_path: Path) -> None:
    steering = callback(story_lm)
    trainer = fit([steering], tmp_path)
    assert trainer.global_step == 2 * BATCHES
    for name in ("bravery", "dogs"):
        steps = [point[0] for point in steering.points[name]]
        # a map that starts at zero has no direction at step 0
        assert [s for s in steps if s] == evaluation_steps(2 * BATCHES, 4)
        errors = [point[2] for point in steering.points[name]]
        assert errors[-1] < errors[0]
        assert {*steering.references[name]} == {"unsteered", "native", "random"}
    assert errors[-1] == pytest.approx(fvu_of(trainer.lightning_module.affine()))  # type: ignore[operator]
    assert [h["behaviour"] for h in steering.history()] == ["bravery", "dogs"]

    behaviour = choice_behaviour()
    one = steering.tracked[0]
    target = one.target
    lightning_module = trainer.lightning_module
    assert isinstance(lightning_module, MapModule)
    image = lightning_module.affine().weight @ one.vectors[0].direction
    native = one.native.unit_direction
    for unit, strength, score in (
        (native, 1.0, steering.references["bravery"]["native"]),
        (native, 0.0, steering.references["bravery"]["unsteered"]),
        (torch.nn.functional.normalize(image, dim=0), 1.0, steering.points["bravery"][-1][1]),
    ):
        cells = target.conditions("x", unit, [strength], 1)
        rows = measure(story_lm, 1, behaviour, "development", behaviour.development[:2], cells)
        assert sum(r.value for r in rows) / 2 == pytest.approx(score, abs=1e-3)
    assert len({round(v, 4) for _, v, _ in steering.points["bravery"]}) > 1  # the map moved


def test_logged_beside_the_loss(story_lm: LanguageModel, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    pairs = Pairs()
    L.Trainer(
        logger=logger,
        callbacks=[callback(story_lm)],
        accelerator="cpu",
        max_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
    ).fit(module(pairs), datamodule=pairs)
    header = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()[0].split(",")
    conditions = ("transferred", "native", "random", "unsteered")
    scores = {during_training(name, condition) for name in ("bravery", "dogs") for condition in conditions}
    assert {*scores, DURING_TRAINING_FVU, "train/loss"} <= set(header)


def test_what_the_map_does_not_change_is_measured_once(
    story_lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def counting(*arguments: Any, **options: Any) -> Any:
        rows.append(len(arguments[4]) * len(arguments[5]))
        return measure(*arguments, **options)

    monkeypatch.setattr("lrt.evaluation.callbacks.measure", counting)
    fit([callback(story_lm, behaviours=[choice_behaviour()])], tmp_path)
    assert rows == [2 * (2 + RANDOM_DRAWS + TOGETHER)]  # two items, four points in one batch
    rows.clear()
    fit([callback(story_lm, points=6, behaviours=[choice_behaviour()])], tmp_path)
    assert rows == [2 * (2 + RANDOM_DRAWS + TOGETHER), 2 * 2]


def test_a_resumed_fit_has_all_points(story_lm: LanguageModel, tmp_path: Path) -> None:
    whole, history = callback(story_lm, points=5), FitHistory(every=5)
    fit([whole, history], tmp_path)
    first = callback(story_lm, points=5)
    trainer = fit([first, FitHistory(every=5), StopAfterEpoch()], tmp_path)
    assert trainer.global_step == BATCHES
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second, later = callback(story_lm, points=5), FitHistory(every=5)
    fit([second, later], tmp_path, ckpt_path=tmp_path / "half.ckpt")
    assert second.references == whole.references
    for name, points in whole.points.items():
        resumed = {step: values for step, *values in second.points[name]}
        assert {*resumed} == {*(p[0] for p in points), float(BATCHES)}  # where it was stopped, too
        assert [resumed[p[0]] for p in points] == [pytest.approx(p[1:], abs=1e-3) for p in points]
    assert [p[0] for p in later.train] == [p[0] for p in history.train] == [5.0, 10.0, 15.0, 20.0]
    assert [p[0] for p in later.val] == [p[0] for p in history.val] == [10.0, 20.0]


def test_one_point_a_step_where_batches_are_gathered(story_lm: LanguageModel, tmp_path: Path) -> None:
    steering = callback(story_lm, points=4, behaviours=[choice_behaviour()])
    history = FitHistory(every=1)
    fit([steering, history], tmp_path, accumulate_grad_batches=5, max_epochs=2)
    steps = [p[0] for p in steering.points["bravery"]]
    assert sorted(set(steps)) == steps
    assert {1.0, 2.0, 3.0, 4.0} <= set(steps)
    assert [p[0] for p in history.train] == sorted({p[0] for p in history.train})


@pytest.mark.parametrize(("points", "items"), [(0, 4), (4, 0)])
def test_bad_settings_name_themselves(points: int, items: int) -> None:
    with pytest.raises(InvalidValue, match=rf"points={points}.*items={items}"):
        SteeringEvalCallback([], mapping_of, fvu_of, points, items)
