"""``saint ui``: a page to find latents, to understand them and to steer with them. Needs the extra ``ui`` (Gradio).

``launch`` (command line, who may come in), ``page`` (shell and what may never happen in it), ``state`` (what all users share),
``browse`` and ``steer`` (the tabs), ``rendering`` (our own HTML, everything in it escaped), ``acts`` (clicks in it). Of the Steer
tab: ``form`` (what the browser sends, as a recipe), ``writing`` (texts as they come, stopping), ``drawing`` (its lists), ``sharing``
(a recipe to hand on). Gradio is imported nowhere else.
"""
