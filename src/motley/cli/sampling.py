"""`motley sample`: the trained model goes on from a prompt."""

from __future__ import annotations

from pathlib import Path

from motley.cli.output import print_json, say
from motley.train.folder import open_run_folder


def run(
    path: Path, prompt: str, num_tokens: int, temperature: float, seed: int, *, as_json: bool
) -> None:
    folder = open_run_folder(path)
    from motley.train.trained import load_model, write_text

    model, tokenizer = load_model(folder, say)
    text = write_text(
        model, tokenizer, prompt, num_tokens=num_tokens, temperature=temperature, seed=seed
    )
    if as_json:
        print_json({"prompt": prompt, "text": text, "seed": seed, "temperature": temperature})
    else:
        print(prompt + printable(text))


def printable(text: str) -> str:
    """Without what steers a terminal: a model of bytes writes any of them."""
    return "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in text)
