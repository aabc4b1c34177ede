"""Reading ``data/raw``: every picture by name, in a fixed order, one at a time."""

from dataclasses import dataclass
from pathlib import Path

from atelier.core.errors import AtelierError
from atelier.data.archives import read_tar, read_zip
from atelier.data.cifar import read_cifar10
from atelier.data.manifest import Manifest, read_manifest
from atelier.data.members import Members, Rejected
from atelier.data.mnist import read_mnist


@dataclass(frozen=True)
class RawPictures:
    """The raw pictures of a folder; each iteration reads them anew, from the first.

    Iterating yields ``(name, payload)``. A payload is a file's bytes, a picture's pixels
    (uint8 [H, W] or [H, W, C]), or :class:`~atelier.data.members.Rejected` with the
    reason why it is not read. What the source passed over comes first, refused.
    """

    folder: Path
    manifest: Manifest

    @property
    def total(self) -> int | None:
        """How many pairs an iteration yields, where that is known beforehand."""
        members = self.manifest.members
        return None if members is None else members + len(self.manifest.skipped)

    def __iter__(self) -> Members:
        """Yield the pictures.

        Raises:
            AtelierError: what lies in the folder is damaged or was cut short.
        """
        for passed in self.manifest.skipped:
            yield passed.name, Rejected(passed.reason)
        paths = [self.folder / file.name for file in self.manifest.files]
        match self.manifest.format:
            case "zip":
                # Names that the program wrote itself come from files of this machine.
                own = self.manifest.source in ("folder", "kaggle", "sample")
                yield from read_zip(paths[0], exact_names=own)
            case "tar":
                yield from read_tar(paths[0])
            case "mnist":
                yield from read_mnist(paths)
            case "cifar10":
                yield from read_cifar10(paths[0], self.manifest.split)


def open_raw(folder: Path) -> RawPictures:
    """Open the raw pictures that the download stage left in ``folder``.

    Raises:
        AtelierError: the manifest is missing or damaged, or a file that it names is missing or
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
    return RawPictures(folder, manifest)
