"""A DICOM segmentation into the archive (STOW-RS): `relay predict --store`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from client.archive.connection import connect, speaking
from common.errors import RelayError


def store(path: Path, url: str) -> None:
    """Send a DICOM file to the archive.

    Args:
        path: the file.
        url: the address of the DICOMweb server.

    Raises:
        RelayError: the archive refuses the file, or is none.
        Unreachable: the archive does not answer.
    """
    import pydicom

    client = connect(url)
    with speaking(url):
        answer = client.store_instances([pydicom.dcmread(path)])
        refused = answer.get("FailedSOPSequence") or []
    if refused:
        reason = refused[0].get("FailureReason", "none")
        raise RelayError(
            f"The archive {urlsplit(url).hostname} did not keep the segmentation (failure reason {reason});"
            " ask its keeper."
        )
