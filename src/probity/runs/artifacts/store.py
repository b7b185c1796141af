"""Rows of artifacts; the bytes are in the blob store."""

from probity.kernel.db import Tx, fetch_all, fetch_one
from probity.kernel.principal import OrgId
from probity.runs.models import Artifact, ArtifactId, RunId


async def insert(tx: Tx, org_id: OrgId, artifact: Artifact) -> bool:
    """Insert a row; False when the run has that name with that content already."""
    row = await fetch_one(
        tx,
        Artifact,
        """
        insert into artifacts (id, org_id, run_id, name, content_type, size_bytes, sha256, blob_key, created_by, created_at)
        values (:id, :org_id, :run_id, :name, :content_type, :size_bytes, :sha256, :blob_key, :created_by, :created_at)
            on conflict (run_id, name, sha256) do nothing
        returning id, run_id, name, content_type, size_bytes, sha256, blob_key, created_by, created_at
        """,
        org_id=org_id,
        **{name: getattr(artifact, name) for name in Artifact.__struct_fields__},
    )
    return row is not None


async def find_same(tx: Tx, org_id: OrgId, run_id: RunId, name: str, sha256: str) -> Artifact | None:
    return await fetch_one(
        tx,
        Artifact,
        """
        select id, run_id, name, content_type, size_bytes, sha256, blob_key, created_by, created_at
          from artifacts
         where org_id = :org_id
           and run_id = :run_id
           and name = :name
           and sha256 = :sha256
        """,
        org_id=org_id,
        run_id=run_id,
        name=name,
        sha256=sha256,
    )


async def find(tx: Tx, org_id: OrgId, run_id: RunId, artifact_id: ArtifactId) -> Artifact | None:
    return await fetch_one(
        tx,
        Artifact,
        """
        select id, run_id, name, content_type, size_bytes, sha256, blob_key, created_by, created_at
          from artifacts
         where org_id = :org_id
           and run_id = :run_id
           and id = :artifact_id
        """,
        org_id=org_id,
        run_id=run_id,
        artifact_id=artifact_id,
    )


async def list_of_run(tx: Tx, org_id: OrgId, run_id: RunId, *, limit: int = 10_000) -> list[Artifact]:
    """Return a run's artifacts by name."""
    return await fetch_all(
        tx,
        Artifact,
        """
        select id, run_id, name, content_type, size_bytes, sha256, blob_key, created_by, created_at
          from artifacts
         where org_id = :org_id
           and run_id = :run_id
         order by name, created_at, id
         limit :limit
        """,
        org_id=org_id,
        run_id=run_id,
        limit=limit,
    )
