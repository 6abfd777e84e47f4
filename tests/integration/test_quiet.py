"""What is so when little happens: ``wait`` returns, times out with 1, and Kafka's tools show no lag."""

from __future__ import annotations

from pathlib import Path

from tests.helpers import ServiceAddresses, execute
from tests.processes import pipeline


def test_rule_r7_w5_c1_quiet_tables_are_waited_for_and_have_no_lag(services: ServiceAddresses, tmp_path: Path) -> None:
    with pipeline(services, tmp_path) as shop, shop.source() as source:
        shop.write_config({"source": {"tables": [f"{shop.database}.*", f"!{shop.database}.log_*"]}})
        execute(source, "CREATE TABLE ints (id INT PRIMARY KEY, amount BIGINT)")
        execute(source, "CREATE TABLE log_visits (id INT PRIMARY KEY AUTO_INCREMENT)")
        execute(source, "INSERT INTO ints VALUES (1, 1)")
        reader = shop.start("reader")
        shop.wait_followed("ints")
        shop.start("worker")
        shop.wait()

        execute(source, "INSERT INTO log_visits VALUES ()")
        shop.wait(20)
        assert shop.table_topics() == [shop.topic("ints")]
        execute(source, "FLUSH BINARY LOGS")
        shop.wait(20)
        execute(source, "BEGIN")
        execute(source, "INSERT INTO ints VALUES (2, 2)")
        execute(source, "ROLLBACK")
        shop.wait(20)
        shop.until(lambda: not shop.group_lag(), 20, "lag 0 in Kafka")

        assert reader.stop() == 0
        execute(source, "INSERT INTO log_visits VALUES ()")
        late = shop.run("wait", "--timeout", "1.5")
        assert late.returncode == 1
        assert "hasn't come to" in late.stderr
        shop.start("reader")
        shop.wait(20)

        execute(source, "INSERT INTO ints VALUES (3, 3)")
        for worker in shop.of("worker"):
            assert worker.stop() == 0
        execute(source, "INSERT INTO ints VALUES (4, 4)")
        late = shop.run("wait", "--timeout", "2")
        assert late.returncode == 1
        assert "next offset" in late.stderr
