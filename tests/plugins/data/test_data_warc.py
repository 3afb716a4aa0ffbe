"""Source ``warc``, on archives written here and on a real one."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from data_samples import SHARED, read_all, reasons

from llmasos_data.warc import WarcSource


def record(kind: str, body: bytes, url: str = "http://example.org/") -> bytes:
    """One WARC record."""
    http = b"application/http;msgtype=response" if kind == "response" else b"application/warc-fields"
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: <{url}>\r\nWARC-Date: 2026-11-21T21:05:16Z\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{len(body):012d}>\r\nContent-Length: {len(body)}\r\n"
    )
    return head.encode() + b"Content-Type: " + http + b"\r\n\r\n" + body + b"\r\n\r\n"


def response(html: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """An HTTP response."""
    lines = headers or ("Content-Type: text/html; charset=utf-8",)
    return f"HTTP/1.1 {status}\r\n{''.join(line + chr(13) + chr(10) for line in lines)}\r\n".encode() + html


PAGE = (
    "<html><head><title>T</title></head><body><nav><a href='/'>Home</a> <a href='/b'>Menu</a></nav><main><article>"
    "<h1>Café</h1><p>The text of the page is long enough to be its main content, says the naïve reader.</p>"
    "</article></main><footer>Imprint</footer></body></html>"
)


def read(tmp_path: Path, data: bytes, name: str = "a.warc", **options: object):
    """Documents and dropped records of an archive."""
    (tmp_path / name).write_bytes(data)
    return read_all(WarcSource({"paths": name, **options}, None), tmp_path)


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_html_answered_with_200_is_text_the_rest_is_dropped_with_a_reason(tmp_path: Path, name: str) -> None:
    records = [
        record("warcinfo", b"software: test\r\n"),
        record("response", response(PAGE.encode()), "http://example.org/a"),
        record("response", response(b"gone", status="404 Not Found"), "http://example.org/b"),
        record("response", response(b"%PDF", "Content-Type: application/pdf"), "http://example.org/c"),
        record("response", response(b"<html><body></body></html>"), "http://example.org/d"),
        record(
            "response",
            response(gzip.compress(PAGE.encode()), "Content-Type: text/html", "Content-Encoding: gzip"),
        ),
    ]
    data = b"".join(gzip.compress(one) if name.endswith(".gz") else one for one in records)
    documents, dropped = read(tmp_path, data, name)
    assert [document.meta["url"] for document in documents] == ["http://example.org/a", "http://example.org/"]
    assert documents[0].meta["date"] == "2026-11-21T21:05:16Z"
    assert documents[0].text == documents[1].text
    assert "naïve reader" in documents[0].text
    assert "Menu" not in documents[0].text
    assert [(d.reason, d.detail) for d in dropped[:2]] == [
        ("http_status", "404"),
        ("not_html", "application/pdf"),
    ]
    assert reasons(dropped) == ["http_status", "not_html", "no_text"]
    everything, _ = read(tmp_path, data, name, main_content=False)
    assert "Menu" in everything[0].text


@pytest.mark.parametrize(
    ("encoding", "headers", "declared"),
    [
        ("latin-1", ("Content-Type: text/html; charset=iso-8859-1",), ""),
        ("cp1251", ("Content-Type: text/html",), '<meta charset="windows-1251">'),
        ("utf-8", ("Content-Type: text/html",), ""),
        ("shift_jis", ("Content-Type: text/html; charset=Shift_JIS",), ""),
    ],
)
def test_the_charset_comes_from_http_then_the_page_then_the_bytes(
    tmp_path: Path, encoding: str, headers: tuple[str, ...], declared: str
) -> None:
    words = {"cp1251": "Привет, мир: это текст", "shift_jis": "日本語の文章です"}.get(
        encoding, "Crème brûlée déjà vu"
    )
    html = f"<html><head>{declared}</head><body><p>{words}. {words}.</p></body></html>".encode(encoding)
    documents, dropped = read(tmp_path, record("response", response(html, *headers)), main_content=False)
    assert dropped == []
    assert words in documents[0].text


def test_a_page_over_the_limit_or_cut_short_is_dropped_not_cut(tmp_path: Path) -> None:
    big = record("response", response(b"<p>" + b"word " * 40_000))
    bomb = response(
        gzip.compress(b"<p>" + b"a " * 200_000), "Content-Type: text/html", "Content-Encoding: gzip"
    )
    good = record("response", response(PAGE.encode()))
    documents, dropped = read(tmp_path, big + record("response", bomb) + good + big[:9000], max_bytes=100_000)
    assert len(documents) == 1
    assert reasons(dropped) == ["too_large", "too_large", "too_large"]
    documents, dropped = read(tmp_path, good + big[:9000], max_bytes=1_000_000)
    assert len(documents) == 1
    assert reasons(dropped) == ["truncated"]
    have, total = re.fullmatch(r"(\d+) of (\d+) bytes", dropped[0].detail).groups()
    assert int(have) < 9000 < 200_000 < int(total)


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.warc", b"not an archive\n" * 100), ("a.warc.gz", b""), ("b.warc.gz", gzip.compress(b"nothing"))],
    ids=["text", "empty", "other gzip"],
)
def test_a_file_that_is_no_archive_is_one_dropped_record(tmp_path: Path, name: str, data: bytes) -> None:
    documents, dropped = read(tmp_path, data, name)
    assert documents == []
    assert reasons(dropped) == ["broken_warc"]


def test_damage_in_the_middle_ends_the_file_and_not_the_run(tmp_path: Path) -> None:
    good = gzip.compress(record("response", response(PAGE.encode())))
    documents, dropped = read(tmp_path, good + good[:40] + b"\xff" * 200, "a.warc.gz")
    assert len(documents) == 1
    assert reasons(dropped) == ["broken_warc"]


def test_the_real_archive() -> None:
    if not (SHARED / "warc").is_dir():
        pytest.skip("needs ../shared/data/warc")
    documents, dropped = read_all(WarcSource({"paths": "warc/debref-en.warc.gz"}, None), SHARED)
    assert len(documents) == 16
    assert sorted(set(reasons(dropped))) == ["http_status", "not_html"]
    assert len(dropped) == 11  # nine 404s, a PDF and a gzip file
    chapter = next(d for d in documents if d.meta["url"].endswith("/ch02.en.html"))
    assert chapter.meta["encoding"] == "utf-8"
    assert "Debian package management" in chapter.text
    assert len(chapter.text) > 50_000
