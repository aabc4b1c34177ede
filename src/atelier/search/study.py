"""Study: its Optuna storage, its identity, and its next trial."""

import json
import os
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.core.errors import AtelierError, count_text, did_you_mean
from atelier.search.claims import Claims
from atelier.search.settings import DIGITS, EXACT_DIGITS, SearchSettings, Space, value_text
from atelier.tracking.environment import STORAGE_VARIABLE, git
from atelier.tracking.experiments import all_experiments
from atelier.tracking.programs import git_output
from atelier.tracking.redact import flat

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.pruners import MedianPruner
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

    from atelier.search.storage import Retry

DEFAULT_STORAGE = Path(".atelier/search.db")
SEARCH, PROJECT, COMMIT, OBJECTIVES = "search", "project", "commit", "objectives"
PRESENT = "is_present"  # user attribute of the trial with the present settings: their values
ID = "id"
# Settings of search.yaml that may change after a study has started.
_CHANGEABLE = ("trials", "hours", "git_remote")


@dataclass
class OpenStudy:
    """Study in its storage.

    Attributes:
        search: its description.
        study: of Optuna.
        claims: of this process.
        present: all settings of ``params.yaml`` by dotted key.
        retry: repeats calls of the database.
    """

    search: SearchSettings
    study: "Study"
    claims: Claims
    present: Mapping[str, Any]
    retry: "Retry"

    @property
    def commit(self) -> str:
        """Commit that all trials start from."""
        return str(self.study.user_attrs[COMMIT])

    @property
    def key(self) -> str:
        """Name of the study with a random part, which differs between studies of one name."""
        return f"{self.search.study}-{self.study.user_attrs[ID]}"

    def wait_for_database(self, warn: Callable[[str], None]) -> None:
        """From now on, wait some minutes if the database does not respond."""
        self.retry.enable(warn)

    def next_trial(self) -> "Trial | None":
        """Claim and return the next trial: an unfinished one, or else a new one.

        Returns:
            ``None`` if no trial is left that another process does not work on.
        """
        with self.claims.asking():
            for frozen in self.unfinished() if self.claims.allows_takeover() else []:
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

    def frozen(self, number: int) -> "FrozenTrial":
        """Return the stored state of a trial."""
        trials = self.study.get_trials(deepcopy=False)
        return next(trial for trial in trials if trial.number == number)

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
            present = {key: self.present[key] for key in self.search.settings}
            self.study.enqueue_trial(values, user_attrs={PRESENT: present})
        # The sampler's state is not stored; its seed makes a continued search the same.
        self.study.sampler = _sampler(self.search, len(trials))
        trial = self.study.ask()
        self.suggest(trial)
        return trial

    def _trial(self, number: int) -> "Trial":
        from optuna import Trial

        self.study.sampler = _sampler(self.search, number)  # for settings that were not drawn yet
        return Trial(self.study, self.frozen(number)._trial_id)


def trial_settings(opened: OpenStudy, trial: "Trial | FrozenTrial") -> dict[str, Any]:
    """Return the searched settings of a trial by dotted key."""
    exact = trial.user_attrs.get(PRESENT, {})  # not rounded
    return {
        key: exact[key] if key in exact else setting_value(space, trial.params[key])
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
    is_run: bool = True,
) -> OpenStudy:
    """Open or create a study.

    Args:
        search: its description.
        present: all settings of ``params.yaml`` by dotted key.
        root: the project.
        storage: an SQLite file or the address of a PostgreSQL database; by default that of the
            environment variable ``ATELIER_SEARCH_STORAGE``, or ``.atelier/search.db``.
        may_create: False if the study must exist.
        is_run: False if no trial is run, and another commit may be checked out.

    Raises:
        AtelierError: the storage cannot be opened; or its study belongs to another project, another
            commit, or has other settings.
    """
    from atelier.search.storage import Retry, open_storage, require_address

    where = storage or os.environ.get(STORAGE_VARIABLE, "") or str(root / DEFAULT_STORAGE)
    require_address(where, may_create)
    retry = Retry()
    claims = _claims(where, search.study, root, retry)
    try:
        with claims.asking():  # one process creates the study
            backend = open_storage(where, retry)
            study = _create_or_load(search, backend, where, root, may_create)
            _check_identity(search, study.user_attrs, root, where, is_run)
    except BaseException:
        claims.close()
        raise
    return OpenStudy(search, study, claims, present, retry)


def _claims(where: str, study: str, root: Path, retry: "Retry") -> Claims:
    """Return the claims on trials of a study.

    Raises:
        AtelierError: the database does not respond.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from atelier.search.advisory_locks import AdvisoryLocks
    from atelier.search.storage import cannot_open, is_server, lock_engine

    if not is_server(where):
        return Claims(Path(f"{where}.locks"), study)
    locks = AdvisoryLocks(lock_engine(where), study)
    try:
        locks.is_settled()
    except SQLAlchemyError as error:
        raise cannot_open(where, error) from None
    return Claims(root / ".atelier/search", study, locks, retry)


def _create_or_load(
    search: SearchSettings, backend: "RDBStorage", where: str, root: Path, may_create: bool
) -> "Study":
    import optuna

    from atelier.search.storage import shown

    names = optuna.get_all_study_names(backend)
    if search.study not in names and not may_create:
        hint = did_you_mean(search.study, names) or (
            f"; it has {', '.join(names)}" if names else "; it has none"
        )
        raise AtelierError(
            f"{shown(where)} has no study {search.study}{hint}"
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
    stored = study.user_attrs
    if PROJECT not in stored:
        if set(stored) - {SEARCH, OBJECTIVES, COMMIT, ID} or study.get_trials(deepcopy=False):
            raise AtelierError(
                f"{shown(where)} has a study {search.study} that another program made; choose"
                " another name or another file."
            )
        study.set_user_attr(SEARCH, search.model_dump_json())
        study.set_user_attr(OBJECTIVES, search.objectives)
        study.set_user_attr(COMMIT, git_output(root, "rev-parse", "HEAD").strip())
        study.set_user_attr(ID, uuid.uuid4().hex[:8])
        study.set_user_attr(PROJECT, project_id(root))  # last: the study is complete with it
    return study


def _reject_earlier_experiments(name: str, root: Path) -> None:
    """Raise if experiments have the names that a new study would give to its trials."""
    earlier = [one for one in all_experiments(root) if one.startswith(f"{name}-trial-")]
    if earlier:
        raise AtelierError(
            f"{count_text(len(earlier), 'experiment')} of an earlier study {name}"
            f" {'is' if len(earlier) == 1 else 'are'} there, e.g. {min(earlier)}; name a new study"
            f" in search.yaml, or remove them: dvc exp remove {' '.join(sorted(earlier))}"
        )


def _check_identity(
    search: SearchSettings, stored: Mapping[str, Any], root: Path, where: str, is_run: bool
) -> None:
    """Raise if a study is not the one that ``search.yaml`` and the checkout describe."""
    from atelier.search.storage import shown

    if stored[PROJECT] != project_id(root):
        raise AtelierError(
            f"the study {search.study} in {shown(where)} belongs to another project; name another"
            " file with --storage, or another study in search.yaml."
        )
    head = git_output(root, "rev-parse", "HEAD").strip()
    if is_run and stored[COMMIT] != head:
        raise AtelierError(
            f"the study {search.study} started from commit {stored[COMMIT][:10]}, but {head[:10]}"
            " is checked out; check out that commit, or name a new study in search.yaml."
        )
    before = SearchSettings.model_validate_json(stored[SEARCH])
    old, new = (flat(each.model_dump(exclude=set(_CHANGEABLE))) for each in (before, search))
    for key in old | new:
        if old.get(key, {}) != new.get(key, {}):  # an empty mapping is as none
            now = f"is {value_text(new[key], EXACT_DIGITS)}" if key in new else "is missing"
            then = f"with {value_text(old[key], EXACT_DIGITS)}" if key in old else "without it"
            raise AtelierError(
                f"{key} in search.yaml {now}, but the study {search.study} started {then}; change"
                " it back, or name a new study, since its trials cannot be compared with the"
                " earlier ones."
            )


def project_id(root: Path) -> str:
    """Return the first commit of the repository, which all its clones share.

    Raises:
        AtelierError: there is no commit.
    """
    commits = (git("rev-list", "--max-parents=0", "HEAD", cwd=root) or "").split()
    if not commits:
        raise AtelierError("a search needs a git repository with a commit; type: git commit")
    return commits[-1]


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
    return min(max(float(f"{value:.{DIGITS}g}"), float(low)), float(high))


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


def median_pruner() -> "MedianPruner":
    """Return the pruner ``median``."""
    from optuna.pruners import MedianPruner

    return MedianPruner(n_startup_trials=5, n_min_trials=3)


def _pruner(search: SearchSettings) -> Any:
    from optuna.pruners import NopPruner, SuccessiveHalvingPruner

    if search.pruner == "median":
        return median_pruner()
    return SuccessiveHalvingPruner() if search.pruner == "halving" else NopPruner()
