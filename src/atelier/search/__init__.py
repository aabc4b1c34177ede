"""Search for good settings: studies (Optuna) whose trials are DVC experiments."""
