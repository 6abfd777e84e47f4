"""The slice transport alone, under everything that takes partitions away from workers (exactness.md W1-W11)."""

from pathlib import Path

import pytest

from tests.faults.torture import ALL_DEEDS, play


@pytest.mark.timeout(300)
def test_rule_w1_every_record_takes_effect_once_under_a_quarter_of_a_minute_of_torture(tmp_path: Path) -> None:
    report = play(seed=20261123, duration_s=14, directory=tmp_path)
    assert report.held, report
    assert set(report.deeds) >= ALL_DEEDS, report


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [3])
def test_rule_w1_every_record_takes_effect_once_under_ten_minutes_of_torture(seed: int, tmp_path: Path) -> None:
    report = play(seed, duration_s=600, directory=tmp_path)
    assert report.held, report
    assert set(report.deeds) >= ALL_DEEDS, report
