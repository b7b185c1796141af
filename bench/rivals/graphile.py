"""graphile-worker: a job queue for Node on PostgreSQL (npm), run by Node with a task that does nothing."""

import asyncio
import json
import os
import shutil
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from bench.place import Place

HERE = Path(__file__).parent


async def prepare() -> str | None:
    """Install the package below this directory; return why it cannot run, or None."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        return "no Node on this machine"
    if not (HERE / "node_modules" / "graphile-worker").is_dir():
        install = await asyncio.create_subprocess_exec(npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent", cwd=HERE)
        if await install.wait() != 0:
            return "graphile-worker could not be installed"
    return None


async def cycles_per_second(place: Place, *, concurrency: int, seconds: float, jobs: int, batched: bool) -> float:
    """Queue `jobs`, let one worker process them for `seconds` and return how many it finished in a second."""
    await _call(place, ["node", "node_modules/graphile-worker/dist/cli.js", "--schema-only"])
    await place.admin("truncate graphile_worker._private_jobs", database="rival")
    await place.admin(
        f"select count(*) from graphile_worker.add_jobs(array(select json_populate_record(null::graphile_worker.job_spec, "
        f'\'{{"identifier":"noop","payload":{{"n":1}}}}\'::json) from generate_series(1, {jobs})))',
        database="rival",
    )
    await place.admin("vacuum analyze graphile_worker._private_jobs", database="rival")
    found = json.loads(await _call(place, ["node", "graphile.mjs", str(concurrency), str(seconds), str(int(batched))]))
    return float(found["done"] / found["seconds"])


async def _call(place: Place, command: list[str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=HERE, env={**os.environ, "RIVAL_URL": _url(place), "DATABASE_URL": _url(place)}, stdout=-1, stderr=-1
    )
    out, error = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(error.decode()[-2000:])
    lines = [line for line in out.decode().splitlines() if line.startswith("{")]
    return lines[-1] if lines else ""


def _url(place: Place) -> str:
    """The address in the form that Node's driver reads: the socket directory where a host name would be."""
    parts = urlsplit(place.rival_dsn)
    (socket,) = parse_qs(parts.query)["host"]
    return f"postgresql://{parts.username}:{parts.password}@{quote(socket, safe='')}{parts.path}"
