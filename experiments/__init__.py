"""The paper's tables and figures, and the checks it left open, as one command each.

    settings.py    what all run on, scales/      context.py    models, sets, stored results
    experiment.py  what an experiment is         catalogue.py  the list
    cells.py       stored evaluations            timing.py     interleaved timings
    results.py     rows, intervals, differences  tables.py     columns, and the paper's beside them
    figures.py     figures                       runner.py     runs one, writes what came of it
    students.py    labels, verdicts and trained students, shared
    power_law.py   a curve through points        spoiling.py   pairs that are known to be bad
    printed.toml   the paper's figures           early_exit.py  a decoder that leaves layers out

The experiments: quality.py, long_form.py, seams.py, speed.py, noise.py, prompts.py,
hallucination.py; and those that train or judge labels: data.py, designs.py, encoder.py,
label_quality.py. Run one from a checkout: ``python -m experiments NAME --out DIR``.
"""
