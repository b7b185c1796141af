"""The server as `probity serve` runs it, one process: `python -m bench.served.server PORT`."""

import os
import sys

import uvicorn

from probity import main
from probity.config import load
from probity.kernel.telemetry import configure_logging

if __name__ == "__main__":
    settings = load(os.environ)
    configure_logging(level=settings.log.level, json=settings.log.json)
    uvicorn.run(main.build(settings), host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", http="httptools", log_config=None)
