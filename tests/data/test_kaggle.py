"""Download of a Kaggle dataset and its errors."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from atelier.core.download_settings import DownloadSettings
from atelier.core.errors import AtelierError
from atelier.data.sources.download import download


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))


def test_kaggle_dataset_is_packed_into_one_zip(
    tmp_path: Path, source: Callable[..., DownloadSettings], image_bytes: Callable[..., bytes]
) -> None:
    from kagglehub.cache import Cache
    from kagglehub.handle import parse_dataset_handle

    handle = parse_dataset_handle("owner/faces/versions/3")
    folder = Path(Cache().get_path(handle))
    (folder / "Humans").mkdir(parents=True)
    (folder / "Humans" / "1.png").write_bytes(image_bytes())
    (tmp_path / "secret").write_bytes(b"sesame")
    (folder / "Humans" / "2.png").symlink_to(tmp_path / "secret")
    (folder / "home").symlink_to(tmp_path)
    Cache().mark_as_complete(handle)
    settings = source("kaggle", handle="owner/faces/versions/3")
    manifest = download(settings, tmp_path / "raw", tmp_path / "scratch")
    assert (manifest.source, manifest.members) == ("kaggle", 1)
    assert {file.reason for file in manifest.skipped} == {"a link out of the folder"}
    with zipfile.ZipFile(tmp_path / "raw" / "pictures.zip") as archive:
        assert archive.namelist() == ["faces/Humans/1.png"]
        assert archive.read("faces/Humans/1.png") == image_bytes()


def test_network_error_does_not_reveal_the_token(
    tmp_path: Path, source: Callable[..., DownloadSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    monkeypatch.setenv("KAGGLE_KEY", "sesame")
    with pytest.raises(AtelierError, match="check the network") as caught:
        download(source("kaggle"), tmp_path / "raw", tmp_path / "scratch")
    assert "sesame" not in str(caught.value)
    assert not (tmp_path / "raw").exists()
