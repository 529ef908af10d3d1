"""What the paper printed (arXiv:2311.00430), in its own units: per cent, and 10^-3 for RTF."""

from collections.abc import Mapping
from typing import TypeAlias

Printed: TypeAlias = Mapping[str, tuple[float, ...]]  # rows by name
TEACHER, STUDENT = "large-v2", "distil-large-v2"

# Parameters in millions, relative speed and mean WER, short form and then long form.
TABLE_5: Mapping[str, tuple[float, float, float, float, float]] = {
    "tiny.en": (39.0, 6.1, 18.9, 5.4, 18.9),
    "base.en": (74.0, 4.9, 14.3, 4.3, 15.7),
    "small.en": (244.0, 2.6, 10.8, 2.2, 14.7),
    "medium.en": (769.0, 1.4, 9.5, 1.3, 12.3),
    TEACHER: (1550.0, 1.0, 9.1, 1.0, 11.7),
    "distil-medium.en": (394.0, 6.8, 11.1, 8.5, 12.4),
    STUDENT: (756.0, 5.8, 10.1, 5.8, 11.6),
}

# WER of the teacher and of the student, by set; the first is like the training data.
TABLE_6: Mapping[str, tuple[float, float]] = {
    "GigaSpeech": (10.7, 10.5),
    "CHiME-4": (11.8, 14.0),
    "Earnings-22": (16.6, 16.9),
    "FLEURS": (4.2, 6.3),
    "SPGISpeech": (3.8, 3.3),
}

# Relative speed, WER.
TABLE_7: Mapping[str, tuple[float, float]] = {
    f"{TEACHER}, sequential": (1.0, 10.4),
    f"{TEACHER}, chunked": (9.9, 11.7),
    f"{STUDENT}, chunked": (57.5, 11.6),
}

# 5-Dup, IER, SER, DER, WER.
TABLE_8: Mapping[str, tuple[float, float, float, float, float]] = {
    TEACHER: (23_792.0, 3.3, 3.9, 4.5, 11.7),
    STUDENT: (18_503.0, 2.1, 5.3, 4.2, 11.6),
}

# Speed relative to large-v2 alone at the same batch size: 1, 4, 16.
TABLE_9: Mapping[str, tuple[float, float, float]] = {
    TEACHER: (1.0, 1.0, 1.0),
    f"{TEACHER} with {STUDENT}": (2.0, 1.3, 0.8),
}
TABLE_22: Mapping[str, tuple[float, float, float]] = {
    **TABLE_9,
    "medium.en": (1.4, 1.3, 1.5),
    "medium.en with distil-medium.en": (3.3, 2.2, 1.3),
}

# Lambda, a fraction, to the share of the data that goes, in per cent, and mean WER.
TABLE_10: Mapping[float, tuple[float, float]] = {
    1.0: (0.0, 13.4),
    0.8: (6.2, 12.1),
    0.4: (11.9, 12.0),
    0.2: (24.2, 11.7),
    0.15: (32.0, 11.7),
    0.1: (45.4, 11.4),
    0.05: (60.3, 11.4),
}

# Hours to mean WER.
TABLE_11: Mapping[float, float] = {
    435.0: 16.4,
    871.0: 14.0,
    1_742.0: 12.9,
    3_483.0: 12.0,
    6_966.0: 11.8,
    13_933.0: 11.6,
    21_770.0: 11.4,
}

# Decoder layers to relative speed and WER on unseen sets, under all 32 encoder layers; and
# encoder layers to the same, under 2 decoder layers.
TABLE_12_DECODER: Mapping[int, tuple[float, float]] = {
    32: (1.0, 5.3),
    16: (1.9, 5.4),
    8: (3.0, 6.0),
    4: (4.3, 6.5),
    2: (5.8, 7.4),
}
TABLE_12_ENCODER: Mapping[int, tuple[float, float]] = {16: (8.6, 10.5)}

# Mean WER by what is learnt.
TABLE_21: Mapping[str, float] = {"PL": 11.6, "PL + KL": 11.4, "PL + KL + MSE": 11.4}

# Threshold to layers used and WER, of medium.en (24 layers).
TABLE_20: Mapping[float, tuple[float, float]] = {
    1.0: (24.0, 2.3),
    0.9875: (21.2, 2.8),
    0.975: (21.0, 3.4),
    0.95: (20.7, 3.6),
    0.925: (20.5, 4.3),
}

# Chunk in seconds to WER of the teacher and of the student.
TABLE_23: Mapping[float, tuple[float, float]] = {
    30.0: (4.8, 7.4),
    25.0: (5.3, 5.7),
    20.0: (6.5, 5.0),
    15.0: (6.5, 4.2),
    10.0: (10.0, 4.3),
}

# RTF in 10^-3 at batch 1, 4, 16, on an A100 with flash attention 2.
TABLE_24: Mapping[str, tuple[float, float, float]] = {
    TEACHER: (121.9, 48.4, 16.6),
    STUDENT: (24.2, 8.9, 4.4),
    "tiny.en": (21.4, 8.3, 2.9),
}


def beside(
    ours: Mapping[str, str], table: Printed
) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
    """Put a table's rows under our names.

    Args:
        ours: names of our rows to those of the paper's rows that they are to stand beside.
        table: the paper's.

    Returns:
        The rows, those beside none of ours under their own names; and of our names those that the
        paper calls otherwise.
    """
    met = {name: theirs for name, theirs in ours.items() if theirs in table}
    rows = {name: table[theirs] for name, theirs in met.items()}
    rows |= {name: row for name, row in table.items() if name not in met.values()}
    return rows, {name: theirs for name, theirs in met.items() if name != theirs}
