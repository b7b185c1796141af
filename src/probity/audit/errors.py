"""What can go wrong with the trail."""

from probity.audit.models import Break
from probity.kernel.errors import Conflict, Invalid, ProbityError


class UnsafeMetadata(ProbityError):
    """An action tried to record something that must not be in the trail. It is a bug, so the action fails."""

    code = "audit.unsafe_metadata"


class InvalidFilter(Invalid):
    code = "audit.invalid_filter"


class ChainBroken(Conflict):
    code = "audit.chain_broken"

    def __init__(self, broken: Break) -> None:
        super().__init__(
            f"the audit trail does not verify ({broken.reason}); run `probity audit verify` and look into it first",
            reason=broken.reason,
            seq=broken.seq,
        )
