"""A steering vector in a model of transformers. Needs torch, safetensors and transformers, and nothing else.

    from steer import steered                       # this file
    with steered(model, "steer.safetensors"):
        model.generate(**tokenizer("Once upon a time", return_tensors="pt"))

or, in a shell: python steer.py MODEL "Once upon a time"

At each place that the vector names, its direction is added to what is there, at every token but special ones. SAINT wrote
this file; it may be changed and passed on as you like.
"""

import argparse
import json
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from safetensors import safe_open


def load(path):
    """What is to be done, and the directions by name."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["steering"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def moved(x, direction, scale):
    """What is added at each token: the direction, times the token's own deviation where the SAE reads it in units of that."""
    x, direction = x.float(), direction.to(x.device)
    if scale is None:
        return direction.expand_as(x)
    if scale["of"] == "length":
        own = x.norm(dim=-1, keepdim=True).clamp_min(1e-12) / x.shape[-1] ** 0.5
    else:
        own = x.std(-1, keepdim=True, unbiased=scale["of"] == "sample") + scale["epsilon"]
    return direction * own


@contextmanager
def steered(model, path=None, scale=1.0):
    """Steer every call of the model within the block; ``scale`` multiplies the strength."""
    plan, directions = load(path or Path(__file__).with_suffix(".safetensors"))
    special = torch.tensor(plan["special_token_ids"], dtype=torch.long)
    embed, now = model.get_input_embeddings(), {}
    with torch.no_grad():
        embedded = embed(special.to(embed.weight.device))

    def is_special(tokens, x):
        if tokens is not None:
            return torch.isin(tokens.cpu(), special)
        found = torch.zeros(x.shape[:2], dtype=torch.bool)
        for row in embedded.to(x):
            found |= (x == row).all(-1).cpu()
        return found

    def began(_, arguments, named):
        where = ~is_special(arguments[0] if arguments else named.get("input_ids"), named.get("inputs_embeds"))
        past = named.get("past_key_values")
        if past is not None and past.get_seq_length() > 0:
            where = torch.ones_like(where)
        elif plan["positions"] == "last":
            where[:, :-1] = False
        now["where"] = where[..., None]

    def changed(x, entry):
        more = scale * moved(x, directions[entry["tensor"]], entry["scale"])
        return torch.where(now["where"].to(x.device), (x.float() + more).to(x.dtype), x)

    def after(entry):
        def hook(_, inputs, output):
            x = changed(output[0] if isinstance(output, tuple) else output, entry)
            return (x, *output[1:]) if isinstance(output, tuple) else x

        return hook

    def before(entry):
        def hook(_, arguments, named):
            x = arguments[0] if arguments else named["hidden_states"]
            new = changed(x, entry)
            if entry["at"] == "input, in place":  # the block goes on with the same tensor
                x.copy_(new)
                return None
            return ((new, *arguments[1:]), named) if arguments else ((), {**named, "hidden_states": new})

        return hook

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(began, with_kwargs=True).remove)
        for entry in plan["entries"]:
            module = model.get_submodule(entry["module"])
            if entry["at"] == "output":
                handle = module.register_forward_hook(after(entry))
            else:
                handle = module.register_forward_pre_hook(before(entry), with_kwargs=True)
            stack.callback(handle.remove)
        yield model


if __name__ == "__main__":
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description="a model's own continuation of a text, and the steered one")
    parser.add_argument("model")
    parser.add_argument("prompt")
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--scale", type=float, default=1.0)
    chosen = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(chosen.model)
    lm = AutoModelForCausalLM.from_pretrained(chosen.model, use_safetensors=True)
    text = chosen.prompt if tokenizer.bos_token is None else tokenizer.bos_token + chosen.prompt
    given = tokenizer(text, return_tensors="pt", add_special_tokens=False)

    def said():
        return tokenizer.decode(lm.generate(**given, max_new_tokens=chosen.tokens, do_sample=False)[0], skip_special_tokens=True)

    print("default:", said())
    with steered(lm, scale=chosen.scale):
        print("steered:", said())
