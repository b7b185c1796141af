"""Projects: found by any spelling, made when first named."""

from probity.audit import service as audit
from probity.audit.models import Action
from probity.identity.service import next_number
from probity.kernel.clock import Clock
from probity.kernel.db import Database, Tx
from probity.kernel.errors import Invalid
from probity.kernel.ids import new_id, parse_id
from probity.kernel.principal import OrgId, Principal
from probity.projects import rules, store
from probity.projects.errors import ProjectArchived, ProjectNotFound
from probity.projects.models import Project, ProjectId, ProjectStatus


class ProjectService:
    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def get(self, principal: Principal, text: str) -> Project:
        """Return a project by id in any spelling, `PRJ-n` or name.

        Raises:
            ProjectNotFound: the caller's organization has none.
        """
        principal.require("projects:read")
        async with self._db.transaction(principal) as tx:
            return await self.get_in(tx, principal.org_id, text)

    async def get_in(self, tx: Tx, org_id: OrgId, text: str) -> Project:
        """As `get`, in the caller's transaction."""
        project = await _find(tx, org_id, text)
        if project is None:
            raise ProjectNotFound
        return project

    async def get_or_create_in(self, tx: Tx, principal: Principal, text: str) -> Project:
        """Return the project that `text` names, and make one of that name when there is none. Joins the caller's transaction.

        Whoever may write runs may name a new project, so this asks for no permission of its own. Two callers that name the same new
        project at once get the same one.

        Raises:
            ProjectNotFound: `text` is an id or a number, and no such project exists.
            ProjectArchived: it exists and takes nothing new.
            ProjectNameInvalid: it cannot be a name.
        """
        project = await _find(tx, principal.org_id, text)
        if project is None:
            if _is_reference(text):
                raise ProjectNotFound
            project = await self._create(tx, principal, rules.normal_name(text))
        if project.status is ProjectStatus.ARCHIVED:
            raise ProjectArchived(project.name)
        return project

    async def list_projects(self, principal: Principal, *, before: int | None = None, limit: int = 50) -> list[Project]:
        """Return active projects, newest first, below the number `before`."""
        principal.require("projects:read")
        async with self._db.transaction(principal) as tx:
            return await store.list_projects(tx, principal.org_id, before=before, limit=limit)

    async def _create(self, tx: Tx, principal: Principal, name: str) -> Project:
        org_id, now = principal.org_id, self._clock.now()
        # Locks the counter's row, so that of two callers with one new name the second waits here and then finds the project.
        number = await next_number(tx, org_id, "PRJ")
        project = Project(
            id=ProjectId(new_id()),
            org_id=org_id,
            number=number,
            name=name,
            slug=rules.slug_of(name, number),
            description="",
            status=ProjectStatus.ACTIVE,
            created_at=now,
            updated_at=now,
        )
        if not await store.insert(tx, project, principal.actor):
            existing = await store.find_by_name(tx, org_id, name)
            if existing is None:
                raise ProjectNotFound
            return existing
        facts = {"name": name, "number": number}
        await audit.record(tx, principal, Action.PROJECT_CREATE, f"project:{project.id}", metadata=facts)
        return project


async def _find(tx: Tx, org_id: OrgId, text: str) -> Project | None:
    number = rules.number_of(text)
    if number is not None:
        return await store.find_by_number(tx, org_id, number)
    if (project_id := _id_of(text)) is not None:
        return await store.find_by_id(tx, org_id, project_id)
    return await store.find_by_name(tx, org_id, rules.normal_name(text))


def _is_reference(text: str) -> bool:
    return rules.number_of(text) is not None or _id_of(text) is not None


def _id_of(text: str) -> ProjectId | None:
    try:
        return parse_id(ProjectId, text)
    except Invalid:
        return None
