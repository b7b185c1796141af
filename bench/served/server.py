"""The server as `probity serve` runs it, without access log: `python -m bench.served.server PORT`."""

import os
import sys

import uvicorn

from probity import main
from probity.config import load

if __name__ == "__main__":
    uvicorn.run(main.build(load(os.environ)), host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", http="httptools", log_config=None)
