"""Study: its Optuna storage, its identity, and its next trial."""

import json
import os
import sqlite3
import warnings
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.core.errors import AtelierError, count_text, did_you_mean, printable
from atelier.search.claims import Claims
from atelier.search.settings import SearchSettings, Space
from atelier.tracking.environment import git
from atelier.tracking.experiments import all_experiments
from atelier.tracking.redact import redact_urls

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

STORAGE_VARIABLE = "ATELIER_SEARCH_STORAGE"
DEFAULT_STORAGE = Path(".atelier/search.db")
SEARCH, PROJECT, COMMIT, OBJECTIVES = "search", "project", "commit", "objectives"
PRESENT = "is_present"  # user attribute of the trial that has the present settings
# Settings of search.yaml that may change while a study is going on.
_CHANGEABLE = ("trials", "hours", "git_remote")
_POSTGRESQL = ("postgresql://", "postgres://", "postgresql+psycopg://")
_DIGITS = 4  # significant digits of searched numbers, so that they can be read and typed


@dataclass
class OpenStudy:
    """Study in its storage.

    Attributes:
        search: its description.
        study: of Optuna.
        claims: of this process.
        present: all settings of ``params.yaml`` by dotted key.
    """

    search: SearchSettings
    study: "Study"
    claims: Claims
    present: Mapping[str, Any]

    def next_trial(self) -> "Trial | None":
        """Claim and return the next trial: an unfinished one, or else a new one.

        Returns:
            ``None`` if no trial is left that another process does not work on.
        """
        with self.claims.asking():
            for frozen in self.unfinished():
                if self.claims.claim(frozen.number):
                    return self._trial(frozen.number)
            if self._is_complete():
                return None
            trial = self._ask()
            if not self.claims.claim(trial.number):
                raise AtelierError(
                    f"trial {trial.number} of another study of this name is claimed; give the"
                    " study another name in search.yaml."
                )
            return trial

    def unfinished(self) -> "list[FrozenTrial]":
        """Return trials that a process works on or has left."""
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def suggest(self, trial: "Trial") -> dict[str, Any]:
        """Return the searched settings of a trial by key; the same for each call.

        Numbers are rounded to four digits, except for the present settings.
        """
        for key, space in self.search.settings.items():
            trial._suggest(key, distribution(space))
        return trial_settings(self, trial)

    def _is_complete(self) -> bool:
        trials = self.study.get_trials(deepcopy=False)
        started = [trial for trial in trials if trial.state.name != "WAITING"]
        seconds = sum(trial.user_attrs.get("seconds", 0.0) for trial in started)
        limit = self.search.hours * 3600
        return len(started) >= self.search.trials or (limit > 0 and seconds >= limit)

    def _ask(self) -> "Trial":
        trials = self.study.get_trials(deepcopy=False)
        in_space = all(space.contains(self.present[k]) for k, space in self.search.settings.items())
        if not trials and in_space:  # what the search improves on
            values = {k: parameter(s, self.present[k]) for k, s in self.search.settings.items()}
            self.study.enqueue_trial(values, user_attrs={PRESENT: True})
        # The sampler's state is not stored; its seed makes a continued search the same.
        self.study.sampler = _sampler(self.search, len(trials))
        trial = self.study.ask()
        self.suggest(trial)
        return trial

    def _trial(self, number: int) -> "Trial":
        from optuna import Trial

        self.study.sampler = _sampler(self.search, number)  # for settings that were not drawn yet
        frozen = next(t for t in self.study.get_trials(deepcopy=False) if t.number == number)
        return Trial(self.study, frozen._trial_id)


def trial_settings(opened: OpenStudy, trial: "Trial | FrozenTrial") -> dict[str, Any]:
    """Return the searched settings of a trial by dotted key."""
    is_present = trial.user_attrs.get(PRESENT, False)
    return {
        key: opened.present[key] if is_present else setting_value(space, trial.params[key])
        for key, space in opened.search.settings.items()
        if key in trial.params  # a trial that was killed at once may lack some
    }


def open_study(
    search: SearchSettings,
    present: Mapping[str, Any],
    root: Path,
    storage: str = "",
    *,
    may_create: bool = True,
) -> OpenStudy:
    """Open or create a study.

    Args:
        search: its description.
        present: all settings of ``params.yaml`` by dotted key.
        root: the project.
        storage: an SQLite file or the address of a PostgreSQL database; by default that of the
            environment variable ``ATELIER_SEARCH_STORAGE``, or ``.atelier/search.db``.
        may_create: False if the study must exist.

    Raises:
        AtelierError: the storage cannot be opened; or its study belongs to another project, another
            commit, or has other settings.
    """
    where = storage or os.environ.get(STORAGE_VARIABLE, "") or str(root / DEFAULT_STORAGE)
    backend = _open_storage(where, may_create)
    study = _create_or_load(search, backend, where, root, may_create)
    is_server = where.startswith(_POSTGRESQL)
    folder = root / ".atelier/search" if is_server else Path(f"{where}.locks")
    claims = Claims(folder, search.study, backend.engine if is_server else None)
    return OpenStudy(search, study, claims, present)


def _create_or_load(
    search: SearchSettings, backend: "RDBStorage", where: str, root: Path, may_create: bool
) -> "Study":
    import optuna

    names = optuna.get_all_study_names(backend)
    if search.study not in names and not may_create:
        hint = did_you_mean(search.study, names) or (
            f"; it has {', '.join(names)}" if names else "; it has none"
        )
        raise AtelierError(
            f"{_shown(where)} has no study {search.study}{hint}"
            + ("?" if "did you" in hint else ".")
        )
    if search.study not in names:
        _reject_earlier_experiments(search.study, root)
    study = optuna.create_study(
        study_name=search.study,
        storage=backend,
        sampler=_sampler(search, 0),
        pruner=_pruner(search),
        directions=["minimize"] * len(search.objectives),
        load_if_exists=True,
    )
    own = {PROJECT: project_id(root), COMMIT: _head(root)}
    stored = study.user_attrs
    if PROJECT not in stored:
        if stored or study.get_trials(deepcopy=False):
            raise AtelierError(
                f"{_shown(where)} has a study {search.study} that another program made; choose"
                " another name or another file."
            )
        study.set_user_attr(SEARCH, search.model_dump_json())
        study.set_user_attr(OBJECTIVES, search.objectives)
        study.set_user_attr(COMMIT, own[COMMIT])
        study.set_user_attr(PROJECT, own[PROJECT])  # last: the study is complete with it
        return study
    _check_identity(search, stored, own, where)
    return study


def _reject_earlier_experiments(name: str, root: Path) -> None:
    """Raise if experiments have the names that a new study would give to its trials."""
    earlier = [one for one in all_experiments(root) if one.startswith(f"{name}-trial-")]
    if earlier:
        raise AtelierError(
            f"{count_text(len(earlier), 'experiment')} of an earlier study {name}"
            f" {'is' if len(earlier) == 1 else 'are'} there, e.g. {min(earlier)}; name a new study"
            f" in search.yaml, or remove them: dvc exp remove {' '.join(sorted(earlier)[:3])}"
        )


def _check_identity(
    search: SearchSettings, stored: Mapping[str, Any], own: Mapping[str, str], where: str
) -> None:
    """Raise if a study is not the one that ``search.yaml`` and the checkout describe."""
    if stored[PROJECT] != own[PROJECT]:
        raise AtelierError(
            f"the study {search.study} in {_shown(where)} belongs to another project; name another"
            " file with --storage, or another study in search.yaml."
        )
    if stored[COMMIT] != own[COMMIT]:
        raise AtelierError(
            f"the study {search.study} started from commit {stored[COMMIT][:10]}, but"
            f" {own[COMMIT][:10]} is checked out; check out that commit, or name a new study in"
            " search.yaml."
        )
    before = SearchSettings.model_validate_json(stored[SEARCH])
    for name in SearchSettings.model_fields:
        if name not in _CHANGEABLE and getattr(before, name) != getattr(search, name):
            raise AtelierError(
                f"{name} in search.yaml has changed since the study {search.study} started; name a"
                " new study, since its trials cannot be compared with the earlier ones."
            )


def _open_storage(where: str, may_create: bool) -> "RDBStorage":
    """Open a storage.

    Raises:
        AtelierError: it cannot be opened, or it is no database of studies.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = _checked_address(where, may_create)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except ImportError:
        raise AtelierError(
            "PostgreSQL needs the package psycopg; type: pip install 'psycopg[binary]'"
        ) from None
    except RuntimeError as error:  # of Optuna: tables of another version
        raise AtelierError(
            f"{_shown(where)} was made by another version of Optuna; `optuna storage upgrade"
            f" --storage` updates it ({printable(str(error), 80)})."
        ) from None
    except SQLAlchemyError as error:
        raise AtelierError(
            f"the study's storage {_shown(where)} cannot be opened ({type(error).__name__}); check"
            " that it exists, responds and can be written."
        ) from None


def _checked_address(where: str, may_create: bool) -> str:
    """Return the address of a storage for SQLAlchemy."""
    if "://" in where:
        if not where.startswith(_POSTGRESQL):
            raise AtelierError(
                f"{_shown(where)} is neither a file nor the address of a PostgreSQL database, e.g."
                " postgresql://user@host/database."
            )
        return f"postgresql+psycopg://{where.partition('://')[2]}"
    file = Path(where)
    if file.is_dir() or (not file.exists() and not may_create):
        problem = "is a folder" if file.is_dir() else "does not exist"
        raise AtelierError(f"{where} {problem}; name the study's SQLite file with --storage.")
    if file.exists():
        _require_studies(file)
    else:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AtelierError(f"{where} cannot be created ({error.strerror}).") from None
    return f"sqlite:///{file.resolve()}"


def _require_studies(file: Path) -> None:
    """Raise if a file is no SQLite database, or one of another program, e.g. of MLflow."""
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = {row[0] for row in rows.fetchall()}
    except sqlite3.Error:
        raise AtelierError(
            f"{file} is no study file (no SQLite database); name another one with --storage."
        ) from None
    if tables and not {"studies", "trials", "version_info"} <= tables:
        raise AtelierError(
            f"{file} is the database of another program; name another file with --storage."
        )


def _shown(where: str) -> str:
    """Return a storage's name without a password."""
    return redact_urls(where)


def project_id(root: Path) -> str:
    """Return the first commit of the repository, which all its clones share.

    Raises:
        AtelierError: there is no commit.
    """
    commits = (git("rev-list", "--max-parents=0", "HEAD", cwd=root) or "").split()
    if not commits:
        raise AtelierError("a search needs a git repository with a commit; type: git commit")
    return commits[-1]


def _head(root: Path) -> str:
    return (git("rev-parse", "HEAD", cwd=root) or "").strip()


def distribution(space: Space) -> "BaseDistribution":
    """Return the distribution that Optuna draws a setting from."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if space.choices is not None:
        return CategoricalDistribution([parameter(space, choice) for choice in space.choices])
    low, high = space.bounds
    if space.is_integer:
        return IntDistribution(int(low), int(high), log=space.log)
    return FloatDistribution(low, high, log=space.log)


def parameter(space: Space, value: Any) -> Any:
    """Return a setting's value as Optuna stores it: lists as JSON."""
    return json.dumps(value) if isinstance(value, list) else value


def setting_value(space: Space, value: Any) -> Any:
    """Return the value of a setting from Optuna's parameter."""
    if space.choices is not None:
        return next(c for c in space.choices if parameter(space, c) == value and _same(c, value))
    if space.is_integer:
        return int(value)
    low, high = space.bounds
    return min(max(float(f"{value:.{_DIGITS}g}"), float(low)), float(high))


def _same(choice: Any, value: Any) -> bool:
    """Tell true from 1, which Python considers equal."""
    return isinstance(choice, list) or isinstance(choice, bool) == isinstance(value, bool)


def _sampler(search: SearchSettings, number: int) -> Any:
    from optuna.samplers import RandomSampler, TPESampler

    seed = search.seed + number
    if search.sampler == "random":
        return RandomSampler(seed=seed)
    # With parallel workers, values of unfinished trials are avoided.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TPESampler(seed=seed, constant_liar=True)


def _pruner(search: SearchSettings) -> Any:
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    if search.pruner == "median":
        return MedianPruner(n_startup_trials=5, n_min_trials=3)
    return SuccessiveHalvingPruner() if search.pruner == "halving" else NopPruner()
