"""SQL of projects."""

from probity.kernel.db import Tx, execute, fetch_all, fetch_one
from probity.kernel.principal import OrgId
from probity.projects.models import Project, ProjectId


async def find_by_id(tx: Tx, org_id: OrgId, project_id: ProjectId) -> Project | None:
    return await fetch_one(
        tx,
        Project,
        """
        select id, org_id, number, name, slug, description, status, created_at, updated_at
          from projects
         where org_id = :org_id
           and id = :project_id
        """,
        org_id=org_id,
        project_id=project_id,
    )


async def find_by_number(tx: Tx, org_id: OrgId, number: int) -> Project | None:
    return await fetch_one(
        tx,
        Project,
        """
        select id, org_id, number, name, slug, description, status, created_at, updated_at
          from projects
         where org_id = :org_id
           and number = :number
        """,
        org_id=org_id,
        number=number,
    )


async def find_by_name(tx: Tx, org_id: OrgId, name: str) -> Project | None:
    """Names are compared without regard to case."""
    return await fetch_one(
        tx,
        Project,
        """
        select id, org_id, number, name, slug, description, status, created_at, updated_at
          from projects
         where org_id = :org_id
           and lower(name) = lower(:name)
        """,
        org_id=org_id,
        name=name,
    )


async def insert(tx: Tx, project: Project, created_by: str) -> bool:
    """Insert a project; False when one with this name exists (perhaps made by another transaction just now)."""
    inserted = await execute(
        tx,
        """
        insert into projects (id, org_id, number, name, slug, description, status, created_by, created_at, updated_at)
        values (:id, :org_id, :number, :name, :slug, :description, :status, :created_by, :created_at, :updated_at)
            on conflict (org_id, lower(name)) do nothing
        """,
        id=project.id,
        org_id=project.org_id,
        number=project.number,
        name=project.name,
        slug=project.slug,
        description=project.description,
        status=project.status.value,
        created_by=created_by,
        created_at=project.created_at,
        updated_at=project.updated_at,
    )
    return inserted == 1


async def list_projects(tx: Tx, org_id: OrgId, *, before: int | None, limit: int) -> list[Project]:
    """Return active projects, highest number first, below `before`."""
    return await fetch_all(
        tx,
        Project,
        """
        select id, org_id, number, name, slug, description, status, created_at, updated_at
          from projects
         where org_id = :org_id
           and status = 'active'
           and (:before::bigint is null or number < :before)
         order by number desc
         limit :limit
        """,
        org_id=org_id,
        before=before,
        limit=limit,
    )
