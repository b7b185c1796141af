"""What can go wrong with the trail."""

from probity.kernel.errors import Invalid, ProbityError


class UnsafeMetadata(ProbityError):
    """An action tried to record something that must not be in the trail. It is a bug, so the action fails."""

    code = "audit.unsafe_metadata"


class InvalidFilter(Invalid):
    code = "audit.invalid_filter"
