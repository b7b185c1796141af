"""The vocabulary of projects."""

from datetime import datetime
from enum import StrEnum
from typing import NewType
from uuid import UUID

import msgspec

from probity.kernel.principal import OrgId

ProjectId = NewType("ProjectId", UUID)


class ProjectStatus(StrEnum):
    ACTIVE = "active"
    ARCHIVED = "archived"


class Project(msgspec.Struct, frozen=True, kw_only=True):
    id: ProjectId
    org_id: OrgId
    number: int
    name: str
    slug: str
    description: str
    status: ProjectStatus
    created_at: datetime
    updated_at: datetime

    @property
    def key(self) -> str:
        """The human number, `PRJ-3`."""
        return f"PRJ-{self.number}"
