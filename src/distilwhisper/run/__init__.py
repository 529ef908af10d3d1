"""One run: its settings, what made each of its folders, where it ran, and its log.

    recipe.toml    the settings, resolved      settings.py
    run.json       every start of the run      record.py
    */stage.json   what a folder was made of   stages.py, and locks.py, which keeps others out
    metrics.jsonl  rows by step                files.py

Whatever else lies in a run's folder, the stages write, each file whole (files.py).
"""
