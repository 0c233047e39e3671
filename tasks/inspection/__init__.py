"""What an SAE makes of given prompts.

    subject = Subject.open(lm, sae, runtime)                          # as for steering: an lm artifact and an SAE's
    found = inspect(subject, ["Once upon a time"], attribute=True)
    found.prompts[0].l0_T, found.prompts[0].fvu, found.prompts[0].runs["sae"].loss_T
    found.latents()[0]                                                # what fires most over all prompts
    plain(found, {})                                                  # all of it as JSON

Modules: ``seen`` (what is found of a prompt), ``looking`` (finding it), ``attribution`` (which latents make the next token
likelier), ``known`` (labels and scores from elsewhere), ``plain`` (JSON).
"""
