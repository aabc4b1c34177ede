"""Learned weights: fetched once from a real server, checked, read so that nothing executes."""

import hashlib
import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from atelier.core.errors import AtelierError
from atelier.core.pretrained import fetch_weights, read_weights, reject_not_finite

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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    state = {"a": torch.ones(2), "b": torch.tensor([1.0, value])}
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(AtelierError, match="b holds values that are not finite numbers"):
        read_weights(tmp_path / name, SETTING)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(AtelierError, match=r"which cannot be read \(it is a pipe"):
        read_weights(tmp_path / name, SETTING)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(AtelierError, match="it is a device"):
        read_weights(tmp_path / name, SETTING)


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(1).expand(2**40), torch.ones(2, 2).to_sparse(), torch.empty(2**40, device="meta")],
)
def test_a_tensor_that_claims_more_than_it_has_is_refused(
    tmp_path: Path, tensor: torch.Tensor
) -> None:
    torch.save({"a": tensor}, tmp_path / "w.pth")
    with pytest.raises(AtelierError, match=r"w\.pth holds no"):
        read_weights(tmp_path / "w.pth", SETTING)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    tensor = torch.quantize_per_tensor(torch.ones(1), 0.1, 0, torch.qint8)
    torch.save({"a": tensor}, tmp_path / "w.pth")
    with pytest.raises(AtelierError, match=r"w\.pth holds no usable weights \(a is not a plain"):
        read_weights(tmp_path / "w.pth", SETTING)


def test_views_of_one_storage_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, looks = torch.ones(1000), []
    finite = torch.Tensor.isfinite

    def look(tensor: torch.Tensor) -> torch.Tensor:
        looks.append(tensor)
        return finite(tensor)

    monkeypatch.setattr(torch.Tensor, "isfinite", look)
    reject_not_finite({str(place): storage[place:] for place in range(1000)})
    assert len(looks) == 1
    storage[999] = torch.inf
    with pytest.raises(ValueError, match="0 holds values that are not finite"):
        reject_not_finite({str(place): storage[place : place + 1] for place in range(1000)})


def test_packed_weights_are_not_expanded(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2**20)}, tmp_path / "w.pth")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as stored,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in stored.namelist():
            packed.writestr(member, stored.read(member))
    with pytest.raises(AtelierError, match="no state_dict that can be read safely"):
        read_weights(tmp_path / "packed.pth", SETTING)
