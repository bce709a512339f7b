"""The page on which one drops an image."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import clipkd as package


def test_without_gradio_it_says_how_to_install_it(here, run_folder, monkeypatch) -> None:
    monkeypatch.setattr("clipkd.export.demo.find_spec", lambda name: None)
    answer = here("demo", run_folder)
    assert answer.returncode == 4
    assert "pip install 'clipkd[demo]'" in answer.stderr


def test_the_page_answers_on_loopback_with_the_students_classes(run_folder, scans, tmp_path) -> None:
    """The real server, with variables that would open it to others; asked by gradio's own client, then stopped."""
    pytest.importorskip("gradio", reason="pip install 'clipkd[demo]' to test the page")
    client = pytest.importorskip("gradio_client")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    opened = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SHARE": "True", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "clipkd", "demo", str(run_folder), "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(command, env=os.environ | opened, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        line = next(line for line in server.stderr if "open http" in line)
        assert re.search(r"http://[^/]+/", line)[0] == f"http://127.0.0.1:{port}/"
        listening = Path("/proc/net/tcp").read_text().split()
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening
        page = client.Client(f"http://127.0.0.1:{port}/", verbose=False, download_files=tempfile.mkdtemp(dir=tmp_path))
        answer = page.predict(client.handle_file(str(scans[0])), api_name="/classify")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
    found = [(one["label"], one["confidence"]) for one in answer["confidences"]]
    expected = package.load(run_folder, "cpu").predict(scans[0])[0]
    assert found == [(one.label, pytest.approx(one.probability, abs=1e-5)) for one in expected]
    assert list(tmp_path.glob("clipkd-demo-*")) == []
