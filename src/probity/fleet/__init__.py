"""Fleet: agents, how they join, prove who they are, stay alive and leave."""
