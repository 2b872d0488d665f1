"""A hospital's own page: who may see it, and that it does what the commands do, by a browser that any person has."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from client.governance import audit_log
from client.governance.approval import LOG, Approval, approvals
from client.site_config import load_site
from common.config.study import study_toml
from common.errors import RelayError
from common.model.network import build
from common.text import short_bytes
from deploy.site import page as page_module
from deploy.site.approve import approve_study
from deploy.site.page import Page
from deploy.site.running import STARTED
from deploy.site.serve import LARGEST, serve, server
from tests.deploy.site.test_receive import SMALL, arrive
from tests.support.browser import CHROMIUM, WHY_NOT, browser
from tests.support.federation import wait_for
from tests.support.hospitals import small_study, write_hospitals, write_site

RELAY = (sys.executable, "-m", "deploy.cli")
TOKEN = "a-token-of-the-test"
STUDY = small_study(name="ours <b>&", sites=("A", "B"), methods={"baseline": True, "pooled": False})
HOLD = (
    "import fcntl, sys, time; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX);"
    " print('held', flush=True); time.sleep(60)"
)
"""A program that holds a lock."""
OTHER = small_study(name="another", sites=("A", "C"), methods={"baseline": True, "pooled": False})


class Answered(NamedTuple):
    code: int
    text: str
    headers: http.client.HTTPMessage


class Open(NamedTuple):
    """A page that is being served."""

    site: Path
    port: int

    def __call__(
        self, path: str, *, method: str = "GET", body: bytes | None = None, token: str = TOKEN, **headers: str
    ) -> Answered:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, f"/{token}/{path}", body=body, headers=named)
            answer = connection.getresponse()
            return Answered(answer.status, answer.read().decode(), answer.headers)

    def send(self, content: bytes) -> Answered:
        """Give the page a file, as a browser's form does."""
        kind = "multipart/form-data; boundary=--between"
        head = b'----between\r\nContent-Disposition: form-data; name="study"; filename="s.toml"\r\n'
        body = head + b"Content-Type: application/toml\r\n\r\n" + content + b"\r\n----between--\r\n"
        return self("studies", method="POST", body=body, Content_Type=kind)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("hospitals"), {"A": 8}, slices=5)["A"]


@pytest.fixture
def site(hospital: Path, tmp_path: Path) -> Path:
    return write_site(tmp_path / "A", "A", images=str(hospital.parent / "images"), patient_scores=False)


@pytest.fixture
def page(site: Path) -> Iterator[Open]:
    with closing(Page(site, f"/{TOKEN}/", RELAY)) as views, server(views, TOKEN) as here:
        thread = threading.Thread(target=here.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield Open(site, here.server_address[1])
        here.shutdown()
        thread.join()


@pytest.mark.parametrize("token", ["", "a-token-of-the-tes", TOKEN.upper(), TOKEN + "x", "%C3%BC"])
def test_without_the_token_nothing_is_shown(page: Open, token: str) -> None:
    for path in ("", "check", "studies", "left", "contours", "page.css", "study/" + STUDY.digest):
        answered = page(path, token=token)
        assert answered.code == 403 and "Hospital" not in answered.text


@pytest.mark.parametrize("what", ["check", "studies", "approve/" + STUDY.digest, "leave/" + STUDY.digest])
def test_without_the_token_nothing_is_done(page: Open, what: str) -> None:
    (page.site.parent / "study.toml").write_text(study_toml(STUDY), encoding="utf-8")
    assert page(what, method="POST", body=b"", token="x").code == 403
    assert approvals(load_site(page.site)) == [] and not list(page.site.parent.rglob("*studies-to-read*"))


def test_a_foreign_name_that_leads_here_and_a_foreign_page_that_posts_here_get_nothing(page: Open) -> None:
    (page.site.parent / "study.toml").write_text(study_toml(STUDY), encoding="utf-8")
    assert page("", Host="evil.example").code == 403
    posted = page(f"approve/{STUDY.digest}", method="POST", body=b"", Origin="http://evil.example")
    assert posted.code == 403 and approvals(load_site(page.site)) == []


def test_nothing_comes_from_elsewhere_and_no_script_runs(page: Open) -> None:
    answered = page("")
    policy = answered.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src" not in policy and "form-action 'self'" in policy
    assert answered.headers["Cache-Control"] == "no-store" and answered.headers["X-Frame-Options"] == "DENY"
    assert "<script" not in answered.text
    assert not re.search(r"(?:href|src|action)=[\"'](?!/)", answered.text)


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "study/../../x", "letter/..%2f..%2fx", "nothing", "study/", "%00"]
)
def test_what_is_not_there_is_not_found(page: Open, path: str) -> None:
    assert page(path).code == 404
    assert page(path, method="POST", body=b"").code == 404


def test_it_says_whether_the_programs_run_and_shows_the_log_as_text(page: Open) -> None:
    assert "answers no orders" in page("").text and "The log is empty" in page("").text
    private = load_site(page.site).private()
    (private / "site.log").write_text("12:00 WARNING <script>alert(1)</script>\n", encoding="utf-8")
    stage = private / "stages" / ("f" * 64)
    stage.mkdir(parents=True)
    (stage / "checkpoint.pt").write_bytes(b"")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(private / STARTED)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            text = page("").text
        finally:
            holder.kill()
    assert "is there for the coordinator" in text and "Stage ffffffff: saved" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "<script" not in text


@pytest.mark.slow
def test_a_study_is_read_in_plain_words_and_a_yes_is_the_commands_yes(page: Open, tmp_path: Path) -> None:
    (page.site.parent / "study.toml").write_text(study_toml(STUDY), encoding="utf-8")
    listed = page("studies").text
    assert "Read “ours &lt;b&gt;&amp;”" in listed and "<b>" not in listed
    shown = page(f"study/{STUDY.digest}").text
    assert "What leaves, encrypted, to the coordinator and nobody else:" in shown
    assert "ours &lt;b&gt;&amp;" in shown and "Yes, approve this study" in shown
    assert approvals(load_site(page.site)) == []
    assert "Approved:" in page(f"approve/{STUDY.digest}", method="POST", body=b"").text
    other = write_site(tmp_path / "other", "A", images=str(load_site(page.site).images), patient_scores=False)
    approve_study(load_site(other), STUDY, yes=True)

    def record(path: Path) -> Approval:
        (found,) = approvals(load_site(path))
        return found.model_copy(update={"at": ""})

    assert record(page.site) == record(other)
    lines = [audit_log.read(load_site(path).private() / LOG).lines for path in (page.site, other)]
    assert [line | {"time": ""} for line in lines[0]] == [line | {"time": ""} for line in lines[1]]
    assert "This study is approved already" in page(f"study/{STUDY.digest}").text
    assert "has left" in page(f"leave/{STUDY.digest}", method="POST", body=b"").text
    assert approvals(load_site(page.site))[0].left


@pytest.mark.slow
def test_a_study_that_was_changed_after_it_was_read_is_not_approved(
    page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = page.site.parent / "study.toml"
    path.write_text(study_toml(STUDY), encoding="utf-8")
    changed = study_toml(STUDY.model_copy(update={"seed": STUDY.seed + 1}))
    run = page_module.subprocess.run

    def swap(*args: object, **named: object) -> object:
        """Change the file between the page's look at it and the command's."""
        path.write_text(changed, encoding="utf-8")
        return run(*args, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(page_module.subprocess, "run", swap)
    answered = page(f"approve/{STUDY.digest}", method="POST", body=b"")
    assert "another one than the coordinator read out" in answered.text
    assert approvals(load_site(page.site)) == []
    assert page(f"approve/{STUDY.digest}", method="POST", body=b"").code == 404


@pytest.mark.slow
def test_no_changes_nothing(page: Open) -> None:
    (page.site.parent / "study.toml").write_text(study_toml(STUDY), encoding="utf-8")
    assert "Not approved; nothing was changed." in page(f"decline/{STUDY.digest}", method="POST", body=b"").text
    assert approvals(load_site(page.site)) == []


@pytest.mark.slow
def test_a_study_file_is_taken_from_the_browser(page: Open) -> None:
    taken = page.send(study_toml(OTHER).encode())
    assert taken.code == 303 and taken.headers["Location"] == f"/{TOKEN}/study/{OTHER.digest}"
    (kept,) = load_site(page.site).private().glob("studies-to-read/*.toml")
    assert kept.name == f"{OTHER.digest}.toml" and kept.stat().st_mode & 0o077 == 0
    assert "Read “another”" in page("studies").text


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"name = 3", b"<script>"])
def test_what_is_no_study_is_refused_in_a_sentence(page: Open, content: bytes) -> None:
    answered = page.send(content)
    assert answered.code == 200 and "you chose" in answered.text and "<script" not in answered.text
    assert not list(load_site(page.site).private().glob("studies-to-read/*.toml"))


@pytest.mark.slow
def test_a_body_that_is_no_form_or_far_too_large_is_refused(page: Open) -> None:
    assert "you chose" in page("studies", method="POST", body=b"x").text
    with socket.create_connection(("127.0.0.1", page.port), timeout=10) as reader:
        head = f"POST /{TOKEN}/studies HTTP/1.0\r\nHost: 127.0.0.1:{page.port}\r\nContent-Length: {LARGEST + 1}\r\n\r\n"
        reader.sendall(head.encode())
        assert b"413" in reader.recv(1000)


@pytest.mark.slow
def test_the_check_is_the_commands_check_with_its_progress(site: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "data"
    sites = write_hospitals(hostile, {"A": 3}, slices=5)
    for file in sorted((sites["A"].parent / "images").rglob("Case00*")):
        file.rename(file.with_name(file.name.replace("Case00", "Case00<i>")))
    with closing(Page(sites["A"], "/t/", RELAY)) as views:
        assert "Found on" not in views.check()
        views.start_check()
        views.start_check()  # one at a time
        assert "Every patient is being read" in views.check() and 'http-equiv="refresh"' in views.check()
        wait_for(lambda: "Found on" in views.check(), seconds=60)
        text = views.check()
        contours = views.contours()
    printed = subprocess.run(
        [*RELAY, "site", "check", str(sites["A"]), "--json"],
        capture_output=True, check=True,
    )  # fmt: skip
    found = json.loads(printed.stdout)
    assert f"<b>{found['usable']}</b> patients can be used" in text and found["findings"]
    for finding in found["findings"]:
        assert finding["sentence"].replace("'", "&#39;").replace("<", "&lt;").replace(">", "&gt;") in text
    assert "Case00&lt;i&gt;" in text and "<i>" not in text
    assert contours is not None and "Case00&lt;i&gt;" in contours


@pytest.mark.slow
def test_what_left_stands_there_with_whether_the_log_is_whole(page: Open) -> None:
    assert "Nothing has left." in page("left").text
    private = load_site(page.site).private()
    for number in range(2):
        line = {"time": f"2026-05-0{number + 1}T10:00:00+00:00", "study": STUDY.digest, "kind": "EvaluateReply",
                "state": "done", "bytes": 1500, "digest": f"{number}" * 64, "stage": "a" * 64}  # fmt: skip
        audit_log.append(private / "egress.jsonl", line)
    text = page("left").text
    assert f"2 messages, {short_bytes(3000)} in all" in text and text.count("a scoring&#39;s numbers") == 2
    assert "as they were written" in page("verified").text
    log = private / "egress.jsonl"
    log.write_bytes(log.read_bytes().replace(b"1500", b"1400", 1))
    assert "The log is not as it was written" in page("verified").text


@pytest.mark.slow
def test_what_arrived_stands_there_with_the_letter_and_is_handed_out(page: Open) -> None:
    assert "Nothing yet." in page("arrived").text
    torch.manual_seed(0)
    arrive(page.site, [build(SMALL).state_dict() for _ in range(2)])
    assert "Keep your own model" in page("arrived").text
    letter = page("letter/" + "a" * 64)
    assert "Keep your own model" in letter.text and "style-src 'unsafe-inline'" in letter.headers[
        "Content-Security-Policy"
    ]  # fmt: skip
    assert page("letter/" + "b" * 64).code == 404
    said = page("hand-out/" + "a" * 64, method="POST", body=b"").text
    (folder,) = page.site.parent.glob("received-*")
    assert str(folder) in said and (folder / "letter.html").read_text(encoding="utf-8") == letter.text
    assert (folder / "model.safetensors").exists()


def test_the_pooled_site_has_no_page(tmp_path: Path) -> None:
    write_site(tmp_path / "A", "A")
    path = tmp_path / "pooled.toml"
    path.write_text('name = "pooled"\nmembers = ["A/site.toml"]\n', encoding="utf-8")
    with pytest.raises(RelayError, match="belongs to no hospital"):
        serve(path, RELAY, opens=False)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="this system lists no sockets in /proc")
def test_one_socket_listens_on_the_loopback_interface_alone_until_ctrl_c(site: Path) -> None:
    command = [*RELAY, "site", "serve", str(site), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)/([\w-]{32})/$", program.stdout.readline().strip())
            assert found is not None
            assert listening(program.pid) == [("0100007F", int(found[1]))]
            with closing(http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=10)) as connection:
                connection.request("GET", f"/{found[2]}/")
                assert connection.getresponse().status == 200
            program.send_signal(signal.SIGINT)
            assert program.wait(20) == 0 and "The page has ended" in program.stdout.read()
        finally:
            program.kill()


def listening(process: int) -> list[tuple[str, int]]:
    """Address and port of each socket on which a process listens."""
    links = [os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir()]
    own = {link[8:-1] for link in links if link.startswith("socket:[")}
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            words = line.split()
            if words[9] in own and (words[3] == "0A" or table.startswith("udp")):
                address, _, port = words[1].partition(":")
                found.append((address, int(port, 16)))
    return found


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=WHY_NOT)
def test_a_person_approves_a_study_in_a_browser(page: Open, tmp_path: Path) -> None:
    (page.site.parent / "study.toml").write_text(study_toml(STUDY), encoding="utf-8")
    address = f"http://127.0.0.1:{page.port}/{TOKEN}/"
    with browser(address, tmp_path / "profile", screen=(400, 800)) as evaluate:

        def press(text: str) -> None:
            """Press the link or button with a text, once it is there."""
            find = f"[...document.querySelectorAll('a, button')].find((one) => one.textContent.includes({text!r}))"
            wait_for(lambda: evaluate(f"!!({find})"), seconds=30)
            evaluate(f"({find}).click()")

        assert evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert "sans-serif" in evaluate("getComputedStyle(document.body).fontFamily"), "the style sheet was refused"
        press("Studies")
        press("Read “ours")
        wait_for(lambda: "What leaves" in str(evaluate("document.body.innerText")), seconds=30)
        assert evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        press("Yes, approve")
        wait_for(lambda: "Approved: “ours <b>&”" in str(evaluate("document.body.innerText")), seconds=30)
    (record,) = approvals(load_site(page.site))
    assert record.study == STUDY.digest and record.disclosure is not None
