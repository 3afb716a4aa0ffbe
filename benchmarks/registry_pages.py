"""Simple pages, against devpi and pypiserver."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from registry_load import PAGE_HEADERS, Latency, Uploader, wrk
from registry_report import Line, Sizes, faster, say
from registry_servers import Devpi, Ours, Pypiserver, install_peers
from registry_wheels import wheel

#: The project whose page is asked for, and the others beside it.
VERSIONS, NEIGHBOURS = 20, 50


def page_lines(work: Path, sizes: Sizes) -> Iterator[Line]:
    """Simple pages. All servers hold the same projects and run at the same time; each is asked alone, in turns."""
    binaries = install_peers(sizes.keep)
    wheels = [("bench-page", f"1.{i}.0", wheel("bench-page", f"1.{i}.0")) for i in range(VERSIONS)]
    wheels += [(f"bench-other-{i}", "1.0", wheel(f"bench-other-{i}", "1.0")) for i in range(NEIGHBOURS)]
    ours = Ours(work / "ours")
    peers = [Devpi(binaries, work / "devpi"), Pypiserver(binaries, work / "pypiserver")]
    with ours.running(), peers[0].running(), peers[1].running():
        for server in (ours, *peers):
            uploader = Uploader(*server.upload)
            for name, version, content in wheels:
                uploader.publish(name, version, content)
            uploader.close()
        for connections in (1, 64):
            found: dict[str, list[Latency]] = {}
            for turn in range(sizes.rounds):
                for server in (ours, *peers):
                    say(
                        f"pages: {connections} connections, round {turn + 1}, {getattr(server, 'name', 'ours')}"
                    )
                    found.setdefault(getattr(server, "name", "ours"), []).append(
                        wrk(
                            server.page("bench-page"),
                            connections=connections,
                            seconds=sizes.seconds,
                            folder=work,
                            headers=PAGE_HEADERS,
                        )
                    )
            middle = {
                name: Latency(
                    *(statistics.median(getattr(r, f) for r in runs) for f in ("p50", "p99", "rate"))
                )
                for name, runs in found.items()
            }
            for peer in peers:
                goal = 5.0 if peer.name == "devpi" else None
                for field in ("p50", "p99"):
                    yield faster(
                        f"simple page, {connections:>2} connections, {field}, against {peer.name}",
                        getattr(middle["ours"], field),
                        getattr(middle[peer.name], field),
                        "ms",
                        goal,
                    )
