"""Finding a latent, and all that is known of it, as data.

    index = Index(shelf)                                  # once per SAE: a few seconds, some 100 bytes a latent and label
    found = index.find(Query(text="dog", sort="score"))   # milliseconds; found.latents_F, found.n, found.every_word
    index.rows(found.latents_F[:50])                      # what a table shows of them
    latent_page(index, 17)                                # all of one latent: windows, tokens, scores, neighbours

Modules: ``shelf`` (the artifacts it is made of), ``told`` (labels and scores as columns), ``words`` (search), ``query``,
``index``, ``latent`` (a page's data), ``near`` (nearest latents), ``tables`` (Parquet by latent), ``firing``
(which latents fire on a text), ``grounds`` (sentences and questions). An index is read-only and may be shared by threads.
"""
