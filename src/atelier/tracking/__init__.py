"""The only folder that knows MLflow and DVC: what a run was given, said and made."""
