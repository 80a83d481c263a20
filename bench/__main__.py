"""The benchmark's command line: measure, write the tables and the page, draw the charts."""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from bench.database import DATABASES
from bench.load import Shape
from bench.measure import Plan, measure
from bench.page import write_page
from bench.report import write_tables
from bench.results import Results
from bench.subjects import ENDPOINTS, PEERS

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PARTIAL = RESULTS / "partial.tmp"  # quick and filtered runs never overwrite the published numbers
DOCS = HERE.parent / "docs"
PAGE = DOCS / "reference" / "benchmarks.md"
CLIENTS = (1, 8, 64, 128, 256)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["conformance"]:  # it has options of its own
        from bench.conformance.run import main as conformance

        conformance(given[1:])
        return
    options = _parser().parse_args(given)
    match options.command:
        case "chart":
            _draw(options.into if options.partial else RESULTS)
        case "micro":
            from bench.micro import main as micro

            micro(RESULTS / "MICRO.md")
        case "lock":
            from bench.environments import lock

            lock()
        case "soak":
            from bench.soak import main as soak

            soak(options.requests, options.database or list(DATABASES))
        case "policies":
            from bench.policies import table

            (RESULTS / "POLICIES.md").write_text(table())
        case "overload":
            _overload(options)
        case _:
            _run(options)


def _run(options: argparse.Namespace) -> None:
    narrowed = options.quick or options.only or options.database or options.endpoint or options.clients
    if not narrowed and not _can_draw():  # say so before the half hour, not after it
        raise SystemExit("The charts need matplotlib: use `make bench`, or install the dependency group `bench`.")
    started = time.monotonic()
    plan = Plan(
        peers=tuple(peer for peer in PEERS if not options.only or peer.name in options.only),
        databases=tuple(name for name in DATABASES if not options.database or name in options.database),
        endpoints=tuple(one for one in ENDPOINTS if not options.endpoint or one.name in options.endpoint),
        clients=tuple(options.clients or ((8, 128) if options.quick else CLIENTS)),
        repetitions=options.repetitions or (1 if options.quick else 2),
        everybody=bool(options.clients),
        shape=Shape(ramp=options.ramp, warmup=0.1, window=options.seconds, timeout=options.timeout),
    )
    directory = options.into if narrowed else RESULTS
    results = asyncio.run(measure(plan))
    results.save(directory / "results.json")
    _draw(directory)
    print(f"{(time.monotonic() - started) / 60:.1f} minutes")


def _overload(options: argparse.Namespace) -> None:
    from bench.overload import main as overload

    published = not options.quick
    if published and not _can_draw():
        raise SystemExit("The chart needs matplotlib: use `make bench`, or install the dependency group `bench`.")
    directory, pictures = (RESULTS, DOCS / "assets") if published else (options.into, options.into)
    seconds = options.each_load or (5.0 if options.quick else 30.0)
    overload(
        seconds=seconds,
        directory=directory,
        chart=pictures / "goodput.svg" if _can_draw() else None,
        page=DOCS / "explanation" / "under-overload.md" if published else None,
    )


def _draw(directory: Path) -> None:
    """Write what is made of the results: of published ones the tables, the page and its pictures at their places."""
    results = Results.load(directory / "results.json")
    pictures, page = (DOCS / "assets", PAGE) if directory == RESULTS else (directory, directory / PAGE.name)
    write_tables(results, directory / "RESULTS.md")
    write_page(results, page)
    print(f"\nTables: {directory / 'RESULTS.md'}\nPage:   {page}")
    if not _can_draw():
        print("No charts: matplotlib is not installed")
        return
    from bench.bars import draw_bars
    from bench.chart import draw_lines

    for draw, name in ((draw_lines, "throughput.svg"), (draw_bars, "peers.svg")):
        if draw(results, pictures / name):
            print(f"Chart:  {pictures / name}")


def _can_draw() -> bool:
    return find_spec("matplotlib") is not None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, epilog="`conformance --help`: the guarantees, asked of every peer"
    )
    add = parser.add_argument
    add("command", nargs="?", choices=("run", "chart", "micro", "lock", "overload", "policies", "soak"), default="run")
    add("--quick", action="store_true", help="8 and 128 clients, few windows: some 10 minutes; overload: 4")
    add("--only", nargs="+", choices=[peer.name for peer in PEERS], help="these peers")
    add("--database", nargs="+", choices=list(DATABASES))
    add("--endpoint", nargs="+", choices=[endpoint.name for endpoint in ENDPOINTS])
    add("--clients", nargs="+", type=int, help=f"default {CLIENTS}")
    add("--seconds", type=float, default=1.0, help="length of a window (default %(default)s)")
    add("--each-load", type=float, help="overload: seconds of each load past capacity (default 30, with --quick 5)")
    add("--repetitions", type=int, help="windows per cell and peer, 3.5 times as many at 8 clients (default 2)")
    add("--ramp", type=float, default=0.3, help="seconds in which clients arrive (default %(default)s)")
    add("--timeout", type=float, default=35.0, help="seconds for one request (default %(default)s)")
    add("--into", type=Path, default=PARTIAL, help="directory for quick and filtered runs (default %(default)s)")
    add("--requests", type=int, default=200_000, help="soak: how many (default %(default)s)")
    add("--partial", action="store_true", help="chart: of the last quick or filtered run")
    return parser


if __name__ == "__main__":
    main()
