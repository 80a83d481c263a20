"""The page about the benchmark is what the published results make of it: no number in it can drift."""

from bench.page import page
from bench.results import Results

from docs.blocks import DOCS, ROOT

RESULTS = ROOT / "bench" / "results" / "results.json"


def test_the_page_about_the_benchmark_has_the_numbers_of_the_published_results() -> None:
    written = (DOCS / "reference" / "benchmarks.md").read_text(encoding="utf-8")
    assert written == page(Results.load(RESULTS)), "write it again: make bench ARGS=chart"


def test_the_pictures_on_the_page_are_there() -> None:
    assert all((DOCS / "assets" / name).exists() for name in ("throughput.svg", "peers.svg"))
