from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from small_behaviours import choice_behaviour, text_behaviour
from torch.utils.data import DataLoader

from lrt.evaluation import SteerableModel, SteeringEvalCallback, TrackedBehaviour, measure
from lrt.mapping import FitHistory, FitSpec, MapModule, MapSpec, Moments
from lrt.models import LanguageModel

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


def probe(lm: LanguageModel, every: int = 8, behaviours: Any = None) -> SteeringEvalCallback:
    generator = torch.Generator().manual_seed(3)
    native = torch.nn.functional.normalize(torch.randn(WIDTH, generator=generator), dim=0)
    vector = torch.randn(WIDTH, generator=generator)
    chosen = behaviours or [choice_behaviour(), text_behaviour()]
    model = SteerableModel(lm, 1, 4.0)
    return SteeringEvalCallback(
        [TrackedBehaviour(b, model, vector, native, 1.0, slice(None)) for b in chosen], every, items=2
    )


def test_points_stand_at_the_chosen_steps_and_the_end(story_lm: LanguageModel, tmp_path: Path) -> None:
    callback = probe(story_lm)
    trainer = fit([callback], tmp_path)
    assert trainer.global_step == 2 * BATCHES
    for name in ("bravery", "dogs"):
        steps = [step for step, _ in callback.points[name]]
        # a map that starts at zero has no direction at step 0
        assert [s for s in steps if s] == [8.0, 16.0, 20.0]
    assert [h["behaviour"] for h in callback.history()] == ["bravery", "dogs"]

    behaviour = choice_behaviour()
    one = callback.probes[0]
    target = one.target
    lightning_module = trainer.lightning_module
    assert isinstance(lightning_module, MapModule)
    image = lightning_module.affine().directions(one.source_vector)
    for unit, strength, found in (
        (one.native, 1.0, callback.references["bravery"]["native"]),
        (one.native, 0.0, callback.references["bravery"]["unsteered"]),
        (torch.nn.functional.normalize(image, dim=0), 1.0, callback.points["bravery"][-1][1]),
    ):
        cells = target.conditions("x", unit, [strength], 1)
        rows = measure(story_lm, 1, behaviour, "development", behaviour.development[:2], cells)
        assert sum(r.value for r in rows) / 2 == pytest.approx(found, abs=1e-3)
    assert len({round(v, 4) for _, v in callback.points["bravery"]}) > 1  # the map moved


def test_logged_beside_the_loss(story_lm: LanguageModel, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    pairs = Pairs()
    L.Trainer(
        logger=logger,
        callbacks=[probe(story_lm)],
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
    whole, history = probe(story_lm, every=5), FitHistory(every=5)
    fit([whole, history], tmp_path)
    first = probe(story_lm, every=5)
    trainer = fit([first, FitHistory(every=5), StopAfterEpoch()], tmp_path)
    assert trainer.global_step == BATCHES
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second, later = probe(story_lm, every=5), FitHistory(every=5)
    fit([second, later], tmp_path, ckpt_path=tmp_path / "half.ckpt")
    assert second.references == whole.references
    for name, points in whole.points.items():
        assert [p[0] for p in second.points[name]] == [p[0] for p in points]
        assert [p[1] for p in second.points[name]] == pytest.approx([p[1] for p in points], abs=1e-3)
    assert [p[0] for p in later.train] == [p[0] for p in history.train] == [5.0, 10.0, 15.0, 20.0]
    assert [p[0] for p in later.val] == [p[0] for p in history.val] == [10.0, 20.0]


def test_one_point_a_step_where_batches_are_gathered(story_lm: LanguageModel, tmp_path: Path) -> None:
    callback = probe(story_lm, every=2, behaviours=[choice_behaviour()])
    history = FitHistory(every=1)
    fit([callback, history], tmp_path, accumulate_grad_batches=5, max_epochs=2)
    steps = [p[0] for p in callback.points["bravery"]]
    assert sorted(set(steps)) == steps
    assert {2.0, 4.0} <= set(steps)
    assert [p[0] for p in history.train] == sorted({p[0] for p in history.train})


@pytest.mark.parametrize(("every", "items"), [(0, 4), (4, 0)])
def test_bad_settings_name_themselves(every: int, items: int) -> None:
    with pytest.raises(ValueError, match=rf"probe\.every={every} and evaluation\.probe\.items={items}"):
        SteeringEvalCallback([], every, items)
