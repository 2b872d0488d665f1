"""A real Orthanc with its DICOMweb plug-in, on a free port, in a folder of its own: Debian's orthanc-dicomweb."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def absent() -> str:
    """Why there is no Orthanc here; empty where there is one."""
    if shutil.which("Orthanc") is None or not PLUGIN.exists():
        return "Orthanc is not installed here: apt-get install --no-install-recommends orthanc orthanc-dicomweb"
    return ""


class Orthanc:
    """A running server, which is ended with the block."""

    def __init__(self, folder: Path, *, users: dict[str, str] | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        settings = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [str(PLUGIN)],
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": bool(users),
            "RegisteredUsers": users or {},
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
        self.log = (folder / "orthanc.log").open("w", encoding="utf-8")
        self.process = subprocess.Popen(
            ["Orthanc", str(folder / "orthanc.json")], stdout=self.log, stderr=subprocess.STDOUT
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def __enter__(self) -> Orthanc:
        for _ in range(300):
            assert self.process.poll() is None, "Orthanc has ended; see orthanc.log"
            try:
                self.get("system")
                return self
            except urllib.error.HTTPError:
                return self  # it asks for a password, and so it is there
            except OSError:
                time.sleep(0.1)
        raise AssertionError("Orthanc does not answer")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)
        self.log.close()

    def get(self, path: str) -> object:
        with _direct().open(f"http://127.0.0.1:{self.port}/{path}", timeout=20) as answer:
            return json.loads(answer.read())

    def put(self, folder: Path) -> int:
        """Store every file below a folder by Orthanc's own interface; returns their number."""
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        for path in paths:
            request = urllib.request.Request(f"http://127.0.0.1:{self.port}/instances", data=path.read_bytes())
            with _direct().open(request, timeout=60) as answer:
                assert answer.status == 200
        return len(paths)


def _direct() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
