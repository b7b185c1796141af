"""What can go wrong with projects."""

from probity.kernel.errors import Conflict, Invalid, NotFound


class ProjectNotFound(NotFound):
    code = "projects.not_found"

    def __init__(self) -> None:
        super().__init__("no such project")


class ProjectNameInvalid(Invalid):
    code = "projects.name_invalid"

    def __init__(self) -> None:
        super().__init__("a project's name has 1 to 200 characters and is not a number such as PRJ-3")


class ProjectArchived(Conflict):
    code = "projects.archived"

    def __init__(self, name: str) -> None:
        super().__init__(f"the project {name} is archived", name=name)
