"""The GPU's part of demo/benchmark.py, with the CPU in the GPU's place: python -m pytest tests/test_benchmark.py

Nothing here is about a time.
"""
import json

import pytest
from conftest import ROOT  # noqa: F401 (it is on the path then)

from demo import benchmark, benchmark_gpu


@pytest.fixture
def one_case(monkeypatch):
    monkeypatch.setattr(benchmark_gpu, "BUDGETS", (1000,))
    monkeypatch.setattr(benchmark_gpu, "ROUNDS", 1)


def run(out, capsys, *flags):
    """(what stands on stdout, records, sentences on what was left out)"""
    benchmark.main(["--device", "cuda", "--dry-run", "--out", str(out), *flags])
    found = [json.loads(line) for line in (out / "benchmark.jsonl").read_text().splitlines()]
    printed = capsys.readouterr().out
    assert printed == (out / "benchmark.md").read_text()
    return printed, [row for row in found if isinstance(row, dict)], [row for row in found if isinstance(row, str)]


def test_every_case_is_measured_or_named(one_case, tmp_path, capsys, monkeypatch):
    printed, records, left_out = run(tmp_path / "out", capsys)
    cases = {(row["contender"], row["per_prefix"]) for row in records}
    assert cases == {(name, per_prefix) for name in ("ours", "TRL at its best") for per_prefix in (1, 4)}
    assert "Losses that are not TRL's: none." in printed and printed.count("\n| TRL at its best | 1,000 |") == 2
    assert left_out == ["ours, --compile: compiling for a CPU takes minutes"] and left_out[0] in printed
    losses = {row["contender"]: row["loss"] for row in records if row["per_prefix"] == 1}
    assert losses["ours"] == pytest.approx(losses["TRL at its best"], abs=1e-3)
    monkeypatch.setattr(benchmark_gpu, "other_losses", lambda records, real=benchmark_gpu.other_losses: real(
        [row | {"loss": row["loss"] + (row["contender"] == "ours")} for row in records]))
    assert "not TRL's: ours at tiny, 1,000 tokens, 1 a prefix; ours" in benchmark_gpu.format_tables(records, left_out)


def test_what_does_not_fit_or_fails_is_named(one_case, tmp_path, capsys, monkeypatch):
    printed, records, left_out = run(tmp_path / "late", capsys, "--seconds", "0")
    assert not records and len(left_out) == 3 and "it wants 40" in left_out[1] and left_out[2] in printed

    class Full(benchmark_gpu.Ours):
        def step(self):
            raise MemoryError("CUDA out of memory")
    monkeypatch.setattr(benchmark_gpu, "Ours", Full)
    monkeypatch.setattr(benchmark_gpu, "PER_PREFIX", (4,))
    printed, records, left_out = run(tmp_path / "full", capsys)
    assert [row["contender"] for row in records] == ["TRL at its best"]
    assert "ours at tiny, 1,000 tokens with 4 a prefix: MemoryError: CUDA out of memory" in printed
