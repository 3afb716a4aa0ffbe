"""Hook implementations: descriptors only. Imports nothing but the API."""

from __future__ import annotations

from collections.abc import Iterator

from llmasos.api import DataSourceDef, ProcessorDef, hookimpl


@hookimpl
def llmasos_data_sources() -> Iterator[DataSourceDef]:
    yield DataSourceDef(name="text", factory="llmasos_data.text:TextSource")
    yield DataSourceDef(name="jsonl", factory="llmasos_data.jsonl:JsonlSource")
    yield DataSourceDef(name="warc", factory="llmasos_data.warc:WarcSource")


@hookimpl
def llmasos_processors() -> Iterator[ProcessorDef]:
    yield ProcessorDef(name="unicode", factory="llmasos_data.unicode:UnicodeRepair")
    yield ProcessorDef(name="gopher", factory="llmasos_data.gopher:GopherFilter")
    yield ProcessorDef(name="exact_dedup", factory="llmasos_data.exact:ExactDedup")
    yield ProcessorDef(name="near_dedup", factory="llmasos_data.near:NearDedup")
    yield ProcessorDef(name="tokenize_pack", factory="llmasos_data.packing:TokenizePack")
