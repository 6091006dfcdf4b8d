"""The version of every study's numbers, bumped by hand when a number is meant to change.

Results carry the version under which they were measured, and are current as long as it is the
code's. ``data/golden/`` holds a few steps of every arm: a change of a number without a bump, and a
bump without a change of a number, fail (``tests/golden.py``).
"""

NUMERICS: dict[str, int] = {
    "tnrdmtl": 1,
    "domains": 1,
    "mrn": 1,
    "mrn_linear": 1,
    "mrn_images": 1,
    "srdml": 2,  # 2: maps scaled by the training images; PCGrad's orders by the repeat
    "srdml_linear": 1,
    "mtal": 1,
    "which_method": 1,
    # what chapters use beside the experiments, and notebooks whose study is in no module yet
    "mathematics": 1,
    "statistics": 2,  # intervals and rank correlations of the ledger; 2: Student's t
    "datasets": 1,  # loaders and feature extractors
}
