import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import LlamaForCausalLM

from lrt.errors import InvalidValue
from lrt.lab.checks import examine
from lrt.lab.pretraining import FamilyMember
from lrt.lab.shipped import (
    MODEL_FILE,
    WEIGHTS,
    family_card,
    folder_of,
    ship,
    shipped,
)
from lrt.models import ModelSpec, load

EXPECTED = {"small", "medium", "tiny", "small-disjoint"}


def card_of(folder: Path) -> dict[str, Any]:
    """A folder's card, whose checksum is that of the weights."""
    card = family_card(folder)
    assert card is not None
    assert card["sha256"] == hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest()
    return card


def stock(folder: Path, tokenizer: Any, name: str, width: int = 24) -> LlamaForCausalLM:
    member = FamilyMember(name, width, 2, 2, 32, tokens=0)
    model = member.model(tokenizer)
    card = {"recipe": vars(member), "parameters": sum(p.numel() for p in model.parameters()), "checks": []}
    ship(model, tokenizer, folder / name, card)
    return model


def test_shipped_found_and_loaded(
    tmp_path: Path, family_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrt.lab.shipped.WEIGHTS", tmp_path)
    assert shipped() == []
    stock(tmp_path, family_tokenizer, "big", 32)
    model = stock(tmp_path, family_tokenizer, "little")
    family_tokenizer.save_pretrained(tmp_path / "tokenizer")  # lies beside them, is none of them
    assert shipped() == ["little", "big"]
    assert folder_of("little") == tmp_path / "little"
    card = card_of(tmp_path / "little")
    assert (card["name"], card["depth"], card["width"]) == ("little", 2, 24)
    assert card == family_card(tmp_path / "little")
    assert family_card(tmp_path) is None
    lm = load(ModelSpec(str(tmp_path / "little"), dtype="bfloat16"))
    text = "One morning, Mia walked."
    assert lm.tokenizer(text)["input_ids"] == family_tokenizer(text)["input_ids"]
    for (name, ours), theirs in zip(lm.model.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs.bfloat16()), name
    with pytest.raises(InvalidValue):
        folder_of("huge")


@pytest.mark.parametrize("name", shipped())
def test_each_shipped_model_is_the_one_its_card_describes(name: str, family_tokenizer: Any) -> None:
    folder = WEIGHTS / name
    card = card_of(folder)
    assert card["name"] == folder.name
    assert len(card["checks"]) == 4
    for key in ("hours", "tokens_seen", "corpus_fingerprint", "cross_entropy", "grammar_entropy"):
        assert card[key], key
    member = FamilyMember(**card["recipe"])
    lm = load(ModelSpec(str(folder)))
    assert (lm.width, lm.depth) == (member.width, member.depth) == (card["width"], card["depth"])
    assert sum(p.numel() for p in lm.model.parameters()) == card["parameters"]
    assert lm.tokenizer.get_vocab() == family_tokenizer.get_vocab()
    # weights that were trained, not merely written: it reads its own language
    story = "One morning, Mia walked to the barn. There Mia found a small dog. The dog barked."
    ids = torch.tensor([family_tokenizer(story)["input_ids"]])
    scores = lm.logits(ids)[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
    assert float(-scores.mean()) < 2


def test_the_family_is_whole_small_and_passes_its_checks() -> None:
    assert set(shipped()) >= EXPECTED
    total = sum(f.stat().st_size for f in WEIGHTS.rglob("*") if f.is_file())
    assert total <= 25 * 2**20
    cards = {name: json.loads((WEIGHTS / name / "card.json").read_text()) for name in shipped()}
    for name in EXPECTED:
        missed = {check["name"] for check in cards[name]["checks"] if not check["passed"]}
        assert missed <= ({"answers trait questions"} if name == "tiny" else set()), name
        assert all(check in cards[name]["note"] for check in missed), name
    conf = Path(__file__).parents[2] / "conf" / "lab"
    for name, card in cards.items():
        stated = OmegaConf.to_container(OmegaConf.load(conf / f"{name}.yaml"))
        assert FamilyMember(**stated) == FamilyMember(**card["recipe"]), name  # `make lab` makes this one
    recipes = {name: card["recipe"] for name, card in cards.items()}
    assert recipes["small-disjoint"]["split"] == "control"
    assert recipes["small"]["split"] == recipes["medium"]["split"] == recipes["tiny"]["split"] == "family"
    fingerprints = [cards[n]["corpus_fingerprint"] for n in ("small", "small-disjoint")]
    assert len(set(fingerprints)) == 2


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("small", 4),
        pytest.param("small", 1, marks=pytest.mark.slow),
        *(pytest.param(name, 4, marks=pytest.mark.slow) for name in shipped() if name != "small"),
    ],
)
def test_a_shipped_models_checks_can_be_reproduced(name: str, part: int) -> None:
    """With all documents of the card, or with a part of them and a wider tolerance."""
    card = card_of(WEIGHTS / name)
    items = card["held_out_documents"] // part
    again = examine(load(ModelSpec(str(WEIGHTS / name))), items=items)
    for check, stated in zip(again["checks"], card["checks"], strict=True):
        # on another machine an item at the edge may fall on the other side
        tolerance = 2 / items if part == 1 else 0.1
        assert check["value"] == pytest.approx(stated["value"], abs=tolerance), check["name"]
    for key in ("cross_entropy", "grammar_entropy"):
        assert again[key] == pytest.approx(card[key], abs=2e-3 if part == 1 else 0.05)
