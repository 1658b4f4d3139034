from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from small_behaviours import choice_behaviour, text_behaviour
from torch.utils.data import DataLoader

from lrt.errors import InvalidValue
from lrt.evaluation import SteerableModel, SteeringEvalCallback, TrackedBehaviour, measure
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


def callback(lm: LanguageModel, every: int = 8, behaviours: Any = None) -> SteeringEvalCallback:
    generator = torch.Generator().manual_seed(3)
    native = SteeringVector(torch.randn(WIDTH, generator=generator), 1, "large", 4.0)
    vector = SteeringVector(torch.randn(WIDTH, generator=generator), 0, "small", 2.0)
    model = SteerableModel(lm, 1, 4.0)
    tracked = [
        TrackedBehaviour(b, model, [vector], native, 1.0)
        for b in behaviours or [choice_behaviour(), text_behaviour()]
    ]
    return SteeringEvalCallback(tracked, mapping_of, every, items=2)


def test_scores_are_logged_at_the_chosen_steps_and_the_end(story_lm: LanguageModel, tmp_path: Path) -> None:
    steering = callback(story_lm)
    trainer = fit([steering], tmp_path)
    assert trainer.global_step == 2 * BATCHES
    for name in ("bravery", "dogs"):
        steps = [step for step, _ in steering.points[name]]
        # a map that starts at zero has no direction at step 0
        assert [s for s in steps if s] == [8.0, 16.0, 20.0]
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
    assert len({round(v, 4) for _, v in steering.points["bravery"]}) > 1  # the map moved


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
    assert {"behaviour/bravery", "behaviour/dogs", "train/loss"} <= set(header)


def test_a_resumed_fit_has_all_points(story_lm: LanguageModel, tmp_path: Path) -> None:
    whole, history = callback(story_lm, every=5), FitHistory(every=5)
    fit([whole, history], tmp_path)
    first = callback(story_lm, every=5)
    trainer = fit([first, FitHistory(every=5), StopAfterEpoch()], tmp_path)
    assert trainer.global_step == BATCHES
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second, later = callback(story_lm, every=5), FitHistory(every=5)
    fit([second, later], tmp_path, ckpt_path=tmp_path / "half.ckpt")
    assert second.references == whole.references
    for name, points in whole.points.items():
        assert [p[0] for p in second.points[name]] == [p[0] for p in points]
        assert [p[1] for p in second.points[name]] == pytest.approx([p[1] for p in points], abs=1e-3)
    assert [p[0] for p in later.train] == [p[0] for p in history.train] == [5.0, 10.0, 15.0, 20.0]
    assert [p[0] for p in later.val] == [p[0] for p in history.val] == [10.0, 20.0]


def test_one_point_a_step_where_batches_are_gathered(story_lm: LanguageModel, tmp_path: Path) -> None:
    steering = callback(story_lm, every=2, behaviours=[choice_behaviour()])
    history = FitHistory(every=1)
    fit([steering, history], tmp_path, accumulate_grad_batches=5, max_epochs=2)
    steps = [p[0] for p in steering.points["bravery"]]
    assert sorted(set(steps)) == steps
    assert {2.0, 4.0} <= set(steps)
    assert [p[0] for p in history.train] == sorted({p[0] for p in history.train})


@pytest.mark.parametrize(("every", "items"), [(0, 4), (4, 0)])
def test_bad_settings_name_themselves(every: int, items: int) -> None:
    with pytest.raises(InvalidValue, match=rf"every={every}.*items={items}"):
        SteeringEvalCallback([], mapping_of, every, items)
