"""A language model with latents of SAEs turned up or down.

    subject = Subject.open(lm, sae, runtime)                                # opened artifacts of stages lm and train
    (prompt,) = subject.prompts(["I think that"])
    rows = [Row(prompt), Row(prompt, (Push(17, 2.0, max_value),))]          # as it is; latent 17 at twice its largest
    untouched, steered = subject.continuations(rows, 40, seed=0)            # in one batch, with the same draws
    for step in subject.write(rows, 40, watched=[("", 17)]): ...            # the same as it comes, measured on the way
    tuned_strengths(subject, [Push(17, 0.0, max_value)], [[prompt]], 0.5)   # how strong, for a KL divergence of half a nat
    fired(subject, [steered], [17])                                         # where latents fire in a text

Modules: ``push`` (which rows, which latents, where), ``turning`` (the modes: what one SAE's pushes come to), ``subject`` (next
tokens, continuations), ``writing`` (streams and what is measured of them), ``meters`` (too far?), ``sampling`` (draws),
``prompts`` (texts and conversations), ``recipe`` (all of it as a file), ``holding`` (the model itself, for a while),
``vector`` and ``standalone`` (without SAINT), ``effects`` and ``tuning`` (what a push does, and how strong it is to be),
``firing`` (activations on given texts).
"""
