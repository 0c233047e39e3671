"""A language model with a latent of an SAE turned up or down.

    subject = Subject.open(lm, sae, runtime)                                # opened artifacts of stages lm and train
    (prompt,) = subject.prompts(["I think that"])
    rows = [Row(prompt), Row(prompt, (Push(17, 2.0, max_value),))]          # as it is; latent 17 at twice its largest
    untouched, steered = subject.continuations(rows, 40, seed=0)            # in one batch, with the same draws
    tuned_strengths(subject, [Push(17, 0.0, max_value)], [[prompt]], 0.5)   # how strong, for a KL divergence of half a nat
    fired(subject, [steered], [17])                                         # where latents fire in a text

Modules: ``push`` (what is added where), ``subject`` (next tokens, continuations, streams), ``sampling`` (draws),
``effects`` and ``tuning`` (what a push does, and how strong it is to be), ``firing`` (activations on given texts).
"""
