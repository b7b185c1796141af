"""Files of undelivered events, as the pytest plugin leaves them. A second import is harmless: the ids are fixed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from probity.client.http import Client
from probity.client.models import Run
from probity.kernel.errors import Invalid

BATCH_EVENTS: Final = 500


class NotASpool(Invalid):
    code = "client.not_a_spool"


def import_spool(client: Client, path: Path) -> Run:
    """Deliver a spool file; the run that it names is created unless it exists.

    Raises:
        NotASpool: the file was not written by the pytest plugin.
    """
    with path.open("rb") as file:
        header = _record(file.readline())
        if header.get("type") != "run":
            raise NotASpool(f"{path} was not written by Probity's pytest plugin")
        ref = header.get("run") or client.create_run(header["new_run"]).uuid
        for batch in _batches(file):
            client.send_events(ref, batch)
    return client.get_run(ref)


def _batches(lines: Iterator[bytes]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for line in lines:
        # The last line may be cut off where the machine went down.
        if line.endswith(b"\n"):
            batch.append(_record(line))
        if len(batch) == BATCH_EVENTS:
            yield batch
            batch = []
    if batch:
        yield batch


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise NotASpool("a line of the file is not JSON") from error
    if not isinstance(record, dict):
        raise NotASpool("a line of the file is not an event")
    return record
