"""`artifacts/latest`: readable names for the newest run's results."""

from pathlib import Path

import pytest

from lrt.cli.latest import point_latest


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Path]:
    paths = {"map": tmp_path / "artifacts" / "maps" / "abc", "run": tmp_path / "outputs" / "1"}
    for name, path in paths.items():
        path.mkdir(parents=True)
        (path / "file").write_text(name)
    return {**paths, "vectors/french": paths["map"], "report": tmp_path / "missing"}


def test_names_point_to_the_newest_run(made: dict[str, Path], tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    latest = point_latest(artifacts, made)
    assert latest == artifacts / "latest"
    assert (latest / "vectors" / "french" / "file").read_text() == "map"
    assert not (latest / "report").exists()
    assert (latest / "map").is_symlink()
    assert not (latest / "map").readlink().is_absolute()  # the folder can be moved as a whole
    point_latest(artifacts, {"run": made["run"]})
    assert sorted(path.name for path in latest.iterdir()) == ["run", "run.txt"]
    assert (made["map"] / "file").is_file()


def test_artifacts_on_another_disk(made: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "deep" / "disk").mkdir(parents=True)
    (tmp_path / "artifacts").rename(tmp_path / "deep" / "disk" / "artifacts")
    (tmp_path / "artifacts").symlink_to(tmp_path / "deep" / "disk" / "artifacts")
    point_latest(tmp_path / "artifacts", made)
    for name in ("run", "map"):
        assert (tmp_path / "artifacts" / "latest" / name / "file").read_text() == name


def test_copies_where_a_file_system_has_no_links(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refused)
    for _ in range(2):
        point_latest(tmp_path / "artifacts", made)
        copied = tmp_path / "artifacts" / "latest" / "map"
        assert not copied.is_symlink()
        assert (copied / "file").read_text() == "map"


@pytest.mark.parametrize("kind", ["folder", "link", "file"])
def test_what_is_somebody_elses_is_left_alone(made: dict[str, Path], tmp_path: Path, kind: str) -> None:
    latest = tmp_path / "artifacts" / "latest"
    match kind:
        case "folder":
            latest.mkdir()
            (latest / "mine").touch()
        case "link":
            latest.symlink_to(made["map"])
        case _:
            latest.touch()
    assert point_latest(tmp_path / "artifacts", made) is None
    assert latest.is_symlink() == (kind == "link")
    assert kind != "folder" or (latest / "mine").is_file()
    assert (made["map"] / "file").is_file()
