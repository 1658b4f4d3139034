"""Maps and vectors on a stand-in for the hub."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import yaml
from hub_server import Files, Hub, serve
from oracle_pair import LAYER, Oracle
from safetensors.torch import load

import lrt
from lrt.api.hub import HubError
from lrt.mapping import MapMissing
from lrt.storage.sealed import opened, save_tensors, sealed, unsealed


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of its own, an empty cache, and a client that does not wait between retries."""
    with serve() as hub:
        constants = huggingface_hub.constants
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(time, "sleep", lambda _: None)
        yield hub


@pytest.fixture
def vector(oracle: Oracle) -> lrt.SteeringVector:
    direction = torch.randn(oracle.source.width, generator=torch.Generator().manual_seed(0))
    return lrt.SteeringVector(direction, LAYER, oracle.source.spec.name, 3.0, behaviour="french")


@pytest.fixture
def folder(fitted: lrt.FittedMap, tmp_path: Path) -> Path:
    fitted.save(tmp_path / "map")
    return tmp_path / "map"


def files_of(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- there and back -----------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [False, True])
def test_a_map_comes_back_to_the_byte(
    hub: Hub, fitted: lrt.FittedMap, folder: Path, vector: lrt.SteeringVector, tmp_path: Path, large: bool
) -> None:
    hub.large = large
    url = lrt.push(folder, "me/map")
    commit = hub.repositories["me/map"].branches["main"]
    assert url == f"{hub.endpoint}/me/map/tree/{commit}"
    assert bool(hub.objects) is large
    pulled, sent = files_of(lrt.pull("me/map", tmp_path / "again")), files_of(folder)
    assert json.loads(pulled.pop("origin.json"))["commit"] == commit
    assert {**pulled, "README.md": b""} == {**sent, "README.md": b""}
    assert b'lrt.load_map("me/map")' in pulled["README.md"]
    for reference in ("me/map", "me/map@main", f"me/map@{commit}"):
        loaded = lrt.load_map(reference)
        one, other = fitted.transfer(vector), loaded.transfer(vector)
        assert torch.equal(one.vector.direction, other.vector.direction)
        assert one.forecast == other.forecast


def test_a_grid_of_maps_comes_back(hub: Hub, oracle: Oracle, texts: list[str]) -> None:
    grid = lrt.fit_map(oracle.source, oracle.target, texts, layers=([0, 1], [1, 2]), pool=4, tokens=8192)
    lrt.push(grid, "me/grid")
    again = lrt.load_map("me/grid")
    assert repr(again) == repr(grid)
    assert len(hub.repositories["me/grid"].files["README.md"].split(b"| 1 | 2 |")) == 2


@pytest.mark.usefixtures("hub")
def test_a_vector_comes_back(vector: lrt.SteeringVector, tmp_path: Path) -> None:
    lrt.push(vector, "me/french")
    for place in (lrt.pull("me/french"), lrt.pull("me/french", tmp_path / "v")):
        again = lrt.SteeringVector.load(place)
        assert torch.equal(again.direction, vector.direction)
        assert replace(again, direction=vector.direction).__dict__ == vector.__dict__


def test_only_the_files_of_a_map_are_sent(hub: Hub, folder: Path, vector: lrt.SteeringVector) -> None:
    vector.save(folder / "vectors" / "french")
    (folder / "notes.txt").write_text("not for others")
    lrt.push(folder, "me/map")
    assert set(hub.repositories["me/map"].files) == {
        ".gitattributes",
        "README.md",
        "mapping.json",
        "mapping.safetensors",
        "sums.safetensors",
    }


def test_a_second_push_replaces_the_first_in_one_commit(
    hub: Hub, fitted: lrt.FittedMap, folder: Path, vector: lrt.SteeringVector, tmp_path: Path
) -> None:
    lrt.push(folder, "me/map")
    first = hub.repositories["me/map"].branches["main"]
    pulled = lrt.pull("me/map", tmp_path / "pulled")
    fitted.save(folder, sums=False)
    lrt.push(folder, "me/map")
    assert len(hub.repositories["me/map"].commits) == 3  # made, first, second
    assert "sums.safetensors" not in hub.repositories["me/map"].files
    lrt.pull("me/map", pulled)
    assert not (pulled / "sums.safetensors").exists()
    assert lrt.load_map("me/map").transfer(vector).forecast.signal_to_noise is None
    assert lrt.load_map(f"me/map@{first}").transfer(vector).forecast.signal_to_noise is not None


def test_a_push_of_what_is_there_makes_no_commit(hub: Hub, folder: Path) -> None:
    assert lrt.push(folder, "me/map") == lrt.push(folder, "me/map")
    assert len(hub.repositories["me/map"].commits) == 2


def test_a_branch_is_made_and_the_main_one_stays(hub: Hub, vector: lrt.SteeringVector) -> None:
    lrt.push(vector, "me/french")
    main = hub.repositories["me/french"].branches["main"]
    lrt.push(replace(vector, layer=2), "me/french", revision="two/layers")
    assert hub.repositories["me/french"].branches["main"] == main
    assert lrt.SteeringVector.load(lrt.pull("me/french")).layer == LAYER
    assert lrt.SteeringVector.load(lrt.pull("me/french@two/layers")).layer == 2


def test_private_is_private(hub: Hub, vector: lrt.SteeringVector) -> None:
    lrt.push(vector, "me/french", private=True)
    assert hub.repositories["me/french"].private
    lrt.push(replace(vector, layer=2), "me/french")  # stays so
    assert hub.repositories["me/french"].private
    hub.create("me/public")
    with pytest.raises(lrt.InvalidValue, match="public"):
        lrt.push(vector, "me/public", private=True)
    assert set(hub.repositories["me/public"].files) == {".gitattributes"}


def test_a_branch_that_moved_is_pulled_anew(
    hub: Hub, vector: lrt.SteeringVector, caplog: pytest.LogCaptureFixture
) -> None:
    layers = []
    for layer in (1, 2):
        lrt.push(replace(vector, layer=layer), "me/french")
        with caplog.at_level("INFO"):
            layers.append(lrt.SteeringVector.load(lrt.pull("me/french")).layer)
        assert hub.repositories["me/french"].branches["main"] in caplog.text
    assert layers == [1, 2]


def test_a_pulled_map_knows_its_commit_until_another_is_saved_there(
    hub: Hub, fitted: lrt.FittedMap, folder: Path, tmp_path: Path
) -> None:
    lrt.push(folder, "me/map")
    commit = hub.repositories["me/map"].branches["main"]
    lrt.pull("me/map", tmp_path / "again")
    for place in ("me/map", tmp_path / "again"):
        assert lrt.load_map(place).card["origin"] == f"me/map@{commit}"
    fitted.save(tmp_path / "again", sums=False)
    assert "origin" not in lrt.load_map(tmp_path / "again").card


def test_the_example_of_the_page_runs(
    hub: Hub,
    fitted: lrt.FittedMap,
    vector: lrt.SteeringVector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = Path(__file__).parents[2] / "docs" / "publishing.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    fitted.save(tmp_path / "my_map")
    vector.save(tmp_path / "my_vector")
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert hub.repositories["org/french"].private
    origin = f"org/small-to-large@{hub.repositories['org/small-to-large'].branches['main']}"
    assert capsys.readouterr().out.splitlines()[-1] == origin


# -- the model card -----------------------------------------------------------------------------------


def header_of(page: bytes) -> dict[str, object]:
    header = yaml.safe_load(page.decode().split("---")[1])
    assert isinstance(header, dict)
    return header


def test_the_model_card_says_what_the_map_is(hub: Hub, fitted: lrt.FittedMap) -> None:
    models = {
        side: {**model, "path": f"org/{side}", "revision": "c0ffee"}
        for side, model in fitted.card["models"].items()
    }
    lrt.push(replace(fitted, card={**fitted.card, "models": models}), "me/map", licence="cc-by-4.0")
    page = hub.repositories["me/map"].files["README.md"]
    assert header_of(page)["license"] == "cc-by-4.0"
    assert header_of(page)["base_model"] == ["org/source", "org/target"]
    for fact in (
        "c0ffee",
        fitted.card["corpus"]["digest"],
        f"{fitted.card['rows']['train']:,}",
        f"{fitted.fvu:.4g}",
        f"{fitted.sums_bytes / 1e6:.3g} MB",
        'lrt.load("org/target")',
    ):
        assert fact in page.decode(), fact


@pytest.mark.parametrize("words", [b"\nWe like it on stories.\n", b"--"])
def test_what_somebody_wrote_in_a_model_card_stays(
    hub: Hub, vector: lrt.SteeringVector, caplog: pytest.LogCaptureFixture, words: bytes
) -> None:
    lrt.push(vector, "me/french", licence="mit")
    page = hub.repositories["me/french"].files["README.md"]
    lrt.push(replace(vector, layer=2), "me/french")
    again = hub.repositories["me/french"].files["README.md"]
    assert again != page
    assert header_of(again)["license"] == "mit"
    edited = again + words
    hub.repositories["me/french"].commit("main", {**hub.repositories["me/french"].files, "README.md": edited})
    with caplog.at_level("WARNING"):
        lrt.push(vector, "me/french")
    assert hub.repositories["me/french"].files["README.md"] == edited
    assert "README.md of me/french" in caplog.text
    assert lrt.SteeringVector.load(lrt.pull("me/french")).layer == LAYER
    hub.create("me/mine", {"README.md": words})
    lrt.push(vector, "me/mine")
    assert hub.repositories["me/mine"].files["README.md"] == words


def test_a_header_that_the_hub_wrote_gives_its_licence(hub: Hub, vector: lrt.SteeringVector) -> None:
    hub.create("me/new", {"README.md": b"---\nlicense: apache-2.0\n---\n"})
    lrt.push(vector, "me/new")
    page = hub.repositories["me/new"].files["README.md"]
    assert header_of(page)["license"] == "apache-2.0"
    assert b"# Steering vector" in page
    lrt.push(vector, "me/new", licence="mit")
    assert header_of(hub.repositories["me/new"].files["README.md"])["license"] == "mit"


def test_the_model_card_of_a_branch_names_the_branch(hub: Hub, vector: lrt.SteeringVector) -> None:
    lrt.push(vector, "me/french", revision="v2")
    repository = hub.repositories["me/french"]
    assert b'lrt.pull("me/french@v2")' in repository.commits[repository.branches["v2"]]["README.md"]


def test_names_in_the_code_of_a_model_card_are_readable(hub: Hub, vector: lrt.SteeringVector) -> None:
    lrt.push(replace(vector, model="modèle-🦙"), "me/french")
    assert 'lrt.load("path/to/modèle-🦙")' in hub.repositories["me/french"].files["README.md"].decode()


def test_a_model_card_survives_any_name(hub: Hub, vector: lrt.SteeringVector) -> None:
    odd = 'a | b\n---\nlicense: "x" <script>'
    lrt.push(replace(vector, behaviour=odd, model=odd), "me/french")
    page = hub.repositories["me/french"].files["README.md"]
    assert "license" not in header_of(page)
    assert b"<script>" not in page.replace(b"\\<script\\>", b"").replace(json.dumps(odd).encode()[1:-1], b"")


def test_no_local_path_is_published(hub: Hub, folder: Path, fitted: lrt.FittedMap) -> None:
    lrt.push(folder, "me/map")
    for content in hub.repositories["me/map"].files.values():
        assert str(folder.parent).encode() not in content
    assert {model["path"] for model in fitted.card["models"].values()} == {None}


# -- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "repository",
    ["map", "me/map/more", "me/map@v1", "", "../map", "me/ma p", "https://hf.co/me/map", "me/.."],
)
def test_a_repository_is_org_and_name(hub: Hub, vector: lrt.SteeringVector, repository: str) -> None:
    with pytest.raises(lrt.InvalidValue, match="org/name"):
        lrt.push(vector, repository)
    if "@" not in repository:
        with pytest.raises(lrt.InvalidValue, match="org/name"):
            lrt.pull(repository)
    assert hub.requests == []


def test_what_cannot_be_pushed_is_refused_before_any_request(
    hub: Hub, vector: lrt.SteeringVector, folder: Path, tmp_path: Path
) -> None:
    weights = folder / "mapping.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (tmp_path / "empty").mkdir()
    for artifact in (3, tmp_path / "empty", tmp_path / "nowhere", folder):
        with pytest.raises(lrt.UserError):
            lrt.push(artifact, "me/map")  # type: ignore[arg-type]
    for arguments in ({"revision": "0" * 40}, {"revision": ""}, {"revision": "a b"}, {"licence": "a\nb"}):
        with pytest.raises(lrt.InvalidValue, match=next(iter(arguments))):
            lrt.push(vector, "me/map", **arguments)
    assert hub.requests == []


def test_a_repository_of_something_else_is_left_alone(
    hub: Hub, vector: lrt.SteeringVector, folder: Path
) -> None:
    lrt.push(folder, "me/map")
    hub.create("me/model", {"config.json": b"{}", "model.safetensors": b"", "README.md": b"mine"})
    for name in ("me/map", "me/model"):
        before = hub.repositories[name].files
        with pytest.raises(lrt.InvalidValue, match="steering vector"):
            lrt.push(vector, name)
        assert hub.repositories[name].files == before
    with pytest.raises(HubError, match=r"config\.json"):
        lrt.pull("me/model")
    with pytest.raises(MapMissing):
        lrt.load_map("me/model")
    hub.create("me/new", {"README.md": b"", "LICENSE": b""})
    lrt.push(vector, "me/new")
    assert hub.repositories["me/new"].files["LICENSE"] == b""


@pytest.mark.usefixtures("hub")
def test_a_folder_of_something_else_is_left_alone(
    vector: lrt.SteeringVector, folder: Path, tmp_path: Path
) -> None:
    lrt.push(vector, "me/french")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    for place in (tmp_path / "other", folder, tmp_path / "other" / "thesis.tex"):
        before = files_of(place) if place.is_dir() else {}
        with pytest.raises(lrt.InvalidValue, match="folder"):
            lrt.pull("me/french", place)
        assert not place.is_dir() or files_of(place) == before


def altered_weights(files: Files) -> Files:
    weights = bytearray(files["mapping.safetensors"])
    weights[-1] ^= 1
    return {**files, "mapping.safetensors": bytes(weights)}


def altered_card(files: Files) -> Files:
    return {**files, "mapping.json": files["mapping.json"].replace(b'"context": 256', b'"context": 255')}


def resealed(files: Files, change: Callable[[dict[str, Any]], None]) -> Files:
    """The card changed by somebody who knows how its digest is made."""
    content = unsealed(opened(files["mapping.json"]))
    change(content["card"])
    return {**files, "mapping.json": sealed(content).encode()}


def of_other_width(files: Files) -> Files:
    def change(card: dict[str, Any]) -> None:
        card["models"]["source"]["width"] = 31

    return resealed(files, change)


def with_longer_sums(files: Files) -> Files:
    return {**files, "sums.safetensors": files["sums.safetensors"] + bytes(2**21)}


def with_sums_of_another_shape(files: Files) -> Files:
    """Sums of one dimension, which would be spread over all, by somebody who knows their digest."""
    sums = load(files["sums.safetensors"])
    sums["0.sum_xx"] = sums["0.sum_xx"][:1, :1].contiguous()
    with tempfile.TemporaryDirectory() as name:
        digest = save_tensors(Path(name) / "sums", sums)
        altered = {**files, "sums.safetensors": (Path(name) / "sums").read_bytes()}

    def change(card: dict[str, Any]) -> None:
        card["sums"] |= {"digest": digest, "bytes": sum(each.nbytes for each in sums.values())}

    return resealed(altered, change)


def with_larger_page(files: Files) -> Files:
    return {**files, "README.md": bytes(2**24 + 1)}


def with_a_card_of_other_things(files: Files) -> Files:
    def change(card: dict[str, Any]) -> None:
        card["map"], card["rows"] = 3, None

    return resealed(files, change)


def without_weights(files: Files) -> Files:
    return {name: content for name, content in files.items() if name != "mapping.safetensors"}


def with_larger_card(files: Files) -> Files:
    return {**files, "mapping.json": files["mapping.json"] + b" " * 2**24}


def of_another_program(files: Files) -> Files:
    return {**files, "mapping.json": b'{"some": "map"}'}


@pytest.mark.parametrize(
    "alter",
    [
        altered_weights,
        altered_card,
        of_other_width,
        with_longer_sums,
        with_sums_of_another_shape,
        with_a_card_of_other_things,
        with_larger_page,
        without_weights,
        with_larger_card,
        of_another_program,
    ],
)
def test_altered_files_are_refused(
    hub: Hub, folder: Path, tmp_path: Path, alter: Callable[[Files], Files]
) -> None:
    lrt.push(folder, "me/map")
    repository = hub.repositories["me/map"]
    repository.commit("main", alter(repository.files))
    with pytest.raises(HubError):
        lrt.pull("me/map", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
    with pytest.raises(lrt.UserError):
        lrt.load_map("me/map")


def test_a_file_that_is_larger_than_stated_is_not_downloaded(hub: Hub, folder: Path) -> None:
    lrt.push(folder, "me/map")
    repository = hub.repositories["me/map"]
    longer = repository.files["mapping.safetensors"] + bytes(100)
    repository.commit("main", {**repository.files, "mapping.safetensors": longer})
    hub.requests.clear()
    with pytest.raises(HubError, match=r"mapping\.safetensors has .* its card says"):
        lrt.pull("me/map")
    assert not [path for method, path in hub.requests if method == "GET" and path.endswith(".safetensors")]


def test_nothing_else_of_a_repository_is_downloaded(hub: Hub, folder: Path) -> None:
    lrt.push(folder, "me/map")
    repository = hub.repositories["me/map"]
    repository.commit("main", {**repository.files, "evil.py": b"", "pytorch_model.bin": b"", "a/b.pkl": b""})
    assert set(files_of(lrt.pull("me/map"))) == set(files_of(folder))


# -- the hub refuses or fails -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "named"), [(401, "hf auth login"), (403, "hf auth login"), (404, "no "), (500, "later")]
)
def test_what_the_hub_refuses_is_explained(
    hub: Hub, vector: lrt.SteeringVector, status: int, named: str
) -> None:
    lrt.push(vector, "me/french")
    hub.breaks = lambda *_: status
    for act in (
        lambda: lrt.pull("me/french@v2"),
        lambda: lrt.push(vector, "me/french"),
        lambda: lrt.push(vector, "me/new"),
    ):
        with pytest.raises(HubError, match=named):
            act()


def test_a_licence_that_the_hub_does_not_know_is_refused(hub: Hub, vector: lrt.SteeringVector) -> None:
    with pytest.raises(HubError, match="license"):
        lrt.push(vector, "me/french", licence="nonsense")
    assert set(hub.repositories["me/french"].files) == {".gitattributes"}


@pytest.mark.usefixtures("hub")
def test_names_that_the_hub_does_not_have(vector: lrt.SteeringVector) -> None:
    lrt.push(vector, "me/french")
    with pytest.raises(HubError, match=r"no model repository me/nothing"):
        lrt.pull("me/nothing")
    with pytest.raises(HubError, match=r"no such branch"):
        lrt.pull("me/french@nothing")
    with pytest.raises(MapMissing, match="steering vector"):
        lrt.load_map("me/french")
    with pytest.raises(MapMissing, match="no folder me/nothing"):
        lrt.load_map("me/nothing")


@pytest.mark.parametrize("last", ["preupload", "commit"])
def test_a_hub_that_dies_during_a_push_has_the_old_map(
    hub: Hub, fitted: lrt.FittedMap, folder: Path, last: str
) -> None:
    lrt.push(folder, "me/map")
    before = hub.repositories["me/map"].files
    fitted.save(folder, sums=False)
    hub.breaks = lambda method, path: 0 if method == "POST" and f"/{last}/" in path else None
    with pytest.raises(HubError, match="again"):
        lrt.push(folder, "me/map")
    assert hub.repositories["me/map"].files == before
    hub.breaks = lambda *_: None
    lrt.push(folder, "me/map")
    assert "sums.safetensors" not in hub.repositories["me/map"].files


@pytest.mark.parametrize("last", ["mapping.json", "mapping.safetensors", "sums.safetensors"])
def test_a_hub_that_dies_during_a_pull_leaves_the_old_folder(hub: Hub, folder: Path, last: str) -> None:
    lrt.push(folder, "me/map")
    hub.breaks = lambda method, path: 0 if method == "GET" and path.endswith(last) else None
    before = files_of(folder)
    with pytest.raises(HubError):
        lrt.pull("me/map", folder)
    assert files_of(folder) == before
    hub.breaks = lambda *_: None
    assert set(files_of(lrt.pull("me/map", folder))) == {*before, "origin.json"}


def test_a_push_beside_another_is_refused(hub: Hub, vector: lrt.SteeringVector) -> None:
    lrt.push(vector, "me/french")
    repository = hub.repositories["me/french"]

    def somebody_else_commits(_: str, path: str) -> None:
        if "/preupload/" in path:
            repository.commit("main", {**repository.files, "LICENSE": b"x"})

    hub.breaks = somebody_else_commits
    with pytest.raises(HubError, match="changed meanwhile"):
        lrt.push(replace(vector, layer=2), "me/french")


def test_without_a_connection_the_cache_is_used(
    hub: Hub, vector: lrt.SteeringVector, monkeypatch: pytest.MonkeyPatch
) -> None:
    lrt.push(vector, "me/french")
    commit = hub.repositories["me/french"].branches["main"]
    pulled = lrt.pull("me/french")
    for offline in (True, False):  # by setting; the hub is gone
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
        hub.breaks = lambda *_: 0
        for reference in ("me/french", f"me/french@{commit}"):
            assert lrt.pull(reference) == pulled
        for reference in ("me/french@v2", "me/german"):
            with pytest.raises(HubError, match="not in the cache"):
                lrt.pull(reference)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        lrt.push(vector, "me/french")


def test_a_local_folder_is_preferred_and_a_path_is_never_looked_up(
    hub: Hub, fitted: lrt.FittedMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fitted.save("me/map")
    assert repr(lrt.load_map("me/map")) == repr(fitted)
    for place in (Path("me/nothing"), "./me/nothing", str(tmp_path / "nothing")):
        with pytest.raises(MapMissing):
            lrt.load_map(place)
    assert hub.requests == []


@pytest.mark.slow
def test_the_endpoint_and_the_cache_are_those_of_the_environment(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    lrt.push(folder, "me/map")
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    code = "import lrt; print(lrt.load_map('me/map'))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert "FittedMap(" in done.stdout
    assert [*(tmp_path / "home").rglob("mapping.json")]
