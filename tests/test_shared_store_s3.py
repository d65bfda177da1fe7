"""A bucket as a shared store, on a server of moto's on the loopback interface.

s3fs and moto need older releases of packages than constraints.txt has; see CONTRIBUTING.md.
"""

import urllib.request

import fsspec
import pytest
from version_samples import PRIOR, SOURCE, label, put_results

from dwp.results.cli import main

pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")


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


def test_results_go_to_a_bucket_and_from_it(bucket, tmp_path, capsys):
    (tmp_path / "theirs").mkdir()
    address, names = "s3://group/dwp", [label(PRIOR), label(SOURCE)]
    assert main(["push", address, *names]) == 0
    assert len(bucket.find("group")) == 3 + 6
    capsys.readouterr()
    assert main(["push", address, *names]) == 0
    assert capsys.readouterr().out == "0 pushed, 3 there already, 0 not finished here\n"
    assert main(["pull", address, *names, "--directory", "theirs"]) == 0
    for name in names:
        for path in (tmp_path / "theirs" / "results" / name).iterdir():
            assert path.read_bytes() == (tmp_path / "results" / name / path.name).read_bytes()
    bucket.pipe_file(f"group/dwp/{label(PRIOR)}/vae-7x7.csv", b"damaged")
    (tmp_path / "theirs" / "results" / label(PRIOR) / "vae-7x7.csv").unlink()
    assert "was damaged" in refusal(capsys, "pull", address, label(PRIOR), "--directory", "theirs")


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
