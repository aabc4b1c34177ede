"""Reader of ``data/raw``: every image by name, in a fixed order, one at a time."""

from dataclasses import dataclass
from pathlib import Path

from atelier.core.errors import AtelierError
from atelier.data.archives import read_tar, read_zip
from atelier.data.cifar import read_cifar10
from atelier.data.manifest import Manifest, read_manifest
from atelier.data.members import Members, Rejected
from atelier.data.mnist import read_mnist

FOREIGN_ARCHIVES = ("archive", "torchvision")
"""Sources whose archives others wrote; all other sources write one zip of local files."""


@dataclass(frozen=True)
class RawImages:
    """Raw images of a folder; each iteration reads them again from the start.

    Iterating yields ``(name, payload)``. A payload is a file's bytes, an image's pixels
    (uint8 [H, W] or [H, W, C]), or a :class:`~atelier.data.members.Rejected`. Files that the
    source skipped come first, as rejected payloads.
    """

    folder: Path
    manifest: Manifest

    @property
    def total(self) -> int | None:
        """Number of pairs that an iteration yields, ``None`` if it is unknown beforehand."""
        members = self.manifest.members
        return None if members is None else members + len(self.manifest.skipped)

    def __iter__(self) -> Members:
        """Yield the images.

        Raises:
            AtelierError: a file of the folder is damaged or was cut short.
        """
        for skipped in self.manifest.skipped:
            yield skipped.name, Rejected(skipped.reason)
        paths = [self.folder / file.name for file in self.manifest.files]
        match self.manifest.format:
            case "zip":
                # Zips written here have names of local files, which may contain `\`.
                is_foreign = self.manifest.source in FOREIGN_ARCHIVES
                yield from read_zip(paths[0], exact_names=not is_foreign)
            case "tar":
                yield from read_tar(paths[0])
            case "mnist":
                yield from read_mnist(paths)
            case "cifar10":
                yield from read_cifar10(paths[0], self.manifest.split)


def open_raw(folder: Path) -> RawImages:
    """Open the raw images that the download stage wrote to ``folder``.

    Raises:
        AtelierError: the manifest is missing or damaged, or a file that it lists is missing or
            has another size.
    """
    manifest = read_manifest(folder)
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file() or path.stat().st_size != file.size:
            raise AtelierError(
                f"{path} is missing or has another size than the {file.size} bytes that were"
                " downloaded; run the download stage again."
            )
    return RawImages(folder, manifest)
