"""Wake-up channels of the fleet."""

from typing import Final

# Key: the organization. Agents were added, revoked or changed; heartbeats do not count.
AGENTS_CHANGED: Final = "agents"
