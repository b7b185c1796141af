"""How events enter a run: in batches, exactly once, numbered without a gap."""
