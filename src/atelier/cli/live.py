"""Commands that show and stop a running pipeline."""

from typing import Annotated

import typer

from atelier.core.ports import HOST, reserve

DEFAULT_PORT = 8001


def live(
    *,
    port: Annotated[int, typer.Option(min=1024, max=65535, help="of this machine")] = DEFAULT_PORT,
) -> None:
    """Serve a page that shows the running training: samples, curves, speed, remaining time.

    Example: atelier live --port 8011
    """
    from atelier.tracking.environment import private_folder, repository_root
    from atelier.web.live_server import live_app
    from atelier.web.server import serve

    with reserve(port, "atelier live") as reserved:
        app = live_app(private_folder(repository_root()))
        typer.echo(f"Open http://{HOST}:{port}\nCtrl-C ends this page, not the training.")
        serve(app, reserved)


def stop(
    name: Annotated[
        str, typer.Argument(help="of a pipeline, if several are running", metavar="[NAME]")
    ] = "",
    *,
    everything: Annotated[bool, typer.Option("--all", help="stop all pipelines")] = False,
) -> None:
    """Stop the running training as Ctrl-C does: save a checkpoint to resume from.

    Example: atelier stop
    """
    from atelier.tracking import live_stop
    from atelier.tracking.environment import private_folder, repository_root
    from atelier.tracking.live_view import executions

    private = private_folder(repository_root())
    chosen = live_stop.choose(executions(private), name, everything)
    if not chosen:
        typer.echo("Nothing is running.")
        return
    names = ", ".join(execution.short_name for execution in chosen)
    typer.echo(f"Stopping {names} ...", err=True)
    live_stop.stop_all(private, chosen, typer.echo)
