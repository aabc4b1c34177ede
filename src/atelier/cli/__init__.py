"""The `atelier` command."""


def main() -> None:
    """Run the command; the name that environments of earlier versions start."""
    from atelier.cli import app

    app.main()
