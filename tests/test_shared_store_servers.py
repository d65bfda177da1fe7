"""Shared stores on servers on the loopback interface: a bucket of moto's, and a folder by OpenSSH.

s3fs and moto need older releases of packages than constraints.txt has; see CONTRIBUTING.md.
"""

import getpass
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import fsspec
import pytest
from version_samples import PRIOR, SOURCE, label, put_results

from dwp.results.cli import main

pytest.importorskip("s3fs")
pytest.importorskip("paramiko")
moto = pytest.importorskip("moto.server")
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """Return a file system with an empty bucket `group`; what fsspec finds at s3:// is on that server."""
    monkeypatch.chdir(tmp_path)
    put_results()
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        _, port = server.get_host_and_port()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        endpoint = {"endpoint_url": f"http://127.0.0.1:{port}"}
        monkeypatch.setitem(fsspec.config.conf, "s3", endpoint)
        reset = urllib.request.Request(f"{endpoint['endpoint_url']}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset).close()  # all servers of a process share their buckets
        files = fsspec.filesystem("s3")
        files.mkdir("group")
        yield files
    finally:
        server.stop()


def refusal(capsys, *words):
    capsys.readouterr()
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def goes_there_and_back(address, tmp_path, capsys):
    """Push two versions twice, and pull them into another folder."""
    (tmp_path / "theirs").mkdir()
    names = [label(PRIOR), label(SOURCE)]
    assert main(["push", address, *names]) == 0
    capsys.readouterr()
    assert main(["push", address, *names]) == 0
    assert capsys.readouterr().out == "0 pushed, 3 there already, 0 not finished here\n"
    assert main(["pull", address, *names, "--directory", "theirs"]) == 0
    for name in names:
        for path in (tmp_path / "theirs" / "results" / name).iterdir():
            assert path.read_bytes() == (tmp_path / "results" / name / path.name).read_bytes()
    (tmp_path / "theirs" / "results" / label(PRIOR) / "vae-7x7.csv").unlink()


def test_results_go_to_a_bucket_and_from_it(bucket, tmp_path, capsys):
    goes_there_and_back("s3://group/dwp", tmp_path, capsys)
    assert len(bucket.find("group")) == 3 + 6
    bucket.pipe_file(f"group/dwp/{label(PRIOR)}/vae-7x7.csv", b"damaged")
    assert "was damaged" in refusal(capsys, "pull", "s3://group/dwp", label(PRIOR), "--directory", "theirs")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Return the address of a folder on an OpenSSH server, to which a key in the home folder gives access."""
    monkeypatch.chdir(tmp_path)
    put_results()
    home = tmp_path / "home"
    keys = home / ".ssh"
    keys.mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    for name in ("host", "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (keys / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {keys}/host\nAuthorizedKeysFile {keys}/id_ed25519.pub\n"
        f"StrictModes no\nUsePAM no\nPidFile none\nSubsystem sftp internal-sftp\n"
    )
    if getpass.getuser() == "root":
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd runs there without its privileges
    with subprocess.Popen([SSHD, "-D", "-e", "-f", keys / "config"], stderr=subprocess.PIPE) as process:
        for _ in range(100):
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        (tmp_path / "shared").mkdir()
        yield f"sftp://{getpass.getuser()}@127.0.0.1:{port}{tmp_path}/shared"
        process.terminate()


@pytest.mark.skipif(SSHD is None or shutil.which("ssh-keygen") is None, reason="no OpenSSH server")
def test_results_go_to_a_folder_by_ssh_and_from_it(server, tmp_path, capsys):
    goes_there_and_back(server, tmp_path, capsys)
    assert len([path for path in (tmp_path / "shared").rglob("*") if path.is_file()]) == 3 + 6
    (tmp_path / "shared" / label(PRIOR) / "vae-7x7.csv").write_bytes(b"damaged")
    assert "was damaged" in refusal(capsys, "pull", server, label(PRIOR), "--directory", "theirs")
    missing = server.replace("/shared", "/nowhere")
    assert "is no version in" in refusal(capsys, "pull", missing, label(PRIOR))
    (tmp_path / "home" / ".ssh" / "id_ed25519").unlink()
    fsspec.get_filesystem_class("sftp").clear_instance_cache()  # with its open connection
    assert "sftp://" in refusal(capsys, "push", server, label(PRIOR))


def test_a_missing_bucket_is_neither_made_nor_read(bucket, capsys):
    error = refusal(capsys, "push", "s3://nobody/dwp", label(PRIOR))
    assert "there is no such bucket or folder" in error
    assert "is no version in s3://nobody/dwp" in refusal(capsys, "pull", "s3://nobody/dwp", label(PRIOR))
    bucket.invalidate_cache()
    assert bucket.ls("") == ["group"]


def test_no_permission_is_one_line(bucket, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(bucket, "put_file", refuse)
    assert "no permission; check the credentials" in refusal(capsys, "push", "s3://group", label(PRIOR))
