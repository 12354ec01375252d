"""The memory of searchsvc: studies, leases, evaluations, fronts and profiles, beside Optuna's own tables."""
