"""Parts that all self-contained pages share: images, style, scripts, templates."""
