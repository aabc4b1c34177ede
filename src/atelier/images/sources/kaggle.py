"""Source ``kaggle``: a dataset of kaggle.com, through kagglehub, packed like a folder."""

from pathlib import Path

from atelier.errors import AtelierError
from atelier.images.manifest import Manifest
from atelier.images.sources.folder import take_folders
from atelier.progress import Report
from atelier.settings import KaggleSettings


def take_kaggle(settings: KaggleSettings, target: Path, report: Report) -> Manifest:
    """Download a dataset with kagglehub and pack its files into ``target``.

    Raises:
        AtelierError: Kaggle cannot be reached, wants to know who asks, or has no such dataset.
    """
    import kagglehub  # slow to import, and needed by this source only

    try:
        folder = kagglehub.dataset_download(settings.handle)
    except Exception as error:
        # kagglehub raises many kinds, and what they say may hold addresses with tokens.
        raise AtelierError(_sentence(settings.handle, error)) from None
    name = settings.handle.split("/")[1]
    # The author of a dataset must not be able to name files of this machine.
    return take_folders({name: folder}, target, report, source="kaggle", links_out=False)


def _sentence(handle: str, error: Exception) -> str:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status == 404:
        told = "Kaggle has no such dataset; check download.kaggle.handle"
    elif status in (401, 403) or type(error).__name__ in (
        "UnauthenticatedError",
        "CredentialError",
    ):
        told = (
            "Kaggle wants to know who asks; put an API token into ~/.kaggle/kaggle.json or"
            " KAGGLE_API_TOKEN, and accept the dataset's terms on its page"
        )
    else:
        told = (
            f"Kaggle could not be asked ({type(error).__name__}); check the network, or fetch the"
            " dataset by hand and use source: archive"
        )
    return f"the Kaggle dataset {handle} could not be fetched: {told}."
