"""Check that the installed MLflow and the database of its store have the same schema.

MLflow would upgrade some old databases without a backup, so that colleagues with the older version
could no longer open them. Of others it prints a message that does not name the address.
"""

from contextlib import suppress
from pathlib import Path

_SCHEMES = {"sqlite", "postgresql", "mysql", "mssql"}  # of the databases that MLflow supports


def schema_problem(address: str, name: str, argument: str) -> str:
    """Return a sentence if a database has another schema than the installed MLflow, else "".

    An address of a server, and a database that cannot be read, have no problem here: the server
    checks its own database, and MLflow reports the other error.

    Args:
        address: SQLAlchemy's address of the database.
        name: the database in the sentence.
        argument: the address in the command that upgrades it; it must not contain a password.
    """
    if address.partition(":")[0].partition("+")[0].lower() not in _SCHEMES:
        return ""
    from mlflow.version import VERSION
    from sqlalchemy.exc import SQLAlchemyError

    with suppress(SQLAlchemyError):
        revision, (head, *older) = _revision(address), _revisions()
        if revision in (None, head):
            return ""
        if revision and revision not in older:
            return (
                f"{name} was made by a newer MLflow than {VERSION}, which is installed here (its"
                f" schema is {revision}, not {head}); install the version that made it"
            )
        return (
            f"{name} was made by an older MLflow than {VERSION}, which is installed here (its"
            f" schema is {revision or 'unknown'}, not {head}); make a backup of it, then type:"
            f" mlflow db upgrade {argument}"
        )
    return ""


def _revision(address: str) -> str | None:
    """Return the revision of a database; "" for an unknown one, ``None`` if it has no content.

    A process that was killed while it created the tables leaves a database without experiments.
    MLflow completes it.
    """
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine, inspect, text
    from sqlalchemy.pool import NullPool

    engine = create_engine(address, poolclass=NullPool)
    with engine.connect() as connection:
        if not inspect(connection).has_table("experiments"):
            return None
        if connection.execute(text("SELECT 1 FROM experiments")).first() is None:
            return None
        return MigrationContext.configure(connection).get_current_revision() or ""


def _revisions() -> list[str]:
    """Return all revisions of the installed MLflow, newest first."""
    import mlflow.store
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(mlflow.store.__file__).parent / "db_migrations"))
    return [script.revision for script in scripts.walk_revisions()]
