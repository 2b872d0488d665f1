"""A connection to a DICOMweb server, through dicomweb-client, whose errors name neither patients nor their UIDs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from common.errors import RelayError, Unreachable

if TYPE_CHECKING:
    from dicomweb_client.api import DICOMwebClient

TOKEN, AUTHORITY = "RELAY_ARCHIVE_TOKEN", "RELAY_ARCHIVE_CA"
"""The environment variables with the token for the archive, and with the certificate of its authority."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
ATTEMPTS, PAUSE_MS = 3, 250
SECONDS = (10.0, 120.0)
"""How long a connection may take, and each answer."""
WHOLE = 1 << 31
"""The client sends longer requests in pieces, which it cannot send a second time."""


def connect(url: str) -> DICOMwebClient:
    """Return a client of a DICOMweb server; nothing is sent yet.

    Args:
        url: the address under which the server has its studies, such as https://pacs.hospital/dicom-web.

    Raises:
        RelayError: the address is none, holds a password, or would send the token unencrypted; or the authority's file
            is missing.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RelayError(f"{_shown(url)} is no address of a DICOMweb server; give one as https://pacs/dicom-web.")
    if parts.username or parts.password or parts.query:
        raise RelayError(
            f"The address of the archive {parts.hostname} holds more than a path; give a token in {TOKEN}."
        )
    token = os.environ.get(TOKEN, "")
    if token and parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise RelayError(f"The token in {TOKEN} would reach {parts.hostname} unencrypted; give an address with https.")
    authority = os.environ.get(AUTHORITY, "")
    if authority and not Path(authority).is_file():
        raise RelayError(f"{AUTHORITY} names no file ({authority}); give the certificate of the archive's authority.")
    import requests
    from dicomweb_client.api import DICOMwebClient

    for name in ("dicomweb_client", "urllib3"):  # their messages hold addresses with patients' UIDs
        logging.getLogger(name).setLevel(logging.CRITICAL)
    session = requests.Session()
    # The environment's variables for certificates, and ~/.netrc, would go before what is given here.
    session.trust_env = False
    session.proxies = requests.utils.get_environ_proxies(url)
    if token:
        session.auth = _bearer(token)
    if authority:
        session.verify = authority
    with speaking(url):
        client = DICOMwebClient(url.rstrip("/"), session=session, chunk_size=WHOLE, timeout=SECONDS)
        client.set_http_retry_params(True, max_attempts=ATTEMPTS, wait_exponential_multiplier=PAUSE_MS)
        return client


@contextmanager
def speaking(url: str) -> Iterator[None]:
    """Turn the errors of a conversation with the archive into RelayErrors, which name its host alone.

    Raises:
        Unreachable: the archive does not answer.
        RelayError: the archive refuses, is not trusted, or is no DICOMweb server.
    """
    import requests

    host = urlsplit(url).hostname
    try:
        yield
    except RelayError:
        raise
    except requests.exceptions.SSLError:
        raise RelayError(
            f"The certificate of the archive {host} is not trusted; give its authority's certificate in {AUTHORITY}."
        ) from None
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout):
        raise Unreachable(f"The archive {host} does not answer; check the address, or try again later.") from None
    except requests.exceptions.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise RelayError(
                f"The archive {host} refuses (HTTP {status}); give a token with the right to it in {TOKEN}."
            ) from None
        raise RelayError(
            f"The archive {host} answers with HTTP {status}; check the address, or ask its keeper."
        ) from None
    except (requests.exceptions.RequestException, ValueError, LookupError, TypeError, AttributeError):
        raise RelayError(
            f"The archive {host} does not answer as a DICOMweb server; give the address of its studies, such as"
            " https://pacs/dicom-web."
        ) from None


def _bearer(token: str) -> Any:
    def sign(request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    return sign


def _shown(url: str) -> str:
    """Return an address without what may be a password."""
    return url.rpartition("@")[2] or "An empty text"
