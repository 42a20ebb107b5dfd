"""SVG charts, for the report and the bench."""
