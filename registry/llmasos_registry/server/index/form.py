"""The form of an upload, read as it arrives: short fields into memory, the file to wherever it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from llmasos_registry.server.failures import bad_request

#: Bytes of one field, of all fields, and how many: descriptions are long, dependency lists too.
MAX_FIELD = 4 << 20
MAX_FIELDS = 16 << 20
MAX_PARTS = 5_000
#: The part that is the file.
FILE = "content"
#: Fields whose value is kept. Everything else that clients send is read out of the file itself.
KEPT = frozenset(
    (
        ":action", "protocol_version", "name", "version", "filetype", "sha256_digest", "blake2_256_digest",
        "attestations", "gpg_signature", "llmasos_signature", "llmasos_owner",
    )
)  # fmt: skip


class UploadForm:
    """A multipart/form-data body (RFC 7578) with one file in the field ``content``.

    ``feed`` pieces, then ``finish``. ``fields`` holds the kept fields, ``filename`` the file's, None as long as the file
    has not begun. Bytes of the file go to ``take``. Raises Failure 400.
    """

    def __init__(self, content_type: str, take: Callable[[bytes], None]) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise bad_request("An upload is a multipart/form-data form, as twine and `uv publish` send it")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._take = take
        self._parts = 0
        self._bytes = 0
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._value: bytearray | None = None
        self._ended = False
        callbacks: Any = {
            "on_part_begin": self._part_begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }
        self._parser = MultipartParser(options[b"boundary"], callbacks)

    def feed(self, piece: bytes) -> None:
        """The next bytes of the body."""
        try:
            self._parser.write(piece)
        except MultipartParseError as error:
            raise bad_request(f"The form cannot be parsed: {error}") from error

    def finish(self) -> None:
        """After the last bytes. Raises Failure 400 when the form or the file is missing its end."""
        if not self._ended:
            raise bad_request("The form ends before it is complete")
        if self.filename is None:
            raise bad_request(f"The form has no file in the field `{FILE}`")

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise bad_request(f"The form has more than {MAX_PARTS} fields")
        self._headers.clear()

    def _header_end(self) -> None:
        self._headers[bytes(self._header[0]).lower()] = bytes(self._header[1])
        self._header[0].clear()
        self._header[1].clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name == FILE:
            if self.filename is not None:
                raise bad_request(f"The form has several files in the field `{FILE}`")
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace")
        if self._name in KEPT and self._name in self.fields:
            raise bad_request(f"The form has the field `{self._name}` twice")
        self._value = bytearray() if self._name in KEPT else None

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE:
            self._take(data[start:end])
            return
        self._bytes += end - start
        if self._bytes > MAX_FIELDS:
            raise bad_request(f"The fields of the form are longer than {MAX_FIELDS} bytes")
        if self._value is not None:
            self._value += data[start:end]
            if len(self._value) > MAX_FIELD:
                raise bad_request(f"The field `{self._name}` is longer than {MAX_FIELD} bytes")

    def _part_end(self) -> None:
        if self._value is not None:
            try:
                self.fields[self._name] = self._value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise bad_request(f"The field `{self._name}` is not UTF-8") from error
        self._value = None

    def _end(self) -> None:
        self._ended = True
