"""The science: held-out data, metrics, the evaluator, and the searches as Optuna studies."""
