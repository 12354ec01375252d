"""The service: studies of visual-token pruning, their workers, reports and command line."""
