"""The ledger: from a printed number to a claim, a rule, a result file and a verdict.

- `results`: what one run measured and under which conditions (one JSON file a run);
- `provenance`: under which conditions; `files`: files that exist complete or not at all;
- `merging`: the runs of an experiment become the result that is committed;
- `currency`: whether a result is still what the code would give;
- `statistics`: intervals for means over repeats, power, corrections; `pairs`: arms compared;
- `claims`: what a paper prints, and the rule that will judge it (one YAML file a paper); `tables`:
  whole printed tables, each number of which becomes a claim or has a reason why not; `coverage`:
  whether any number is left out;
- `rules`: one pure function a kind of rule; `print_rules`: whether printed numbers agree with each
  other; `judgement`: what comes out;
- `placebo`: what a method without the idea gets by the same rule;
- `verdicts`: who asked, what may be compared, and what survives a correction for many tests;
- `audit`: claims and results in, verdicts out;
- `strict`: whether anything was changed that must not be: by `consistency` of the files, by the
  `manifest` of what was written last, and by the `past`, which git's `history` knows; `contents`
  reads files in any version, `findings` are what comes out;
- `deviations`: where paper, code and book differ;
- `report`: the verdicts as a table, as JSON and in the README, by `numbers` as people read them;
- `matrices`: the verdicts arranged in matrices; `chain`: the line from a print to a verdict, with
  all of its links; `page`: all of that as one HTML page;
- `dossier`: the report on one paper, which `chromium` prints; `bundle`: CODECHECK and RO-Crate.
"""
