"""The stages of a run, each a function from files to files."""
