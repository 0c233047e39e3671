"""Who may come in to ``saint ui``: refusals that hold before Gradio is even looked for."""

from __future__ import annotations

import importlib.util
import os

import pytest

from flows.cli import main
from flows.ui.launch import Access, is_loopback, require_gradio, users_of
from tasks.spec import SpecError


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"])
def test_this_machines_own_addresses_need_no_password(host):
    assert is_loopback(host)
    Access(host).check()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", "localhost.example.org", "127.0.0.1.nip.io", ""])
def test_any_other_address_is_refused_without_one(host):
    assert not is_loopback(host)
    with pytest.raises(SpecError, match="others than you reach the page"):
        Access(host).check()
    Access(host, users=(("a", "b"),)).check()


def test_sharing_is_refused_without_a_password():
    with pytest.raises(SpecError, match="--share, but then others"):
        Access(share=True).check()
    Access(share=True, users=(("a", "b"),)).check()
    assert not Access(share=True).local


@pytest.mark.parametrize(
    "arguments", [["--host", "0.0.0.0"], ["--share"], ["--auth", "nobody"], ["--auth", ":x"], ["--auth", "x:"], ["--port", "0"]]
)
def test_the_command_line_refuses_before_anything_starts(arguments, capsys, monkeypatch):
    monkeypatch.setattr("flows.ui.launch.serve", lambda *_: pytest.fail("it started"))
    assert main(["ui", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: --")


def test_a_file_of_passwords_is_read_and_one_that_others_can_read_is_refused(tmp_path):
    file = tmp_path / "users"
    file.write_text("# who\nann:se:cret\n\nbob:pw\n")
    file.chmod(0o600)
    assert users_of(None, str(file)) == (("ann", "se:cret"), ("bob", "pw"))
    file.chmod(0o644)
    with pytest.raises(SpecError, match="chmod 600"):
        users_of(None, str(file))
    file.chmod(0o600)
    file.write_text("# nobody\n")
    with pytest.raises(SpecError, match="nobody is in it"):
        users_of(None, str(file))
    with pytest.raises(SpecError, match="no such file"):
        users_of(None, str(tmp_path / "none"))
    with pytest.raises(SpecError, match="leave one out"):
        users_of("a:b", str(file))


def test_a_password_is_in_no_error(tmp_path):
    with pytest.raises(SpecError) as error:
        users_of(":hunter2", None)
    assert "hunter2" not in str(error.value)


def test_without_gradio_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr("flows.ui.launch.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"pip install 'saint-sae\[ui\]'"):
        require_gradio()


@pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="no gradio here")
def test_gradios_variables_are_taken_out_of_the_environment(monkeypatch):
    for name in ("SHARE", "SERVER_NAME", "ALLOWED_PATHS", "MCP_SERVER", "VIBE_MODE", "WATCH_DIRS", "ROOT_PATH"):
        monkeypatch.setenv(f"GRADIO_{name}", "true")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    require_gradio()
    assert {n: v for n, v in os.environ.items() if n.startswith("GRADIO_")} == {"GRADIO_ANALYTICS_ENABLED": "False"}
