"""What a training looks like: montages, a film, curves and the report page."""
