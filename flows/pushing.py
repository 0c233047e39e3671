"""``saint push``: an SAE with its explanations to the Hugging Face hub, or into a folder as it would go there."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from flows.belongings import sae_named
from flows.console import clean, print_json, size
from flows.looking import store_of, words_apart
from tasks.spec import SpecError

ABOUT = {"push": "an SAE with its explanations and a model card to the Hugging Face hub: saint push train/3f2a OWNER/NAME --license mit"}


def push(rest: list[str], debug: bool = False) -> int:
    """``saint push``."""
    from tasks.sharing.card import licence, repo_id

    flags = _parsed(rest)
    names, overrides = words_apart(flags.words)
    if len(names) != 2:
        raise SpecError(f"saint push takes an SAE and a repository, but {len(names)} are named; as in train/3f2a me/gpt2-sae-layer-8")
    name, repo = names[0], repo_id(names[1])
    kept = Path(flags.folder).expanduser() if flags.folder else None
    if flags.dry_run and kept is None:
        raise SpecError("--dry-run writes the folder that would go to the hub, but none is named; add --folder DIR")
    if kept is not None and kept.exists():
        raise SpecError(f"--folder = {flags.folder!r}, but something is there already, and nothing is written over; name a new folder")
    store = store_of(overrides)
    sae = sae_named(store, name)
    address = f"{sae.artifact.stage}/{sae.artifact.key}"
    license = licence(flags.license if flags.license is not None else _asked_license())
    target = None
    if not flags.dry_run:
        from flows.uploading import Repository

        target = Repository(repo, address, flags.public, flags.replace)
    from flows.model_card import OWN_FOLDER
    from flows.publishing import publish

    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
    apart = Path(tempfile.mkdtemp(dir=None if kept is None else kept.parent, prefix=".push-"))
    try:
        found = publish(store, name, repo, license, apart / "folder")
        folder = found.folder
        if kept is not None:
            folder = folder.rename(kept)
        sizes = {file: (folder / file).stat().st_size for file in found.files}
        seen = "public" if flags.public else "private"
        said = {"repo": repo, "folder": None if kept is None else str(kept), "files": sizes, "format": found.format, "lost": found.lost}
        if not flags.json:
            would = "would go" if flags.dry_run else "goes"
            print(f"{found.sae.artifact} {would} to {repo} ({seen} if it is new), license {license}:")
            for file, n in sizes.items():
                print(f"  {file}  {size(n)}")
            for note in found.lost:
                print(f"not carried in {found.format}, but in {OWN_FOLDER}/: {clean(note)}")
        if target is None:
            if flags.json:
                return print_json({**said, "pushed": False})
            print(f"nothing was sent; look at {kept}/README.md")
            return 0
        sys.stdout.flush()
        done = target.put(folder, flags.message or f"SAE {found.sae.artifact}")
    finally:
        shutil.rmtree(apart, ignore_errors=True)
    if flags.json:
        return print_json({**said, "pushed": done.changed, "url": done.url, "commit": done.commit, "private": done.private})
    what = f"commit {done.commit[:12]}" if done.changed else f"nothing new: it is there already, as commit {done.commit[:12]}"
    print(f"{done.url}: {what}, {'private' if done.private else 'public'}")
    print(f"load it: saint import sae.repo={repo} sae.subfolder={found.subfolder} lm=hf lm.path=MODEL")
    return 0


def _parsed(rest: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="saint push", allow_abbrev=False,
        description="put an SAE with its explanations, scores and a model card into a repository of the Hugging Face hub, in one commit; "
        "a repository that is made is private. The token is HF_TOKEN, or that of hf auth login.",
    )  # fmt: skip
    parser.add_argument("words", nargs="*", metavar="SAE OWNER/NAME | name=value", help="train/3f2a me/gpt2-sae-layer-8; backend.root=DIR")
    parser.add_argument("--license", help="of what is pushed, by the hub's names: mit, apache-2.0, cc-by-4.0, ...; asked for at a terminal")
    parser.add_argument("--public", action="store_true", help="for everybody to read; else a new repository is private")
    parser.add_argument("--dry-run", action="store_true", help="only write the folder, and say what would be sent where")
    parser.add_argument("--folder", help="keep what is sent in this new folder")
    parser.add_argument("--replace", action="store_true", help="also where the repository has another SAE of SAINT")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    return parser.parse_intermixed_args(rest)


def _asked_license() -> str:
    """Raises ``SpecError`` where nobody is there to be asked."""
    if not sys.stdin.isatty():
        raise SpecError("saint push has no --license, but others must know what they may do with it; add --license mit, or another")
    return input("license of what is pushed (mit, apache-2.0, cc-by-4.0, other, ...): ").strip()
