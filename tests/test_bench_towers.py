"""The benchmark of towers times what a family has, and nothing else."""

from __future__ import annotations

import json

import pytest

from worker.lab.benchmarks.towers import main

pytestmark = pytest.mark.usefixtures("one_thread")


def test_each_readout_of_a_family_is_timed_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--families", "RN50", "PE-Core-T-16-384", "--side", "64", "--rounds", "1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = [(row["family"], row["readout"]) for row in printed["rows"]]
    assert found == [("RN50", "value"), ("RN50", "proxy"), *(("PE-Core-T-16-384", readout) for readout in
                                                             ("value", "naclip", "proxy"))]  # fmt: skip
    assert all(row["seconds"] > 0 for row in printed["rows"])
    assert {row["grid"] for row in printed["rows"]} == {"8x8", "4x4"}
    assert set(printed["product_gain"]) == {"torch.bfloat16", "torch.float16"}
