"""Runs TensorZero's gateway, which its package holds without a command, until it is ended.

python tensorzero_gateway.py CONFIG.toml URL_FILE
"""

import signal
import sys
from pathlib import Path

from tensorzero.tensorzero import _start_http_gateway

gateway = _start_http_gateway(
    config_file=sys.argv[1],
    clickhouse_url=None,
    postgres_url=None,
    valkey_url=None,
    async_setup=False,
)
part = Path(sys.argv[2]).with_suffix(".part")
part.write_text(gateway.base_url, encoding="utf-8")
part.rename(sys.argv[2])
signal.sigwait({signal.SIGTERM, signal.SIGINT})
