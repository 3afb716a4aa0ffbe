"""Looking at results: one HTML file that holds a run, or a local page that reads it as you look."""
