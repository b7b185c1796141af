"""Keeping and handing out the files of runs."""

from collections.abc import AsyncIterable, AsyncIterator
from typing import Final
from uuid import UUID

import msgspec

from probity.audit import service as audit
from probity.audit.models import Action
from probity.kernel.blobs import BlobRef, BlobStore
from probity.kernel.clock import Clock
from probity.kernel.db import Database, Tx
from probity.kernel.ids import new_id
from probity.kernel.principal import Principal, PrincipalKind
from probity.kernel.uploads import Uploads
from probity.runs import store as runs_store
from probity.runs.artifacts import rules, store
from probity.runs.errors import ArtifactNotFound
from probity.runs.ingest import store as ingest_store
from probity.runs.ingest.journal import Journal
from probity.runs.ingest.service import check_may_write
from probity.runs.models import Artifact, ArtifactId, Run, RunRef
from probity.runs.service import lock_run

MAX_BYTES: Final = 1024**3


class ArtifactBody(msgspec.Struct, frozen=True):
    """An artifact as live readers get it."""

    id: UUID
    name: str
    content_type: str
    size_bytes: int
    sha256: str


class ArtifactService:
    def __init__(self, db: Database, clock: Clock, uploads: Uploads, blobs: BlobStore) -> None:
        self._db = db
        self._clock = clock
        self._uploads = uploads
        self._blobs = blobs

    async def upload(
        self, principal: Principal, ref: RunRef, *, name: str, content_type: str | None, chunks: AsyncIterable[bytes]
    ) -> Artifact:
        """Keep a file of a run. The same content under the same name again gives the first artifact.

        An agent may add to the run of a job that it holds or held; anybody else needs `runs:write`.

        Raises:
            RunNotFound, NotThisAgentsRun, WrongField.
            BlobTooLarge: more than 1 GiB.
        """
        if principal.kind is not PrincipalKind.AGENT:
            principal.require("runs:write")
        name = rules.checked_name(name)
        run = await self._writable(principal, ref)
        blob = await self._uploads.upload(principal, chunks, limit_bytes=MAX_BYTES)
        async with self._db.transaction(principal) as tx:
            return await self._keep(tx, principal, run, name, rules.content_type_of(content_type, name), blob)

    async def list_artifacts(self, principal: Principal, ref: RunRef) -> list[Artifact]:
        principal.require("runs:read")
        async with self._db.transaction(principal) as tx:
            run = await runs_store.get_run(tx, principal.org_id, ref)
            return await store.list_of_run(tx, principal.org_id, run.id)

    async def get(self, principal: Principal, ref: RunRef, artifact_id: ArtifactId) -> Artifact:
        principal.require("runs:read")
        async with self._db.transaction(principal) as tx:
            run = await runs_store.get_run(tx, principal.org_id, ref)
            artifact = await store.find(tx, principal.org_id, run.id, artifact_id)
        if artifact is None:
            raise ArtifactNotFound
        return artifact

    async def read(self, artifact: Artifact, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Return the bytes of an artifact that `get` gave to the caller."""
        return await self._blobs.open(artifact.blob_key, start=start, length=length)

    async def _writable(self, principal: Principal, ref: RunRef) -> Run:
        """Check the right to write before a gigabyte is read."""
        async with self._db.transaction(principal) as tx:
            run = await runs_store.get_run(tx, principal.org_id, ref)
            check_may_write(principal, await lock_run(tx, run.org_id, run.id))
            return run

    async def _keep(self, tx: Tx, principal: Principal, run: Run, name: str, content_type: str, blob: BlobRef) -> Artifact:
        locked = await lock_run(tx, run.org_id, run.id)
        same = await store.find_same(tx, run.org_id, run.id, name, blob.sha256)
        if same is not None:
            await self._uploads.discard(tx, blob.key, run.org_id)
            return same
        artifact = Artifact(
            id=ArtifactId(new_id()),
            run_id=run.id,
            name=name,
            content_type=content_type,
            size_bytes=blob.size,
            sha256=blob.sha256,
            blob_key=blob.key,
            created_by=principal.actor,
            created_at=self._clock.now(),
        )
        await store.insert(tx, run.org_id, artifact)
        await self._uploads.keep(tx, blob)
        journal = Journal(locked)
        journal.note_artifact(artifact.created_at, ArtifactBody(artifact.id, name, content_type, blob.size, blob.sha256))
        journal.close()
        await ingest_store.save(tx, [journal])
        facts = {"name": name, "size_bytes": blob.size, "sha256": blob.sha256}
        await audit.record(tx, principal, Action.ARTIFACT_CREATE, f"run:{run.id}", org_id=run.org_id, metadata=facts)
        return artifact
