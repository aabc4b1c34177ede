"""The `atelier` command."""


def main() -> None:
    """Run the command."""
    from atelier.cli import app

    app.main()
