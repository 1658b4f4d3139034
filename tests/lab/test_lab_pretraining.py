import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lrt.lab.grammar import pages
from lrt.lab.pretraining import FamilyMember, SequenceStream, precision_for, pretrain, token_sequences

MICRO = FamilyMember(
    "micro", 24, 2, 2, 32, tokens=60 * 8 * 48, context=48, batch=8, learning_rate=1e-2, precision="32-true"
)


def one(work: Path, name: str) -> Path:
    (found,) = work.glob(f"*/{name}")
    return found


def run(member: FamilyMember, tokenizer: Any, work: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    return pretrain(member, tokenizer, work, accelerator="cpu", **options)


class Killed(Exception):
    pass


class KillAt(L.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Killed


@pytest.fixture(scope="module")
def whole(family_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    return run(MICRO, family_tokenizer, tmp_path_factory.mktemp("whole"))


def loss(model: Any, tokenizer: Any) -> float:
    blocks = token_sequences(tokenizer, "held_out", 7, 48, 20).long()
    with torch.no_grad():
        return float(model(input_ids=blocks, labels=blocks).loss)


def test_it_learns(whole: tuple[Any, dict[str, Any]], family_tokenizer: Any) -> None:
    model, _ = whole
    assert not model.training
    untrained = loss(MICRO.model(family_tokenizer), family_tokenizer)
    assert untrained == pytest.approx(math.log(len(family_tokenizer)), abs=0.3)
    assert loss(model, family_tokenizer) < untrained - 2


def test_killed_in_the_epoch_it_ends_with_the_same_weights(
    whole: tuple[Any, dict[str, Any]], family_tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(MICRO, family_tokenizer, tmp_path, callbacks=[KillAt(27)], checkpoint_seconds=0)
    saved = torch.load(one(tmp_path, "last.ckpt"), weights_only=True)
    assert saved["global_step"] == 26  # the killed step is done again
    seen: list[int] = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            seen.append(trainer.global_step)

    model, card = run(MICRO, family_tokenizer, tmp_path, callbacks=[Watch()])
    assert seen == list(range(27, 61))
    for (name, ours), theirs in zip(model.state_dict().items(), whole[0].state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    for key in ("train_loss", "corpus_fingerprint", "recipe", "tokens_seen"):
        assert card[key] == whole[1][key]
    assert card["hours"] >= round(saved["seconds"] / 3600, 3) >= 0
    assert saved["seconds"] > 0


def test_called_again_after_the_end_it_gives_the_same(family_tokenizer: Any, tmp_path: Path) -> None:
    short = replace(MICRO, tokens=10 * 8 * 48)
    first, card = run(short, family_tokenizer, tmp_path)
    again, same = run(short, family_tokenizer, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert same["train_loss"] == card["train_loss"] > 0
    assert same["hours"] == card["hours"]  # none were added


def test_the_card_tells_the_recipe(whole: tuple[Any, dict[str, Any]], family_tokenizer: Any) -> None:
    model, card = whole
    assert card["recipe"]["name"] == "micro"
    assert FamilyMember(**card["recipe"]) == MICRO
    assert card["tokens_seen"] == MICRO.tokens == MICRO.steps * 8 * 48
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    assert len(card["corpus_fingerprint"]) == 64
    assert card["precision"] == "32-true"
    assert 0 < card["train_loss"] < math.log(len(family_tokenizer))
    json.dumps(card)


def test_the_seed_decides(family_tokenizer: Any) -> None:
    one, same, other = (replace(MICRO, seed=s).model(family_tokenizer) for s in (0, 0, 1))
    weights = [m.model.layers[0].mlp.up_proj.weight for m in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert one.lm_head.weight is one.model.embed_tokens.weight
    state = torch.get_rng_state()
    MICRO.model(family_tokenizer)
    assert torch.equal(torch.get_rng_state(), state)


def test_mixed_precision_trains(family_tokenizer: Any, tmp_path: Path) -> None:
    short = replace(MICRO, tokens=3 * 8 * 48, precision="bf16-mixed")
    model, card = run(short, family_tokenizer, tmp_path)
    assert card["precision"] == "bf16-mixed"
    assert model.dtype == torch.float32
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_auto_precision_follows_from_the_device(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, fast: bool
) -> None:
    queries: list[tuple[str, int]] = []

    def is_fast(device: torch.device, width: int) -> bool:
        queries.append((device.type, width))
        return fast

    monkeypatch.setattr("lrt.lab.pretraining.bfloat16_is_fast", is_fast)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    auto = replace(MICRO, precision="auto")
    expected = "bf16-mixed" if fast else "32-true"
    assert precision_for(auto) == precision_for(auto, "cpu") == expected
    assert queries == [("cuda" if gpu else "cpu", 24), ("cpu", 24)]
    assert precision_for(replace(MICRO, precision="16-mixed")) == "16-mixed"


def test_blocks_are_the_documents_with_both_marks(family_tokenizer: Any) -> None:
    blocks = token_sequences(family_tokenizer, "control", 3, 40, 25)
    assert (blocks.shape, blocks.dtype) == ((25, 40), torch.int16)
    begin, end = family_tokenizer.bos_token_id, family_tokenizer.eos_token_id
    expected: list[int] = []
    for page in itertools.islice(pages(3, "control"), 60):
        expected += [*family_tokenizer(page.text)["input_ids"], end]
    assert blocks.flatten().tolist() == expected[:1000]
    flat = blocks.flatten().tolist()
    assert flat[0] == begin
    assert all(flat[i + 1] == begin for i, token in enumerate(flat[:-1]) if token == end)


def test_the_stream_goes_on_where_it_was() -> None:
    blocks = torch.arange(7, dtype=torch.int16)[:, None]
    stream = SequenceStream(blocks, 2)
    assert len(stream) == 3  # the last, unfilled batch is left out
    every = [b.flatten().tolist() for b in stream]
    assert every == [[0, 1], [2, 3], [4, 5]]
    walk = iter(stream)
    next(walk)
    state = stream.state_dict()
    later = SequenceStream(blocks, 2)
    later.load_state_dict(state)
    assert [b.flatten().tolist() for b in later] == every[1:]
    assert [b.flatten().tolist() for b in later] == every  # the next epoch is whole
