"""The paper's tables and figures, and the checks it left open, as one command each.

    settings.py    what an experiment runs on       inputs.py     made-up inputs of the unit scale
    experiment.py  what an experiment is            context.py    what it works with
    cells.py       stored evaluations, shared       timing.py     interleaved timings
    scores.py      rows, intervals, differences     paper.py      the paper's own figures
    tables.py      tables    figures.py  figures    runner.py     runs one, writes what came of it
    catalogue.py   the list            students.py   labels, verdicts and trained students, shared
    power_law.py   a curve through points            spoiling.py   pairs that are known to be bad

The experiments: quality.py, long_form.py, seams.py, speed.py, noise.py, prompts.py,
hallucination.py; and those that train or judge labels: data.py, designs.py, encoder.py,
label_quality.py.
"""
