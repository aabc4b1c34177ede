"""Learned weights: fetched once from a real server, checked, read so that nothing executes."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from atelier.errors import AtelierError
from atelier.weights_files import fetch_weights, read_weights

SETTING = "evaluate.features"


def test_weights_are_fetched_once_and_checked(served: tuple[Path, str], hub: Path) -> None:
    folder, address = served
    content = b"weights of some size"
    name = f"vgg19-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content)
    path = fetch_weights(f"{address}/{name}", SETTING)
    assert path == hub / name
    assert path.read_bytes() == content
    (folder / name).unlink()
    assert fetch_weights(f"{address}/{name}", SETTING) == path


def test_a_wrong_download_is_refused_and_not_kept(served: tuple[Path, str], hub: Path) -> None:
    folder, address = served
    (folder / "vgg19-00000000.pth").write_bytes(b"something else")
    with pytest.raises(AtelierError, match=r"put vgg19-00000000\.pth from http"):
        fetch_weights(f"{address}/vgg19-00000000.pth", SETTING)
    assert list(hub.iterdir()) == []


def test_without_a_server_the_sentence_says_what_to_put_where(hub: Path) -> None:
    with pytest.raises(AtelierError, match=r"put vgg19-00000000\.pth from .* into .*set evaluate"):
        fetch_weights("http://127.0.0.1:9/vgg19-00000000.pth", SETTING)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_state_dict_is_read_and_a_program_is_not(tmp_path: Path, name: str) -> None:
    state = {"a": torch.ones(2)}
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    assert torch.equal(read_weights(path, SETTING)["a"], state["a"])
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(AtelierError, match="no state_dict that can be read safely"):
        read_weights(path, SETTING)
    with pytest.raises(AtelierError, match=r"evaluate\.features is .*, but there is no such file"):
        read_weights(tmp_path / f"absent{path.suffix}", SETTING)
