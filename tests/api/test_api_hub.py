from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from hub_server import Hub, serve
from oracle_pair import LAYER, Oracle

import lrt


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of its own and an empty cache."""
    with serve() as hub:
        constants = huggingface_hub.constants
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        yield hub


@pytest.fixture
def vector(oracle: Oracle) -> lrt.SteeringVector:
    direction = torch.randn(oracle.source.width, generator=torch.Generator().manual_seed(0))
    return lrt.SteeringVector(direction, LAYER, oracle.source.spec.name, 3.0, behaviour="french")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_map_comes_back_to_the_byte(
    hub: Hub, fitted: lrt.FittedMap, vector: lrt.SteeringVector, tmp_path: Path
) -> None:
    fitted.save(tmp_path / "map")
    url = lrt.push(tmp_path / "map", "me/map")
    commit = hub.repositories["me/map"].branches["main"]
    assert url == f"{hub.endpoint}/me/map/tree/{commit}"
    pulled = files_of(lrt.pull("me/map", tmp_path / "again"))
    sent = files_of(tmp_path / "map")
    assert {**pulled, "README.md": b""} == {**sent, "README.md": b""}
    assert b'lrt.load_map("me/map")' in pulled["README.md"]
    for reference in ("me/map", "me/map@main", f"me/map@{commit}"):
        loaded = lrt.load_map(reference)
        one, other = fitted.transfer(vector), loaded.transfer(vector)
        assert torch.equal(one.vector.direction, other.vector.direction)
        assert one.forecast == other.forecast


def test_a_vector_comes_back(hub: Hub, vector: lrt.SteeringVector) -> None:
    lrt.push(vector, "me/french", private=True)
    assert hub.repositories["me/french"].private
    again = lrt.SteeringVector.load(lrt.pull("me/french"))
    assert torch.equal(again.direction, vector.direction)
    assert replace(again, direction=vector.direction).__dict__ == vector.__dict__
