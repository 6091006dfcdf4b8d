"""``mtlbook export``: bundles and reports for others."""

from __future__ import annotations

import argparse
from pathlib import Path

KINDS = ("codecheck", "ro-crate", "report")


def export(options: argparse.Namespace) -> int:
    """Write a CODECHECK bundle, an RO-Crate or the report of one paper."""
    from mtlbook.ledger import bundle, chromium, dossier, repository
    from mtlbook.ledger.chain import chains
    from mtlbook.ledger.files import write_atomically

    root, folder = repository.root(), Path(options.folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"-o: expected a folder, got the file {folder}")
    known = chains(root)
    dossier.of_paper(known, options.paper)  # before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    if options.kind == "codecheck":
        print(bundle.write_codecheck(root, known, options.paper, folder))
    elif options.kind == "ro-crate":
        print(bundle.write_crate(root, known, options.paper, folder))
    else:
        page = folder / "report.html"
        write_atomically(page, dossier.report(known, options.paper))
        print(page, flush=True)
        if not options.no_pdf:
            print(chromium.print_to_pdf(page, folder / "report.pdf"))
    return 0
