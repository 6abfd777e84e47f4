"""A complete small ``rowflow.toml``, printed where nothing is configured.

Goes out: text that the settings accept as it stands.
"""

from __future__ import annotations

TEMPLATE = """\
# rowflow.toml. Each setting can also come from the environment (ROWFLOW_SOURCE__URL) or from a file that the
# environment names (ROWFLOW_SOURCE__PASSWORD_FILE); flags count before both.

[source]
url = "mysql://rowflow@127.0.0.1:3306"      # password: ROWFLOW_SOURCE__PASSWORD, or user:password@ here
tables = ["shop.*", "!shop.log_*"]          # what is captured; ! leaves out
server_id = 5401                            # a number that no other replica of this server has

[kafka]
bootstrap_servers = "127.0.0.1:9092"
prefix = "bookshop"                         # topics are called bookshop.shop.books, ...
partitions = 4                              # of each table's topic; can't be changed later

[sink]
url = "mysql://rowflow@127.0.0.1:3306/results"

[stream]
workers = 2
"""
