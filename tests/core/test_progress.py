import pytest

from atelier.core.progress import Progress, progress_bar


def test_delayed_bar_is_invisible_for_short_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for delay, is_visible in ((0.0, True), (3600.0, False)):
        with progress_bar("generate", "pictures", delay=delay) as report:
            for done in (1, 2):
                report(Progress(done, 2))
        assert ("2/2" in capsys.readouterr().err) == is_visible
